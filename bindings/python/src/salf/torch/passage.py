"""The way of a batch through a model: from its announcement to the gradient that comes back through the layers.

A gradient passes the last layer's output first, whoever called backward(). That is where a host's own loss.backward()
is noticed, and where a decision that looks at the forward falls for it. Where the gradient would go below the cut it is
replaced by none: autograd does not compute what follows from no gradient, so that such a backward stops where
controller.backward() would. What goes down another way (the loss of a router inside a layer, keys and values that
deeper layers share) is computed, and withheld from the parameters that do not train.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import nn

from salf.torch.anatomy import Parts
from salf.torch.flags import Active
from salf.torch.flow import first_state, leaves_from, tensors_of
from salf.torch.hooks import Hook
from salf.torch.targets import Rows

# Of a node of the graph: it gave the output of a layer.
_END = "salf: the output of a layer"


@dataclass(eq=False)
class Step:
    """A batch between begin() and its backward. rows: what is observed, None for nothing. size: the data that count as
    trained. inputs: what the model is given, where kept states ask for it. groups: of the rows, for a stream. batch:
    its rows, those without a target counted. first: the place of its data in a plan's task. active: what trains, None
    until the trace of the forward has decided. settled: the backward has come. graphless: its forward went by and left
    nothing that a backward could reach. at: the layer that ran last in its forward."""

    rows: Optional[Rows]
    ids: Optional[List[int]]
    size: int
    inputs: Optional[Mapping[str, Any]] = None
    groups: Optional[Sequence[int]] = None
    batch: int = 0
    first: int = 0
    active: Optional[Active] = None
    settled: bool = False
    graphless: bool = False
    at: int = -1

    def ids_of_rows(self) -> List[int]:
        """For the cache: ids of the data that are observed; none where the host gave none."""
        if self.rows is None or self.ids is None:
            return []
        return [self.ids[int(datum)] for datum in self.rows.data_of_units()]


class Passage:
    """Hooks on the layers' outputs of each forward that builds a graph.

    current() is the batch that was begun; reached(step) is called when a gradient comes to the layers, and says what
    trains; unannounced() when one comes to those of a training forward before which nothing was begun. anchors: whether
    the last layer's states ask for a gradient where nothing below them does, so that a host's own backward() of a batch
    in which nothing trains has something to do, and is noticed.
    """

    anchors = True

    def __init__(
        self,
        parts: Parts,
        current: Callable[[], Optional[Step]],
        reached: Callable[[Step], Active],
        unannounced: Callable[[], None],
    ) -> None:
        self._current, self._reached, self._unannounced = current, reached, unannounced
        self._last = len(parts.layers) - 1
        self._hooks = [layer.register_forward_hook(Hook(self._hook(k))) for k, layer in enumerate(parts.layers)]
        self._hooks.append(parts.decoder.register_forward_pre_hook(Hook(self._starts)))

    def close(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _starts(self, _module: nn.Module, _inputs: Any) -> None:
        step = self._current()
        if step is not None:
            step.at = -1

    def _hook(self, layer: int) -> Callable[..., Any]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> Any:
            if not torch.is_grad_enabled():
                return None
            step, states = self._current(), first_state(output)
            if step is None:
                if layer == self._last and module.training and states is not None and states.grad_fn is not None:
                    states.grad_fn.register_prehook(lambda _gradients: self._unannounced())
                return None
            # Layers may be left out at random. In another order a cut is no depth: what it stops may train below it.
            if layer <= step.at:
                raise RuntimeError(
                    f"layer {layer} ran behind layer {step.at}: layers that run in another order in training, or "
                    "several times, have no depth to cut at"
                )
            step.at = layer
            anchored = None
            if layer == self._last and (states is None or states.grad_fn is None):
                step.graphless = True
                if self.anchors and step.active is not None:
                    output = anchored = _anchored(output)
            # A layer may hand on more than its states: a residual, values for the layers above.
            for node in {tensor.grad_fn for tensor in tensors_of(output) if tensor.grad_fn is not None}:
                node.metadata[_END] = True  # a mark, as a step that held its graph would never be freed
                node.register_prehook(functools.partial(self._pass, step, layer))
            return anchored

        return hook

    def _pass(self, step: Step, layer: int, gradients: Tuple[Any, ...]) -> Optional[Tuple[Any, ...]]:
        if layer < self._reached(step).cut:
            return (None,) * len(gradients)
        return None


def _anchored(output: Any) -> Any:
    """A layer's output with a number added to its states, 0, that asks for a gradient."""
    states = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(states, torch.Tensor) or not states.is_floating_point():
        return output
    moved = states + states.new_zeros((), requires_grad=True)
    return (moved, *output[1:]) if isinstance(output, tuple) else moved


def leaves_above(loss: torch.Tensor) -> List[torch.Tensor]:
    """The leaves that a loss reaches without passing the output of a layer: those of the head, of what the host has put
    beside the model, and of a layer that the loss looks into."""
    return leaves_from([loss], _END)


class Withheld:
    """Parameters that a backward must not give gradients to: what they have is laid aside until it is over."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._held = [(p, p.grad) for p in parameters]
        for parameter in parameters:
            parameter.grad = None

    def give_back(self) -> None:
        """The backward is over, or has failed."""
        for parameter, gradient in self._held:
            parameter.grad = gradient
        self._held = []
