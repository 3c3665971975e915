"""The budget planner: how many data train at which depth, and which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from salf import _arrays
from salf._arrays import doubles, whole_numbers
from salf._ffi import Name, check, ffi, lib, name_of, new_struct, number_of, set_fields
from salf._handles import create
from salf._saved import Saved
from salf.context import Context
from salf.errors import ShapeError


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
    """What to do next with these data: kind "probe", "train" (with cut = layer) or "done"."""

    kind: str
    layer: int
    data: Any


class Planner(Saved):
    """A plan for n_data data over n_layers layers.

    growth: "uniform", "geometric" (by ratio), "arithmetic" or "custom" (by weights). infill: "breadth" or "depth".
    matching: "online", "offline" or "none". probe_limit: most data probed for one layer; 0 for half its mean share,
    "all" for all that are unused.
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
        """The next task, of at most max_data data of one layer. Until it is answered the same one is given again."""
        task = ffi.new("salf_task *")
        with self._use() as pointer:
            check(lib.salf_planner_next(pointer, max_data, task))
            data = _arrays.datum_ids(task.data, task.n_data)
        if data is None:
            data = _arrays.empty([0], "int64")[0]
        return Task(name_of("TASK", task.kind), task.layer, data)

    def report(self, eof: Any) -> Any:
        """Answers a probe task with the eof of its data; True for those the layer takes: train them, then call
        done()."""
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
