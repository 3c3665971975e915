"""Planner, policies and cost: counts, tasks, decisions, saved state."""

import concurrent.futures
import itertools
import threading

import numpy as np
import pytest

import salf
from salf import errors

LAYERS = 6


@pytest.fixture
def context():
    with salf.Context("cpu") as made:
        yield made


# ---- planner ----


def test_counts_are_the_papers(context):
    """Arithmetic, depth-first, 32 layers and 16000 data: Table 5 of the paper has a saving of 0.644."""
    planner = salf.Planner(context, 32, 16000, growth="arithmetic", infill="depth")
    assert planner.counts.dtype == np.int64
    assert planner.counts.sum() == 16000
    assert planner.saving == pytest.approx((planner.counts * np.arange(32)).sum() / (32 * 16000), rel=1e-12)
    assert round(planner.saving, 3) == 0.644


def test_custom_shares(context):
    planner = salf.Planner(context, 3, 10, growth="custom", weights=[1, 0, 4])
    assert planner.counts.tolist() == [2, 0, 8]
    assert salf.Planner(context, 3, 7, growth="geometric", ratio=2).counts.tolist() == [1, 2, 4]
    assert salf.Planner(context, 4, 6).counts.tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"growth": "x"}, errors.ArgumentError, "uniform, geometric"), ({"growth": "custom"}, salf.Error, "weights"),
        ({"growth": "custom", "weights": [1, 2]}, errors.ShapeError, r"\(2,\) for 6 layers"),
        ({"growth": "custom", "weights": [-1] * 6}, errors.ArgumentError, "-1"),
        ({"growth": "custom", "weights": [np.nan] * 6}, errors.ArgumentError, "nan"),
        ({"growth": "custom", "weights": ["a"] * 6}, errors.DtypeError, "weights"),
        ({"growth": "geometric", "ratio": 0.5}, errors.ArgumentError, "0.5"),
        ({"infill": "x"}, errors.ArgumentError, "breadth, depth"),
        ({"matching": "x"}, errors.ArgumentError, "online, offline, none"),
        ({"seed": -1}, errors.OverflowError, "seed"),
        ({"probe_limit": -2}, errors.ArgumentError, "probe_limit"),
        ({"probe_limit": "x"}, errors.ArgumentError, "known are all"),
        ({"seed": 2**64}, errors.OverflowError, "seed"), ({"seed": 1.5}, errors.ArgumentError, "seed is 1.5"),
    ],
    ids=str,
)  # fmt: skip
def test_options_of_a_planner(context, options, error, message):
    with pytest.raises(error, match=message):
        salf.Planner(context, LAYERS, 20, **options)


@pytest.mark.parametrize(("layers", "data"), [(0, 5), (5, 0), (-1, 5), (2**31, 5), (5, 2**63), ("a", 5), (5, None)])
def test_sizes_of_a_planner(context, layers, data):
    with pytest.raises((salf.Error, OverflowError, TypeError)):
        salf.Planner(context, layers, data)


