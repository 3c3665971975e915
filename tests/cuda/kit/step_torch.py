"""Training steps in PyTorch with and without libsalf, on the device: what hooks, probe and decision cost, what frozen
layers save, whether the host waits, a gradient scaler, a CUDA graph, two ranks.

    python3 step_torch.py [--device cpu --small] [--trace FILE.json.gz]

A random model of Qwen2-1.5B's shape trains with LoRA in bfloat16. Shares are of what the time would be if a step lost
exactly the backward of the layers that do not train: plain step - share of the depth x plain backward. Variants run in
turns, so that a device that slows down slows all of them.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
import traceback

import host_waits
import small_qwen
import torch
import torch.distributed as dist

import salf
from salf.torch import FreezeController, Rows

# The step's time may be a tenth longer than ideal.
REACH = 1 / 1.1
failed = []


def verdict(good, name, note=""):
    """One line of a check."""
    print(f"{'ok' if good else 'not ok'} - {name}{': ' if note else ''}{note}", flush=True)
    if not good:
        failed.append(name)


def row(what, seconds, floor=None, of="", reach=None, **more):
    """One line of the table, and its JSON for run.sh; see tests/bench/gpu_measure.h."""
    found = {"what": what, "seconds": seconds, **more}
    line = f"{what:52} {seconds * 1e3:10.3f} ms"
    if floor is not None:
        found.update(share=round(floor / seconds, 4), of=of)
        line += f"  {floor / seconds:5.2f} of {of}"
        if reach is not None:
            found.update(reach=round(reach, 3), met=bool(floor / seconds >= reach))
            line += f"  (reach {reach:.2f}: {'yes' if found['met'] else 'no'})"
    print(f"{line}\nROW {json.dumps(found)}", flush=True)


# ---- steps ----


class Bench:
    """The model, its batches, and the device's clock."""

    def __init__(self, o):
        self.device = torch.device(o.device)
        self.cuda = self.device.type == "cuda"
        self.config = small_qwen.SMALL if o.small else small_qwen.Config()
        self.batch, self.tokens = (4, 16) if o.small else (8, 512)
        self.steps, self.rounds = (2, 2) if o.small else (4, 3)
        self.model = self.make(torch.bfloat16)
        generator = torch.Generator().manual_seed(1)
        vocabulary = self.config.vocab_size
        self.ids = torch.randint(vocabulary, (self.batch, self.tokens), generator=generator).to(self.device)
        self.host_targets = torch.randint(100, (self.batch,), generator=generator)
        self.targets = self.host_targets.to(self.device)
        self.rows = Rows(torch.full((self.batch,), self.tokens - 1), self.host_targets)

    def make(self, dtype, precise=False):
        """A model; the same numbers each time."""
        torch.manual_seed(0)
        return small_qwen.SmallQwen(self.config, self.device, dtype, precise)

    def now(self):
        """A mark on the device's clock, which nobody waits for."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin, end):
        """Between two marks, waiting for them."""
        if not self.cuda:
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    def static(self):
        """Bytes that are held between steps."""
        return torch.cuda.memory_allocated() if self.cuda else 0

    def peak(self, restart=False):
        """Most bytes that were held since the last restart."""
        if self.cuda and restart:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() if self.cuda else 0


class Variant:
    """A way to train: a method of libsalf, rows at their own cut, or nothing of it."""

    def __init__(self, bench, name, method=None, cuts=None, **options):
        self.bench, self.name, self.cuts = bench, name, cuts
        self.method, self.options = method, options
        self.times, self.backwards, self.shares, self.memory = [], [], [], 0

    def run(self):
        """Some steps, after one that is not counted."""
        b, model = self.bench, self.bench.model
        optimizer = torch.optim.AdamW(small_qwen.trainable(model), lr=1e-5)
        controller = rows = None
        if self.method:
            controller = FreezeController(model, self.method, optimizer=optimizer, **self.options)
        if self.cuts:
            rows = salf.torch.RowCuts(list(model.model.layers))
        marks = []
        for k in range(b.steps + 2):
            if k == 2:
                b.peak(restart=True)
            marks.append(self.step(model, optimizer, controller, rows))
        for begin, middle, end in marks[2:]:
            self.times.append(b.seconds(begin, end))
            self.backwards.append(b.seconds(middle, end))
        self.memory = b.peak()
        if controller:
            controller.close()
        if rows:
            rows.close()
        optimizer.zero_grad(set_to_none=True)

    def step(self, model, optimizer, controller=None, rows=None, backward=None):
        """One step; the marks are taken before it, behind its forward, and behind it."""
        b, begin = self.bench, self.bench.now()
        if rows:
            rows.set(self.cuts)
        if controller:
            controller.begin(rows=b.rows)
        loss = model(b.ids, b.targets)
        middle = b.now()
        if controller:
            controller.backward(loss, run=backward)
            self.shares.append(controller.cut / len(model.model.layers))
        else:
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return begin, middle, b.now()

    @property
    def share(self):
        """Of the depth, left out by the backward."""
        if self.cuts:
            return statistics.mean(self.cuts) / self.bench.config.num_hidden_layers
        return statistics.mean(self.shares) if self.shares else 0.0


def never(step, n_layers, found):
    """A policy that looks at each trace and cuts nothing: all of the cost, none of the saving."""
    return 0


def time_steps(b):
    """The table of steps."""
    layers = b.config.num_hidden_layers
    plain, observed = Variant(b, "plain"), Variant(b, "observed", "callback", policy={"callback": never})
    variants = [plain, observed, Variant(b, "half", "half"), Variant(b, "salf", "salf")]
    if hasattr(salf.torch, "RowCuts"):
        # the cuts of a uniform budget, as a batch of a stream gets them
        cuts = [r * layers // b.batch for r in range(b.batch)]
        variants.append(Variant(b, "rows at their own cut, uniform budget", cuts=cuts))
    for _ in range(b.rounds):
        for variant in variants:
            variant.run()
    step, backward, held = statistics.median(plain.times), statistics.median(plain.backwards), b.static()
    shape = f"{layers} layers, {b.batch} x {b.tokens}"
    row(f"step, plain, {shape}", step, backward=backward, peak=plain.memory)
    row("step, observed, decision read, all train", statistics.median(observed.times), step, "the plain step", 0.99,
        peak=observed.memory)  # fmt: skip
    for variant in variants[2:]:
        ideal = step - variant.share * backward
        row(f"step, {variant.name}, {variant.share:.2f} of the depth left out", statistics.median(variant.times), ideal,
            "the ideal step", REACH, peak=variant.memory)  # fmt: skip
        if b.cuda and variant.name != "salf":  # which decides after the forward: everything is kept until then
            memory = held + (1 - variant.share) * (plain.memory - held)
            share, met = memory / variant.memory, memory / variant.memory >= REACH
            what = f"peak memory, {variant.name}"
            size = f"{variant.memory / 2**20:7.0f} MiB, plain {plain.memory / 2**20:.0f}"
            print(f"{what:52} {size}  {share:5.2f} of the ideal (reach {REACH:.2f}: {'yes' if met else 'no'})")
            found = {"what": what, "bytes": variant.memory, "share": share, "reach": REACH, "met": met}
            print(f"ROW {json.dumps(found)}", flush=True)


def look_for_waits(b, path):
    """From the batch's announcement to the end of its forward the host waits for nothing; the trace is kept."""
    model = b.model
    optimizer = torch.optim.AdamW(small_qwen.trainable(model), lr=1e-5)
    activities = [torch.profiler.ProfilerActivity.CPU] + ([torch.profiler.ProfilerActivity.CUDA] if b.cuda else [])
    with FreezeController(model, "salf", optimizer=optimizer) as controller:
        variant = Variant(b, "traced")
        for _ in range(2):
            variant.step(model, optimizer, controller)
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(2):
                with torch.profiler.record_function("salf before the decision"):
                    controller.begin(rows=b.rows)
                    loss = model(b.ids, b.targets)
                with torch.profiler.record_function("salf decision"):
                    controller.decide()
                controller.backward(loss)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        backend = controller.context.info.backend
    if path:
        profile.export_chrome_trace(path)
        events = host_waits.read(path)
        if os.path.getsize(path) > 12 << 20:
            os.remove(path)
            print(f"the trace was larger than 12 MiB and is not kept: {len(events)} events")
    if not b.cuda:
        verdict(
            len(host_waits.ranges(events, "salf before the decision")) == 2 if path else True,
            "the trace has the ranges that are looked at",
        )
        print("SKIPPED: waits of the host, there is no CUDA device")
        return
    verdict(backend == "cuda", "the controller's context is on the device", backend)
    waits, calls = host_waits.waits_in(events, "salf before the decision")
    verdict(calls > 0, "the profiler saw the host's calls", f"{calls} of two forwards")
    verdict(not waits, "no wait of the host before the decision is read", ", ".join(waits) or "none")


