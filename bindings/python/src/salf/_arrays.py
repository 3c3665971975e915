"""Arrays that come back, and small arrays of numbers that go in. With NumPy these are NumPy arrays, without it
memoryviews of the same shape and type."""

from __future__ import annotations

import ctypes
import importlib
import math
import operator
import sys
from typing import Any, List, Optional, Sequence, Tuple

from . import errors
from ._ffi import NULL, ffi

try:
    numpy: Any = importlib.import_module("numpy")
except ImportError:  # the core works without it
    numpy = None

# Type codes of the array module, with NumPy's names.
_DTYPES = {
    "d": "float64",
    "f": "float32",
    "i": "int32",
    "q": "int64",
    "B": "uint8",
    "?": "bool",
    "H": "uint16",
    "b": "int8",
}
_SIZES = {"d": 8, "f": 4, "i": 4, "q": 8, "B": 1, "?": 1, "H": 2, "b": 1}
_C_TYPES = {"d": "double", "i": "int32_t", "q": "int64_t", "f": "float", "B": "uint8_t", "I": "uint32_t"}


def empty(shape: Sequence[int], code: str) -> Tuple[Any, Any]:
    """A new array, and a pointer to its elements."""
    count = math.prod(shape)
    if numpy is not None:
        array: Any = numpy.empty(tuple(shape), dtype=_DTYPES[code])
        return array, ffi.cast(f"{_C_TYPES.get(code, 'uint8_t')} *", array.__array_interface__["data"][0])
    data = bytearray(count * _SIZES[code])
    view = memoryview(data).cast(code)  # type: ignore[call-overload]
    pointer = ffi.cast(f"{_C_TYPES.get(code, 'uint8_t')} *", ffi.from_buffer(data))
    return (memoryview(data).cast(code, list(shape)) if count else view), pointer  # type: ignore[call-overload]


def copied(pointer: Any, shape: Sequence[int], code: str) -> Any:
    """A copy of an array of the library's; None for NULL."""
    if pointer == NULL and math.prod(shape) > 0:
        return None
    array, place = empty(shape, code)
    ffi.memmove(place, pointer, math.prod(shape) * _SIZES[code])
    return array


def integers(pointer: Any, count: int) -> Any:
    """A copy of an integer array of the library's as int64, whatever its type; None for NULL."""
    if pointer == NULL:
        return None
    if numpy is not None:
        size = ffi.sizeof(ffi.typeof(pointer).item)
        kind = {4: "int32", 8: "int64", 1: "uint8"}[size]
        if ffi.typeof(pointer).item.cname in ("uint32_t", "unsigned int"):
            kind = "uint32"
        raw = ffi.buffer(pointer, count * size) if count else b""
        return numpy.frombuffer(raw, dtype=kind).astype(numpy.int64)
    array, place = empty([count], "q")
    for i in range(count):
        place[i] = pointer[i]
    return array


class _Memory:
    """Memory of a handle as NumPy sees it; keeps the handle's owner alive."""

    def __init__(self, interface: Any, owner: Any) -> None:
        self.__array_interface__ = interface
        self.owner = owner


def borrowed(address: int, shape: Sequence[int], typestr: str, owner: Any, writable: bool) -> Any:
    """A NumPy array over memory of a handle, which lives as long as the array."""
    if math.prod(shape) == 0:
        return numpy.empty(tuple(shape), dtype=typestr)
    interface = {"data": (address, not writable), "shape": tuple(shape), "typestr": typestr, "version": 3}
    return numpy.asarray(_Memory(interface, owner))


def borrowed_view(address: int, count: int, code: str, owner: Any) -> Any:
    """The same without NumPy: a flat memoryview."""
    kind: Any = {
        "d": ctypes.c_double,
        "f": ctypes.c_float,
        "i": ctypes.c_int32,
        "q": ctypes.c_int64,
        "B": ctypes.c_uint8,
        "b": ctypes.c_int8,
        "H": ctypes.c_uint16,
    }[code]
    memory: Any = (kind * count).from_address(address)
    memory.owner = owner
    return memoryview(memory).cast("B").cast(code)  # type: ignore[call-overload]


def in_call(pointer: Any, count: int, code: str, shape: Optional[Sequence[int]] = None) -> Any:
    """A writable array over memory that a callback may use while it runs."""
    size = count * _SIZES[code]
    buffer = ffi.buffer(pointer, size) if count else bytearray()
    if numpy is not None:
        return numpy.frombuffer(buffer, dtype=_DTYPES[code]).reshape(tuple(shape) if shape else (count,))
    flat = memoryview(buffer)
    if flat.format != "B":
        flat = flat.cast("B")
    return flat.cast(code, list(shape)) if shape and count else flat.cast(code)  # type: ignore[call-overload]


# ---- numbers that go in ----


