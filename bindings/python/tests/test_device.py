"""The way of a device, over the plugin that records what it is asked: it computes in host memory, but every pointer
has to be where the views say. Not a run on a GPU."""

import ctypes
import os
import pathlib

import numpy as np
import pytest
from capsule import Capsule
from oracle import deviations, pseudo_basis
from small import HIDDEN, LAYERS, ROOT

import salf
from salf import errors

BUILD = pathlib.Path(os.environ.get("SALF_BUILD", ROOT / "build"))
PLUGIN = BUILD / "tests" / "plugin" / "recording_plugin.so"
LABELS = [3, 0, 39, 7, 7]
MOST = 4096
pytestmark = pytest.mark.skipif(not PLUGIN.exists(), reason=f"{PLUGIN} is not built")


class Call(ctypes.Structure):
    _fields_ = (
        ("slot", ctypes.c_char_p),
        ("to", ctypes.c_int32),
        ("source", ctypes.c_int32),
        ("bytes", ctypes.c_uint64),
    )


class Recording(ctypes.Structure):
    """tests/plugin/recording.h."""

    _fields_ = (
        ("n_calls", ctypes.c_int64), ("calls", Call * MOST), ("fail_at", ctypes.c_int64), ("alive", ctypes.c_int64),
        ("misplaced", ctypes.c_int64), ("not_ready", ctypes.c_int32), ("capturing", ctypes.c_int32),
        ("n_captured", ctypes.c_int32), ("replay", ctypes.CFUNCTYPE(None)),
        ("alloc", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint64)),
        ("free", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    )  # fmt: skip


@pytest.fixture
def record():
    state = ctypes.CDLL(str(PLUGIN)).recording_plugin_state
    state.restype = ctypes.POINTER(Recording)
    found = state().contents
    found.fail_at, found.misplaced, found.not_ready, found.capturing, found.n_captured = -1, 0, 0, 0, 0
    yield found
    assert found.misplaced == 0
    assert found.alive == 0


@pytest.fixture
def context(record):
    with salf.Context("cuda", plugin_path=PLUGIN, stream=0x1234) as made:
        yield made


@pytest.fixture
def put(record):
    """Copies values into memory that the plugin calls its device's: a NumPy array to look at, and a tensor to give."""
    given = []

    def copy(values, device=(2, 0)):
        values = np.asarray(values)
        address = record.alloc(max(values.nbytes, 1))
        given.append(address)
        memory = (ctypes.c_char * values.nbytes).from_address(address)
        there = np.frombuffer(memory, values.dtype).reshape(values.shape)
        there[...] = values
        integer = values.dtype.kind == "i"
        return there, Capsule(there, device=device, code=0 if integer else 2, bits=8 * values.itemsize)

    yield copy
    for address in given:
        record.free(address)


@pytest.fixture
def basis(context, head):
    return salf.Basis(salf.Model(context, n_layers=LAYERS, head=head, norm_eps=1e-6), LABELS, mode="exact")


def close(*handles):
    for handle in handles:
        handle.close()


def test_states_and_rows_on_a_device(record, context, basis, states, head, put):
    assert context.info.backend == "cuda"
    probe = salf.Probe(basis)
    probe.begin(LABELS)
    tensors = []
    place = np.array([4, 2, 0, 3, 1])
    index = put(place)[1]
    for space, values in enumerate(states):
        spread = np.empty_like(values)
        spread[place] = values
        tensors.append(put(spread)[1])
        probe.observe(space, tensors[-1], rows=index if space % 2 else place)
        assert tensors[-1].arguments == {"stream": 0x1234}
        assert tensors[-1].given_back == 0  # kept: on a real device the work has only been enqueued
    probe.flush()
    record.not_ready = 1
    assert not probe.poll()
    assert probe.poll()
    assert index.given_back == 0
    trace = probe.end()
    assert [tensor.given_back for tensor in tensors] == [1] * (LAYERS + 1)
    assert index.given_back == index.given_out == 2
    np.testing.assert_allclose(trace.deviations, deviations(states, pseudo_basis(head)[LABELS]), atol=3e-6)
    close(probe, basis)