# ---- what else PyTorch does ----


def scale_gradients(b):
    """Float16 with a gradient scaler: a step that it skips counts for nothing."""
    model = b.make(torch.float16 if b.cuda else torch.float32, precise=True)
    optimizer = torch.optim.AdamW(small_qwen.trainable(model), lr=1e-5)
    scaler = torch.amp.GradScaler(b.device.type, init_scale=16.0)
    variant = Variant(b, "scaled")

    def run(value, **rest):
        scaler.scale(value * factor).backward(**rest)

    taken = []
    with FreezeController(model, "salf", optimizer=optimizer) as controller:
        for factor in (1.0, math.inf, 1.0):  # noqa: B007 - run() reads it
            before = controller.steps
            controller.begin(rows=b.rows)
            controller.backward(model(b.ids, b.targets), run=run)
            scaler.step(optimizer)
            if controller.steps == before:
                controller.skipped()
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            taken.append(controller.steps - before)
    finite = all(bool(p.isfinite().all()) for p in small_qwen.trainable(model))
    verdict(
        taken == [1, 0, 1] and finite,
        f"{variant.name} gradients: the step with an infinite one is left out",
        f"{taken}",
    )


def capture(b):
    """A CUDA graph of a forward in PyTorch's own memory pool, with the observations in it."""
    if not b.cuda:
        print("SKIPPED: a CUDA graph, there is no CUDA device")
        return
    layers, rows, hidden, vocabulary = 6, 16, 256, 1000
    torch.manual_seed(3)
    stream = torch.cuda.Stream()
    head = torch.randn(vocabulary, hidden, device="cuda", dtype=torch.bfloat16)
    weights = [torch.randn(hidden, hidden, device="cuda", dtype=torch.bfloat16) / hidden**0.5 for _ in range(layers)]
    start = torch.randn(rows, hidden, device="cuda", dtype=torch.bfloat16)
    labels = torch.arange(rows, dtype=torch.int32)
    context = salf.Context("cuda", stream=stream)
    model = salf.Model(context, head=head, n_layers=layers)
    probe = salf.Probe(salf.Basis(model, labels.tolist()), lens="raw")

    def forward():
        states = start
        probe.observe(0, states)
        for k, weight in enumerate(weights):
            states = states + torch.tanh(states @ weight)
            probe.observe(k + 1, states)
        probe.flush()

    def eager():
        probe.begin(labels)
        forward()
        return probe.end()

    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        expected = [eager(), eager()][1]
    graph = torch.cuda.CUDAGraph()
    probe.begin(labels)
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        forward()

    def replayed():
        probe.begin(labels)
        with torch.cuda.stream(stream):
            graph.replay()
        probe.replay()
        return probe.end()

    same = all((replayed().deviations == expected.deviations).all() for _ in range(3))
    with torch.cuda.stream(stream):
        start.mul_(-0.5)
    found = replayed().deviations
    with torch.cuda.stream(stream):
        other = eager().deviations
    verdict(same, "a graph in PyTorch's memory pool gives the eager batch's deviations, bit for bit")
    verdict(
        bool((found == other).all() and (found != expected.deviations).any()),
        "and reads what is there when it is replayed",
    )


