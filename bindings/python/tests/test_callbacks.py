"""Callbacks: what they are given, and that what they raise comes out of the call that was under way."""

import ctypes
import logging
import subprocess
import sys

import numpy as np
import pytest
from oracle import probe
from small import HIDDEN, LAYERS, VOCAB

import salf
from salf import errors


class Wrong(Exception):
    pass


# ---- rows of a head ----


def test_rows_of_a_head_that_is_not_in_memory(context, head, basis):
    asked = []

    def rows(first, count, out):
        assert out.shape == (count, HIDDEN)
        assert out.dtype == np.float32
        asked.append((first, count))
        out[:] = head[first : first + count]

    model = salf.Model(context, n_layers=LAYERS, head_rows=rows, hidden=HIDDEN, vocab=VOCAB)
    assert model.info.head_dtype is None
    other = salf.Basis(model, [5, 6], mode="exact")
    np.testing.assert_allclose(other.rows([5, 6, 9]), basis.rows([5, 6, 9]), rtol=1e-9)
    assert {row for first, count in asked for row in range(first, first + count)} == set(range(VOCAB))
    assert other.info.fingerprint == basis.info.fingerprint


@pytest.mark.parametrize("error", [Wrong("at row"), KeyboardInterrupt(), SystemExit(3), MemoryError()], ids=repr)
def test_an_error_in_rows_is_the_error_of_the_call(context, head, error):
    calls = []

    def rows(first, count, out):
        out[:] = head[first : first + count]
        calls.append(first)
        if len(calls) == 1:
            raise error

    model = salf.Model(context, n_layers=LAYERS, head_rows=rows, hidden=HIDDEN, vocab=VOCAB)
    with pytest.raises(type(error)) as caught:
        salf.Basis(model, [1])
    assert caught.value is error
    assert isinstance(caught.value.__cause__, errors.CallbackError)
    assert "callback for rows 0" in str(caught.value.__cause__)
    assert "rows" in [entry.name for entry in caught.traceback]
    assert salf.Basis(model, [1]).info.n_labels == 1  # all is well again


def test_a_cause_of_its_own_is_kept(context):
    def rows(first, count, out):
        try:
            raise ValueError("deep")
        except ValueError as error:
            raise Wrong("outer") from error

    model = salf.Model(context, n_layers=LAYERS, head_rows=rows, hidden=HIDDEN, vocab=VOCAB)
    with pytest.raises(Wrong) as caught:
        model.fingerprint()
    assert isinstance(caught.value.__cause__, ValueError)


def test_rows_left_unfilled_and_filled_wrongly(context):
    def unfilled(first, count, out):
        out.fill(np.nan)

    def too_wide(first, count, out):
        out[:] = np.zeros((count, HIDDEN + 1))

    def kept(first, count, out):
        out.fill(1)
        return 7  # what a function returns says nothing

    made = {name: salf.Model(context, n_layers=LAYERS, head_rows=name, hidden=HIDDEN, vocab=VOCAB)
            for name in (unfilled, too_wide, kept)}  # fmt: skip
    with pytest.raises(errors.NonfiniteError, match="row 0"):
        salf.Basis(made[unfilled], [])
    with pytest.raises(ValueError, match="broadcast"):
        salf.Basis(made[too_wide], [])
    assert made[kept].fingerprint() == salf.Model(
        context, n_layers=1, head=np.ones((VOCAB, HIDDEN), np.float32)).fingerprint()  # fmt: skip


def test_embedding_rows(context, head):
    def rows(first, count, out):
        out[:] = head[first : first + count]

    model = salf.Model(context, n_layers=1, head=head, embedding_rows=rows)
    np.testing.assert_array_equal(salf.Basis(model, side="input").rows([3, 4]), head[3:5].astype(np.float64))


# ---- progress ----


