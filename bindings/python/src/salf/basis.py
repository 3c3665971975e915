"""The semantic basis of a model's head: a row for each token, and the builder that makes one from pieces of a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from salf import _arrays, views
from salf._arrays import whole_numbers
from salf._dtypes import DTYPES
from salf._ffi import NULL, Name, check, encoded, ffi, lib, new_struct, record_of, set_fields
from salf._handles import Handle, Owner, create
from salf.context import Context
from salf.errors import ArgumentError, StaleError
from salf.model import Model


@dataclass(frozen=True)
class BasisInfo:
    """Options in force and what was found; sigma_* and condition are those of the head's singular values, and row_error
    estimates what rounding leaves in a row, relative to its length."""

    mode: str
    side: str
    method: str
    hidden: int
    vocab: int
    n_labels: int
    rank: int
    rtol: float
    ridge: float
    sigma_max: float
    sigma_min: float
    condition: float
    fingerprint: int
    has_norms: bool
    has_table: bool
    row_error: float


def _options(mode: Name, rtol: float, ridge: float, side: Name, prepare: Name) -> Any:
    options = new_struct("salf_basis_options")
    set_fields(options, {"mode": mode, "rtol": rtol, "ridge": ridge, "side": side, "prepare": prepare})
    return options


class Basis(Handle):
    """The semantic basis of the labels of a run, or of all tokens. Immutable.

    mode: "rtol" drops singular values at or below rtol * the largest, "exact" keeps all that can be resolved, "ridge"
    damps by ridge. side: "output" or "input". prepare: "labels", "vocabulary" (norms that ce and rank over the whole
    vocabulary need) or "table" (all rows, float32).
    """

    def __init__(
        self,
        model: Model,
        labels: Any = (),
        mode: Name = "rtol",
        rtol: float = 0.0,
        ridge: float = 0.0,
        side: Name = "output",
        prepare: Name = "labels",
    ) -> None:
        options = _options(mode, rtol, ridge, side, prepare)
        numbers, count, keep = whole_numbers(labels, "labels")
        with Model._of(model, "model") as pointer:
            owner = create(
                "basis", (model._owner,), lambda out: lib.salf_basis_create(out, pointer, numbers, count, options)
            )
        del keep
        self._start(owner, model.context, model)

    def _start(self, owner: Owner, context: Context, model: Optional[Model]) -> None:
        self._owner = owner
        self.context = context
        self.model = model

    @classmethod
    def _made(cls, owner: Owner, context: Context, model: Optional[Model]) -> Basis:
        basis = cls.__new__(cls)
        basis._start(owner, context, model)
        return basis

    @classmethod
    def load(cls, context: Context, path: Any, model: Optional[Model] = None) -> Basis:
        """A saved basis. Without a model only the rows it holds serve; with one, StaleError if the head is another."""
        name = encoded(path, "path")
        with Context._of(context, "context") as pointer, Model._of_optional(model, "model") as given:
            owner = create(
                "basis",
                (context._owner, model and model._owner),
                lambda out: lib.salf_basis_load(out, pointer, name, given),
            )
        return cls._made(owner, context, model)

    def refresh(self, model: Optional[Model] = None) -> Basis:
        """A new basis of the same labels and options for another head, or for the same one after it changed."""
        model = model or self.model
        if model is None:
            raise ArgumentError("refresh: a basis that was loaded without a model has to be told which")
        with self._use() as old, Model._of(model, "model") as given:
            owner = create("basis", (model._owner,), lambda out: lib.salf_basis_refresh(out, old, given))
        return self._made(owner, self.context, model)

    @property
    def info(self) -> BasisInfo:
        """Options in force, rank and condition."""
        info = new_struct("salf_basis_info")
        with self._use() as pointer:
            check(lib.salf_basis_get_info(pointer, info))
        return record_of(BasisInfo, info)

    @property
    def labels(self) -> Any:
        """The labels whose rows are held, ascending; None when the table of all rows is."""
        labels, count = ffi.new("int32_t **"), ffi.new("int64_t *")
        with self._use() as pointer:
            check(lib.salf_basis_get_labels(pointer, labels, count))
            if labels[0] == NULL:
                return None if self.info.has_table else _arrays.empty([0], "int32")[0]
            return _arrays.copied(labels[0], [count[0]], "int32")

    def rows(self, labels: Any, dtype: str = "float64") -> Any:
        """Rows of labels, [len(labels), hidden] in float64 or float32."""
        numbers, count, keep = whole_numbers(labels, "labels")
        if dtype not in ("float32", "float64"):
            raise ArgumentError(f"dtype is {dtype!r}; rows come as float64 or float32")
        array, place = _arrays.empty([count, self.info.hidden], dtype)
        out = ffi.new(
            "salf_tensor *", {"data": place, "rows": count, "cols": self.info.hidden, "dtype": DTYPES[dtype].number}
        )
        with self._use() as pointer:
            check(lib.salf_basis_rows(pointer, numbers, count, out))
        del keep
        return array

    def check(self, model: Optional[Model] = None) -> None:
        """StaleError when the model's head is not, or no longer, the one this basis was made from. Reads the head."""
        model = model or self.model
        with self._use() as pointer, Model._of_optional(model, "model") as given:
            check(lib.salf_basis_check(pointer, given))

    def is_stale(self, model: Optional[Model] = None) -> bool:
        """The same as an answer."""
        try:
            self.check(model)
        except StaleError:
            return True
        return False

    def save(self, path: Any) -> None:
        """Writes a safetensors file, whole or not at all."""
        with self._use() as pointer:
            check(lib.salf_basis_save(pointer, encoded(path, "path")))

    def __repr__(self) -> str:
        if self.closed:
            return "<salf.Basis (closed)>"
        info = self.info
        return f"<salf.Basis {info.side} {info.mode}: {info.n_labels} labels, rank {info.rank} of {info.hidden}>"


