"""What keeps the streams of PyTorch and of a context in order, and copies from waiting: the calls that are made, as far
as they can be seen without a device. The GPU kit looks at the rest."""

import types

import numpy
import pytest
import torch

from salf.torch import build, streams

CUDA = torch.device("cuda", 0)


class Stream:
    """Stands for a stream of PyTorch and notes what it waits for."""

    def __init__(self, address, said):
        self.cuda_stream, self.said = address, said

    def wait_stream(self, other):
        self.said.append((self.cuda_stream, "waits for", other.cuda_stream))


@pytest.fixture
def said(monkeypatch):
    """The calls, with stream 7 as PyTorch's current one."""
    calls = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(7, calls))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: Stream(0, calls))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda address, device: Stream(address, calls))
    return calls


def context(stream, backend="cuda"):
    return types.SimpleNamespace(stream=stream, info=types.SimpleNamespace(backend=backend))


@pytest.mark.parametrize(("stream", "address"), [(5, 5), (0, 0), (None, 0)])
def test_two_streams_wait_for_each_other(said, stream, address):
    with streams.in_order(context(stream), CUDA):
        said.append("call")
    assert said == [(address, "waits for", 7), "call", (7, "waits for", address)]


def test_a_call_that_fails_leaves_them_in_order(said):
    with pytest.raises(ZeroDivisionError), streams.in_order(context(5), CUDA):
        raise ZeroDivisionError
    assert said == [(5, "waits for", 7), (7, "waits for", 5)]


@pytest.mark.parametrize(
    ("made", "device"), [(context(7), CUDA), (context(5, "cpu"), CUDA), (context(5), torch.device("cpu"))]
)
def test_one_stream_or_none_needs_no_waiting(said, made, device):
    with streams.in_order(made, device):
        said.append("call")
    assert said == ["call"]


def test_small_arrays_go_through_page_locked_memory():
    class Tensor:
        def pin_memory(self):
            return types.SimpleNamespace(to=lambda device, non_blocking: (device, non_blocking))

    assert streams.moved(Tensor(), CUDA) == (CUDA, True)
    values = torch.from_numpy(numpy.arange(3))
    assert streams.moved(values, torch.device("cpu")) is values


def test_libraries_of_pytorch_s_packages_are_opened(monkeypatch, tmp_path):
    wanted = [tmp_path / "cu13" / "lib" / "libcublas.so.13", tmp_path / "cusolver" / "lib" / "libcusolver.so.11"]
    for path in (*wanted, tmp_path / "cu13" / "lib" / "libcusparse.so.12"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    opened = []

    def open_library(path):
        opened.append(path)
        raise OSError("not a library")  # which is for the backend to tell

    monkeypatch.setattr(build.ctypes, "CDLL", open_library)
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: spec)
    build._open_libraries()
    assert opened == [str(path) for path in wanted]
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    build._open_libraries()
    assert len(opened) == 2


def test_a_backend_that_cannot_be_used_is_told(monkeypatch, caplog):
    import salf

    def refuse(device, options):
        raise next(kind for kind in salf.errors.CLASSES.values() if kind.status_name == "SALF_E_PLUGIN")("no plugin")

    monkeypatch.setattr(build, "_cuda_context", refuse)
    made, direct = build.make_context(CUDA, "auto", None, {})
    assert (made.info.backend, direct) == ("cpu", None)
    assert "states are moved to the host: no plugin" in caplog.text
    with pytest.raises(salf.Error, match="no plugin"):
        build.make_context(CUDA, "cuda", None, {})
