"""The peers that are PyTorch programs, timed for tests/bench: one line `name<TAB>median seconds` each.

    python3 peer_torch.py cosine ROWS SPACES DIM DTYPE
    python3 peer_torch.py score ROWS SPACES DIM VOCABULARY
    python3 peer_torch.py pinv VOCABULARY DIM DTYPE
    python3 peer_torch.py train LAYERS DIM FFN HEADS KV_HEADS VOCABULARY BATCH TOKENS RANK

Each does the same work as the row of the same name in the benchmark, the way a PyTorch user would write it, in eager mode and with
as many threads as SALF_BENCH_THREADS says.
"""

import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def median_seconds(step, repeats):
    step()  # warm-up
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def cosine(rows, spaces, dim, dtype):
    """Deviations of rows states in each of several latent spaces from one basis row each."""
    states = torch.randn(spaces, rows, dim).to(DTYPES[dtype])
    basis = torch.randn(rows, dim)

    def step():
        for space in states:
            1 - F.cosine_similarity(space.float(), basis, dim=1)

    return median_seconds(step, 5)


def score(rows, spaces, dim, vocabulary):
    """Cosine cross-entropy over the whole vocabulary, with the table of basis rows at hand."""
    states = torch.randn(spaces, rows, dim)
    table = torch.randn(vocabulary, dim)
    labels = torch.randint(vocabulary, (rows,))
    unit = F.normalize(table, dim=1)

    def step():
        for space in states:
            scores = F.normalize(space, dim=1) @ unit.T
            F.cross_entropy(scores, labels, reduction="none")

    return median_seconds(step, 3)


def pinv(vocabulary, dim, dtype):
    """The whole pseudo-inverse, which is what a few basis rows cost without a Gram matrix."""
    head = torch.randn(vocabulary, dim).to(DTYPES[dtype]).float()
    return median_seconds(lambda: torch.linalg.pinv(head), 1)


class Lora(torch.nn.Module):
    """y = x W^T + x A^T B^T, W frozen."""

    def __init__(self, inputs, outputs, rank):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5, requires_grad=False)
        self.a = torch.nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.b = torch.nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        return F.linear(x, self.weight) + F.linear(F.linear(x, self.a), self.b)


def rms_norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


class Layer(torch.nn.Module):
    def __init__(self, dim, ffn, heads, kv_heads, rank):
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, dim // heads
        kv = kv_heads * self.size
        self.q, self.k, self.v, self.o = (Lora(dim, n, rank) for n in (dim, kv, kv, dim))
        self.gate, self.up, self.down = Lora(dim, ffn, rank), Lora(dim, ffn, rank), Lora(ffn, dim, rank)
        self.norm1 = torch.nn.Parameter(torch.ones(dim), requires_grad=False)
        self.norm2 = torch.nn.Parameter(torch.ones(dim), requires_grad=False)

    def split(self, x, heads):
        return x.view(*x.shape[:2], heads, self.size).transpose(1, 2)

    def forward(self, x, cos, sin, mask):
        y = rms_norm(x, self.norm1)
        q = rotate(self.split(self.q(y), self.heads), cos, sin)
        k = rotate(self.split(self.k(y), self.kv_heads), cos, sin)
        v = self.split(self.v(y), self.kv_heads)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        weights = torch.softmax(q @ k.transpose(-1, -2) / self.size**0.5 + mask, dim=-1)
        x = x + self.o((weights @ v).transpose(1, 2).reshape(x.shape))
        y = rms_norm(x, self.norm2)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def train(layers, dim, ffn, heads, kv_heads, vocabulary, batch, tokens, rank):
    """One LoRA step of a Llama-style decoder: forward, cross-entropy at the last position, backward, AdamW."""
    model = torch.nn.ModuleList(Layer(dim, ffn, heads, kv_heads, rank) for _ in range(layers))
    embedding = torch.randn(vocabulary, dim) * 0.02
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    size = dim // heads
    angles = torch.arange(tokens)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
    cos, sin = (torch.cat((f(angles), f(angles)), dim=-1) for f in (torch.cos, torch.sin))
    mask = torch.full((tokens, tokens), float("-inf")).triu(1)
    ids = torch.randint(vocabulary, (batch, tokens))
    labels = torch.randint(vocabulary, (batch,))
    norm = torch.ones(dim)

    def step():
        x = embedding[ids]
        for layer in model:
            x = layer(x, cos, sin, mask)
        loss = F.cross_entropy(rms_norm(x[:, -1], norm) @ embedding.T, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return median_seconds(step, 15)


def main():
    torch.set_num_threads(int(os.environ.get("SALF_BENCH_THREADS", os.cpu_count() or 1)))
    torch.manual_seed(1)
    name, arguments = sys.argv[1], [a if a in DTYPES else int(a) for a in sys.argv[2:]]
    benches = {"cosine": cosine, "score": score, "pinv": pinv, "train": train}
    print(f"{name}\t{benches[name](*arguments):.9f}")


if __name__ == "__main__":
    main()
