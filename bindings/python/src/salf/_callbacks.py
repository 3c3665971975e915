"""Python functions as C callbacks. What one of them raises is kept, the library gets its failure value, and the call
that was under way raises the exception when it returns (see `_ffi.check`)."""

from __future__ import annotations

from typing import Any, Callable, Tuple

from salf import errors
from salf._arrays import in_call
from salf._dtypes import TENSOR_DTYPES
from salf._ffi import NULL, ffi, name_of, pending, text

_LOGGING = {"error": 40, "warning": 30, "info": 20, "debug": 10}  # levels of the logging module


def _keep(_: Any, error: BaseException, trace: Any) -> None:
    pending.errors.append(error.with_traceback(trace))


def _callback(kind: str, function: Callable[..., Any], failure: Any = None) -> Any:
    """No exception passes through C. Not by a `try` in Python: a signal's handler runs when a function is entered,
    before its first line, and what that raises, such as KeyboardInterrupt, would be printed and lost."""
    return ffi.callback(kind, function, error=failure, onerror=_keep)


def log(receiver: Any) -> Any:
    """salf_log_fn for a function (level, message) or a logging.Logger."""
    if not callable(receiver) and not hasattr(receiver, "log"):
        raise errors.ArgumentError(f"log is {receiver!r}, neither a function (level, message) nor a logging.Logger")

    def call(_: Any, level: int, message: Any) -> None:
        name = name_of("LOG", level)
        if callable(receiver):
            receiver(name, text(message))
        else:
            receiver.log(_LOGGING.get(name, 20), "%s", text(message))

    return _callback("salf_log_fn", call)


def progress(receiver: Any) -> Any:
    """salf_progress_fn for a function (what, done, total), whose true answer ends the call. None is one, too: it is
    where Ctrl-C reaches a long call, since Python runs the handlers of signals when a function of its own begins."""
    if receiver is not None and not callable(receiver):
        raise errors.ArgumentError(f"progress is {receiver!r}, not a function (what, done, total)")

    def call(_: Any, what: Any, done: int, total: int) -> int:
        return 1 if receiver is not None and receiver(text(what), done, total) else 0

    return _callback("salf_progress_fn", call, 1)


def rows(source: Callable[[int, int, Any], Any], hidden: int, name: str) -> Any:
    """salf_rows_fn for a function (first, count, out) that fills out, float32 [count, hidden]."""
    if not callable(source):
        raise errors.ArgumentError(f"{name} is {source!r}, not a function (first, count, out)")

    def call(_: Any, first: int, count: int, out: Any) -> int:
        source(first, count, in_call(out, count * hidden, "float32", (count, hidden)))
        return 0

    return _callback("salf_rows_fn", call, 1)


def communicator(link: Any) -> Any:
    """salf_all_reduce_fn of an object with all_reduce(buffer, operation)."""

    def all_reduce(_: Any, buffer: Any, count: int, dtype: int, operation: int) -> int:
        link.all_reduce(in_call(buffer, count, TENSOR_DTYPES[dtype].name), name_of("ALL_REDUCE", operation))
        return 0

    return _callback("salf_all_reduce_fn", all_reduce, 1)


def allocator(source: Any) -> Tuple[Any, Any]:
    """alloc and free of an object with alloc(size, align) -> address, 0 for none, and free(address, size)."""
    if not callable(getattr(source, "alloc", None)) or not callable(getattr(source, "free", None)):
        raise errors.ArgumentError(f"allocator is {source!r}, without alloc(size, align) and free(address, size)")

    def alloc(_: Any, size: int, align: int) -> Any:
        return ffi.cast("void *", source.alloc(size, align) or 0)

    def free(_: Any, memory: Any, size: int) -> None:
        source.free(int(ffi.cast("uintptr_t", memory)), size)

    return _callback("salf_alloc_fn", alloc, NULL), _callback("salf_free_fn", free)


def cut(source: Callable[..., Any], as_trace: Callable[[Any], Any]) -> Any:
    """salf_cut_fn for a function (step, n_layers, trace) -> cut."""
    if not callable(source):
        raise errors.ArgumentError(f"callback is {source!r}, not a function (step, n_layers, trace)")

    def call(_: Any, step: int, n_layers: int, trace: Any) -> int:
        answer = source(step, n_layers, None if trace == NULL else as_trace(trace))
        value = int(answer.__index__())
        if not -(1 << 31) <= value < 1 << 31:
            raise errors.OverflowError(f"the callback returned the cut {value}")
        return value

    return _callback("salf_cut_fn", call, -1)
