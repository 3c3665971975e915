"""Python functions as C callbacks. What one of them raises is kept, the library gets its failure value, and the call
that was under way raises the exception when it returns (see `_ffi.check`)."""

from __future__ import annotations

from typing import Any, Callable, Tuple

from salf import errors
from salf._arrays import in_call
from salf._dtypes import TENSOR_DTYPES
from salf._ffi import NULL, ffi, name_of, pending, text

_LOGGING = {"error": 40, "warning": 30, "info": 20, "debug": 10}  # levels of the logging module


def _guarded(function: Callable[..., Any], failure: Any) -> Callable[..., Any]:
    def guard(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:  # not even KeyboardInterrupt can pass through C
            pending.errors.append(error)
            return failure

    return guard


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

    return ffi.callback("salf_log_fn", _guarded(call, None))


def rows(source: Callable[[int, int, Any], Any], hidden: int, name: str) -> Any:
    """salf_rows_fn for a function (first, count, out) that fills out, float32 [count, hidden]."""
    if not callable(source):
        raise errors.ArgumentError(f"{name} is {source!r}, not a function (first, count, out)")

    def call(_: Any, first: int, count: int, out: Any) -> int:
        source(first, count, in_call(out, count * hidden, "float32", (count, hidden)))
        return 0

    return ffi.callback("salf_rows_fn", _guarded(call, 1))


def communicator(link: Any) -> Any:
    """salf_all_reduce_fn of an object with all_reduce(buffer, operation)."""

    def all_reduce(_: Any, buffer: Any, count: int, dtype: int, operation: int) -> int:
        link.all_reduce(in_call(buffer, count, TENSOR_DTYPES[dtype].name), name_of("ALL_REDUCE", operation))
        return 0

    return ffi.callback("salf_all_reduce_fn", _guarded(all_reduce, 1))


def allocator(source: Any) -> Tuple[Any, Any]:
    """alloc and free of an object with alloc(size, align) -> address, 0 for none, and free(address, size)."""
    if not callable(getattr(source, "alloc", None)) or not callable(getattr(source, "free", None)):
        raise errors.ArgumentError(f"allocator is {source!r}, without alloc(size, align) and free(address, size)")

    def alloc(_: Any, size: int, align: int) -> Any:
        return ffi.cast("void *", source.alloc(size, align) or 0)

    def free(_: Any, memory: Any, size: int) -> None:
        source.free(int(ffi.cast("uintptr_t", memory)), size)

    return ffi.callback("salf_alloc_fn", _guarded(alloc, NULL)), ffi.callback("salf_free_fn", _guarded(free, None))


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

    return ffi.callback("salf_cut_fn", _guarded(call, -1))
