"""What each process does in test_distributed.py: python ranks.py TASK OUTPUT, with torchrun's variables set."""

import contextlib
import copy
import os
import sys

import numpy
import small_models as small
import torch
import torch.distributed as dist
import transformers

import salf
from salf import distributed
from salf.torch import FreezeController

RANK = int(os.environ["RANK"])
RANKS = int(os.environ["WORLD_SIZE"])


def loss_of(model, ids, labels):
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def own_batch(seed=1):
    """Rank 0 has the first rows of a batch, rank 1 the others."""
    ids, labels = small.make_batch(rows=8, seed=seed)
    return ids[RANK::RANKS], labels[RANK::RANKS]


def collectives():
    link = distributed.Communicator()
    numbers = numpy.array([1.5 + RANK, 2.0])
    link.all_reduce(numbers, "sum")
    smallest = numpy.array([5 - RANK, RANK], dtype=numpy.int64)
    link.all_reduce(smallest, "min")
    both, one, neither = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.tensor([1.0 + RANK, 2.0])
    one.grad = torch.ones(2) if RANK == 0 else None
    distributed.reduce_gradients([neither, both, one])
    distributed.reduce_gradients([])
    return {
        "gradients": [None if p.grad is None else p.grad.tolist() for p in (both, one, neither)],
        "sum": numbers.tolist(),
        "min": smallest.tolist(),
        "all": [link.all_true(True), link.all_true(RANK == 0)],
        "gathered": link.gather_objects([RANK] * RANK),
    }


def agreements():
    """What ranks are told that differ, or of which one has failed."""
    context = salf.Context("cpu", communicator=distributed.Communicator())
    said = {}

    def told(name, call):
        try:
            call()
            said[name] = "fine"
        except salf.Error as error:
            said[name] = f"{error.status_name}: {error}"

    told("labels", salf.BasisBuilder(context, 8, 4, [1, 2 + RANK]).all_reduce)
    told("seeds", lambda: salf.Policy(context, "lisa", 4, interval=1, seed=RANK).decide(0))
    told("same", lambda: salf.Policy(context, "lisa", 4, interval=1, seed=3).decide(0))
    full = salf.Policy(context, "full", 4)
    told("failure", lambda: context.agree(salf.errors.IoError("gone")) if RANK else full.decide(0))
    return said


def shards():
    """Deviations by each rank's rows of the head, and by the whole of it."""
    generator = numpy.random.default_rng(5)
    head = generator.standard_normal((11, 4)).astype(numpy.float32)
    states = generator.standard_normal((3, 2, 4)).astype(numpy.float32)
    first, rows = (0, 3) if RANK == 0 else (3, 8)
    context, alone = salf.Context("cpu", communicator=distributed.Communicator()), salf.Context("cpu")
    mine = numpy.ascontiguousarray(head[first : first + rows])
    part = salf.Model(context, n_layers=2, head=mine, vocab=11, shard_first=first, shard_rows=rows)
    builder = salf.BasisBuilder(context, 11, 4, [1, 9])
    builder.add(first, mine)
    builder.all_reduce()
    bases = builder.finish(part), salf.Basis(salf.Model(alone, n_layers=2, head=head), [1, 9])
    found = {}
    for metric in ("ce", "rank"):
        traces = []
        for basis in bases:
            probe = salf.Probe(basis, metric, "raw")
            probe.begin([9, 1])
            for space in range(3):
                probe.observe(space, states[space])
            traces.append(probe.end().deviations)
        found[metric] = float(numpy.abs(traces[0] - traces[1]).max())
    return found


def cuts_alone():
    """The cut that each rank's data would choose alone, and the one that both take."""
    found = {}
    model = small.make_model("llama")
    with FreezeController(model, "salf", optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) as controller:
        alone, together = [], []
        for seed in range(12):
            ids, labels = own_batch(seed)
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))
            model.zero_grad()
            controller.skipped()
            alone.append(int(numpy.argmax(controller.trace.gains.mean(axis=0))))
            together.append(controller.cut)
    found["alone"], found["together"] = alone, together
    return found


