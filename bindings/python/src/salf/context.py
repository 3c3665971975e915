"""The context: backend, threads, memory, log and ranks that everything else shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

from salf import _callbacks, errors
from salf._ffi import NULL, Name, check, encoded, ffi, integer, lib, new_struct, record_of, set_fields, text
from salf._handles import Handle, create


@dataclass(frozen=True)
class ContextInfo:
    """What a context settled for."""

    backend: str
    kernels: str
    device: int
    threads: int
    rank: int
    ranks: int
    blas: str


def _address(stream: Any) -> int:
    """A CUDA stream: its address, or an object that has it as cuda_stream (PyTorch) or ptr (CuPy)."""
    for attribute in ("cuda_stream", "ptr"):
        stream = getattr(stream, attribute, stream)
    return integer(stream, "stream")


class Context(Handle):
    """Where everything else lives. One thread at a time may use a handle; different ones may be used in parallel, also
    when they share a context.

    backend: "auto", "reference", "cpu" or "cuda". threads: 0 leaves BLAS as it is. stream: the stream that device work
    is enqueued on, such as torch.cuda.current_stream(). workspace_limit: bytes of scratch of a call, 0 for 16 MiB (on
    a device 256). log: a function (level, message) or a logging.Logger; log_level: "error", "warning" (default),
    "info" or "debug". communicator: an object with rank, ranks and all_reduce(buffer, operation), which works
    in place on a float64 or int64 buffer; operation is "sum" or "min". allocator: an object with alloc(size, align) ->
    address and free(address, size). plugin_path: of libsalf-cuda.so, when not beside the library. progress: a function
    (what, done, total) that is told how far a long call has come, ten times a second or at most every
    progress_interval milliseconds (-1: at every step); when its answer is true the call raises CancelledError, leaves
    everything as it was, and can be made again. Ctrl-C ends long calls in the same way, with or without it.
    read_files: files of tensors are read into memory, not mapped, so that one which changes later does no harm.
    """

    def __init__(
        self,
        backend: Name = "auto",
        device: int = 0,
        threads: int = 0,
        stream: Any = None,
        workspace_limit: int = 0,
        log: Any = None,
        log_level: Optional[Name] = None,
        communicator: Any = None,
        plugin_path: Any = None,
        allocator: Any = None,
        progress: Any = None,
        progress_interval: int = 0,
        read_files: bool = False,
    ) -> None:
        options = new_struct("salf_context_options")
        set_fields(
            options,
            {
                "backend": backend,
                "device": device,
                "threads": threads,
                "workspace_limit": workspace_limit,
                "log_level": log_level,
                "progress_interval": progress_interval,
                "read_files": int(read_files),
            },
        )
        keep: List[Any] = []
        options.progress = self._kept(keep, _callbacks.progress(progress))
        self._stream = None if stream is None else _address(stream)
        options.stream = ffi.cast("void *", self._stream or 0)
        if log is not None:
            options.log = self._kept(keep, _callbacks.log(log))
        if allocator is not None:
            options.alloc, options.free = self._kept(keep, _callbacks.allocator(allocator))
        if communicator is not None:
            self._set_communicator(options, communicator, keep)
        if plugin_path is not None:
            options.plugin_path = self._kept(keep, ffi.new("char[]", encoded(plugin_path, "plugin_path")))
        self._owner = create("context", tuple(keep), lambda out: lib.salf_context_create(out, options))
        self._info, name = self._read_info()
        # Tensors on a device are compared with this ordinal; DLPack's name for the default stream is 1.
        self._device: Tuple[int, Optional[int]] = (self._info.device, self._stream or 1)
        self._on_device = name not in ("reference", "cpu")

    @staticmethod
    def _kept(keep: List[Any], item: Any) -> Any:
        keep.append(item)
        return item

    def _set_communicator(self, options: Any, link: Any, keep: List[Any]) -> None:
        for attribute in ("rank", "ranks", "all_reduce"):
            if not hasattr(link, attribute):
                raise errors.ArgumentError(f"communicator: {type(link).__name__} has no {attribute}")
        set_fields(options, {"rank": link.rank, "ranks": link.ranks})
        options.all_reduce = self._kept(keep, _callbacks.communicator(link))

    def _read_info(self) -> Tuple[ContextInfo, str]:
        info = new_struct("salf_context_info")
        with self._use() as pointer:
            check(lib.salf_context_get_info(pointer, info))
        name = text(info.backend_name)
        kernels = "" if info.kernels == NULL else text(info.kernels)
        return record_of(ContextInfo, info, backend=name, kernels=kernels, blas=text(info.blas)), name

    @property
    def info(self) -> ContextInfo:
        """Backend in use, kernels, device, threads, ranks, linear algebra."""
        return self._info

    def agree(self, error: Optional[BaseException] = None) -> None:
        """Waits for the other ranks and raises MismatchError, with a rank's number, where one passes an error. A rank
        that cannot take part in the others' next collective passes what it caught, which is raised again: they would
        wait for ever."""
        known = errors.CallbackError.status if error is not None else 0
        status = error.status if isinstance(error, errors.Error) else known
        with self._use() as pointer:
            result = lib.salf_context_agree(pointer, status)
        if error is not None:
            raise error
        check(result)

    @property
    def stream(self) -> Optional[int]:
        """The stream's address, or None for the default stream."""
        return self._stream

    def __repr__(self) -> str:
        return f"<salf.Context {self._info.backend}{' (closed)' if self.closed else ''}>"
