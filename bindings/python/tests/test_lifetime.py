"""Handles go in any order, more than once, in cycles, in callbacks, and at the end of the process."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from oracle import probe
from small import HIDDEN, LAYERS, VOCAB
from test_callbacks import Counting

import salf
from salf import errors


def family(memory):
    """One handle of each kind, made from one another."""
    head = np.random.default_rng(0).standard_normal((VOCAB, HIDDEN)).astype(np.float32)
    context = salf.Context("cpu", allocator=memory)
    model = salf.Model(context, n_layers=LAYERS, head_rows=lambda f, n, out: out.__setitem__(..., head[f : f + n]),
                       hidden=HIDDEN, vocab=VOCAB)  # fmt: skip
    basis = salf.Basis(model, [1])
    planner = salf.Planner(context, LAYERS, 9, matching="none")
    return [context, model, basis, salf.Probe(basis), salf.Loss(basis), planner,
            salf.Policy(context, "budget", LAYERS, planner=planner),
                salf.BasisBuilder(context, VOCAB, HIDDEN, [1])]  # fmt: skip


@pytest.mark.parametrize("way", ["close", "del"])
def test_any_order(way):
    orders = [
        list(range(8)),
        list(range(7, -1, -1)),
        *itertools.islice(itertools.permutations(range(8)), 0, 40320, 509),
    ]
    for order in orders:
        memory = Counting()
        handles = family(memory)
        for i in order:
            if way == "close":
                handles[i].close()
                handles[i].close()
                assert handles[i].closed
            handles[i] = None
        assert not memory.blocks, order


def test_what_was_made_outlives_what_it_was_made_from(states):
    memory = Counting()
    context, model, basis, made, loss, planner, policy, builder = family(memory)
    context.close()
    model.close()
    basis.close()
    made.begin([1, 1])
    for space, values in enumerate(states):
        made.observe(space, values[:2])
    assert made.end().rows == 2
    assert loss.compute([2], states[0, :1]).shape == (1,)  # a row that is solved now, through the callback
    planner.next(2)
    planner.close()
    assert policy.decide(0).n_layers == LAYERS
    partial = builder.partial
    del made, loss, policy, builder
    partial += 1  # still there
    del partial
    assert not memory.blocks


def test_with_closes(context):
    with salf.Planner(context, 2, 3) as planner:
        assert not planner.closed
    assert planner.closed
    with pytest.raises(errors.SequenceError, match="Planner is closed"), planner:
        pass


def calls_on(context, model, basis, made, loss, planner, policy, builder):
    state = np.ones((1, HIDDEN), np.float32)
    return [
        lambda: salf.Planner(context, 1, 1), lambda: salf.Model(context, n_layers=1, head=state),
        lambda: model.info, model.fingerprint, lambda: salf.Basis(model), lambda: basis.info, lambda: basis.labels,
        lambda: basis.rows([1]), lambda: basis.save("/tmp/never"), lambda: salf.Probe(basis), lambda: salf.Loss(basis),
        lambda: made.begin([1]), lambda: made.observe(0, state), made.end, made.poll, made.flush, made.replay,
        lambda: loss.compute([1], state), lambda: planner.counts, lambda: planner.saving, lambda: planner.next(1),
        planner.save, lambda: planner.load(b""), lambda: policy.decide(0), policy.save, lambda: policy.load(b""),
        lambda: builder.add(0, state), lambda: builder.partial, builder.finish, builder.all_reduce,
        lambda: basis.refresh(), lambda: basis.check(), lambda: salf.Policy(context, "full", 1),
        lambda: salf.Policy(salf.Context("cpu"), "budget", LAYERS, planner=planner),
    ]  # fmt: skip


def test_closed_handles_say_so():
    handles = family(Counting())
    calls = calls_on(*handles)
    for handle in handles:
        handle.close()
    for call in calls:
        with pytest.raises(errors.SequenceError, match="is closed"):
            call()


def test_cycles_through_callbacks_are_collected(head):
    """A host object owns the context, and the context's log, allocator and rows lead back to it."""

    class Host(Counting):
        def __init__(self):
            super().__init__()
            self.context = salf.Context("cpu", log=self.log, allocator=self)
            self.model = salf.Model(self.context, n_layers=1, head_rows=self.rows, hidden=HIDDEN, vocab=VOCAB)
            self.basis = salf.Basis(self.model, [1])
            self.policy = salf.Policy(self.context, "callback", 2, callback=self.cut)

        def log(self, level, line):
            self.line = line

        def rows(self, first, count, out):
            out[:] = head[first : first + count]

        def cut(self, *_):
            return 0

    host = Host()
    host.policy.decide(0)
    gone, blocks = weakref.ref(host), host.blocks
    assert blocks
    del host
    gc.collect()
    assert gone() is None
    assert not blocks