def test_most_data_probed_for_a_layer(context):
    """By default half the mean share of a layer; "all" is Algorithm 4 to the letter."""
    eof = np.full(600, LAYERS - 1)  # every layer but the last looks for data in vain
    for limit, most in ((0, 600 // LAYERS // 2 + 1), (7, 7), ("all", 600), (-1, 600)):
        planner = salf.Planner(context, LAYERS, 600, probe_limit=limit)
        drive(planner, eof, max_data=100)
        assert max(planner.stage(layer).probed for layer in range(LAYERS - 1)) == most


def drive(planner, eof, max_data=7, stop=None):
    """Runs a plan; returns (layer, data) of what trained. eof is known for all data, and told when probed."""
    trained = []
    for step in itertools.count():
        if step == stop:
            return trained
        task = planner.next(max_data)
        if task.kind == "done":
            return trained
        assert len(task.data) <= max_data
        data = task.data
        if task.kind == "probe":
            data = data[planner.report(eof[data])]
        trained += [(task.layer, int(datum)) for datum in data]
        planner.done()
    return trained


class Joined:
    """Ranks as threads: a communicator for each, over one barrier."""

    def __init__(self, ranks):
        self.ranks, self.parts, self.barrier = ranks, [None] * ranks, threading.Barrier(ranks)

    def link(self, rank):
        joined = self

        class Link:
            ranks = joined.ranks

            def all_reduce(self, buffer, operation):
                joined.parts[rank] = buffer.copy()
                joined.barrier.wait()
                buffer[...] = (np.sum if operation == "sum" else np.min)(joined.parts, axis=0)
                joined.barrier.wait()

        made = Link()
        made.rank = rank
        return made

    def run(self, work):
        """work(context, rank) on each rank; the results."""

        def one(rank):
            try:
                with salf.Context("cpu", communicator=self.link(rank)) as context:
                    return work(context, rank)
            except BaseException:
                self.barrier.abort()  # the others wait for this one
                raise

        with concurrent.futures.ThreadPoolExecutor(self.ranks) as pool:
            return list(pool.map(one, range(self.ranks)))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matching", ["online", "offline", "none"])
def test_ranks_share_a_plan(context, matching, full):
    """A rank's part of each task, and over all ranks what one process trains with their batches joined."""
    eof = np.random.default_rng(4).integers(0, LAYERS, 100)

    def work(context, batch):
        planner = salf.Planner(context, LAYERS, 100, matching=matching, seed=3, full_batches=full)
        if matching == "offline":
            planner.set_eof(0, eof)
        trained, step = [], 0
        while (task := planner.next(batch)).kind != "done":
            taken = np.ones(len(task.data), bool)
            if task.kind == "probe":
                taken = planner.report(eof[task.data])
            cuts = np.full(len(task.data), task.layer) if task.eof is None else task.eof
            trained += [(step, int(i), int(cut)) for i, cut in zip(task.data[taken], cuts[taken])]
            planner.done()
            step += 1
        return trained

    alone = work(context, 12)
    parts = Joined(3).run(lambda context, rank: work(context, 4))
    assert sorted(alone) == sorted(itertools.chain(*parts))
    assert min(map(len, parts)) > 20
    if full:
        sizes = np.unique([step for step, _, _ in alone], return_counts=True)[1]
        assert sorted(sizes)[1:] == [12] * 8


def test_a_rank_that_fails_at_a_report_is_named():
    def work(context, rank):
        planner = salf.Planner(context, LAYERS, 100)
        task = planner.next(4)
        try:
            planner.report([LAYERS if rank == 1 else 0] * len(task.data))
        except salf.Error as error:
            return type(error), str(error)

    found = Joined(3).run(work)
    assert found[1][0] is errors.ArgumentError
    for kind, message in (found[0], found[2]):
        assert kind is errors.MismatchError
        assert "rank 1 failed with SALF_E_ARGUMENT" in message


def test_offline_eof_are_those_of_all_data_on_every_rank():
    """Nothing exchanges them: one that is missing is named, and ranks that were told different ones go no step on."""

    def work(context, rank, eof):
        planner = salf.Planner(context, LAYERS, 100, matching="offline", seed=3)
        planner.set_eof(0, eof)
        policy = salf.Policy(context, "budget", LAYERS, planner=planner)
        try:
            planner.next(4)
            policy.decide(0)
        except salf.Error as error:
            return f"{error.status_name}: {error}"
        return "fine"

    eof = np.random.default_rng(4).integers(0, LAYERS, 100)
    assert Joined(2).run(lambda context, rank: work(context, rank, eof)) == ["fine"] * 2
    for said in Joined(2).run(lambda context, rank: work(context, rank, eof if rank else LAYERS - 1 - eof)):
        assert said.startswith("SALF_E_MISMATCH: the ranks differ in data of the task")
    for said in Joined(2).run(lambda context, rank: work(context, rank, eof[:50])):
        assert said.startswith("SALF_E_SEQUENCE")
        assert "50" in said


@pytest.mark.parametrize("matching", ["online", "offline", "none"])
def test_every_datum_trains_once(context, matching):
    eof = np.random.default_rng(2).integers(0, LAYERS, 100)
    planner = salf.Planner(context, LAYERS, 100, growth="arithmetic", matching=matching, seed=3)
    if matching == "offline":
        planner.set_eof(0, eof[:60].tolist())
        with pytest.raises(errors.SequenceError, match="60"):
            planner.match()
        planner.set_eof(60, eof[60:])
        planner.match()
    trained = drive(planner, eof)
    layers = np.array([layer for layer, _ in trained])
    assert sorted(datum for _, datum in trained) == list(range(100))
    np.testing.assert_array_equal(np.bincount(layers, minlength=LAYERS), planner.counts)
    stages = [planner.stage(layer) for layer in range(LAYERS)]
    assert [stage.count for stage in stages] == planner.counts.tolist()
    assert sum(stage.matched + stage.filled for stage in stages) == 100
    if matching != "online":
        assert {(stage.layer, int(datum)) for stage in stages for datum in stage.data} == set(trained)
    if matching == "offline":
        assert all(eof[datum] <= stage.layer for stage in stages for datum in stage.data[: stage.matched])


@pytest.mark.parametrize("stop", [0, 1, 5, 17])
def test_a_plan_goes_on_after_a_kill(context, stop):
    eof = np.random.default_rng(2).integers(0, LAYERS, 100)
    whole = drive(salf.Planner(context, LAYERS, 100, seed=9), eof)
    first = salf.Planner(context, LAYERS, 100, seed=9)
    begun = drive(first, eof, stop=stop)
    state = first.save()
    task = first.next(7)
    again = salf.Planner(context, LAYERS, 100, seed=9)
    again.load(state)
    np.testing.assert_array_equal(again.next(7).data, task.data)
    assert begun + drive(again, eof) == whole


def test_answers_that_do_not_fit(context):
    planner = salf.Planner(context, LAYERS, 20, probe_limit="all")
    with pytest.raises(errors.SequenceError):
        planner.done()
    task = planner.next(4)
    with pytest.raises(salf.Error, match="3"):
        planner.report([0] * 3)
    with pytest.raises(salf.Error, match=str(LAYERS)):
        planner.report([LAYERS] * 4)
    np.testing.assert_array_equal(planner.next(4).data, task.data)
    accepted = planner.report([0] * 4)
    assert accepted.dtype == bool
    with pytest.raises(errors.SequenceError):
        planner.report([0] * 4)
    with pytest.raises(errors.ArgumentError, match="max_data"):
        planner.next(0)
    for layer in (-1, LAYERS):
        with pytest.raises(errors.ArgumentError, match=str(layer)):
            planner.stage(layer)


def damaged(state):
    """(what was done, bytes) of states that must be refused, or that may mean another state but never harm."""
    yield b""
    yield state[:3]
    for cut in range(0, len(state), max(1, len(state) // 40)):
        yield state[:cut]
    for at in range(0, len(state), max(1, len(state) // 60)):
        yield state[:at] + bytes([state[at] ^ 0x41]) + state[at + 1 :]
    yield state + b"\0"
    yield b"\xff" * len(state)


@pytest.mark.parametrize("kind", ["planner", "policy"])
def test_damaged_state(context, kind):
    def make():
        if kind == "planner":
            return salf.Planner(context, LAYERS, 50)
        return salf.Policy(context, "lisa", LAYERS, interval=2)

    made = make()
    if kind == "planner":
        made.next(3)
    else:
        made.decide(0)
    state, refused = made.save(), 0
    for bad in damaged(state):
        other = make()
        try:
            other.load(bad)
        except salf.Error:
            refused += 1
            other.load(state)  # a refusal leaves it as it was, ready for the right one
            assert other.save() == state
    assert refused > 90
    for wrong in (None, 3, "text", object()):
        with pytest.raises(errors.ArgumentError, match="state"):
            made.load(wrong)
    for buffer in (bytearray(state), memoryview(state), np.frombuffer(state, np.uint8)):
        made.load(buffer)
    with pytest.raises(errors.MismatchError):
        (salf.Planner(context, LAYERS, 51) if kind == "planner" else salf.Policy(context, "full", LAYERS)).load(state)


# ---- policies ----

KINDS = {
    "full": {}, "suffix": {"first_layer": 2}, "half": {}, "lift": {"interval": 2}, "lift_star": {"total_steps": 12},
    "lisa": {"interval": 2, "n_active": 2, "always_on": True}, "block": {"interval": 2, "order": "random"},
    "freezeout": {"total_steps": 20, "cubic": True, "scale_rate": True}, "linear": {"total_steps": 20, "level": 0.5},
    "autofreeze": {"interval": 2, "percentile": 50.0}, "rgn": {}, "random": {"seed": 5}, "scripted": {"script": [0,
        3, 5]},
    "callback": {"callback": lambda step, n, trace: step % n}, "salf": {}, "budget": {}, "ramp": {},
}  # fmt: skip


def a_trace(step):
    rng = np.random.default_rng(step)
    return salf.Trace.from_deviations(rng.standard_normal((8, LAYERS + 1)))


def steps(context, kind, n=12, state=None, first=0):
    options = dict(KINDS[kind])
    if kind == "budget":
        options["planner"] = salf.Planner(context, LAYERS, 50, matching="none")
        options["planner"].next(4)
    policy = salf.Policy(context, kind, LAYERS, **options)
    if state is not None:
        policy.load(state)
    for step in range(first, n):
        given = {"trace": a_trace(step)} if kind in ("salf", "callback") else {}
        if kind == "autofreeze" and step and step % 2 == 0:
            given = {"gradient_l1": np.arange(LAYERS) + step + 1.0}
        if kind == "rgn":
            given = {"gradient_norm": [step + 1.0] * LAYERS, "parameter_norm": range(1, LAYERS + 1)}
        yield policy, policy.decide(step, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_hold_together(context, kind):
    before = set()
    for step, (_, decision) in enumerate(steps(context, kind)):
        trains = {k for k in range(LAYERS) if decision.trainable[k]}
        assert (decision.step, decision.n_layers) == (step, LAYERS)
        assert decision.cut == (0 if decision.train_embedding else min(trains, default=LAYERS))
        assert set(decision.added) == trains - before
        assert set(decision.removed) == before - trains
        assert set(decision.reset) <= trains
        assert decision.graph_changed == (trains != before or step == 0)
        assert all((rate > 0) == (k in trains) for k, rate in enumerate(decision.rate_scale))
        if decision.eof is not None:
            assert sorted(decision.order) == list(range(len(decision.eof)))
            assert np.all(np.diff(decision.eof[decision.order]) >= 0)
            np.testing.assert_array_equal(decision.active_rows, [(decision.eof <= k).sum() for k in range(LAYERS)])
        before = trains
    assert len(KINDS) == len(salf._ffi.names("POLICY"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_goes_on_after_a_kill(context, kind):
    whole = [decision for _, decision in steps(context, kind)]
    state = None
    for policy, decision in steps(context, kind, n=5):
        state = policy.save()
        assert decision.cut == whole[decision.step].cut
    for _, decision in steps(context, kind, state=state, first=5):
        other = whole[decision.step]
        assert (decision.trainable, decision.rate_scale, decision.added) == (
            other.trainable,
            other.rate_scale,
            other.added,
        )


@pytest.mark.parametrize(
    ("reduction", "cut"), [("mean_gain", 4), ("smallest", 1), ("median", 2), ("mode", 2), ("prefix", 1)]
)
def test_reductions(context, reduction, cut):
    deviations = np.zeros((5, LAYERS + 1))
    for row, (eof, gain) in enumerate([(1, 1), (2, 1), (2, 1), (4, 9), (5, 1)]):
        deviations[row, : eof + 1] = gain
    trace = salf.Trace.from_deviations(deviations)
    assert trace.eof.tolist() == [1, 2, 2, 4, 5]
    decision = salf.Policy(context, "salf", LAYERS, reduction=reduction).decide(0, trace)
    assert decision.cut == cut
    assert decision.eof.tolist() == ([1, 2, 2, 4, 5] if reduction == "prefix" else [cut] * 5)


def test_options_reach_the_library(context):
    decision = salf.Policy(context, "full", LAYERS, train_embedding=True, train_head=True).decide(0)
    assert decision.train_embedding is True
    assert decision.train_head is True
    assert salf.Policy(context, salf.constant("SALF_POLICY_HALF"), LAYERS).decide(0).cut == LAYERS // 2
    kept = salf.Policy(context, "block", LAYERS, interval=1, keep_moments=True, order="backward")
    assert kept.decide(0).reset == ()
    assert kept.decide(1).trainable.index(True) == LAYERS - 2


@pytest.mark.parametrize(
    ("kind", "options", "given", "error", "message"),
    [
        ("none", {}, {}, errors.ArgumentError, "full, suffix"), (99, {}, {}, errors.ArgumentError, "99"),
        ("suffix", {"first_layer": 9}, {}, errors.ArgumentError, "9"),
        ("salf", {"reduction": "sum"}, {}, errors.ArgumentError, "mean_gain"),
        ("salf", {}, {}, errors.NullError, "trace"), ("salf", {}, {"trace": 3}, errors.ArgumentError, "trace is 3"),
        ("budget", {}, {}, errors.NullError, "planner"),
        ("budget", {"planner": 3}, {}, errors.ArgumentError, "planner is 3"),
        ("callback", {}, {}, errors.NullError, "callback"),
        ("callback", {"callback": 3}, {}, errors.ArgumentError, "callback is 3"),
        ("scripted", {}, {}, salf.Error, "script"), ("scripted", {"script": [99]}, {}, errors.ArgumentError, "99"),
        ("scripted", {"script": [0.5]}, {}, errors.DtypeError, "script"),
        ("freezeout", {}, {}, errors.ArgumentError, "total_steps"),
        ("full", {"order": "sideways"}, {}, errors.ArgumentError, "forward, backward"),
        ("rgn", {}, {"gradient_norm": [1.0]}, errors.ShapeError, "gradient_norm"),
        ("rgn", {}, {"gradient_norm": [np.nan] * LAYERS, "parameter_norm": [1] * LAYERS},
            salf.Error, "gradient_norm|nan"),
        ("autofreeze", {"percentile": 101.0, "interval": 1}, {}, errors.ArgumentError, "percentile"),
    ],
)  # fmt: skip
def test_what_a_policy_refuses(context, kind, options, given, error, message):
    with pytest.raises(error, match=message):
        salf.Policy(context, kind, LAYERS, **options).decide(0, **given)


@pytest.mark.parametrize("part", ["deviations", "gains", "eof", "values"])
def test_traces_that_lie(context, part):
    trace = a_trace(0)
    values = {"rows": trace.rows, "n_layers": LAYERS, "n_nonfinite": 0, "deviations": trace.deviations,
              "gains": trace.gains, "eof": trace.eof}  # fmt: skip
    if part == "values":
        values["eof"] = trace.eof + LAYERS
    else:
        values[part] = values[part][:-1]
    with pytest.raises((errors.ShapeError, errors.ArgumentError)):
        salf.Policy(context, "salf", LAYERS).decide(0, salf.Trace(**values))
    with pytest.raises(errors.ShapeError, match="3"):
        salf.Policy(context, "salf", 3).decide(0, trace)


def test_steps_do_not_go_back(context):
    policy = salf.Policy(context, "full", LAYERS)
    policy.decide(5)
    with pytest.raises(errors.SequenceError, match="4"):
        policy.decide(4)
    for step in (2**63, -(2**63) - 1, 1.5, None, "1"):
        with pytest.raises((salf.Error, TypeError)):
            policy.decide(step)


# ---- cost ----

SHAPE = {"n_layers": 4, "hidden": 64, "ffn_hidden": 160, "vocab": 1000, "n_heads": 4, "rows": 8, "row_tokens": 32}


def test_cost_of_a_step():
    full = salf.estimate_cost(**SHAPE)
    assert full.total == full.full_total
    assert full.total == full.forward + full.activation_gradient + full.weight_gradient + full.head + full.probe
    assert (full.step_saving, full.depth_saving) == (0, 0)
    half = salf.estimate_cost(**SHAPE, cut=2, probe=True, metric="ce")
    assert half.probe > 0
    assert half.depth_saving == 0.5
    assert half.step_saving == pytest.approx(1 - half.total / half.full_total)
    assert half.weight_gradient == full.weight_gradient / 2
    rows = salf.estimate_cost(**SHAPE, eof=[0, 0, 2, 2, 2, 2, 3, 3])
    assert rows.depth_saving == pytest.approx((4 * 2 + 2 * 3) / 8 / 4)
    lora = salf.estimate_cost(**SHAPE, lora_rank=2, matrices=("q", "v"), gated_ffn=True)
    assert lora.weight_gradient < full.weight_gradient / 10
    assert salf.estimate_cost(**SHAPE, matrices="all") == full
    assert (
        salf.estimate_cost(**SHAPE, trainable=[False, True, True, True]).weight_gradient == full.weight_gradient * 3 / 4
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_layers": 0}, errors.ArgumentError, "n_layers"), ({"hidden": -1}, errors.ArgumentError, "hidden"),
        ({"metric": "x"}, errors.ArgumentError, "metric"), ({"matrices": ("q", "x")}, errors.ArgumentError, "'x'"),
        ({"eof": [0]}, errors.ShapeError, "1 eof for 8 rows"), ({"eof": [9] * 8}, errors.ArgumentError, "9"),
        ({"trainable": [1]}, errors.ShapeError, "1 values for 4 layers"), ({"cut": 9}, errors.ArgumentError, "cut"),
        ({"rows": 2**70}, errors.OverflowError, "rows"), ({"rows": None}, errors.ArgumentError, "rows"),
    ],
    ids=str,
)  # fmt: skip
def test_shapes_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        salf.estimate_cost(**{**SHAPE, **options})


# ---- streams and signals ----


def test_a_stream_hands_out_every_datum_with_its_cut(context):
    for assignment, order in itertools.product(("random", "eof", "gain"), ("staged", "mixed")):
        planner = salf.Planner(
            context, LAYERS, 60, growth="arithmetic", matching="stream", assignment=assignment, stream_order=order
        )
        if assignment != "random":
            planner.set_groups([0, 1], [30, 30])
        cuts = np.full(60, -1)
        while (task := planner.next(7)).kind != "done":
            if task.kind == "probe":
                assert assignment != "random"
                deviations = np.random.default_rng(0).standard_normal((len(task.data), LAYERS + 1))
                trace = salf.Trace.from_deviations(deviations)
                task = planner.assign(trace, task.data % 2)
            assert task.kind == "train"
            assert task.layer == task.eof.min()
            cuts[task.data] = task.eof
            planner.load(planner.save())
            assert list(planner.next(1).eof) == list(task.eof)
            planner.done()
        assert list(np.bincount(cuts, minlength=LAYERS)) == list(planner.counts)
        assert sum(planner.stage(e).matched for e in range(LAYERS)) == (0 if assignment == "random" else sum(
            planner.stage(e).probed - planner.stage(e).filled for e in range(LAYERS)))  # fmt: skip
    with pytest.raises(errors.ShapeError, match="1 sizes for 2 groups"):
        planner.set_groups([0, 1], [60])
    with pytest.raises(errors.ArgumentError, match="one_cut with assignment gain"):
        salf.Planner(context, LAYERS, 9, matching="stream", assignment="gain", one_cut=True)


def test_a_budget_follows_a_stream(context):
    planner = salf.Planner(context, LAYERS, 30, matching="stream", stream_order="mixed")
    policy = salf.Policy(context, "budget", LAYERS, planner=planner)
    for step in range(4):
        task = planner.next(8)
        decision = policy.decide(step)
        assert list(decision.eof) == list(task.eof)
        assert decision.cut == task.layer
        shares = [np.mean(task.eof <= k) for k in range(LAYERS)]
        np.testing.assert_allclose(decision.rate_scale, shares)
        assert decision.batch_share == len(task.eof) / 8
        planner.done()


def test_a_signal_says_when_it_is_the_label():
    said = []
    with salf.Context(log=lambda level, line: said.append(line)) as context:
        groups = np.arange(200) % 4
        deviations = np.random.default_rng(1).standard_normal((4, LAYERS + 1))[groups]
        signal = salf.Signal(context, LAYERS, per_datum=True, max_ids=100)
        ids = (np.arange(200) % 50).astype(np.uint32)
        signal.add(salf.Trace.from_deviations(deviations), groups=groups, ids=ids)
        info = signal.info
        assert (info.rows, info.n_groups, info.revisits) == (200, 4, 150)
        assert info.group_adjusted > 0.99
        assert len(said) == 1
        assert "signal is the label" in said[0]
        with pytest.raises(errors.ShapeError, match="3 cuts for a trace of 200 rows"):
            signal.add(salf.Trace.from_deviations(deviations), cuts=[1, 2, 3])
        with pytest.raises(errors.OverflowError, match="ids holds -1"):
            signal.add(salf.Trace.from_deviations(deviations[:1]), ids=[-1])
