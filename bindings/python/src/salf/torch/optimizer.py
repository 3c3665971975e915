"""What an optimizer must not do to frozen layers, around its own step().

At a step only parameters that a backward of this accumulation window trained keep their gradient: the others get
None, so that no momentum, no decay and no stale gradient moves them; optimizers of PyTorch skip such parameters and
do not count the step for them. Layers whose moments are to start afresh lose their state. A layer's factor on the
learning rate is applied by splitting the optimizer's groups for the duration of the step; what schedulers and
checkpoints see never changes.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

import torch


def raw_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside wrappers such as accelerate's."""
    while not isinstance(optimizer, torch.optim.Optimizer) or type(optimizer).__name__ == "AcceleratedOptimizer":
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            raise TypeError(f"{type(optimizer).__name__} is no optimizer of PyTorch and holds none")
        optimizer = inner
    return optimizer


class OptimizerGuard:
    """Calls before and after around every step() that an optimizer really takes.

    A step that a gradient scaler skips is none.
    """

    def __init__(self, optimizer: Any, before: Callable[[], Dict[int, float]], after: Callable[[], None]) -> None:
        self.optimizer = raw_optimizer(optimizer)
        self._before = before
        self._after = after
        self._groups: Optional[List[Dict[str, Any]]] = None
        self._undo: List[Callable[[], None]] = []
        if hasattr(self.optimizer, "register_step_pre_hook"):
            pre = self.optimizer.register_step_pre_hook(lambda *_: self._enter())
            post = self.optimizer.register_step_post_hook(lambda *_: self._leave())
            self._undo = [pre.remove, post.remove]
        else:
            self._patch_step()

    def _patch_step(self) -> None:
        """PyTorch 1 has no hooks on step(): the instance gets a step of its own."""
        original = self.optimizer.step

        def step(_optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            self._enter()
            try:
                result = original(*args, **kwargs)
            except BaseException:
                self._restore_groups()
                raise
            self._leave()
            return result

        step._with_counter = hasattr(original, "_with_counter")  # type: ignore[attr-defined]  # a scheduler was here
        # Bound, because schedulers wrap what they find here by its __self__ and __func__.
        self.optimizer.step = MethodType(step, self.optimizer)
        self._undo = [lambda: setattr(self.optimizer, "step", original)]

    def close(self) -> None:
        """Leaves the optimizer as it was."""
        self._restore_groups()
        for undo in self._undo:
            undo()
        self._undo = []

    def check_members(self, named: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
        """Every parameter that may train at some step must be in the optimizer from the start."""
        members = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        missing = [name for name, parameter in named if id(parameter) not in members]
        if missing:
            raise ValueError(
                f"the optimizer lacks {len(missing)} parameters that will train, the first of them {missing[0]!r}: "
                "make it over all candidates, before any is frozen"
            )

    def forget(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Drops moments and step count of parameters."""
        for parameter in parameters:
            self.optimizer.state.pop(parameter, None)

    def _enter(self) -> None:
        self._restore_groups()  # where the last step raised
        scales = self._before()
        if scales:
            self._groups = self.optimizer.param_groups
            self.optimizer.param_groups = split_groups(self.optimizer.param_groups, scales)

    def _leave(self) -> None:
        self._restore_groups()
        self._after()

    def _restore_groups(self) -> None:
        if self._groups is not None:
            self.optimizer.param_groups = self._groups
            self._groups = None


def split_groups(groups: Sequence[Dict[str, Any]], scales: Dict[int, float]) -> List[Dict[str, Any]]:
    """Groups with the same members, one for each learning rate; scales by id of parameter, 1 where none is given."""
    split: List[Dict[str, Any]] = []
    for group in groups:
        parts: Dict[float, List[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
        for scale, members in parts.items():
            split.append({**group, "params": members, "lr": group["lr"] * scale})
    return split
