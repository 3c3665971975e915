"""Rows at their own cut in PyTorch: time and memory of a step against the rows' ideal share.

    make bench-rows

A random Llama with LoRA, layers alone: the loss is the mean square of the last states, so that the head, which every
variant pays, is not in the figures. full: nothing is frozen. half: layers below the middle are frozen. rows: a uniform
plan, as many rows at each cut. recomputed: the same cuts, known after the forward only. cached: half, from states kept
at the boundary. Times are processor seconds of forward and backward; memory is what the graph keeps beside parameters.
ideal is the share of the layers' work (of the backward, for time: its measured part) that the cuts leave.
"""

import argparse
import statistics
import time

import peft
import torch
import transformers

from salf.torch import Boundary, BoundaryCache, RowCheckpoint, RowCuts, find_parts


def make_model(options):
    config = transformers.LlamaConfig(
        hidden_size=options.hidden, intermediate_size=3 * options.hidden, num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64, num_key_value_heads=options.hidden // 64, vocab_size=512,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=targets)).train()


def memory_of(tensor):
    if hasattr(tensor, "untyped_storage"):
        return tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
    return tensor.storage().data_ptr(), len(tensor.storage()) * tensor.element_size()


def bytes_kept(model, run):
    seen, own = {}, {memory_of(p)[0] for p in model.parameters()}

    def note(tensor):
        place, size = memory_of(tensor)
        if place not in own:
            seen[place] = size
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = run()
    del loss
    return sum(seen.values())


class Variants:
    """One step of each variant; seconds of its forward and its backward."""

    def __init__(self, model, options):
        self.model, self.decoder = model, find_parts(model).decoder
        self.layers = find_parts(model).layers
        self.ids = torch.randint(3, 512, (options.batch, options.tokens))
        m, n = options.layers, options.batch
        self.uniform = sorted(row * m // n for row in range(n))
        self.half = [m // 2] * n
        self.split = RowCuts(self.layers)
        self.again = RowCheckpoint(self.layers)
        self.boundary = Boundary(self.layers, BoundaryCache(1 << 32), self.model.get_input_embeddings())

    def forward(self, name):
        cuts = {"rows": self.uniform, "half": self.half, "cached": self.half}.get(name)
        self.split.set(cuts)
        self.again.arm(name == "recomputed")
        self.boundary.drop()
        if name == "cached":
            self.boundary.set(len(self.layers) // 2)
            self.boundary.begin(range(len(self.ids)), self.ids)
        loss = self.decoder(input_ids=self.ids, use_cache=False).last_hidden_state.square().mean()
        if name == "recomputed":
            self.again.settle(self.uniform)
        return loss

    def step(self, name):
        start = time.process_time()
        loss = self.forward(name)
        middle = time.process_time()
        loss.backward()
        end = time.process_time()
        self.model.zero_grad()
        return middle - start, end - middle


NAMES = ("full", "half", "rows", "recomputed", "cached")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    variants = Variants(make_model(options), options)
    times = {name: [] for name in NAMES}
    for _ in range(3):  # the cache takes a round to fill and one to compare
        for name in NAMES:
            variants.step(name)
    for _ in range(options.rounds):
        for name in NAMES:
            times[name].append(variants.step(name))
    memory = {name: bytes_kept(variants.model, lambda name=name: variants.forward(name)) for name in NAMES}

    def seconds(name):
        return [statistics.median(values) for values in zip(*times[name], strict=True)]

    m = options.layers
    shares = {"full": 1.0, "half": 1 - m // 2 / m, "rows": 1 - statistics.mean(variants.uniform) / m}
    forward, backward = seconds("full")
    print(f"{'':12}{'forward':>9}{'backward':>9}{'step':>9}{'ideal':>9}{'memory':>9}{'ideal':>9}")
    for name in NAMES:
        own = seconds(name)
        share = shares.get(name)
        begins = shares["half"] if name == "cached" else 1.0
        ideal = None if name == "recomputed" else begins * forward + (share or shares["half"]) * backward
        print(
            f"{name:12}{own[0] / forward:9.3f}{own[1] / backward:9.3f}{sum(own) / (forward + backward):9.3f}"
            f"{'-' if ideal is None else format(ideal / (forward + backward), '.3f'):>9}"
            f"{memory[name] / memory['full']:9.3f}{'-' if share is None else format(share, '.3f'):>9}"
        )


if __name__ == "__main__":
    main()