def test_progress_is_told_and_ends_a_call(head):
    seen, answer = [], [False]

    def progress(what, done, total):
        assert 0 <= done <= total
        seen.append(what)
        return answer[0]

    context = salf.Context("cpu", progress=progress, progress_interval=-1)
    model = salf.Model(context, n_layers=LAYERS, head=head)
    rows = salf.Basis(model, [1, 2]).rows([1, 2])
    assert {"Gram matrix", "basis rows"} <= set(seen)
    answer[0] = True
    with pytest.raises(errors.CancelledError, match="Gram matrix"):
        salf.Basis(model, [1, 2])
    with pytest.raises(errors.CancelledError, match="fingerprint"):
        model.fingerprint()
    answer[0] = False
    np.testing.assert_array_equal(salf.Basis(model, [1, 2]).rows([1, 2]), rows)


def test_an_error_in_progress_is_raised(head):
    def progress(what, done, total):
        raise Wrong("enough")

    context = salf.Context("cpu", progress=progress, progress_interval=-1)
    model = salf.Model(context, n_layers=LAYERS, head=head)
    with pytest.raises(Wrong, match="enough") as caught:
        salf.Basis(model, [1])
    assert isinstance(caught.value.__cause__, errors.CancelledError)


@pytest.mark.parametrize("wrong", [3, "progress", object()], ids=repr)
def test_progress_that_cannot_be_called(wrong):
    with pytest.raises(errors.ArgumentError, match="progress"):
        salf.Context("cpu", progress=wrong)


LONG = """
import os, signal, sys, threading, time
import numpy as np
import salf

context = salf.Context("cpu", threads=1)
head = np.random.default_rng(0).standard_normal((1 << 16, 512), np.float32)
model = salf.Model(context, n_layers=2, head=head)
planner = salf.Planner(context, 4, 1 << 24, matching="offline")
planner.set_eof(0, np.arange(1 << 24, dtype=np.int32) % 4)
rows = lambda first, count, out: out.__setitem__(slice(None), head[first : first + count])
basis = salf.Basis(salf.Model(context, n_layers=2, head_rows=rows, hidden=512, vocab=1 << 16), [1])
calls = {
    "basis": lambda: salf.Basis(model, [1]),
    "table": lambda: salf.Basis(model, [1], prepare="table"),
    "fingerprint": lambda: model.fingerprint(),
    "norms": lambda: salf.Loss(basis, "ce"),
    "match": lambda: planner.match(),
}
late = 0
for name in sys.argv[1:]:
    until = time.monotonic() + 60  # calls that are too short for the signal are made again
    while time.monotonic() < until:
        sent = []
        timer = threading.Timer(0.15, lambda: (sent.append(time.monotonic()), os.kill(os.getpid(), signal.SIGINT)))
        timer.start()
        try:
            calls[name]()
            timer.cancel()
            timer.join()
            if sent:
                time.sleep(1)  # the signal arrived behind the call
        except KeyboardInterrupt as stop:
            late = max(late, time.monotonic() - sent[0])
            if isinstance(stop.__cause__, salf.errors.CancelledError):
                print(name, "ended", flush=True)
                break
print(late)
"""


