"""The planner's stages as batches of a Trainer: which data the next unit of training takes.

A run under a budget is one plan over all its epochs. Each stage (layer e with its c_e data) is cut into windows of
one optimizer step, and a window into as many units as batches are accumulated, so that the cut changes at optimizer
steps only; a short window leaves its last units empty. With full_batches windows go on over the end of a stage, and
each datum has its own cut. The number of units is known beforehand, also where the planner probes while the run goes
on, because a unit counts data trained. With several ranks every rank runs the same plan and takes its share of each
task's data.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Sized, Tuple

import numpy
import torch

import salf


def shuffled_epochs(n_data: int, total: int, seed: int) -> Any:
    """total indices of data: one seeded permutation after the other."""
    parts: List[Any] = []
    left = total
    epoch = 0
    while left > 0:
        generator = torch.Generator("cpu").manual_seed((seed * 1_000_003 + epoch) % (1 << 63))
        order = torch.randperm(n_data, generator=generator, device="cpu").numpy()[:left]
        parts.append(order)
        left -= len(order)
        epoch += 1
    return numpy.concatenate(parts)


def data_of_run(
    length: Optional[int], unit: int, accumulation: int, epochs: float, max_steps: int, full: bool, drop_last: bool
) -> int:
    """Data that a Trainer's own loop trains: length of the dataset, None for one without; unit: data of a batch over
    all ranks; full: whether the last batch of an epoch is filled up (several ranks); max_steps: 0 or less for none."""
    if length is None:
        if max_steps <= 0:
            raise ValueError("the loader does not tell how many rows the model will get: set max_steps")
        return max_steps * accumulation * unit
    batches = max(1, length // unit if drop_last else -(-length // unit))
    last = unit if full or drop_last or length % unit == 0 else length % unit
    updates = -(-batches // accumulation)  # the last one of an epoch may accumulate fewer batches
    steps = max_steps if max_steps > 0 else math.ceil(epochs * updates)
    whole, rest = divmod(steps, updates)
    return whole * (unit * (batches - 1) + last) + rest * accumulation * unit


def is_numbered(dataset: Any) -> bool:
    """Whether data can be had by their numbers. A dataset that streams may know its length, and has a method for that
    all the same, which raises."""
    streams = isinstance(dataset, torch.utils.data.IterableDataset)
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not streams


def as_rows(length: Optional[int], unit: int, dataset: Any, collate: Callable[..., Any]) -> Tuple[Optional[int], int]:
    """Length of the dataset and size of a batch in rows of what the model gets, which a stream counts: a preference is
    two rows, and a batch without padding is one. The collator is asked with two items; random numbers are as before."""
    if not is_numbered(dataset) or length is None or length < 1:
        return length, unit
    states = random.getstate(), numpy.random.get_state(), torch.random.get_rng_state()
    batch = collate([dataset[0], dataset[min(1, length - 1)]])
    random.setstate(states[0])
    numpy.random.set_state(states[1])
    torch.random.set_rng_state(states[2])
    if not isinstance(batch, Mapping):  # items, of which the Trainer makes its batches by itself
        return None, unit
    rows = rows_of(batch)
    if rows == 1:
        return -(-length // unit), 1
    each = max(1, rows // 2)
    return length * each, unit * each


def rows_of(inputs: Mapping[str, Any]) -> int:
    """Rows of what a model is given."""
    named = (inputs[name] for name in ("input_ids", "inputs_embeds", "labels") if inputs.get(name) is not None)
    return len(next(named, next(iter(inputs.values()))))


def data_of_steps(steps: int, window: int, counts: Callable[[int], Sequence[int]]) -> int:
    """The most data whose plan takes no more than so many optimizer steps; counts(n) are those of a plan of n data. A
    stage ends with a step, so that its last one may be of less than a whole window."""
    low, high = 1, steps * window
    while low < high:
        middle = (low + high + 1) // 2
        taken = sum(-(-int(count) // window) for count in counts(middle))
        low, high = (middle, high) if taken <= steps else (low, middle - 1)
    return low


@dataclass(frozen=True)
class Share:
    """One task's data on this rank: indices into the dataset, and where they stand in the whole task."""

    kind: str
    layer: int
    indices: List[int]
    first: int
    total: int
    #: False: the rank has no data of its own in this task and runs another's with weight 0.
    real: bool


@dataclass
class Progress:
    """Where a plan stands: data trained at each layer; of the window at hand, its size and what is trained of it."""

    trained: List[int]
    window: int = 0
    window_done: int = 0
    units: int = 0


