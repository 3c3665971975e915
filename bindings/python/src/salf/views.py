"""Views: a tensor of the host's as the library sees it, without a copy.

Taken are NumPy arrays, PyTorch tensors on CPU and CUDA, tensors of this package's tensor files, C-contiguous buffers
(array.array, memoryview) and whatever has `__dlpack__`: float32, bfloat16 or float16, any distance between rows, the
last dimension contiguous. Dimensions before the last are rows, [batch, length, D] is [batch * length, D], as long as
one distance leads from each row to the next. What would need a copy is an error that says so.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, FrozenSet, NamedTuple, Optional, Sequence, Tuple

from salf import _dlpack, errors
from salf._arrays import check_unmasked, numpy, whole_numbers
from salf._dtypes import DTYPES, TENSOR_DTYPES
from salf._ffi import NULL, ffi, lib

FLOATS = frozenset((lib.SALF_F32, lib.SALF_BF16, lib.SALF_F16))
F32 = frozenset((lib.SALF_F32,))
ALL = frozenset(TENSOR_DTYPES)
# Element types by the format of a buffer: the codes of the array module, C's long, and half floats, which that lacks.
_FORMATS = {kind.code: kind.name for kind in TENSOR_DTYPES.values() if kind.code != "H"}
_FORMATS.update(l="int64", e="float16")

_RESOLVE = {"is_neg": "pass tensor.resolve_neg()", "is_conj": "pass tensor.resolve_conj()"}

Device = Tuple[int, Optional[int]]  # a context's device number and stream


class Memory(NamedTuple):
    """Where a tensor lies. strides count elements; ordinal is the device's number, -1 in host memory."""

    address: int
    dtype: str
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]
    ordinal: int
    read_only: bool
    keep: Any


# ---- where tensors of each kind lie ----