def test_ctrl_c_ends_long_calls():
    """By a signal to the process, which is in C then: the handler has to get its turn, and the call to end."""
    calls = ["basis", "table", "norms", "match"]
    run = subprocess.run([sys.executable, "-c", LONG, *calls], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    *ended, late = run.stdout.splitlines()
    assert ended == [f"{name} ended" for name in calls]
    assert float(late) < 5  # a tenth of a second where the processor is not shared with others


# ---- log ----


class Talkative:
    """A communicator that is none, so that something is logged or fails on request."""

    rank, ranks = 0, 2

    def __init__(self, fail=None):
        self.fail, self.seen = fail, []

    def all_reduce(self, buffer, operation):
        self.seen.append((buffer.dtype.name, buffer.size, operation))
        if self.fail:
            raise self.fail
        if operation == "sum":
            buffer *= 2
        else:  # an agreement of two ranks that differ in their number alone
            buffer[4] = min(buffer[4], -1)


def test_log_lines(tmp_path, monkeypatch):
    """Asking for a plugin that is not there with "auto" falls back, and says so."""
    monkeypatch.delenv("SALF_BACKEND", raising=False)
    lines = []
    with salf.Context("auto", plugin_path=tmp_path / "none.so", log=lambda level, line: lines.append((level, line)),
                      log_level="debug") as context:  # fmt: skip
        assert context.info.backend in ("cpu", "reference")
    assert lines
    assert all(level in ("error", "warning", "info", "debug") and "\n" not in line for level, line in lines)
    assert any("none.so" in line for _, line in lines)


def test_log_to_a_logger(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("SALF_BACKEND", raising=False)
    with caplog.at_level(logging.DEBUG, "salf.test"):
        salf.Context("auto", plugin_path=tmp_path / "none.so", log=logging.getLogger("salf.test"), log_level="debug")
    assert "none.so" in caplog.text


def test_an_error_in_log_is_raised_though_the_call_succeeds(tmp_path, monkeypatch):
    monkeypatch.delenv("SALF_BACKEND", raising=False)

    def log(level, line):
        raise Wrong(line)

    with pytest.raises(Wrong, match=r"none\.so") as caught:
        salf.Context("auto", plugin_path=tmp_path / "none.so", log=log, log_level="debug")
    assert caught.value.__cause__ is None
    salf.Context("cpu").close()  # nothing is left over for the next call


@pytest.mark.parametrize("wrong", [3, "log", object()], ids=repr)
def test_log_that_cannot_be_called(wrong):
    with pytest.raises(errors.ArgumentError, match="log"):
        salf.Context("cpu", log=wrong)


# ---- ranks ----


def test_a_communicator_is_asked(head):
    link = Talkative()
    context = salf.Context("cpu", communicator=link)
    assert (context.info.rank, context.info.ranks) == (0, 2)
    builder = salf.BasisBuilder(context, 2 * VOCAB, HIDDEN, [1])
    builder.add(0, head)
    before = builder.partial.copy()
    builder.all_reduce()
    np.testing.assert_array_equal(builder.partial, 2 * before)
    assert link.seen == [("int64", 107, "min"), ("float64", before.size, "sum")]
    context.agree()
    with pytest.raises(errors.LabelError, match="of its own"):
        context.agree(errors.LabelError("of its own"))
    with pytest.raises(Wrong, match="of its own"):
        context.agree(Wrong("of its own"))


@pytest.mark.parametrize("kind", ["salf", "callback", "budget"])
def test_policies_ask_the_ranks(kind, states, head):
    link = Talkative()
    context = salf.Context("cpu", communicator=link)
    model = salf.Model(context, n_layers=LAYERS, head=head)
    trace = probe(salf.Basis(model), [1] * 5, states)
    planner = salf.Planner(context, LAYERS, 10, matching="none")
    planner.next(3)
    made = salf.Policy(context, kind, LAYERS, callback=lambda *_: 1, planner=planner)
    assert made.decide(0, trace).n_layers == LAYERS
    assert link.seen


@pytest.mark.parametrize("error", [Wrong("link"), KeyboardInterrupt()], ids=repr)
def test_an_error_of_a_communicator(head, error):
    link = Talkative(error)
    context = salf.Context("cpu", communicator=link)
    builder = salf.BasisBuilder(context, VOCAB, HIDDEN, [1])
    builder.add(0, head)
    before = builder.partial.copy()
    with pytest.raises(type(error)) as caught:
        builder.all_reduce()
    assert caught.value is error
    assert "on rank 0" in str(caught.value.__cause__)
    np.testing.assert_array_equal(builder.partial, before)


@pytest.mark.parametrize("lacking", ["rank", "ranks", "all_reduce"])
def test_a_communicator_that_lacks_something(lacking):
    parts = {"rank": 0, "ranks": 2, "all_reduce": print}
    del parts[lacking]
    with pytest.raises(errors.ArgumentError, match=f"has no {lacking}"):
        salf.Context("cpu", communicator=type("Link", (), parts)())
    with pytest.raises(errors.ArgumentError, match="rank"):
        salf.Context("cpu", communicator=type("Link", (), {**parts, lacking: print, "rank": 5, "ranks": 2})())


# ---- cuts ----


def test_cuts_from_python(context, states, basis):
    seen = []

    def cut(step, n_layers, trace):
        seen.append((step, n_layers, trace))
        return np.int64(2)

    policy = salf.Policy(context, "callback", LAYERS, callback=cut)
    assert policy.decide(4).cut == 2
    trace = probe(basis, [1] * 5, states)
    assert policy.decide(5, trace).trainable == (False, False, True)
    assert seen[0] == (4, LAYERS, None)
    np.testing.assert_array_equal(seen[1][2].deviations, trace.deviations)
    np.testing.assert_array_equal(seen[1][2].eof, trace.eof)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (LAYERS, errors.CallbackError, "returned 3 at step 0"), (-1, errors.CallbackError, "returned -1"),
        (None, AttributeError, "index"), (1.5, AttributeError, "index"), (2**40, errors.OverflowError, str(2**40)),
    ],
)  # fmt: skip
def test_cuts_that_are_none(context, answer, error, message):
    policy = salf.Policy(context, "callback", LAYERS, callback=lambda *_: answer)
    with pytest.raises(error, match=message):
        policy.decide(0)


