"""What PyTorch takes on the device for the work of libsalf, and libsalf beside it in the same process.

    python3 peer_torch_gpu.py [--seconds N] [--device cpu --small]

basis   torch.linalg.pinv of a head, against a salf.Basis of six labels, which needs no pseudo-inverse
ce      normalise + matmul + cross_entropy over the vocabulary for each latent space, against a probe's batch

Heads are bfloat16; PyTorch computes in float32 without TF32, as libsalf does. Where the time is up, what is running
then has taken at least that long, and its row says so.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("SKIPPED: PyTorch is not there")
import salf

HEADS = [(151936, 896), (262144, 640), (128256, 4096)]  # Qwen2 0.5B, Gemma 3 270M, Llama 3 8B
LABELS = [7, 11, 2, 5, 1, 3]


class Bench:
    """The device, and what is being timed at the moment."""

    def __init__(self, o):
        self.device, self.cuda = torch.device(o.device), o.device == "cuda"
        self.heads = [(300, 16), (400, 24)] if o.small else HEADS
        self.rows, self.spaces = (5, 3) if o.small else (64, 33)
        stream = {"stream": torch.cuda.current_stream()} if self.cuda else {}
        self.context = salf.Context("cuda" if self.cuda else "cpu", **stream)
        self.running = None
        self.lock = threading.Lock()
        if o.seconds:
            self.clock = threading.Timer(o.seconds, self.time_is_up)
            self.clock.daemon = True
            self.clock.start()

    def wait(self):
        """For the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def timed(self, work, repeats, warm=True):
        """Median seconds."""
        times = []
        for k in range(repeats + warm):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            if k >= warm:
                times.append(time.perf_counter() - start)
        return statistics.median(times)

    def against(self, what, ours, peer, peer_name, reach):
        """Times a peer, and tells how many times as long it takes as libsalf."""
        start = time.perf_counter()
        with self.lock:
            self.running = (what, ours, peer_name, reach, start)
        seconds = peer()
        with self.lock:
            self.running = None
            tell(what, ours, seconds, peer_name, reach, "")

    def time_is_up(self):
        """Ends the process: a decomposition that is under way cannot be interrupted in another way."""
        with self.lock:
            if self.running:
                what, ours, peer_name, reach, start = self.running
                tell(what, ours, time.perf_counter() - start, peer_name, reach, "at least ")
            print("ok - PyTorch's peers, as far as the time went", flush=True)
            os._exit(0)


def tell(what, ours, peer, peer_name, reach, least):
    """One line, and its JSON for the kit's run.sh."""
    times = peer / ours
    met = times >= reach
    # of what was cut off it is only known that it reaches, never that it does not
    found = {
        "what": what,
        "seconds": ours,
        "peer": peer_name,
        "peer_seconds": peer,
        "times": round(times, 2),
        "reach": reach,
    }
    if met or not least:
        found["met"] = bool(met)
    answer = "yes" if met else "not known" if least else "no"
    line = f"{what:52} {ours * 1e3:10.3f} ms  {peer_name} {least}{peer * 1e3:.1f} ms: {least}{times:.1f} times"
    print(f"{line} (reach {reach}: {answer})\nROW {json.dumps(found)}", flush=True)


def head_of(b, vocabulary, hidden):
    """Random rows of full rank."""
    torch.manual_seed(0)
    return torch.empty(vocabulary, hidden, device=b.device).uniform_(-0.03, 0.03).bfloat16()


def basis(b, vocabulary, hidden):
    """The rows of a few labels."""
    head = head_of(b, vocabulary, hidden)
    model = salf.Model(b.context, head=head, n_layers=2)

    def ours():
        salf.Basis(model, LABELS).close()

    def peer():
        wide = head.float()
        return b.timed(lambda: torch.linalg.pinv(wide), 1, warm=False)

    b.against(f"basis of 6 labels, {vocabulary} x {hidden}", b.timed(ours, 3), peer, "torch.linalg.pinv", 10)


def ce(b, vocabulary, hidden):
    """Cross-entropy of cosines over the whole vocabulary, of each state in each space."""
    head = head_of(b, vocabulary, hidden)
    model = salf.Model(b.context, head=head, n_layers=b.spaces - 1)
    states = torch.randn(b.spaces, b.rows, hidden, device=b.device, dtype=torch.bfloat16)
    labels = (torch.arange(b.rows) * 131 % vocabulary).to(torch.int32)
    probe = salf.Probe(salf.Basis(model, labels.tolist()), metric="ce", lens="raw")

    def ours():
        probe.begin(labels)
        for space in range(b.spaces):
            probe.observe(space, states[space])
        probe.end()

    table = torch.randn(vocabulary, hidden, device=b.device)  # of basis rows; their values change no time
    targets = labels.long().to(b.device)

    def written():  # as it is written where no library is at hand
        unit = F.normalize(table, dim=1)
        for space in states:
            F.cross_entropy(F.normalize(space.float(), dim=1) @ unit.T, targets, reduction="none")

    seconds = b.timed(ours, 3)
    name = f"ce, {b.rows} rows x {b.spaces} spaces over {vocabulary}"
    b.against(name, seconds, lambda: b.timed(written, 2), "normalise + matmul + cross_entropy", 3)


def main():
    """Small decompositions before the large one, which takes longest."""
    parser = argparse.ArgumentParser(description="libsalf beside PyTorch on the device.")
    parser.add_argument("--seconds", type=float, default=0, help="end then")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a machine without a device")
    o = parser.parse_args()
    if o.device == "cuda" and not torch.cuda.is_available():
        sys.exit("SKIPPED: PyTorch has no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = False
    b = Bench(o)
    name = torch.cuda.get_device_name() if b.cuda else o.device
    print(f"PyTorch {torch.__version__}, {name}, libsalf {salf.__version__}", flush=True)
    ce(b, *b.heads[-1])
    for vocabulary, hidden in b.heads:
        basis(b, vocabulary, hidden)
    print("ok - PyTorch's peers", flush=True)


if __name__ == "__main__":
    main()
