"""Handles whose state is bytes: to keep beside a checkpoint, and to take back."""

from __future__ import annotations

from typing import Any

from salf import errors
from salf._ffi import NULL, check, ffi, lib
from salf._handles import Handle


class Saved(Handle):
    """Base of the handles with salf_KIND_save and salf_KIND_load."""

    _kind: str

    def save(self) -> bytes:
        """The state, for a file of the host's."""
        call, size = getattr(lib, f"salf_{self._kind}_save"), ffi.new("uint64_t *")
        with self._use() as pointer:
            check(call(pointer, NULL, size))
            buffer = bytearray(size[0])
            check(call(pointer, ffi.from_buffer(buffer, require_writable=True), size))
        return bytes(buffer[: size[0]])

    def load(self, state: Any) -> None:
        """Takes saved state back, into a handle made with the same sizes and options; before any optimizer exists if
        need be."""
        try:
            view = memoryview(state).cast("B")
        except TypeError as error:
            raise errors.ArgumentError(f"state: {type(state).__name__} is no buffer of bytes") from error
        with self._use() as pointer:
            check(getattr(lib, f"salf_{self._kind}_load")(pointer, ffi.from_buffer(view), view.nbytes))