def test_nothing_waits_and_no_state_is_copied_before_the_end(record, basis, states, put):
    probe = salf.Probe(basis)
    tensors = [put(values)[1] for values in states]
    for _ in range(2):  # the second time all room is there
        record.n_calls = 0
        probe.begin(LABELS)
        for space, tensor in enumerate(tensors):
            probe.observe(space, tensor)
        probe.flush()
        seen = [record.calls[i] for i in range(record.n_calls)]
        probe.end()
    slots = {call.slot.decode() for call in seen}
    assert "cosine" in slots
    assert not slots & {"alloc", "host_alloc", "sync", "event_wait", "event_create"}
    assert all(call.bytes < states[0].nbytes for call in seen)
    close(probe, basis)


def test_a_batch_that_is_dropped_lets_go(basis, states, put):
    probe = salf.Probe(basis)
    probe.begin(LABELS)
    tensor = put(states[0])[1]
    probe.observe(0, tensor)
    probe.begin(LABELS)
    assert tensor.given_back == 1
    tensor = put(states[0])[1]
    probe.observe(0, tensor)
    close(probe)
    del probe
    assert tensor.given_back == 1
    close(basis)


def test_a_captured_batch_is_replayed(record, basis, states, head, put):
    places = [put(np.zeros_like(values)) for values in states]
    probe = salf.Probe(basis)

    def batch(values):
        for (there, _), new in zip(places, values):
            there[...] = new

    def observe():
        for space, (_, tensor) in enumerate(places):
            probe.observe(space, tensor)
        probe.flush()

    batch(states)
    probe.begin(LABELS)
    observe()
    probe.end()
    probe.begin(LABELS)
    record.capturing = 1
    observe()
    record.capturing = 0
    batch(states[::-1])
    probe.begin(LABELS)
    record.replay()
    probe.replay()
    trace = probe.end()
    np.testing.assert_allclose(trace.deviations, deviations(states[::-1], pseudo_basis(head)[LABELS]), atol=3e-6)
    close(probe, basis)


def test_losses_stay_on_the_device(basis, states, put):
    loss = salf.Loss(basis)
    expected_gradient = np.empty_like(states[0])
    expected = loss.compute(LABELS, states[0], scale=2.0, gradient=expected_gradient)
    there, losses = put(np.zeros(5, np.float32))
    gradient_there, gradient = put(np.zeros_like(states[0]))
    assert loss.compute(LABELS, put(states[0])[1], scale=2.0, gradient=gradient, losses=losses) is losses
    np.testing.assert_allclose(there, expected, atol=1e-6)
    np.testing.assert_allclose(gradient_there, expected_gradient, atol=1e-6)
    mixed = loss.compute(LABELS, put(states[0])[1], scale=2.0)  # to the host: waits
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    close(loss, basis)


def test_another_device_is_refused(basis, states, put):
    probe = salf.Probe(basis)
    probe.begin(LABELS)
    with pytest.raises(errors.ArgumentError, match="on device 1, the context on device 0"):
        probe.observe(0, put(states[0], device=(2, 1))[1])
    refused = {
        "device 1": put(np.arange(5), device=(2, 1)), "int32": put(np.arange(5, dtype=np.int32)),
        r"\(5, 1\)": put(np.zeros((5, 1), np.int64)),
    }  # fmt: skip
    for message, (_, index) in refused.items():
        with pytest.raises((errors.ArgumentError, errors.DtypeError), match=message):
            probe.observe(0, put(states[0])[1], rows=index)
    close(probe, basis)


def test_a_failing_device_is_reported(record, basis, states, put):
    probe = salf.Probe(basis)
    tensors = [put(values)[1] for values in states]
    failed = 0
    for n in range(60):
        record.n_calls, record.fail_at = 0, n
        try:
            probe.begin(LABELS)
            for space, tensor in enumerate(tensors):
                probe.observe(space, tensor)
            probe.end()
        except errors.DeviceError:
            failed += 1
        else:
            break
    record.fail_at = -1
    assert failed > LAYERS
    close(probe, basis)


def test_it_serves_a_borrowed_head_on_the_device(context, head, put):
    there, tensor = put(head)
    model = salf.Model(context, n_layers=1, head=tensor)
    basis = salf.Basis(model, mode="exact")
    np.testing.assert_allclose(basis.rows([4]), pseudo_basis(head)[[4]], rtol=1e-8)
    there[3, 3] += 1
    assert basis.is_stale()
    with pytest.raises(errors.ArgumentError, match="norm_weight: device memory"):
        salf.Model(context, n_layers=1, head=tensor, norm_weight=put(np.ones(HIDDEN, np.float32))[1])
    close(basis, model)