def test_borrowed_memory_is_kept_and_let_go(context):
    head = np.random.default_rng(0).standard_normal((VOCAB, HIDDEN)).astype(np.float32)
    base = weakref.ref(head)
    model = salf.Model(context, n_layers=1, head=head)
    del head
    gc.collect()
    assert base() is not None
    basis = salf.Basis(model, [])
    model.close()
    basis.rows([3])  # read from the head
    del model
    basis.close()
    gc.collect()
    assert base() is None


def test_a_file_stays_mapped_as_long_as_an_array_of_it(context, tmp_path, head):
    salf.save_tensors(context, tmp_path / "t.safetensors", {"head": head})
    with salf.Tensors.open(context, tmp_path / "t.safetensors") as tensors:
        values = tensors["head"].numpy()
    (tmp_path / "t.safetensors").unlink()
    gc.collect()
    np.testing.assert_array_equal(values, head)
    assert not values.flags.writeable


def test_traces_and_decisions_are_copies(basis, states, context):
    with salf.Probe(basis) as made:
        made.begin([1] * 5)
        for space, values in enumerate(states):
            made.observe(space, values)
        trace = made.end()
        before = trace.deviations.copy()
        made.begin([2] * 500)
        for space in range(LAYERS + 1):
            made.observe(space, np.full((500, HIDDEN), space + 1, np.float32))
        made.end()
    policy = salf.Policy(context, "salf", LAYERS, reduction="prefix")
    decision = policy.decide(0, trace)
    order = decision.order.copy()
    policy.decide(1, probe(basis, [3] * 50, np.ones((LAYERS + 1, 50, HIDDEN), np.float32)))
    policy.close()
    np.testing.assert_array_equal(trace.deviations, before)
    np.testing.assert_array_equal(decision.order, order)


# ---- threads ----


def test_two_threads_on_one_handle_are_refused(context):
    inside, go = threading.Event(), threading.Event()

    def cut(*_):
        inside.set()
        assert go.wait(3600)
        return 1

    policy = salf.Policy(context, "callback", LAYERS, callback=cut)
    cuts = []
    thread = threading.Thread(target=lambda: cuts.append(policy.decide(0).cut))
    thread.start()
    assert inside.wait(3600)
    with pytest.raises(errors.SequenceError, match="in use: by another thread"):
        policy.decide(1)
    with pytest.raises(errors.SequenceError, match="in use"):
        policy.save()
    policy.close()  # takes effect when the call ends
    go.set()
    thread.join(3600)
    assert cuts == [1]


def test_the_interpreter_goes_on_during_a_long_call():
    """Another thread of Python runs while the library computes: the GIL is not held."""
    head = np.random.default_rng(0).standard_normal((6000, 384)).astype(np.float32)
    context = salf.Context("reference")
    model = salf.Model(context, n_layers=1, head=head)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    salf.Basis(model, [])
    end = time.perf_counter()
    stop.set()
    thread.join()
    length = end - start
    during = sum(start + 0.1 * length < at < end - 0.1 * length for at in ticks)
    assert length > 0.02
    assert during >= 3


def test_probes_of_one_basis_in_parallel(context, basis):
    rng = np.random.default_rng(1)
    batches = [(rng.integers(0, VOCAB, 64), rng.standard_normal((LAYERS + 1, 64, HIDDEN)).astype(np.float32))
               for _ in range(8)]  # fmt: skip
    expected = [probe(basis, *batch, metric="ce") for batch in batches]
    found, failed = [[] for _ in batches], []

    def work(i):
        try:
            for _ in range(20):
                found[i].append(probe(basis, *batches[i], metric="ce"))
                with pytest.raises(errors.LabelError, match=str(VOCAB + i)):  # each thread sees its own message
                    probe(basis, [VOCAB + i], batches[i][1][:, :1])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for traces, trace in zip(found, expected):
        for other in traces:
            np.testing.assert_array_equal(other.deviations, trace.deviations)