def ddp():
    """Steps of DistributedDataParallel, against one process with all data."""
    model = small.make_model("llama")
    single = copy.deepcopy(model)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    reference = torch.optim.SGD(single.parameters(), lr=0.5)
    frozen_moved, cuts = 0, []
    with FreezeController(wrapped, "salf", optimizer=optimizer) as controller:
        for seed in range(4):
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
            for half in range(2):  # two batches accumulated
                ids, labels = own_batch(10 * seed + half)
                controller.begin(labels)
                controller.backward(loss_of(wrapped, ids, labels) / 2, sync=half == 1)
                cuts.append(controller.cut)
                ids, labels = small.make_batch(rows=8, seed=10 * seed + half)
                mean = loss_of(single, ids, labels) / 2
                layers = [p for layer in list(single.model.layers)[controller.cut :] for p in layer.parameters()]
                mean.backward(inputs=layers)
            optimizer.step()
            optimizer.zero_grad()
            reference.step()
            reference.zero_grad(set_to_none=True)
            lowest = min(cuts[-2:])
            frozen_moved += sum(
                not torch.equal(p, before[n])
                for n, p in model.named_parameters()
                if "layers" not in n or int(n.split(".")[2]) < lowest
            )
    worst = max(float((p - q).abs().max()) for p, q in zip(model.parameters(), single.parameters()))
    return {"cuts": cuts, "worst": worst, "moved": frozen_moved, "sum": checksum(model)}


def streams():
    """Streams over both ranks: the cuts of this rank's rows, and the weights they led to."""
    found = {}
    for assignment in ("random", "eof"):
        model = small.make_model("llama")
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"n_data": 32, "assignment": assignment, "seed": 3}
        cuts = []
        with FreezeController(wrapped, "salf[half][stream]", planner=options, optimizer=optimizer) as controller:
            for seed in range(4):
                ids, labels = own_batch(seed)
                controller.begin(labels)
                controller.backward(loss_of(wrapped, ids, labels))
                cuts += controller.decision.eof.tolist()
                optimizer.step()
                optimizer.zero_grad()
            counts = [int(count) for count in controller.planner.counts]
        found[assignment] = {"cuts": cuts, "counts": counts, "weights": checksum(model)}
    return found


def checksum(model):
    return [float(p.double().sum()) for p in model.parameters()]


def a_rank_without_rows():
    """Rank 1's data have no target: rank 0's decide."""
    model = small.make_model("llama")
    ids, labels = small.make_batch()
    if RANK == 1:
        labels = torch.full_like(labels, -100)
    with FreezeController(model, "salf", optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) as controller:
        controller.begin(labels)
        controller.backward(model(input_ids=ids).logits.sum())
        return {"cut": controller.cut}


def trainer(method, folder, **config):
    from salf.transformers import SalfConfig, SalfTrainer

    options = {
        "output_dir": os.path.join(folder, method.replace("*", "s")),
        "per_device_train_batch_size": 3,
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 1,
        "gradient_accumulation_steps": config.pop("accumulation", 1),
    }
    run = SalfTrainer(
        model=small.add_lora(small.make_model("llama"), "llama"),
        args=transformers.TrainingArguments(**options),
        train_dataset=small.Items(count=41),
        data_collator=transformers.default_data_collator,
        salf=SalfConfig(method, **config),
    )
    run.train()
    counts = None if run.plan is None else [list(run.plan.counts), run.plan.progress.trained]
    return {
        "steps": run.state.global_step,
        "expected": run.state.max_steps,
        "sum": checksum(run.model),
        "counts": counts,
        "cuts": [entry["salf/cut"] for entry in run.state.log_history if "loss" in entry],
        "saving": run.controller.saving,
    }


