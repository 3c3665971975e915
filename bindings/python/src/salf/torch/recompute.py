"""Rows at their own cut where the cuts are known after the forward: layers are run again, for their active rows alone.

Method salf looks at the states of the training forward and decides then; autograd would have kept every row's
activations by that time. RowCheckpoint keeps a layer's input instead, as gradient checkpointing does, and its backward
runs layer k once more for the rows whose cut is at most k: a row costs nothing below its cut. The price is that of
checkpointing, a second forward of what trains.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import torch
from torch import nn

from salf.torch.flow import check_once
from salf.torch.rows import (
    CannotSplit,
    Division,
    check_split,
    checked_states,
    layer_arguments,
    random_state,
    replace_forward,
    restore_forward,
    run_alone,
)

# A layer that runs again gives what it gave before, but for rounding, which depends on the shape of the batch: of 8
# bits in bfloat16, of 11 in products of float32 (TF32). What is random changes states by a share of their size.
_SAME = {torch.bfloat16: 0.1, torch.float16: 0.1}
_SAME_FLOAT = 0.01
_NO_TUPLE = object()


class _Layer(torch.autograd.Function):
    """One layer of a batch. anchor is a tensor that needs a gradient, so that the backward comes here also where the
    states below need none."""

    @staticmethod
    def forward(ctx: Any, owner: RowCheckpoint, k: int, run: Callable[..., Any], anchor: Any, states: Any) -> Any:
        ctx.owner, ctx.k, ctx.run = owner, k, run
        ctx.autocast = _autocast_of(states.device.type)
        ctx.set_materialize_grads(False)
        output = run(states, None)
        ctx.save_for_backward(states, output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Optional[torch.Tensor]) -> Any:
        check_once()
        states, output = ctx.saved_tensors
        below = None if gradient is None else ctx.owner.run_again(ctx, states, output, gradient)
        return None, None, None, None, below


class RowCheckpoint:
    """Takes the place of the layers' forward(). For each batch: arm(), the forward, settle(cuts), loss.backward().

    Layers that draw random numbers (dropout) are refused, as they would give other states when they are run again, and
    those that give more than their states (router logits, attention weights), as its gradients would be lost.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = tuple(layers)
        self._armed = False
        self._cuts: Optional[List[int]] = None
        self._checked = [False] * len(self._layers)
        self._tried: List[Set[Any]] = [set() for _ in self._layers]
        self._own = [replace_forward(layer, self._instead_of(k)) for k, layer in enumerate(self._layers)]

    def close(self) -> None:
        """Gives the layers their own forward() back."""
        for layer, own in zip(self._layers, self._own):
            restore_forward(layer, own)
        self._own = []

    def arm(self, armed: bool = True) -> None:
        """The next forward keeps the layers' inputs alone."""
        self._armed = armed
        self._cuts = None

    def settle(self, cuts: Sequence[int]) -> None:
        """The cut of each row of the batch; the backward may come."""
        self._cuts = [int(cut) for cut in cuts]

    def _instead_of(self, k: int) -> Callable[..., Any]:
        layer = self._layers[k]

        def forward(inner: Callable[..., Any], args: Any, kwargs: Dict[str, Any]) -> Any:
            if not self._armed or not torch.is_grad_enabled():
                return inner(*args, **kwargs)
            states = checked_states(layer, args, kwargs)
            new = self._is_new(k, inner, args, kwargs, states)
            others: List[Any] = []

            def run(rows: torch.Tensor, division: Optional[Division]) -> torch.Tensor:
                given, named = layer_arguments(args, kwargs, rows, division, states.shape[1])
                alone = new and division is None
                output = run_alone(layer, inner, given, named) if alone else inner(*given, **named)
                others[:] = output[1:] if isinstance(output, tuple) else [_NO_TUPLE]
                return _states_alone(output, layer, bool(kwargs.get("use_cache")))

            anchor = torch.empty(0, requires_grad=True, device=states.device)
            before = random_state(states.device)
            output = _Layer.apply(self, k, run, anchor, states)
            if not torch.equal(before, random_state(states.device)):
                raise RuntimeError(
                    f"layer {k} draws random numbers, others when it is run again: rows cannot be recomputed. Set "
                    "dropout to 0 (lora_dropout too), or take one cut a batch"
                )
            return output if others and others[0] is _NO_TUPLE else (output, *others)

        return forward

    def _is_new(self, k: int, inner: Callable[..., Any], args: Any, kwargs: Dict[str, Any], states: Any) -> bool:
        """Whether the layer meets a batch of this size for the first time; it is then tried by parts."""
        size, layer = len(states), self._layers[k]
        shape = size, states.shape[1] == size
        if shape in self._tried[k]:
            return False
        self._tried[k].add(shape)
        if size > 1:
            try:
                check_split(layer, inner, args, kwargs, states, Division([0] + [1] * (size - 1), 0, states.device))
            except CannotSplit as reason:
                raise ValueError(
                    f"{type(layer).__name__} cannot run a part of the batch ({reason}): rows cannot have cuts of their "
                    "own that are known after the forward. Take one cut a batch"
                ) from None
        return True

    def run_again(self, ctx: Any, states: Any, output: Any, gradient: torch.Tensor) -> Optional[torch.Tensor]:
        """Backward of one layer on the rows that have a cut at or below it: the gradient of its input, zero elsewhere;
        None where there are none."""
        if self._cuts is None:
            raise RuntimeError("the backward came before the cuts of its rows: call settle() first")
        if len(self._cuts) != states.shape[0]:
            raise ValueError(f"{len(self._cuts)} cuts for a batch of {states.shape[0]} rows")
        division = Division(self._cuts, ctx.k, states.device)
        if division.n_active == 0:
            return None
        rows = division.take(states, 0).detach().requires_grad_(states.is_floating_point())
        with torch.enable_grad(), _autocast(states.device.type, ctx.autocast):
            again = ctx.run(rows, division)
        self._check_same(ctx.k, again.detach(), division.take(output, 0))
        torch.autograd.backward(again, division.take(gradient, 0).to(again.dtype))
        if rows.grad is None:
            return None
        rest = torch.zeros_like(division.take(states, 1))
        return division.join(rows.grad, rest)

    def _check_same(self, k: int, again: torch.Tensor, before: torch.Tensor) -> None:
        if self._checked[k]:
            return
        self._checked[k] = True
        near = _SAME.get(before.dtype, _SAME_FLOAT) * before.float().norm()
        if (again.float() - before.float()).norm() > near:
            raise RuntimeError(
                f"layer {k} gave other states when it was run again: rows cannot be recomputed; is it random?"
            )


def _states_alone(output: Any, layer: nn.Module, cached: bool) -> torch.Tensor:
    """A layer's states. Beside them there may be nothing that a loss could look at: keys and values alone."""
    if isinstance(output, tuple) and output:
        keys = [item for item in output[1:] if item is not None]
        if not keys or (cached and len(keys) == 1 and isinstance(keys[0], tuple)):
            output = output[0]
    if not isinstance(output, torch.Tensor):
        raise TypeError(
            f"{type(layer).__name__} gives more than its states, and the gradient of the rest would be lost: rows "
            "cannot be recomputed"
        )
    return output


def _autocast_of(device: str) -> Tuple[bool, torch.dtype]:
    if hasattr(torch, "get_autocast_dtype"):
        return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    if device == "cpu":  # PyTorch before 2.4 asks for each device by a function of its own
        return torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    return torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()


def _autocast(device: str, state: Tuple[bool, torch.dtype]) -> Any:
    return torch.autocast(device, enabled=state[0], dtype=state[1])