def test_an_error_in_a_callback_stays_in_its_thread(head):
    """Two threads, each with a callback that fails in its own way at the same time."""
    meet = threading.Barrier(2, timeout=3600)
    caught = {}

    def work(name):
        def rows(first, count, out):
            meet.wait()
            raise KeyError(name)

        with salf.Context("cpu") as context:
            model = salf.Model(context, n_layers=1, head_rows=rows, hidden=HIDDEN, vocab=VOCAB)
            try:
                model.fingerprint()
            except KeyError as error:
                caught[name] = error.args

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caught == {"a": ("a",), "b": ("b",)}


# ---- the end of the process ----

EXITS = {
    "module variables": "",
    "a cycle": "class Box: pass\nbox = Box(); box.me = box; box.all = (context, model, basis, probe, policy, planner)",
    "closed before": "context.close(); model.close(); probe.close()",
    "only the deepest": "del context, model, basis",
    "an exception": "raise SystemExit(0)",
    "sys.modules": "import sys; sys.modules['kept'] = probe",
    "atexit": "import atexit; atexit.register(lambda: (probe.close(), policy.close(), context.close()))",
    "a thread in a call": (  # whose callbacks would meet no interpreter, were the call not waited for
        "import ctypes, threading, time\n"
        "big = np.ones((1500, 1500), 'f')\n"
        "slow = salf.Model(context, n_layers=1, head=big)\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.__cxa_atexit(libc.usleep, ctypes.c_void_p(1_000_000), None)\n"
        "threading.Thread(target=lambda: salf.Basis(slow, []), daemon=True).start(); time.sleep(0.2)"
    ),
    "a thread in many calls": (
        "import threading, time\n"
        "def work():\n"
        "    try:\n"
        "        while True: salf.Basis(model, [1])\n"
        "    except salf.errors.SequenceError as error: assert 'the interpreter exits' in str(error)\n"
        "threading.Thread(target=work, daemon=True).start(); time.sleep(0.02)"
    ),
    "finalizers": "import weakref; [weakref.finalize(each, print, each) for each in (probe, context)]",
}  # fmt: skip

LIFE = """
import numpy as np, salf
head = np.random.default_rng(0).standard_normal((40, 12)).astype('f')
class Memory:
    blocks = {}
    def alloc(self, size, align):
        import ctypes
        block = ctypes.create_string_buffer(size + align)
        at = ctypes.addressof(block); at += -at % align
        self.blocks[at] = block
        return at
    def free(self, at, size):
        del self.blocks[at]
context = salf.Context('cpu', log=lambda *line: None, allocator=Memory())
model = salf.Model(context, n_layers=3, head_rows=lambda f, n, out: out.__setitem__(..., head[f:f + n]), hidden=12,
    vocab=40)
basis = salf.Basis(model, [1])
probe = salf.Probe(basis)
planner = salf.Planner(context, 3, 9)
policy = salf.Policy(context, 'budget', 3, planner=planner)
probe.begin([1])
"""


@pytest.mark.parametrize("way", EXITS)
def test_exit_with_handles_alive(way):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", LIFE + EXITS[way]],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_process_leaves_inherited_handles_alone():
    """Its threads and device are not there: to destroy them would wait for ever."""
    context = salf.Context("cpu", threads=3)
    made = [context, salf.Planner(context, 2, 3)]
    child = os.fork()
    if child == 0:
        made.clear()
        del context
        gc.collect()
        os._exit(7)
    for _ in range(200):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_handles_of_another_kind_are_refused(context, model, basis):
    for call in (
        lambda: salf.Basis(None), lambda: salf.Basis(context), lambda: salf.Probe(model), lambda: salf.Loss(3),
        lambda: salf.Model(basis, n_layers=1, head=np.ones((2, 2), np.float32)), lambda: salf.Model.open(None, "x"),
        lambda: salf.Basis.load(context, "x", model=3), lambda: salf.Basis.load(3, "x"), lambda: basis.check(context),
        lambda: basis.refresh(3), lambda: salf.Planner(model, 1, 1), lambda: salf.Policy(None, "full", 1),
        lambda: salf.Policy(context, "budget", 1, planner=context), lambda: salf.Tensors.open(3, "x"),
        lambda: salf.save_tensors(None, "x", {}), lambda: salf.BasisBuilder(1, 2, 3),
        lambda: salf.BasisBuilder(context, 2, 3).merge(basis), lambda: salf.BasisBuilder(context, 2, 3).finish(3),
    ):  # fmt: skip
        with pytest.raises(errors.ArgumentError, match="not a salf"):
            call()
