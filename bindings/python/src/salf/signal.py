"""What a probe's answers are worth, over a run: whether eof differ, and whether they say more than the label does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List

from salf._arrays import whole_numbers
from salf._ffi import NULL, check, lib, new_struct, set_fields
from salf._handles import Handle, create
from salf.context import Context
from salf.errors import ShapeError
from salf.probe import Trace, trace_struct


@dataclass(frozen=True)
class SignalInfo:
    """What was seen so far. Above .9 most_frequent_share means that the signal is empty, above .8 group_adjusted (the
    R^2 of group on gains, beyond what chance alone gives) that it is the label. Shares of nothing are 0."""

    rows: int
    most_frequent: int
    most_frequent_share: float
    grouped_rows: int
    n_groups: int
    single_groups: int
    group_share: float
    group_chance: float
    group_adjusted: float
    trained: int
    matched_share: float
    revisits: int
    agreement: float


class Signal(Handle):
    """Diagnostics of n_layers layers. per_datum: cuts follow each datum's own eof, not balanced over groups.
    max_groups: groups told apart, 0 for 1024. max_ids: data whose last eof is kept, for agreement; 0 for none. It warns
    in the context's log when the signal is empty, and when it is the label under a rule that is per_datum."""

    def __init__(
        self, context: Context, n_layers: int, per_datum: bool = False, max_groups: int = 0, max_ids: int = 0
    ) -> None:
        options = new_struct("salf_signal_options")
        set_fields(
            options,
            {"n_layers": n_layers, "per_datum": per_datum, "max_groups": max_groups, "max_ids": max_ids},
        )
        with Context._of(context, "context") as pointer:
            self._owner = create(
                "signal", (context._owner,), lambda out: lib.salf_signal_create(out, pointer, options), exclusive=True
            )
        self.context = context

    def add(self, trace: Trace, groups: Any = None, ids: Any = None, cuts: Any = None) -> None:
        """Counts a batch. groups: of each row, such as its target token; ids: which datum it is; cuts: the decision's
        eof, n_layers for rows that do not train. What is None leaves the rows out of the figures that need it."""
        found, keep = trace_struct(trace)
        given: List[Any] = []
        kept: List[Any] = []
        for name, values, dtype in (("groups", groups, "int32"), ("ids", ids, "uint32"), ("cuts", cuts, "int32")):
            if values is None:
                given.append(NULL)
                continue
            numbers, count, alive = whole_numbers(values, name, dtype)
            if count != trace.rows:
                raise ShapeError(f"{count} {name} for a trace of {trace.rows} rows")
            given.append(numbers)
            kept.append(alive)
        with self._use() as pointer:
            check(lib.salf_signal_add(pointer, found, *given))
        del keep, kept

    @property
    def info(self) -> SignalInfo:
        """The figures so far."""
        found = new_struct("salf_signal_info")
        with self._use() as pointer:
            check(lib.salf_signal_get(pointer, found))
        return SignalInfo(**{name: getattr(found, name) for name in SignalInfo.__dataclass_fields__})
