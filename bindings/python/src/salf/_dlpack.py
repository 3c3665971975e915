"""Reads what `__dlpack__` gives: where a tensor of another library lies, without its help and without a copy.

The capsule is not consumed: as long as it is kept, its memory stays; when it goes, its own destructor gives the memory
back.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple, Optional, Tuple

from salf import errors

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
_DEVICES = {
    1: "cpu",
    2: "cuda",
    3: "cuda_host",
    4: "opencl",
    7: "vulkan",
    8: "metal",
    9: "vpi",
    10: "rocm",
    11: "rocm_host",
    13: "cuda_managed",
    14: "oneapi",
    15: "webgpu",
    16: "hexagon",
}
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex"}
_READ_ONLY, _IS_COPIED = 1, 2


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


class Described(NamedTuple):
    """A tensor as DLPack tells of it; strides count elements."""

    address: int
    dtype: str
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]
    device: int
    ordinal: int
    read_only: bool
    capsule: Any


_api = ctypes.pythonapi
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))


def _export(source: Any, stream: Optional[int], name: str) -> Any:
    """The capsule: of the versioned kind, and never of a copy, where the other library knows how to promise that."""
    on_stream = {} if stream is None else {"stream": stream}
    try:
        try:
            return source.__dlpack__(max_version=(1, 0), copy=False, **on_stream)
        except TypeError:
            return source.__dlpack__(**on_stream)
    except Exception as error:
        raise errors.ArgumentError(f"{name}: {type(source).__name__} gives no DLPack view: {error}") from error


def _contiguous(shape: Tuple[int, ...]) -> Tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _read(tensor: _Tensor, flags: int, capsule: Any, name: str) -> Described:
    if tensor.lanes != 1:
        raise errors.DtypeError(f"{name} has vectors of {tensor.lanes} numbers as elements")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else _contiguous(shape)
    dtype = f"{_KINDS.get(tensor.code, f'code {tensor.code} ')}{tensor.bits}"
    return Described(
        (tensor.data or 0) + tensor.byte_offset,
        dtype,
        shape,
        strides,
        tensor.device_type,
        tensor.device_id,
        bool(flags & _READ_ONLY),
        capsule,
    )


def device_name(device: int) -> str:
    """A device type in words."""
    return _DEVICES.get(device, f"DLPack device type {device}")


def describe(source: Any, stream: Optional[int], name: str) -> Described:
    """A tensor that has `__dlpack__`; stream is where it will be read, for device memory."""
    kind = int(source.__dlpack_device__()[0])
    if kind not in (CPU, CUDA, CUDA_HOST, CUDA_MANAGED):
        raise errors.ArgumentError(f"{name} is on {device_name(kind)}; host and CUDA memory can be read")
    capsule = _export(source, stream if kind in (CUDA, CUDA_MANAGED) else None, name)
    if _is_valid(capsule, b"dltensor_versioned"):
        versioned = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned"))
        if versioned.major != 1:
            raise errors.VersionError(
                f"{name} speaks DLPack {versioned.major}.{versioned.minor}; 1 and before are known"
            )
        if versioned.flags & _IS_COPIED:
            raise errors.ArgumentError(f"{name}: {type(source).__name__} had to copy itself to be seen through DLPack")
        return _read(versioned.tensor, versioned.flags, capsule, name)
    if _is_valid(capsule, b"dltensor"):
        return _read(_Managed.from_address(_pointer(capsule, b"dltensor")).tensor, 0, capsule, name)
    raise errors.ArgumentError(f"{name}: {type(source).__name__}.__dlpack__ gave {capsule!r}, no DLPack capsule")