def test_an_error_in_a_cut(context):
    def cut(step, n_layers, trace):
        if step == 0:
            raise Wrong("no cut")
        return 1

    policy = salf.Policy(context, "callback", LAYERS, callback=cut)
    with pytest.raises(Wrong, match="no cut"):
        policy.decide(0)
    assert policy.decide(1).cut == 1


def test_a_call_inside_a_callback(context, states, basis):
    """Other handles may be used; the one whose call is under way refuses; close waits for the end of the call."""

    def cut(step, n_layers, trace):
        if step == 0:
            return int(probe(basis, [1], states[:, :1]).eof[0])
        if step == 1:
            with pytest.raises(errors.LabelError):
                probe(basis, [-1], states[:, :1])
            return 1
        if step == 2:
            policy.decide(7)
        policy.close()
        return 2

    policy = salf.Policy(context, "callback", LAYERS, callback=cut)
    assert 0 <= policy.decide(0).cut < LAYERS
    assert policy.decide(1).cut == 1
    with pytest.raises(errors.SequenceError, match="in use"):
        policy.decide(2)
    assert policy.decide(3).cut == 2
    assert policy.closed
    with pytest.raises(errors.SequenceError, match="Policy is closed"):
        policy.decide(4)


# ---- memory ----


class Counting:
    """C memory, counted; fails at the nth request."""

    def __init__(self, fail_at=0, error=None):
        self.blocks, self.requests, self.fail_at, self.error = {}, 0, fail_at, error

    def alloc(self, size, align):
        self.requests += 1
        if self.requests == self.fail_at:
            if self.error:
                raise self.error(size)
            return 0
        block = ctypes.create_string_buffer(size + align)
        address = ctypes.addressof(block)
        address += -address % align
        self.blocks[address] = (block, size)
        return address

    def free(self, address, size):
        assert self.blocks.pop(address)[1] == size


def whole_life(memory, head, states):
    with salf.Context("cpu", allocator=memory) as context:
        model = salf.Model(context, n_layers=LAYERS, head=head)
        basis = salf.Basis(model, [1, 2])
        salf.Policy(context, "salf", LAYERS).decide(0, probe(basis, [1, 2], states[:, :2]))


def test_memory_comes_from_python_and_goes_back(head, states):
    memory = Counting()
    whole_life(memory, head, states)
    assert memory.requests > 5
    assert not memory.blocks


@pytest.mark.parametrize("error", [None, Wrong])
def test_every_allocation_may_fail(head, states, error):
    memory = Counting()
    whole_life(memory, head, states)
    for n in range(1, memory.requests + 1):
        failing = Counting(n, error)
        with pytest.raises(error or errors.NoMemoryError):
            whole_life(failing, head, states)
        assert not failing.blocks


def test_an_allocator_that_is_none():
    with pytest.raises(errors.ArgumentError, match="allocator"):
        salf.Context("cpu", allocator=object())
