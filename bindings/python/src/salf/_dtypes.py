"""Element types: the one table of what each is called by the library, by NumPy and PyTorch, by the array module and by
C."""

from __future__ import annotations

from typing import Dict, Mapping, NamedTuple

from salf._ffi import lib


class Dtype(NamedTuple):
    """One element type. number: of salf.h, 0 for what is no tensor's. code: of array.array and memoryview; the bits of
    16-bit floats are "H". c_type: of a pointer to it that cffi makes."""

    name: str
    number: int
    code: str
    c_type: str
    size: int


DTYPES: Dict[str, Dtype] = {
    row.name: row
    for row in (
        Dtype("float32", lib.SALF_F32, "f", "float", 4),
        Dtype("bfloat16", lib.SALF_BF16, "H", "uint16_t", 2),
        Dtype("float16", lib.SALF_F16, "H", "uint16_t", 2),
        Dtype("float64", lib.SALF_F64, "d", "double", 8),
        Dtype("int8", lib.SALF_I8, "b", "int8_t", 1),
        Dtype("uint8", lib.SALF_U8, "B", "uint8_t", 1),
        Dtype("int32", lib.SALF_I32, "i", "int32_t", 4),
        Dtype("int64", lib.SALF_I64, "q", "int64_t", 8),
        Dtype("bool", 0, "?", "uint8_t", 1),
        Dtype("uint32", 0, "I", "uint32_t", 4),
    )
}

#: The types that tensors have, by the library's number.
TENSOR_DTYPES: Mapping[int, Dtype] = {row.number: row for row in DTYPES.values() if row.number}
