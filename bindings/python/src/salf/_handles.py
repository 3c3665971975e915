"""Lifetime of the library's handles.

An `Owner` holds one C handle and what it needs to stay alive: callbacks, borrowed memory, the owners of what it was
made from. The handle is destroyed when the last reference to its owner goes. A call holds one for as long as it runs,
so that `close()` in a callback or in another thread only takes effect after it. At interpreter exit handles are left to
the system, and calls of other threads are waited for: their callbacks need an interpreter.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, Callable, List, NoReturn, Optional, Tuple, Type, TypeVar

from salf import errors
from salf._ffi import NULL, check, ffi, lib

Self = TypeVar("Self", bound="Handle")

EXIT_WAIT = 60.0  # seconds: the longest that a call of another thread, perhaps stuck in a callback, holds up the exit
_calls: List[int] = []  # the thread of each call that is under way
_exiting: List[int] = []  # the thread that ends the interpreter, once it does


@atexit.register
def _wait_for_calls() -> None:
    """Daemon threads are still running here. One that called back into an interpreter that is gone would crash."""
    me, end = threading.get_ident(), time.monotonic() + EXIT_WAIT
    _exiting.append(me)
    while any(thread != me for thread in tuple(_calls)) and time.monotonic() < end:
        time.sleep(0.001)


def _forget_calls() -> None:
    """In a forked process only the thread that forked is there."""
    _calls[:] = [thread for thread in _calls if thread == threading.get_ident()]


os.register_at_fork(after_in_child=_forget_calls)


class Owner:
    """One C handle. As a context manager it gives the pointer for the length of a call; an exclusive one, which one
    thread may use at a time, refuses a second user instead of letting both corrupt it."""

    __slots__ = ("__weakref__", "_destroy", "_lock", "_process", "keep", "name", "pointer")

    def __init__(
        self,
        name: str,
        pointer: Any,
        destroy: Optional[Callable[[Any], None]],
        keep: Tuple[Any, ...],
        exclusive: bool = False,
    ) -> None:
        self.name = name
        self.pointer = pointer
        self._destroy = destroy
        self.keep = keep
        self._lock = threading.Lock() if exclusive else None
        self._process = os.getpid()

    def __enter__(self) -> Any:
        if self._lock is not None and not self._lock.acquire(blocking=False):
            raise errors.SequenceError(
                f"{self.name} is in use: by another thread, or by the call that runs this callback"
            )
        me = threading.get_ident()
        _calls.append(me)
        if _exiting and _exiting[0] != me:
            self.__exit__()
            raise errors.SequenceError(f"{self.name} cannot be used by this thread any more: the interpreter exits")
        return self.pointer

    def __exit__(self, *_: object) -> None:
        _calls.remove(threading.get_ident())
        if self._lock is not None:
            self._lock.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {self.name} of libsalf lives in this process: it cannot be copied or pickled")

    # Defaults bind what is needed: at interpreter exit module variables may be gone. In a forked process the threads
    # and the device that a handle may wait for are not there.
    def __del__(
        self, _finalizing: Callable[[], bool] = sys.is_finalizing, _process: Callable[[], int] = os.getpid
    ) -> None:
        if self._destroy is not None and not _finalizing() and self._process == _process():
            self._destroy(self.pointer)


def create(kind: str, keep: Tuple[Any, ...], call: Callable[[Any], int], exclusive: bool = False) -> Owner:
    """Runs a create call, given its out parameter, and owns what it makes."""
    out = ffi.new(f"salf_{kind} **")
    status = call(out)
    made = out[0]
    owner = Owner(kind, made, getattr(lib, f"salf_{kind}_destroy") if made != NULL else None, keep, exclusive)
    check(status)
    return owner


_NOTHING = Owner("NULL", NULL, None, ())


class Handle:
    """Base of the classes around C handles: `with`, `close()`, `closed`."""

    _owner: Optional[Owner] = None

    @classmethod
    def _of(cls, given: Any, name: str) -> Owner:
        """The owner of an argument that has to be a handle of this kind."""
        if not isinstance(given, cls):
            raise errors.ArgumentError(f"{name} is {given!r}, not a salf.{cls.__name__}")
        return given._use()

    @classmethod
    def _of_optional(cls, given: Any, name: str) -> Owner:
        """The same where None stands for NULL."""
        return _NOTHING if given is None else cls._of(given, name)

    def _use(self) -> Owner:
        owner = self._owner
        if owner is None:
            raise errors.SequenceError(f"{type(self).__name__} is closed")
        return owner

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._owner is None

    def close(self) -> None:
        """Gives the handle back; more often than once is fine. What was made from it stays usable."""
        self._owner = None

    def __reduce__(self) -> NoReturn:
        bytes_of = "; save() gives its state as bytes" if hasattr(self, "_kind") else ""
        raise TypeError(f"{type(self).__name__} lives in this process: it cannot be copied or pickled{bytes_of}")

    def __enter__(self: Self) -> Self:
        self._use()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
