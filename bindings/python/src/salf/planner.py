"""The budget planner: how many data train at which depth, and which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from salf import _arrays
from salf._arrays import doubles, whole_numbers
from salf._ffi import Name, check, ffi, lib, name_of, new_struct, number_of, set_fields
from salf._handles import create
from salf._saved import Saved
from salf.context import Context
from salf.errors import ShapeError
from salf.probe import Trace, trace_struct


@dataclass(frozen=True)
class Stage:
    """One layer of the plan. data: datum numbers once the layer is settled, else None."""

    layer: int
    count: int
    matched: int
    filled: int
    probed: int
    data: Any


@dataclass(frozen=True)
class Task:
    """What to do next with these data: kind "probe", "train" or "done". layer: the cut of all, in a stream the lowest.
    eof: the cut of each, in a stream once it is known and with full_batches, else None."""

    kind: str
    layer: int
    data: Any
    eof: Any = None


def _task_of(task: Any) -> Task:
    data = _arrays.datum_ids(task.data, task.n_data)
    if data is None:
        data = _arrays.empty([0], "int64")[0]
    eof = _arrays.copied(task.eof, [task.n_data], "int32") if task.eof != ffi.NULL else None
    return Task(name_of("TASK", task.kind), task.layer, data, eof)


class Planner(Saved):
    """A plan for n_data data over n_layers layers.

    growth: "uniform", "geometric" (by ratio), "arithmetic" or "custom" (by weights). infill: "breadth" or "depth".
    matching: "online", "offline", "none" or "stream". probe_limit: most data probed for one layer; 0 for half its mean
    share, "all" for all that are unused. Of a stream: assignment "random", "eof" or "gain"; stream_order "staged" or
    "mixed"; one_cut: one cut a batch; max_groups: groups told apart, 0 for 1024. Of the others: full_batches, so that
    tasks go on over the end of a layer, and a probed datum waits for a full batch.

    With several ranks a plan is of all of them, and next() gives each its share of a task: make the same planner, and
    the same calls, on every rank.
    """

    _kind = "planner"

    def __init__(
        self,
        context: Context,
        n_layers: int,
        n_data: int,
        growth: Name = "uniform",
        infill: Name = "breadth",
        matching: Name = "online",
        ratio: float = 0.0,
        weights: Any = None,
        seed: int = 0,
        probe_limit: Name = 0,
        assignment: Name = "random",
        stream_order: Name = "staged",
        one_cut: bool = False,
        max_groups: int = 0,
        full_batches: bool = False,
    ) -> None:
        options, keep = new_struct("salf_planner_options"), None
        set_fields(
            options,
            {
                "growth": growth,
                "infill": infill,
                "matching": matching,
                "ratio": ratio,
                "seed": seed,
                "probe_limit": number_of("PROBE", probe_limit, "probe_limit"),
                "assignment": assignment,
                "stream_order": stream_order,
                "one_cut": one_cut,
                "max_groups": max_groups,
                "full_batches": full_batches,
            },
        )
        if weights is not None:
            options.weights, shape, keep = doubles(weights, "weights")
            if tuple(shape) != (n_layers,):
                raise ShapeError(f"weights have the shape {tuple(shape)} for {n_layers} layers")
        with Context._of(context, "context") as pointer:
            self._owner = create(
                "planner",
                (context._owner,),
                exclusive=True,
                call=lambda out: lib.salf_planner_create(out, pointer, n_layers, n_data, options),
            )
        del keep
        self.context, self.n_layers, self.n_data = context, n_layers, n_data
        self.matching, self.assignment = name_of("MATCH", options.matching), name_of("ASSIGN", options.assignment)
        self.one_cut, self.full_batches = bool(options.one_cut), bool(options.full_batches)

    @property
    def counts(self) -> Any:
        """Data for each layer, [n_layers] int64; their sum is n_data."""
        array, place = _arrays.empty([self.n_layers], "int64")
        with self._use() as pointer:
            check(lib.salf_planner_counts(pointer, place))
        return array

    @property
    def saving(self) -> float:
        """Cost saving as the paper defines it, in [0, 1)."""
        value = ffi.new("double *")
        with self._use() as pointer:
            check(lib.salf_planner_saving(pointer, value))
        return float(value[0])

    def set_eof(self, first: int, eof: Any) -> None:
        """Offline: eof of data first, first + 1, ..., in any pieces."""
        numbers, count, keep = whole_numbers(eof, "eof")
        with self._use() as pointer:
            check(lib.salf_planner_set_eof(pointer, first, count, numbers))
        del keep

    def match(self) -> None:
        """Offline and none: settles which data train at which layer; the first next() does it otherwise."""
        with self._use() as pointer:
            check(lib.salf_planner_match(pointer))

    def stage(self, layer: int) -> Stage:
        """One layer of the plan as it stands."""
        found = ffi.new("salf_stage *")
        with self._use() as pointer:
            check(lib.salf_planner_get_stage(pointer, layer, found))
            data = _arrays.datum_ids(found.data, found.count)
        return Stage(found.layer, found.count, found.matched, found.filled, found.probed, data)

    def next(self, max_data: int) -> Task:
        """The next task, of at most max_data data (of each rank) of one layer, in a stream of any layers. Until it is
        answered the same one is given again."""
        task = ffi.new("salf_task *")
        with self._use() as pointer:
            check(lib.salf_planner_next(pointer, max_data, task))
            return _task_of(task)

    def set_groups(self, groups: Any, sizes: Any) -> None:
        """Stream, before the first task: how many data each group will have."""
        ids, count, keep_ids = whole_numbers(groups, "groups")
        numbers, length, keep_sizes = whole_numbers(sizes, "sizes", "int64")
        if length != count:
            raise ShapeError(f"{length} sizes for {count} groups")
        with self._use() as pointer:
            check(lib.salf_planner_set_groups(pointer, ids, numbers, count))
        del keep_ids, keep_sizes

    def assign(self, trace: Optional[Trace], groups: Any) -> Task:
        """Answers a probe task of a stream: the same data with their cuts, all to be trained now. groups: of each
        datum, such as its target token; data of different groups do not compete for a cut."""
        task = ffi.new("salf_task *")
        found, keep = trace_struct(trace)
        ids, count, keep_ids = whole_numbers(groups, "groups")
        rows = 0 if trace is None else trace.rows
        if count != rows:
            raise ShapeError(f"{count} groups for a trace of {rows} rows")
        with self._use() as pointer:
            check(lib.salf_planner_assign(pointer, found, ids, task))
            made = _task_of(task)
        del keep, keep_ids
        return made

    def report(self, eof: Any) -> Any:
        """Answers a probe task with the eof of its data; True for those the layer takes (for none with full_batches):
        train them, then call done(). With several ranks all report together, one without data an empty list."""
        numbers, count, keep = whole_numbers(eof, "eof")
        accepted, place = _arrays.empty([count], "bool")
        with self._use() as pointer:
            check(lib.salf_planner_report(pointer, numbers, count, place))
        del keep
        return accepted

    def done(self) -> None:
        """The data of the task at hand have been trained."""
        with self._use() as pointer:
            check(lib.salf_planner_done(pointer))