def trainers(folder):
    return {
        "salf": trainer("salf", folder),
        "salf[half]": trainer("salf[half]", folder),
        "salf[arith][df]": trainer("salf[arith][df]", folder, matching="offline", accumulation=2),
        "lift*[geom][bf]": trainer("lift*[geom][bf]", folder),
        "full": trainer("salf[arith][df]", folder, accumulation=2, planner={"full_batches": True}),
        "lift[half]": trainer("lift[half]", folder),
        "cache": trainer("salf", folder, cache=True),
    }


def fsdp():
    """FSDP with the decoder layer as unit: the flags of each step go before the forward; against one process."""
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    model = small.make_model("llama")
    single = copy.deepcopy(model)
    layer = type(model.model.layers[0])
    policy = {"interval": 1, "total_steps": 4}
    with FreezeController(model, "lift_star", policy=policy) as controller:
        device = torch.device("cpu")
        sharded = Fsdp(model, auto_wrap_policy=ModuleWrapPolicy({layer}), use_orig_params=True, device_id=device)
        controller.wrapped(sharded)
        optimizer = torch.optim.SGD(sharded.parameters(), lr=0.5)
        controller.attach(optimizer)
        reference = torch.optim.SGD(single.parameters(), lr=0.5)
        cuts = []
        for seed in range(4):
            ids, labels = own_batch(seed)
            controller.begin(labels)
            controller.backward(loss_of(sharded, ids, labels))
            optimizer.step()
            optimizer.zero_grad()
            cuts.append(controller.cut)
            ids, labels = small.make_batch(rows=8, seed=seed)
            layers = [p for part in list(single.model.layers)[controller.cut :] for p in part.parameters()]
            loss_of(single, ids, labels).backward(inputs=layers)
            reference.step()
            reference.zero_grad(set_to_none=True)
        with Fsdp.summon_full_params(sharded):
            worst = max(float((p - q).abs().max()) for p, q in zip(sharded.parameters(), single.parameters()))
    return {"cuts": cuts, "worst": worst}


def fsdp_lag():
    """A trace under FSDP: the decision of one batch is the next one's, the same on both ranks."""
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    model = small.make_model("llama")
    with FreezeController(model, "salf") as controller:
        wrap = ModuleWrapPolicy({type(model.model.layers[0])})
        sharded = Fsdp(model, auto_wrap_policy=wrap, use_orig_params=True, device_id=torch.device("cpu"))
        controller.wrapped(sharded)
        optimizer = torch.optim.SGD(sharded.parameters(), lr=0.5)
        controller.attach(optimizer)
        cuts = []
        for seed in range(5):
            ids, labels = own_batch(seed)
            controller.begin(labels)
            controller.backward(loss_of(sharded, ids, labels))
            optimizer.step()
            optimizer.zero_grad()
            cuts.append(controller.cut)
        with Fsdp.summon_full_params(sharded):
            return {"cuts": cuts, "sum": checksum(sharded)}


def fsdp_refused():
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    messages = []
    for options in ({"use_orig_params": False}, {"use_orig_params": True}):
        model = small.make_model("llama")
        wrap = ModuleWrapPolicy({type(model.model.layers[0])}) if not options["use_orig_params"] else None
        with FreezeController(model, "half") as controller:
            sharded = Fsdp(model, auto_wrap_policy=wrap, device_id=torch.device("cpu"), **options)
            try:
                controller.wrapped(sharded)
            except ValueError as error:
                messages.append(str(error))
    return {"messages": messages}


def refused(make):
    """What it says, and whether it says anything."""
    try:
        made = make()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return made


