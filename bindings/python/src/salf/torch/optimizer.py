"""What an optimizer must not do to frozen layers, around its own step().

At a step only parameters that a backward of this accumulation window trained keep their gradient: the others get
None, so that no momentum, no decay and no stale gradient moves them; optimizers of PyTorch skip such parameters and
do not count the step for them. Layers whose moments are to start afresh lose their state. A layer's factor on the
learning rate is applied by splitting the optimizer's groups for the duration of the step; what schedulers and
checkpoints see never changes, but for numbers that an optimizer keeps in its groups (steps of schedule-free ones).
"""

from __future__ import annotations

import weakref
from types import MethodType
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence, Set, Tuple

import torch

# Steps at which frozen parameters are looked at, and about how many elements of each.
_LOOKS, _ELEMENTS = 12, 16
# The guard of each optimizer.
_GUARDS: weakref.WeakKeyDictionary[torch.optim.Optimizer, weakref.ref[OptimizerGuard]] = weakref.WeakKeyDictionary()


def raw_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside wrappers such as accelerate's."""
    while not isinstance(optimizer, torch.optim.Optimizer) or type(optimizer).__name__ == "AcceleratedOptimizer":
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            raise TypeError(f"{type(optimizer).__name__} is no optimizer of PyTorch and holds none")
        optimizer = inner
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS moves all its parameters along one direction, frozen ones too: take an optimizer that leaves "
            "parameters without gradient alone"
        )
    return optimizer