def _in_elements(strides: Sequence[int], size: int, name: str) -> Tuple[int, ...]:
    if any(step % size for step in strides):
        raise errors.ArgumentError(
            f"{name}: elements of {size} bytes lie {tuple(strides)} bytes apart; a copy is needed"
        )
    return tuple(step // size for step in strides)


def _of_numpy(array: Any, name: str) -> Memory:
    dtype = array.dtype
    if not dtype.isnative:
        raise errors.DtypeError(f"{name} is {dtype}, of the other byte order; a copy is needed")
    if not array.flags.aligned:
        raise errors.ArgumentError(f"{name} is not aligned for {dtype}; a copy is needed")
    address, read_only = array.__array_interface__["data"]
    return Memory(
        address, dtype.name, array.shape, _in_elements(array.strides, dtype.itemsize, name), -1, read_only, array
    )


@functools.lru_cache(maxsize=64)
def _torch_name(value: Any) -> str:
    return str(value).rpartition(".")[2]


def _of_torch(tensor: Any, name: str) -> Memory:
    device = tensor.device
    kind = device.type
    if kind not in ("cpu", "cuda"):
        raise errors.ArgumentError(f"{name} is on {device}; host and CUDA memory can be read")
    if _torch_name(tensor.layout) != "strided":
        raise errors.ArgumentError(f"{name} has the layout {tensor.layout}; a dense tensor is needed")
    for turned in ("is_neg", "is_conj"):  # the sign, or that of imaginary parts, is kept beside the memory
        if getattr(tensor, turned)():
            raise errors.ArgumentError(f"{name}: its memory holds other signs than its values; {_RESOLVE[turned]}")
    try:
        address = tensor.data_ptr()
    except RuntimeError as error:
        raise errors.ArgumentError(f"{name}: {type(tensor).__name__} has no memory of its own: {error}") from error
    if address == 0 and tensor.numel() > 0:
        raise errors.ArgumentError(
            f"{name}: {type(tensor).__name__} has no memory of its own (sharded, or not made yet)"
        )
    ordinal = -1 if kind == "cpu" else device.index
    return Memory(address, _torch_name(tensor.dtype), tuple(tensor.shape), tensor.stride(), ordinal, False, tensor)


def _of_dlpack(source: Any, stream: Optional[int], name: str) -> Memory:
    seen = _dlpack.describe(source, stream, name)
    ordinal = seen.ordinal if seen.device in (_dlpack.CUDA, _dlpack.CUDA_MANAGED) else -1
    return Memory(seen.address, seen.dtype, seen.shape, seen.strides, ordinal, seen.read_only, seen.capsule)


def _of_buffer(source: Any, name: str) -> Memory:
    try:
        view = memoryview(source)
        block = ffi.from_buffer(view)
    except (TypeError, BufferError, ValueError) as error:
        raise errors.ArgumentError(
            f"{name}: {type(source).__name__} is no tensor this package can look into: {error}"
        ) from error
    form = view.format.lstrip("@=")
    shape, steps = tuple(view.shape or ()), tuple(view.strides or ())
    return Memory(
        int(ffi.cast("uintptr_t", block)),
        _FORMATS.get(form, f"of format {form!r}"),
        shape,
        _in_elements(steps, view.itemsize, name),
        -1,
        view.readonly,
        block,
    )


def memory_of(source: Any, name: str, stream: Optional[int] = None) -> Memory:
    """Where a tensor lies, whichever library it is of."""
    if numpy is not None and isinstance(source, numpy.ndarray):
        if type(source) is not numpy.ndarray:
            check_unmasked(source, name)
        return _of_numpy(source, name)
    if numpy is not None and isinstance(source, numpy.generic):  # a single number
        return _of_numpy(numpy.asarray(source), name)._replace(read_only=True)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        return _of_torch(source, name)
    own = getattr(source, "_memory", None)
    if callable(own):
        memory: Memory = own()
        return memory
    if hasattr(source, "__dlpack__") and hasattr(source, "__dlpack_device__"):
        return _of_dlpack(source, stream, name)
    return _of_buffer(source, name)


# ---- as a matrix ----


def _as_matrix(memory: Memory, name: str) -> Tuple[int, int, int]:
    """(rows, cols, row stride) of [..., cols]; a row stride is what leads from each row to the next, or there is
    none."""
    shape, strides = memory.shape, memory.strides
    if not shape:
        raise errors.ShapeError(f"{name} is a single number; [rows, D] is needed")
    cols, rows, stride = shape[-1], 1, 0
    if 0 in shape:  # of what is empty no stride matters
        return math.prod(shape[:-1]), cols, cols
    if cols > 1 and strides[-1] != 1:
        raise errors.ArgumentError(
            f"{name}: the last dimension of shape {shape} has the stride {strides[-1]}, not 1; a copy is needed"
        )
    for size, step in zip(reversed(shape[:-1]), reversed(strides[:-1])):
        if size == 1:
            continue
        if rows > 1 and step != stride * rows:
            raise errors.ArgumentError(
                f"{name}: rows of shape {shape} with strides {strides} are not evenly spaced; a copy is needed"
            )
        stride = step if rows == 1 else stride
        rows *= size
    if rows > 1 and stride == 0:
        raise errors.ArgumentError(f"{name} repeats one row {rows} times (stride 0); a copy is needed")
    return rows, cols, stride if rows > 1 else cols


def _ends(pointer: Any, count: int) -> Tuple[int, int]:
    """Smallest and largest of int64 numbers."""
    if numpy is None or count < 64:  # where a list is faster
        numbers = ffi.unpack(pointer, count)
        return min(numbers), max(numbers)
    array = numpy.frombuffer(ffi.buffer(pointer, 8 * count), dtype=numpy.int64)
    return int(array.min()), int(array.max())


class RowIndex:
    """Numbers of rows, read and checked once to be used for every space of a batch: `rows=` takes it like any row of
    integers, without the cost of looking at them again. Host memory; the numbers are copied."""

    __slots__ = ("_keep", "count", "high", "low", "pointer")

    def __init__(self, rows: Any, name: str = "rows", copy: bool = True) -> None:
        self.pointer, self.count, self._keep = whole_numbers(rows, name, "int64")
        if copy and self.count:
            block = ffi.new("int64_t[]", self.count)
            ffi.memmove(block, self.pointer, 8 * self.count)
            self.pointer = self._keep = block
        self.low, self.high = _ends(self.pointer, self.count) if self.count else (0, -1)

    def __len__(self) -> int:
        return int(self.count)


def _device_of(source: Any) -> int:
    """The DLPack number of where a tensor is, if it is one of a device or of another library."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        return _dlpack.CUDA if source.device.type == "cuda" else _dlpack.CPU
    told = getattr(source, "__dlpack_device__", None)
    return int(told()[0]) if callable(told) else _dlpack.CPU


def _set_device_index(target: Any, rows: Any, device: Device, name: str) -> Any:
    memory = memory_of(rows, name, device[1])
    if memory.dtype != "int64" or len(memory.shape) != 1 or (memory.shape[0] > 1 and memory.strides[0] != 1):
        raise errors.DtypeError(
            f"{name} on a device have to be a contiguous row of int64, not {memory.dtype} {memory.shape}"
        )
    if memory.ordinal != device[0]:
        raise errors.ArgumentError(f"{name} are on device {memory.ordinal}, the context on device {device[0]}")
    target.row_index = ffi.cast("int64_t *", memory.address)
    target.index_memory = lib.SALF_MEMORY_DEVICE
    target.rows = memory.shape[0]
    return memory.keep


def _set_index(target: Any, rows: Any, device: Device, name: str) -> Any:
    """Chooses rows by number. On a device the numbers are int64 and not checked: that would wait for the device."""
    if _device_of(rows) in (_dlpack.CUDA, _dlpack.CUDA_MANAGED):
        return _set_device_index(target, rows, device, f"rows of {name}")
    index = rows if isinstance(rows, RowIndex) else RowIndex(rows, f"rows of {name}", copy=False)
    if index.count:
        for row in (index.low, index.high):
            if not 0 <= row < target.rows:
                raise errors.ArgumentError(f"rows of {name} names row {row}, but there are {target.rows}")
    target.row_index = index.pointer
    target.rows = index.count
    return index


def _set_memory(target: Any, memory: Memory, name: str, ordinal: int, dtypes: FrozenSet[int], writable: bool) -> None:
    kind = DTYPES.get(memory.dtype)
    if kind is None or kind.number not in dtypes:
        known = ", ".join(TENSOR_DTYPES[number].name for number in sorted(dtypes))
        raise errors.DtypeError(f"{name} is {memory.dtype}; taken as it is are {known}")
    if writable and memory.read_only:
        raise errors.ArgumentError(f"{name} is read-only, and is to be written")
    if memory.ordinal >= 0 and memory.ordinal != ordinal:
        raise errors.ArgumentError(f"{name} is on device {memory.ordinal}, the context on device {ordinal}")
    target.data = ffi.cast("void *", memory.address)
    target.dtype = kind.number
    target.memory = lib.SALF_MEMORY_DEVICE if memory.ordinal >= 0 else lib.SALF_MEMORY_HOST
    target.row_index, target.index_memory, target.extent = NULL, lib.SALF_MEMORY_HOST, 0


def fill_from(
    target: Any, memory: Memory, name: str, ordinal: int = 0, dtypes: FrozenSet[int] = ALL, writable: bool = False
) -> Tuple[Any, ...]:
    """The same for memory that is described already."""
    _set_memory(target, memory, name, ordinal, dtypes, writable)
    target.rows, target.cols, target.row_stride = _as_matrix(memory, name)
    return (memory.keep,)


def fill(
    target: Any,
    source: Any,
    name: str,
    device: Device = (0, None),
    rows: Any = None,
    dtypes: FrozenSet[int] = FLOATS,
    writable: bool = False,
) -> Tuple[Any, ...]:
    """Makes a salf_tensor (pointer or field) the view of a tensor and returns what has to stay alive with it. device is
    the context's (ordinal, stream). rows chooses rows by number."""
    memory = memory_of(source, name, device[1])
    fill_from(target, memory, name, device[0], dtypes, writable)
    return (memory.keep, None if rows is None else _set_index(target, rows, device, name))


def view(
    source: Any,
    name: str,
    device: Device = (0, None),
    rows: Any = None,
    dtypes: FrozenSet[int] = FLOATS,
    writable: bool = False,
) -> Tuple[Any, Tuple[Any, ...]]:
    """A new salf_tensor for a tensor, and what has to stay alive with it."""
    target = ffi.new("salf_tensor *")
    return target, fill(target, source, name, device, rows, dtypes, writable)


def outlasting(keep: Tuple[Any, ...]) -> Tuple[Any, ...]:
    """Of what a view on a device keeps, what has to outlast the call. Tensors of PyTorch need not: their memory is
    reused in the stream's order."""
    torch = sys.modules.get("torch")
    return tuple(item for item in keep if torch is None or not isinstance(item, torch.Tensor))


def view_column(source: Any, name: str, device: Device) -> Tuple[Any, Any]:
    """A writable float32 vector [n] or column [n, 1] as the salf_tensor [n][1]."""
    memory, target = memory_of(source, name, device[1]), ffi.new("salf_tensor *")
    _set_memory(target, memory, name, device[0], F32, True)
    if len(memory.shape) not in (1, 2) or (len(memory.shape) == 2 and memory.shape[1] != 1):
        raise errors.ShapeError(f"{name} has the shape {memory.shape}; [rows] is needed")
    target.rows, target.cols, target.row_stride = memory.shape[0], 1, memory.strides[0]
    if target.rows > 1 and target.row_stride == 0:
        raise errors.ArgumentError(f"{name} repeats one number {target.rows} times (stride 0)")
    return target, memory.keep