@dataclass
class PlanRun:
    """Serves a planner's tasks, unit by unit."""

    planner: salf.Planner
    order: Any
    batch: int
    accumulation: int = 1
    rank: int = 0
    ranks: int = 1
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.counts: List[int] = [int(count) for count in self.planner.counts]
        self.progress = Progress([0] * len(self.counts))
        self._task: Any = None

    @property
    def unit_size(self) -> int:
        """Data of a full unit, over all ranks."""
        return self.batch * self.ranks

    @property
    def n_units(self) -> int:
        """Units of the whole plan."""
        window = self.unit_size * self.accumulation
        stages = [sum(self.counts)] if self.planner.full_batches else self.counts
        return self.accumulation * sum(-(-count // window) for count in stages)

    @property
    def finished(self) -> bool:
        """Whether all data are trained."""
        return self.progress.trained == self.counts and self.progress.units % self.accumulation == 0

    def open_unit(self) -> int:
        """Starts the next unit; returns how many data it trains, 0 for an empty one at a short window's end."""
        at = self.progress
        if at.units % self.accumulation == 0:
            left = [count - done for count, done in zip(self.counts, at.trained)]
            stage = sum(left) if self.planner.full_batches else next((n for n in left if n > 0), 0)
            at.window, at.window_done = min(stage, self.unit_size * self.accumulation), 0
        at.units += 1
        return min(self.unit_size, at.window - at.window_done)

    def next_share(self, wanted: int) -> Optional[Share]:
        """The next task, of at most wanted data, or None when the plan is complete."""
        task = self.planner.next(wanted)
        if task.kind == "done":
            return None
        self._task = task
        data = numpy.asarray(task.data, dtype=numpy.int64)
        bounds = [len(data) * r // self.ranks for r in range(self.ranks + 1)]
        first, last = bounds[self.rank], bounds[self.rank + 1]
        real = last > first
        mine = data[first:last] if real else data[:1]
        return Share(task.kind, task.layer, [int(i) for i in self.order[mine]], first, len(data), real)

    def accept(self, eof: Sequence[int]) -> Any:
        """Answers a probe with the eof of all its data; which of them train now."""
        return numpy.asarray(self.planner.report(numpy.asarray(eof, dtype=numpy.int32)), dtype=bool)

    def close_task(self, trained: int) -> None:
        """The task at hand is done, and this many of its data were trained."""
        if self._task.eof is None:
            self.progress.trained[self._task.layer] += trained
        else:
            for layer in self._task.eof:
                self.progress.trained[int(layer)] += 1
        self.progress.window_done += trained
        self.planner.done()
        self._task = None

    def state_dict(self) -> Dict[str, Any]:
        """For a checkpoint; the planner keeps its own state."""
        done = {"trained": list(self.progress.trained), "units": self.progress.units}
        return {**done, "accumulation": self.accumulation, "order": zlib.crc32(self.order.tobytes())}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """From a checkpoint."""
        if len(state["trained"]) != len(self.counts):
            raise ValueError(f"plan of {len(state['trained'])} layers for one of {len(self.counts)}")
        order = zlib.crc32(self.order.tobytes())
        if state.get("order", order) != order:  # states of older versions do not say it
            raise ValueError(
                "the plan of the checkpoint took its data in another order: the dataset has another length now, or the "
                "run another seed"
            )
        # A step may be made of other batches now, as long as it is as large.
        steps = int(state["units"]) // int(state.get("accumulation", self.accumulation))
        self.progress = Progress(list(state["trained"]), units=steps * self.accumulation)


class PlanLoader:
    """Stands where a Trainer expects its data loader: as many items as the plan has units, the data being chosen when a
    unit is trained. (What a unit trains may depend on the one before, so that nothing may be loaded ahead.)"""

    def __init__(self, run: PlanRun, dataset: Sized, epochs: float) -> None:
        self.run = run
        self.dataset = dataset
        self.batch_size = run.batch
        self._length = -(-run.n_units // max(epochs, 1e-9)) if epochs > 0 else run.n_units

    def __len__(self) -> int:
        step = self.run.accumulation
        return -(-int(self._length) // step) * step

    def __iter__(self) -> Iterator[Dict[str, torch.Tensor]]:
        start = self.run.progress.units
        for unit in range(min(len(self), self.run.n_units - start)):
            yield {UNIT_KEY: torch.tensor([start + unit], device="cpu")}


#: Key by which a training step knows a unit of a plan.
UNIT_KEY = "salf_unit"