class OptimizerGuard:
    """Calls before() and after() around the steps of one optimizer, or of several that belong together.

    Several (one for matrices and one for the rest; one for each parameter, which steps within the backward) make one
    step of the run: before() comes with the first of them, after() when all have stepped, or with finish(), where some
    had nothing to do. A step that a gradient scaler skips is none; fused optimizers are called for one and skip it
    themselves, and skipped() stands in for after() then. frozen() are the parameters that must not move.
    """

    def __init__(
        self,
        optimizers: Any,
        before: Callable[[], Dict[int, float]],
        after: Callable[[], None],
        frozen: Callable[[], Iterable[torch.nn.Parameter]] = tuple,
        skipped: Callable[[], None] = lambda: None,
    ) -> None:
        given = optimizers.values() if isinstance(optimizers, Mapping) else optimizers
        listed = isinstance(given, Iterable) and not isinstance(given, torch.optim.Optimizer)
        self.optimizers = [raw_optimizer(one) for one in (given if listed else [given])]
        if not self.optimizers:
            raise ValueError("there is no optimizer in what was given")
        for one in self.optimizers:
            other = _GUARDS[one]() if one in _GUARDS else None
            if other is not None and other.open:
                raise ValueError(
                    f"{type(one).__name__} is guarded by another controller, and what one does to its groups the other "
                    "would undo: give each controller its own optimizer"
                )
        self._before, self._after, self._frozen, self._skipped = before, after, frozen, skipped
        self._stepped: Set[int] = set()
        self._begun = self._moved = False
        self._scales: Dict[int, float] = {}
        self._groups: Dict[int, List[Dict[str, Any]]] = {}
        self._samples: List[Tuple[torch.nn.Parameter, torch.Tensor]] = []
        self._looks = 0
        self._undo: List[Callable[[], None]] = []
        for optimizer in self.optimizers:
            if hasattr(optimizer, "register_step_pre_hook"):
                self._undo.append(optimizer.register_step_pre_hook(self._enter).remove)
                self._undo.append(optimizer.register_step_post_hook(lambda one, *_: self._leave(one)).remove)
            else:
                self._patch_step(optimizer)
            _GUARDS[optimizer] = weakref.ref(self)

    @property
    def open(self) -> bool:
        """Whether close() has not been called."""
        return bool(self._undo)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The first of them."""
        return self.optimizers[0]

    def _patch_step(self, optimizer: Any) -> None:
        """PyTorch 1 has no hooks on step(): the instance gets a step of its own."""
        original = optimizer.step

        def step(_optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = self._enter(optimizer, args, kwargs) or (args, kwargs)
            try:
                result = original(*args, **kwargs)
            except BaseException:
                self._restore_groups(optimizer)
                raise
            self._leave(optimizer)
            return result

        step._with_counter = hasattr(original, "_with_counter")  # type: ignore[attr-defined]  # a scheduler was here
        # Bound, because schedulers wrap what they find here by its __self__ and __func__.
        optimizer.step = MethodType(step, optimizer)
        self._undo.append(lambda: setattr(optimizer, "step", original))

    def close(self) -> None:
        """Leaves the optimizers as they were."""
        for optimizer in self.optimizers:
            self._restore_groups(optimizer)
        for undo in self._undo:
            undo()
        self._undo = []

    def finish(self) -> None:
        """The run goes on to its next step: what has not stepped by now had nothing to do."""
        stepped, moved = self._stepped, self._moved
        self._stepped, self._begun, self._moved = set(), False, False
        if stepped:
            (self._after if moved else self._skipped)()

    def members(self) -> Set[int]:
        """The parameters that the optimizers hold, by their ids."""
        return {id(p) for one in self.optimizers for group in one.param_groups for p in group["params"]}

    def factor(self) -> float:
        """What the step puts on gradients: a fused optimizer is given a scaler's factor with them, and skips a step in
        which there was an overflow (0). Elsewhere the scaler has done that itself."""
        if any(overflowed(one) for one in self.optimizers):
            return 0.0
        scales = (getattr(one, "grad_scale", None) for one in self.optimizers)
        return 1.0 / next((float(scale) for scale in scales if isinstance(scale, torch.Tensor)), 1.0)

    def check_members(self, named: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
        """Every parameter that may train at some step must be in the optimizer from the start."""
        members = self.members()
        missing = [name for name, parameter in named if id(parameter) not in members]
        if missing:
            raise ValueError(
                f"the optimizer lacks {len(missing)} parameters that will train, the first of them {missing[0]!r}: "
                "make it over all candidates, before any is frozen"
            )

    def forget(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Drops moments and step count of parameters."""
        for optimizer in self.optimizers:
            for parameter in parameters:
                optimizer.state.pop(parameter, None)

    def _enter(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        """Before a step. One that is given a closure has its forward and backward still to come: what belongs before
        the step then comes behind the closure."""
        first = 1 if args and args[0] is optimizer else 0  # PyTorch's hooks are given the optimizer once more
        closure = args[first] if len(args) > first else kwargs.get("closure")
        if closure is None:
            self._prepare(optimizer)
            return None

        def prepared() -> Any:
            loss = closure()
            self._prepare(optimizer)
            return loss

        if len(args) > first:
            return (*args[:first], prepared, *args[first + 1 :]), kwargs
        return args, {**kwargs, "closure": prepared}

    def _prepare(self, optimizer: Any) -> None:
        self._restore_groups(optimizer)  # where the last step raised
        if id(optimizer) in self._stepped:
            self.finish()
        if not self._begun:  # a step that raised, or that calls another class's, is entered again
            self._scales = self._before()
            self._begun = True
        self._take_samples(optimizer)
        if self._scales:
            self._groups[id(optimizer)] = optimizer.param_groups
            optimizer.param_groups = split_groups(optimizer.param_groups, self._scales)

    def _leave(self, optimizer: Any) -> None:
        try:
            if id(optimizer) in self._groups:
                keep_written(self._groups[id(optimizer)], optimizer.param_groups, type(optimizer).__name__)
        finally:
            self._restore_groups(optimizer)
        self._compare_samples(optimizer)
        if not self._begun:  # around a step that another class's called, and that was the last
            return
        self._moved |= not overflowed(optimizer)
        self._stepped.add(id(optimizer))
        if len(self._stepped) == len(self.optimizers):
            self.finish()

    def _take_samples(self, optimizer: Any) -> None:
        """A few elements of what must not move, for the first steps in which something that has moments is frozen."""
        self._samples = []
        if self._looks >= _LOOKS:
            return
        members = {id(p) for group in optimizer.param_groups for p in group["params"]}
        frozen = [p for p in self._frozen() if id(p) in members and type(p).__name__ != "DTensor"]
        self._looks += any(p in optimizer.state for p in frozen)
        self._samples = [(p, sample(p)) for p in frozen]

    def _compare_samples(self, optimizer: Any) -> None:
        for parameter, before in self._samples:
            if not torch.equal(before, sample(parameter)):
                raise RuntimeError(
                    f"{type(optimizer).__name__} moved a parameter of shape {tuple(parameter.shape)} that is frozen "
                    "and has no gradient: take an optimizer that leaves parameters without gradient alone"
                )

    def _restore_groups(self, optimizer: Any) -> None:
        groups = self._groups.pop(id(optimizer), None)
        if groups is not None:
            optimizer.param_groups = groups


def overflowed(optimizer: Any) -> bool:
    """Whether a scaler has told an optimizer that skips steps by itself to skip this one."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, torch.Tensor) and bool(found.any())


def sample(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A few elements of a parameter, by which it is seen to move."""
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _ELEMENTS)].clone()


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return a is b or (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b))
    return bool(a is b or a == b)