def _is_tensor(values: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def _on_host(values: Any, name: str) -> Any:
    """Tensors of PyTorch as what NumPy, or a list, can take."""
    if not _is_tensor(values):
        return values
    if values.device.type != "cpu":
        raise errors.ArgumentError(f"{name} is on {values.device}; it is read in host memory: pass {name}.cpu()")
    return values.detach().numpy() if numpy is not None else values.tolist()


def _checked(array: Any, name: str, kinds: str, what: str) -> Any:
    if array.size == 0 and array.ndim <= 1:
        return array.reshape(0)
    if array.dtype.kind == "O" and "f" not in kinds:  # whole numbers beyond 64 bits, or no numbers
        items = _integers_of(array.ravel(), name)
        _range_checked(min(items), max(items), 64, name)
    if array.dtype.kind not in kinds:
        raise errors.DtypeError(f"{name} holds {array.dtype}, not {what}")
    return array


def _as_array(values: Any, name: str, kinds: str, what: str) -> Any:
    try:
        array = numpy.asarray(values)
    except ValueError as error:
        raise errors.ShapeError(f"{name} cannot be read as {what}: {error}") from error
    except (TypeError, RuntimeError) as error:
        raise errors.ArgumentError(f"{name} cannot be read as {what}: {error}") from error
    return _checked(array, name, kinds, what)


def _range_checked(low: int, high: int, bits: int, name: str) -> None:
    limit = 1 << (bits - 1)
    for value in (low, high):
        if not -limit <= value < limit:
            raise errors.OverflowError(f"{name} holds {value}, which does not fit {bits} bits")


def _integers_of(values: Any, name: str) -> List[int]:
    try:
        items = values.tolist() if hasattr(values, "tolist") else list(values)
        if any(isinstance(item, bool) for item in items):
            raise TypeError("truth values")
        return [operator.index(item) for item in items]
    except TypeError as error:
        raise errors.DtypeError(f"{name} is no row of whole numbers: {error}") from error


def _is_plain(array: Any, code: str) -> bool:
    """Whether an array can be used where it is."""
    return bool(array.dtype == _DTYPES[code] and array.ndim == 1 and array.flags.c_contiguous and array.flags.aligned)


def whole_numbers(values: Any, name: str, code: str = "i") -> Tuple[Any, int, Any]:
    """(pointer, count, what keeps it alive) of a row of whole numbers as int32 ("i"), int64 ("q") or uint8 ("B"). An
    array of that very type is used where it is, anything else copied."""
    values = _on_host(values, name)
    if numpy is not None and type(values) is numpy.ndarray and _is_plain(values, code):
        return ffi.cast(f"{_C_TYPES[code]} *", values.__array_interface__["data"][0]), values.size, values
    if numpy is None:
        items = _integers_of(values, name)
        _range_checked(min(items, default=0), max(items, default=0), _SIZES[code] * 8, name)
        block = ffi.new(f"{_C_TYPES[code]}[]", items or 1)
        return block, len(items), block
    array = _as_array(values, name, "iu", "whole numbers")
    if array.ndim != 1:
        raise errors.ShapeError(f"{name} has the shape {array.shape}; a row of numbers is needed")
    target = numpy.dtype(_DTYPES[code])
    if array.dtype != target and array.size:
        _range_checked(int(array.min()), int(array.max()), _SIZES[code] * 8, name)
    array = numpy.ascontiguousarray(array, dtype=target)
    pointer = ffi.cast(f"{_C_TYPES[code]} *", array.__array_interface__["data"][0])
    return pointer, array.size, array


def _nested(values: Any) -> Tuple[Tuple[int, ...], List[float]]:
    """Shape and numbers of nested sequences."""
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{values!r} is no number")
    if not hasattr(values, "__len__"):
        return (), [float(values)]
    parts = [_nested(item) for item in values]
    if any(shape != parts[0][0] for shape, _ in parts):
        raise ValueError("rows of different lengths")
    return (len(parts), *(parts[0][0] if parts else ())), [number for _, numbers in parts for number in numbers]


def _plain_doubles(values: Any, name: str) -> Tuple[Any, Tuple[int, ...], Any]:
    try:
        shape, items = _nested(values.tolist() if hasattr(values, "tolist") else values)
    except ValueError as error:
        raise errors.ShapeError(f"{name} cannot be read as numbers: {error}") from error
    except TypeError as error:
        raise errors.DtypeError(f"{name} cannot be read as numbers: {error}") from error
    block = ffi.new("double[]", items or 1)
    return block, shape, block


def doubles(values: Any, name: str) -> Tuple[Any, Tuple[int, ...], Any]:
    """(pointer, shape, what keeps it alive) of numbers as float64; copied unless they are that already."""
    values = _on_host(values, name)
    if numpy is None:
        return _plain_doubles(values, name)
    array = _as_array(values, name, "fiu", "numbers")
    array = numpy.ascontiguousarray(array, dtype=numpy.float64)
    return ffi.cast("double *", array.__array_interface__["data"][0]), tuple(array.shape), array