def ddp_refused():
    """What is not told, or not averaged, is refused on both ranks before a rank waits for the other."""
    wrap = torch.nn.parallel.DistributedDataParallel
    ids, labels = own_batch()
    model = small.make_model("llama")
    found = {"static": refused(lambda: FreezeController(wrap(model, static_graph=True), "half") and None)}

    model = small.make_model("llama")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, "half", optimizer=optimizer) as controller:
        wrapped = wrap(model)
        controller.begin(labels)
        found["untold"] = refused(lambda: loss_of(wrapped, ids, labels) and None)
        controller.drop()
        controller.wrapped(wrapped)
        controller.begin(labels)
        controller.backward(loss_of(wrapped, ids, labels), sync=False)
        found["unsynchronised"] = refused(lambda: optimizer.step())
        controller.synchronise()
        optimizer.step()
        controller.begin(labels)
        loss = loss_of(wrapped, ids, labels)
        found["own"] = refused(lambda: loss.backward())
        loss = loss_of(wrapped, ids, labels)
        controller.expect_backward()
        loss.backward()
        found["unsynchronised too"] = refused(lambda: optimizer.step())
        controller.synchronise()
        optimizer.step()
        found["sum"] = checksum(model)
    return found


def keeps_a_window(controller, model, kind):
    """Two batches in one window: sharding sums the first where no parameter's gradient shows it, and it counts."""
    ids, labels = own_batch()
    if kind == "fsdp2":
        model.set_requires_gradient_sync(False)
    with model.no_sync() if kind == "fsdp1" else contextlib.nullcontext():
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
    share = controller._share
    controller.begin(labels)
    assert controller._share == share > 0
    controller.drop()


def fsdp_first():
    """FSDP around the model before the controller is made: methods without a probe work, others are refused at once."""
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    found = {}
    for kind in ("fsdp1", "fsdp2"):
        for method in ("salf", "half"):
            model = small.make_model("llama")
            single = copy.deepcopy(model)
            if kind == "fsdp1":
                policy = ModuleWrapPolicy({type(model.model.layers[0])})
                model = Fsdp(model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu"))
            else:
                mesh = dist.init_device_mesh("cpu", (RANKS,))
                for layer in model.model.layers:
                    fully_shard(layer, mesh=mesh)
                fully_shard(model, mesh=mesh)

            def steps(model=model, method=method, single=single, kind=kind):
                optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
                with FreezeController(model, method, optimizer=optimizer) as controller:
                    ids, labels = own_batch()
                    controller.begin(labels)
                    controller.backward(loss_of(model, ids, labels))
                    optimizer.step()
                    optimizer.zero_grad()
                    keeps_a_window(controller, model, kind)
                ids, labels = small.make_batch(rows=8)
                above = [p for layer in list(single.model.layers)[2:] for p in layer.parameters()]
                loss_of(single, ids, labels).backward(inputs=above)
                torch.optim.SGD(single.parameters(), lr=0.5).step()
                with torch.no_grad():
                    ours, theirs = loss_of(model, ids, labels), loss_of(single, ids, labels)
                return abs(float(ours) - float(theirs))

            found[kind, method] = refused(steps)
    return found


def alike():
    """Rows that are alike on one rank are looked at over both."""
    ids, labels = small.make_batch(rows=20)
    found = []
    for same in (True, False):
        own = labels.clone()
        own[own != -100] = 9 if same or RANK == 0 else 8
        with FreezeController(small.make_model("llama"), "salf") as controller:

            def twice(controller=controller, own=own):
                for _ in range(2):
                    controller.begin(own)
                    controller.drop()

            found.append(refused(twice))
    return found


def main():
    task, output = sys.argv[1:3]
    torch.set_num_threads(1)
    if not hasattr(torch.cpu, "device_count"):  # accelerate asks PyTorch 1 for it when several ranks share a CPU
        torch.cpu.device_count = lambda: 1
        torch.cpu.set_device = lambda device: None
    transformers.logging.set_verbosity_error()
    dist.init_process_group("gloo")
    found = trainers(os.path.dirname(output)) if task == "trainers" else globals()[task]()
    torch.save(found, f"{output}.{RANK}")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    assert salf.version()
    main()
