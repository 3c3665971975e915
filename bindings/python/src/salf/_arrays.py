"""Arrays that come back, and small arrays of numbers that go in. With NumPy these are NumPy arrays, without it
memoryviews of the same shape and type."""

from __future__ import annotations

import ctypes
import importlib
import math
import operator
import sys
from typing import Any, List, Optional, Sequence, Tuple

from salf import errors
from salf._dtypes import DTYPES
from salf._ffi import NULL, ffi

try:
    numpy: Any = importlib.import_module("numpy")
except ImportError:  # the core works without it
    numpy = None


def empty(shape: Sequence[int], dtype: str) -> Tuple[Any, Any]:
    """A new array, and a pointer to its elements."""
    kind, count = DTYPES[dtype], math.prod(shape)
    if numpy is not None:
        array: Any = numpy.empty(tuple(shape), dtype=dtype)
        return array, ffi.cast(f"{kind.c_type} *", array.__array_interface__["data"][0])
    data = bytearray(count * kind.size)
    flat = memoryview(data).cast(kind.code)  # type: ignore[call-overload]
    shaped = memoryview(data).cast(kind.code, list(shape)) if count else flat  # type: ignore[call-overload]
    return shaped, ffi.cast(f"{kind.c_type} *", ffi.from_buffer(data))


def copied(pointer: Any, shape: Sequence[int], dtype: str) -> Any:
    """A copy of an array of the library's; None for NULL."""
    if pointer == NULL and math.prod(shape) > 0:
        return None
    array, place = empty(shape, dtype)
    ffi.memmove(place, pointer, math.prod(shape) * DTYPES[dtype].size)
    return array


def datum_ids(pointer: Any, count: int) -> Any:
    """A copy of uint32 ids as int64, which index arrays of every library; None for NULL."""
    if pointer == NULL:
        return None
    if numpy is not None:
        raw = ffi.buffer(pointer, count * DTYPES["uint32"].size) if count else b""
        return numpy.frombuffer(raw, dtype="uint32").astype(numpy.int64)
    array, place = empty([count], "int64")
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


def borrowed_view(address: int, count: int, dtype: str, owner: Any) -> Any:
    """The same without NumPy: a flat memoryview."""
    kind = DTYPES[dtype]
    memory: Any = (ctypes.c_uint8 * (count * kind.size)).from_address(address)
    memory.owner = owner
    return memoryview(memory).cast("B").cast(kind.code)  # type: ignore[call-overload]


def in_call(pointer: Any, count: int, dtype: str, shape: Optional[Sequence[int]] = None) -> Any:
    """A writable array over memory that a callback may use while it runs."""
    kind = DTYPES[dtype]
    buffer = ffi.buffer(pointer, count * kind.size) if count else bytearray()
    if numpy is not None:
        return numpy.frombuffer(buffer, dtype=dtype).reshape(tuple(shape) if shape else (count,))
    flat = memoryview(buffer)
    if flat.format != "B":
        flat = flat.cast("B")
    return flat.cast(kind.code, list(shape)) if shape and count else flat.cast(kind.code)  # type: ignore[call-overload]


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
    try:
        return values.detach().numpy() if numpy is not None else values.tolist()
    except (TypeError, RuntimeError) as error:  # types and layouts that NumPy lacks, signs kept beside the memory
        raise errors.DtypeError(f"{name} cannot be read as an array: {error}") from error


def check_unmasked(values: Any, name: str) -> None:
    """What a masked array of NumPy masks has no number, though there is one in its memory."""
    if numpy is not None and isinstance(values, numpy.ma.MaskedArray) and numpy.ma.is_masked(values):
        raise errors.ArgumentError(f"{name} has masked elements, which have no number: pass {name}.filled(...)")


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
    check_unmasked(values, name)
    try:
        array = numpy.asarray(values)
    except ValueError as error:
        raise errors.ShapeError(f"{name} cannot be read as {what}: {error}") from error
    except (TypeError, RuntimeError) as error:
        raise errors.ArgumentError(f"{name} cannot be read as {what}: {error}") from error
    return _checked(array, name, kinds, what)


def _range_checked(low: int, high: int, bits: int, name: str, signed: bool = True) -> None:
    least, limit = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    for value in (low, high):
        if not least <= value < limit:
            raise errors.OverflowError(f"{name} holds {value}, which does not fit {bits} bits")


def _integers_of(values: Any, name: str) -> List[int]:
    try:
        items = values.tolist() if hasattr(values, "tolist") else list(values)
        if any(isinstance(item, bool) for item in items):
            raise TypeError("truth values")
        return [operator.index(item) for item in items]
    except TypeError as error:
        raise errors.DtypeError(f"{name} is no row of whole numbers: {error}") from error


def whole_numbers(values: Any, name: str, dtype: str = "int32") -> Tuple[Any, int, Any]:
    """(pointer, count, what keeps it alive) of a row of whole numbers as int32, int64, uint32 or uint8. An array of
    that very type is used where it is, anything else copied."""
    values, kind = _on_host(values, name), DTYPES[dtype]
    bits = kind.size * 8
    if numpy is None:
        items = _integers_of(values, name)
        _range_checked(min(items, default=0), max(items, default=0), bits, name, kind.code.islower())
        block = ffi.new(f"{kind.c_type}[]", items or 1)
        return block, len(items), block
    flags = values.flags if type(values) is numpy.ndarray and values.dtype == dtype and values.ndim == 1 else None
    array = values
    if flags is None or not (flags.c_contiguous and flags.aligned):
        array = _as_array(values, name, "iu", "whole numbers")
        if array.ndim != 1:
            raise errors.ShapeError(f"{name} has the shape {array.shape}; a row of numbers is needed")
        if array.dtype != dtype and array.size:
            _range_checked(int(array.min()), int(array.max()), bits, name, kind.code.islower())
        array = numpy.ascontiguousarray(array, dtype=dtype)
    return ffi.cast(f"{kind.c_type} *", array.__array_interface__["data"][0]), array.size, array


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
