"""A run that goes on after a kill: tensors, planner and policy in a folder with two generations and a lock."""

from __future__ import annotations

import os
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Tuple, TypeVar, Union

from salf._ffi import NULL, check, encoded, ffi, lib, new_struct, optional_text
from salf._handles import Handle, Owner, create
from salf.context import Context
from salf.errors import ArgumentError, NotFoundError
from salf.planner import Planner
from salf.policy import Policy
from salf.tensors import Tensor, _fill_named, _metadata

Result = TypeVar("Result")


class Content(NamedTuple):
    """Something that is the same wherever it lies: path is what messages show, hash what counts."""

    path: str
    hash: int


def content_of(path: Any, before: int = 0) -> Content:
    """The content of a file, behind the hash of what comes before it."""
    value = ffi.new("uint64_t *", before)
    check(lib.salf_hash_file(encoded(path, "path"), value))
    return Content(os.fspath(path), int(value[0]))


def hash_bytes(data: Any, before: int = 0) -> int:
    """A hash of bytes, behind the hash of what comes before them. It tells mistakes apart, no forgery."""
    view = memoryview(data).cast("B")
    return int(lib.salf_hash(before, ffi.from_buffer(view), view.nbytes))


class Checkpoint(Handle):
    """The state of a run in a folder, which is made and locked. identity says what the run is made of: words
    ({"learning rate": "0.1"}), or contents ({"data": content_of("train.tsv")}). A folder that holds the state of
    another run is refused (MismatchError), and one that another process uses (BusyError). Look at `saves` before you
    save over what is there, and show `damage` to the user. With several ranks, one saves, or each has its folder."""

    def __init__(
        self, context: Context, folder: Any, identity: Optional[Mapping[str, Union[str, Content]]] = None
    ) -> None:
        parts = dict(identity or {})
        block, keep = ffi.new("salf_identity[]", max(len(parts), 1)), []
        for i, (name, part) in enumerate(parts.items()):
            if not isinstance(part, (str, Content)):
                raise ArgumentError(f"identity '{name}' is {part!r}, neither text nor salf.Content")
            value = part if isinstance(part, str) else part.path
            texts = [ffi.new("char[]", encoded(text, "identity")) for text in (name, value)]
            block[i].name, block[i].value = texts
            if isinstance(part, Content):
                block[i].content = part.hash or 1
            keep.append(texts)
        path = encoded(folder, "folder")
        with Context._of(context, "context") as pointer:
            self._owner: Owner = create(
                "checkpoint",
                (context._owner,),
                lambda out: lib.salf_checkpoint_open(out, pointer, path, block, len(parts)),
                exclusive=True,
            )
        self.context = context

    def save(
        self,
        tensors: Optional[Mapping[str, Any]] = None,
        metadata: Optional[Mapping[str, str]] = None,
        policy: Optional[Policy] = None,
        planner: Optional[Planner] = None,
    ) -> None:
        """Saves tensors in host memory, strings, planner and policy; the save before stays whole until all of it is on
        the disk."""
        content, keep = self._content(tensors, False)
        texts, kept = _metadata(metadata or {})
        content.metadata, content.n_metadata = texts, len(metadata or {})
        self._call(lib.salf_checkpoint_save, content, policy, planner)
        del keep, kept

    def load(
        self,
        tensors: Optional[Mapping[str, Any]] = None,
        policy: Optional[Policy] = None,
        planner: Optional[Planner] = None,
    ) -> None:
        """Copies what was saved into your tensors, which must have the shapes and types of then, and into planner and
        policy."""
        content, keep = self._content(tensors, True)
        self._call(lib.salf_checkpoint_load, content, policy, planner)
        del keep

    def _content(self, tensors: Optional[Mapping[str, Any]], writable: bool) -> Tuple[Any, List[Any]]:
        given, content = dict(tensors or {}), new_struct("salf_checkpoint_content")
        block = ffi.new("salf_named_tensor[]", max(len(given), 1))
        keep: List[Any] = [block]
        keep += [_fill_named(block[i], name, source, writable) for i, (name, source) in enumerate(given.items())]
        content.tensors, content.n_tensors = block, len(given)
        return content, keep

    def _call(self, call: Any, content: Any, policy: Optional[Policy], planner: Optional[Planner]) -> None:
        with Policy._of_optional(policy, "policy") as one, Planner._of_optional(planner, "planner") as other:
            content.policy, content.planner = one, other
            with self._use() as pointer:
                check(call(pointer, content))

    def _info(self, take: Callable[[Any], Result]) -> Result:
        """What take makes of the info, whose tensors and texts the next save takes away."""
        info = new_struct("salf_checkpoint_info")
        with self._use() as pointer:
            check(lib.salf_checkpoint_get_info(pointer, info))
            return take(info)

    @property
    def saves(self) -> int:
        """Number of the save in use; 0: the folder holds none."""
        return self._info(lambda info: int(info.saves))

    @property
    def locked(self) -> bool:
        """False where the file system has no locks."""
        return self._info(lambda info: bool(info.locked))

    @property
    def damage(self) -> Optional[str]:
        """Which of the two files was passed over, and why; None: none was."""
        return self._info(lambda info: optional_text(info.damage))

    def metadata(self, key: str) -> Optional[str]:
        """A string that was saved before the folder was opened, or None."""
        name = encoded(key, "key")
        return self._info(lambda info: optional_text(lib.salf_tensors_metadata(info.tensors, name)))

    def array(self, name: str) -> Any:
        """A copy of a tensor that was saved before the folder was opened."""
        named, owner, key = ffi.new("salf_named_tensor *"), self._use(), encoded(name, "name")

        def take(info: Any) -> Any:
            if info.tensors == NULL:
                raise NotFoundError(f"there is no tensor {name!r}: the folder held no save when it was opened")
            check(lib.salf_tensors_find(info.tensors, key, named))
            return Tensor(named, owner).numpy().copy()

        return self._info(take)
