"""A decoder built as Qwen2 is, with random weights and LoRA, in plain PyTorch: the machine of the kit need not have
transformers or PEFT. salf.torch finds its parts by itself."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class Config:
    """Sizes; those that are not given are those of Qwen2-1.5B, 1.5 billion parameters."""

    hidden_size: int = 1536
    intermediate_size: int = 8960
    num_hidden_layers: int = 28
    num_attention_heads: int = 12
    num_key_value_heads: int = 2
    vocab_size: int = 151936
    rank: int = 8
    rope_theta: float = 1e6
    eps: float = 1e-6


SMALL = Config(64, 128, 4, 4, 2, 512, 4)


class LoraLinear(nn.Module):
    """y = x W^T + b + x A^T B^T, W and b frozen; A and B in float32 where `precise`, as gradient scalers want it."""

    def __init__(self, inputs, outputs, rank, bias, make, precise):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, **make) * inputs**-0.5, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs, **make), requires_grad=False) if bias else None
        small = {**make, "dtype": torch.float32} if precise else make
        self.a = nn.Parameter(torch.randn(rank, inputs, **small) * inputs**-0.5)
        self.b = nn.Parameter(torch.randn(outputs, rank, **small) * 1e-3)

    def forward(self, x):
        """[..., inputs] to [..., outputs]."""
        side = F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))
        return F.linear(x, self.weight, self.bias) + side


class SmallRMSNorm(nn.Module):
    """x / rms(x) * weight, in float32."""

    def __init__(self, size, eps, make):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, **make), requires_grad=False)
        self.variance_epsilon = eps

    def forward(self, x):
        """The same shape and type."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)


def rotate(x, cos, sin):
    """Rotary positions, halves turned against each other."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, c, make, precise):
        super().__init__()
        self.heads, self.groups, self.size = (
            c.num_attention_heads,
            c.num_key_value_heads,
            c.hidden_size // c.num_attention_heads,
        )
        narrow = self.groups * self.size

        def linear(inputs, outputs, bias=False):
            return LoraLinear(inputs, outputs, c.rank, bias, make, precise)

        self.q, self.k, self.v = (linear(c.hidden_size, n, True) for n in (c.hidden_size, narrow, narrow))
        self.o = linear(c.hidden_size, c.hidden_size)
        self.gate, self.up = (linear(c.hidden_size, c.intermediate_size) for _ in range(2))
        self.down = linear(c.intermediate_size, c.hidden_size)
        self.norm1, self.norm2 = (SmallRMSNorm(c.hidden_size, c.eps, make) for _ in range(2))

    def forward(self, states, position_embeddings=None):
        """[batch, tokens, hidden] to the same."""
        batch, tokens, _ = states.shape
        x, (cos, sin) = self.norm1(states), (part.unsqueeze(1) for part in position_embeddings)
        q, k, v = (
            part(x).view(batch, tokens, heads, self.size).transpose(1, 2)
            for part, heads in ((self.q, self.heads), (self.k, self.groups), (self.v, self.groups))
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeat = self.heads // self.groups
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        states = states + self.o(attended.transpose(1, 2).reshape(batch, tokens, -1))
        x = self.norm2(states)
        return states + self.down(F.silu(self.gate(x)) * self.up(x))


class Decoder(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, c, make, precise):
        super().__init__()
        weight = torch.randn(c.vocab_size, c.hidden_size, **make) * 0.02
        self.embed_tokens = nn.Embedding.from_pretrained(weight, freeze=True)
        self.layers = nn.ModuleList(Layer(c, make, precise) for _ in range(c.num_hidden_layers))
        self.norm = SmallRMSNorm(c.hidden_size, c.eps, make)
        half = c.hidden_size // c.num_attention_heads // 2
        frequencies = c.rope_theta ** (-torch.arange(half, device=make["device"]).float() / half)
        self.register_buffer("frequencies", torch.cat((frequencies, frequencies)), persistent=False)

    def forward(self, ids):
        """[batch, tokens] to states [batch, tokens, hidden]."""
        states = self.embed_tokens(ids)
        angles = torch.arange(ids.shape[1], device=ids.device)[None, :, None] * self.frequencies  # [1, tokens, head]
        positions = (angles.cos().to(states.dtype), angles.sin().to(states.dtype))
        for layer in self.layers:
            states = layer(states, position_embeddings=positions)
        return self.norm(states)


class SmallQwen(nn.Module):
    """The language model; its head is the embedding. LoRA alone trains."""

    def __init__(self, config, device, dtype, precise=False):
        super().__init__()
        self.config = config
        self.model = Decoder(config, {"device": device, "dtype": dtype}, precise)

    def get_input_embeddings(self):
        """For salf.torch.find_parts."""
        return self.model.embed_tokens

    get_output_embeddings = get_input_embeddings

    def forward(self, ids, targets):
        """Mean cross-entropy of the next token behind each row's last one, targets [batch]."""
        states = self.model(ids)[:, -1]
        return F.cross_entropy(F.linear(states, self.model.embed_tokens.weight).float(), targets)


def trainable(model):
    """What an optimizer is made over."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