def one_rank(rank, ranks, backend, address, answers):
    """A process of two_ranks."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=address, RANK=str(rank), WORLD_SIZE=str(ranks))
    dist.init_process_group(backend, rank=rank, world_size=ranks)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    torch.manual_seed(0)
    plain = small_qwen.SmallQwen(small_qwen.SMALL, device, torch.float32)
    model = torch.nn.parallel.DistributedDataParallel(plain)
    optimizer = torch.optim.AdamW(small_qwen.trainable(plain), lr=1e-3)
    cuts = []
    with FreezeController(model, "salf", optimizer=optimizer) as controller:
        for step in range(4):
            generator = torch.Generator().manual_seed(10 * step + rank)
            ids = torch.randint(512, (4, 16), generator=generator)
            targets = torch.randint(100, (4,), generator=generator)
            controller.begin(rows=Rows(torch.full((4,), 15), targets))
            controller.backward(model(ids.to(device), targets.to(device)))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            cuts.append(controller.cut)
    total = sum(float(p.detach().double().sum()) for p in small_qwen.trainable(plain))
    answers.put((cuts, total))
    dist.destroy_process_group()


def two_ranks(b):
    """Two processes take the same cuts and end with the same weights."""
    backend = "nccl" if b.cuda else "gloo"
    if b.cuda and torch.cuda.device_count() < 2:
        print("SKIPPED: two ranks over NCCL, there is one device")
        return
    spawn = torch.multiprocessing.get_context("spawn")
    answers, address = spawn.SimpleQueue(), str(20000 + os.getpid() % 20000)
    processes = [spawn.Process(target=one_rank, args=(r, 2, backend, address, answers)) for r in range(2)]
    for process in processes:
        process.start()
    while any(p.is_alive() for p in processes) and not any(p.exitcode for p in processes):
        time.sleep(0.1)
    for process in processes:  # one that waits for a rank that failed would wait for ever
        process.kill()
        process.join()
    good = all(process.exitcode == 0 for process in processes)
    first, second = (answers.get(), answers.get()) if good else ("a rank failed", "")
    verdict(first == second, f"two ranks over {backend} agree", f"{first}")


def main():
    """All of it; what fails leaves the rest."""
    parser = argparse.ArgumentParser(description="Training steps with and without libsalf.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a machine without a device")
    parser.add_argument("--trace", help="file for the profiler's trace")
    o = parser.parse_args()
    if o.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"not ok - PyTorch {torch.__version__} has no CUDA device")
    name = torch.cuda.get_device_name() if o.device == "cuda" else o.device
    print(f"PyTorch {torch.__version__}, {name}, libsalf {salf.__version__}", flush=True)
    b = Bench(o)
    parts = [
        lambda: look_for_waits(b, o.trace),
        lambda: capture(b),
        lambda: time_steps(b),
        lambda: scale_gradients(b),
        lambda: two_ranks(b),
    ]
    for part in parts:
        try:
            part()
        except Exception:
            traceback.print_exc(file=sys.stdout)
            verdict(False, "a part of the steps ended with the error above")
    sys.exit(len(failed) > 0)


if __name__ == "__main__":
    main()