def keep_written(groups: Sequence[Dict[str, Any]], split: Sequence[Dict[str, Any]], name: str) -> None:
    """Brings back what a step wrote into its groups beside the rates: optimizers without schedule count their steps
    there. Parts in which nothing trained have no say. RuntimeError where the others were written different things,
    which the group cannot hold; what goes with the rate, such as a copy of it, is brought back as that of the group."""
    owner = {id(p): number for number, group in enumerate(groups) for p in group["params"]}
    parts: List[List[Dict[str, Any]]] = [[] for _ in groups]
    for part in split:
        parts[owner[id(part["params"][0])]].append(part)
    for group, all_parts in zip(groups, parts):
        own = [part for part in all_parts if any(p.grad is not None for p in part["params"])] or all_parts
        for key in sorted({key for part in own for key in part} - {"params", "lr"}):
            values = [part.get(key) for part in own]
            if key in group and all(_equal(value, group[key]) for value in values):
                continue
            rates = [_of_rate(part, key, group["lr"]) for part in own]
            if all(_equal(value, values[0]) for value in values):
                group[key] = values[0]
            elif all(abs(rate - rates[0]) <= 1e-12 * abs(rates[0]) for rate in rates):  # not so where one is NaN
                group[key] = rates[0]
            else:
                raise RuntimeError(
                    f"{name} keeps {key!r} in its parameter groups, which depends on the learning rate, and layers "
                    'have rates of their own here: take policy={"rates": "whole"}, or another optimizer'
                )


def _of_rate(part: Mapping[str, Any], key: str, rate: Any) -> float:
    """What a number of a part would be at the group's own rate, if it goes with the rate; else NaN."""
    value = part.get(key)
    if not isinstance(value, (int, float)) or not float(part["lr"]):
        return float("nan")
    return float(value) * float(rate) / float(part["lr"])


def split_groups(groups: Sequence[Dict[str, Any]], scales: Dict[int, float]) -> List[Dict[str, Any]]:
    """Groups with the same members, one for each learning rate; scales by id of parameter, 1 where none is given."""
    split: List[Dict[str, Any]] = []
    for group in groups:
        parts: Dict[float, List[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
        if group["lr"] is None and set(parts) != {1.0}:
            raise ValueError(
                "the optimizer finds its rates by itself (lr=None), and layers have rates of their own here: give it a "
                'rate, or take policy={"rates": "whole"} where the method has it'
            )
        for scale, members in parts.items():
            if scale == 1.0:
                split.append({**group, "params": members})
                continue
            split.append({**group, "params": members, "lr": group["lr"] * scale})
    return split
