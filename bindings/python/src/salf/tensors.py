"""Tensor files: safetensors, single or sharded, memory-mapped and checked when opened; and writing one."""

from __future__ import annotations

import importlib
import math
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from salf import _arrays, views
from salf._dtypes import TENSOR_DTYPES
from salf._ffi import NULL, check, encoded, ffi, lib, optional_text, text
from salf._handles import Handle, Owner, create
from salf.context import Context
from salf.errors import ArgumentError, DtypeError, NotFoundError, ShapeError

_MAX_DIMS = 8


def _bfloat16() -> Any:
    try:
        return importlib.import_module("ml_dtypes").bfloat16
    except ImportError:
        return None


class Tensor:
    """A tensor of a file: name, dtype and shape, over mapped memory. Can be given wherever a tensor is taken."""

    def __init__(self, named: Any, owner: Owner) -> None:
        self.name = text(named.name)
        self.shape: Tuple[int, ...] = tuple(named.shape[i] for i in range(named.n_dims))
        self.dtype = TENSOR_DTYPES[named.view.dtype].name
        self._address = int(ffi.cast("uintptr_t", named.view.data))
        self._owner = owner

    def numpy(self, raw: bool = False) -> Any:
        """A read-only NumPy array over the file, without a copy. bfloat16 needs the package ml_dtypes; with raw=True
        its 16 bits are uint16. Without NumPy a flat memoryview; 16-bit floats are then always their bits."""
        if _arrays.numpy is None:
            return _arrays.borrowed_view(self._address, math.prod(self.shape), self.dtype, self._owner).toreadonly()
        if self.dtype != "bfloat16":
            dtype = _arrays.numpy.dtype(self.dtype)
            return _arrays.borrowed(self._address, self.shape, dtype.str, self._owner, False)
        kind = None if raw else _bfloat16()
        if kind is None and not raw:
            raise DtypeError(
                f"{self.name} is bfloat16, which NumPy only knows with ml_dtypes; numpy(raw=True) gives its bits"
            )
        bits = _arrays.borrowed(self._address, self.shape, "<u2", self._owner, False)
        return bits if raw else bits.view(kind)

    def _memory(self) -> views.Memory:
        strides = tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))
        return views.Memory(self._address, self.dtype, self.shape, strides, -1, True, self._owner)

    def __repr__(self) -> str:
        return f"<salf.Tensor {self.name} {self.dtype} {list(self.shape)}>"


class Tensors(Handle, Mapping[str, Tensor]):
    """The tensors of a file, or of several behind an index, by name. Immutable."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    @classmethod
    def open(cls, context: Context, path: Any) -> Tensors:
        """Opens a .safetensors file, an index file, or a folder that holds one of them as Hugging Face names it."""
        name = encoded(path, "path")
        with Context._of(context, "context") as pointer:
            owner = create("tensors", (context._owner,), lambda out: lib.salf_tensors_open(out, pointer, name))
        return cls(owner)

    def at(self, index: int) -> Tensor:
        """Tensor number index, in order of name."""
        named = ffi.new("salf_named_tensor *")
        owner = self._use()
        with owner as pointer:
            check(lib.salf_tensors_at(pointer, index, named))
        return Tensor(named, owner)

    def __getitem__(self, name: str) -> Tensor:
        named = ffi.new("salf_named_tensor *")
        owner = self._use()
        with owner as pointer:
            try:
                check(lib.salf_tensors_find(pointer, encoded(name, "name"), named))
            except NotFoundError as error:
                raise KeyError(name) from error
        return Tensor(named, owner)

    def __len__(self) -> int:
        with self._use() as pointer:
            return int(lib.salf_tensors_count(pointer))

    def __iter__(self) -> Iterator[str]:
        for i in range(len(self)):
            yield self._name(i)

    def _name(self, index: int) -> str:
        """Also of a tensor whose element type is not known here."""
        named = ffi.new("salf_named_tensor *")
        with self._use() as pointer:
            status = lib.salf_tensors_at(pointer, index, named)
        if named.name == NULL:
            check(status)
        return text(named.name)

    def metadata(self, key: str) -> Optional[str]:
        """Value of a metadata key of the (first) file, or None."""
        with self._use() as pointer:
            return optional_text(lib.salf_tensors_metadata(pointer, encoded(key, "key")))

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def _fill_named(target: Any, name: str, source: Any, writable: bool = False) -> Tuple[Any, ...]:
    """A salf_named_tensor for a tensor of any type and at most eight dimensions."""
    memory = views.memory_of(source, name)
    if len(memory.shape) > _MAX_DIMS:
        raise ShapeError(f"{name} has {len(memory.shape)} dimensions; at most {_MAX_DIMS} can be written")
    label = ffi.new("char[]", encoded(name, "name"))
    target.name = label
    shape = memory.shape or (1,)  # the library writes no shape without dimensions
    target.n_dims = len(shape)
    for i, size in enumerate(shape):
        target.shape[i] = size
    whole = memory._replace(shape=shape, strides=memory.strides or (1,))
    return (label, *views.fill_from(target.view, whole, name, writable=writable))


def _metadata(pairs: Mapping[str, str]) -> Tuple[Any, List[Any]]:
    flat: Sequence[str] = [item for pair in pairs.items() for item in pair]
    for item in flat:
        if not isinstance(item, str):
            raise ArgumentError(f"metadata holds {item!r}, which is no text")
    keep = [ffi.new("char[]", encoded(item, "metadata")) for item in flat]
    return (ffi.new("char *[]", keep) if keep else NULL), keep


def save_tensors(
    context: Context, path: Any, tensors: Mapping[str, Any], metadata: Optional[Mapping[str, str]] = None
) -> None:
    """Writes tensors in host memory, of any type tensor files know here, as one safetensors file: whole or not at all.
    A single number gets the shape [1]."""
    pairs: Dict[str, str] = dict(metadata or {})
    block = ffi.new("salf_named_tensor[]", max(len(tensors), 1))
    keep = [_fill_named(block[i], name, source) for i, (name, source) in enumerate(tensors.items())]
    texts, kept = _metadata(pairs)
    with Context._of(context, "context") as pointer:
        check(lib.salf_tensors_save(pointer, encoded(path, "path"), block, len(tensors), texts, len(pairs)))
    del keep, kept


def save_file(path: Any, content: Any) -> None:
    """Makes bytes the content of a file, whole or not at all. Links are followed, access rights kept; a device or a
    pipe is written to."""
    view = memoryview(content).cast("B")
    check(lib.salf_file_save(encoded(path, "path"), ffi.from_buffer(view), view.nbytes))