class BasisBuilder(Handle):
    """An output-side basis from blocks of the head's rows in any order, on any number of ranks. vocab counts the valid
    rows of all ranks."""

    def __init__(
        self,
        context: Context,
        vocab: int,
        hidden: int,
        labels: Any = (),
        mode: Name = "rtol",
        rtol: float = 0.0,
        ridge: float = 0.0,
        prepare: Name = "labels",
    ) -> None:
        options = _options(mode, rtol, ridge, "output", prepare)
        numbers, count, keep = whole_numbers(labels, "labels")
        self.context = context
        with Context._of(context, "context") as pointer:
            self._owner = create(
                "basis_builder",
                (context._owner,),
                exclusive=True,
                call=lambda out: lib.salf_basis_builder_create(out, pointer, vocab, hidden, numbers, count, options),
            )
        del keep

    def add(self, first: int, rows: Any) -> None:
        """Adds rows first, first + 1, ... of the head."""
        target, keep = views.view(rows, "rows", self.context._device)
        with self._use() as pointer:
            check(lib.salf_basis_builder_add(pointer, first, target))
        del keep

    @property
    def partial(self) -> Any:
        """The partial state, a writable float64 array over the builder's own memory: the sum of those of several
        builders is the state of all their rows together."""
        values, count = ffi.new("double **"), ffi.new("int64_t *")
        owner = self._use()
        with owner as pointer:
            check(lib.salf_basis_builder_partial(pointer, values, count))
        address = int(ffi.cast("uintptr_t", values[0]))
        if _arrays.numpy is None:
            return _arrays.borrowed_view(address, count[0], "float64", owner)
        return _arrays.borrowed(address, [count[0]], "<f8", owner, True)

    def merge(self, other: BasisBuilder) -> None:
        """Adds another builder's partial state."""
        with self._use() as pointer, BasisBuilder._of(other, "other") as theirs:
            check(lib.salf_basis_builder_merge(pointer, theirs))

    def all_reduce(self) -> None:
        """Sums the partial states over the context's ranks, in place."""
        with self._use() as pointer:
            check(lib.salf_basis_builder_all_reduce(pointer))

    def finish(self, model: Optional[Model] = None) -> Basis:
        """The basis; every row must have been added exactly once. model serves later whole-vocabulary needs."""
        with self._use() as pointer, Model._of_optional(model, "model") as given:
            owner = create(
                "basis",
                (self.context._owner, model and model._owner),
                lambda out: lib.salf_basis_builder_finish(out, pointer, given),
            )
        return Basis._made(owner, self.context, model)
