"""Norms of layers' gradients and parameters, for the policies that ask for them (AutoFreeze, RGN).

Taken when the optimizer steps, from the gradients it is about to use. AutoFreeze compares the L1 norms of gradients
summed over a turn, where noise that cancels from step to step does not count: their sums are kept as tensors, as large
as what trains in the layers, until the policy wants the norms. Norms of RGN are those of the last step.
"""

from __future__ import annotations

from typing import Dict, List, Sequence

import torch
from torch import nn


class LayerStatistics:
    """Collects what the policy's next decision needs."""

    def __init__(self, policy: str) -> None:
        self._policy = policy
        self._found: Dict[str, List[float]] = {}
        self._sums: Dict[str, torch.Tensor] = {}  # by "layer.parameter", of those that had a gradient in this turn
        self._n_layers = 0
        self.turn_ends = False  # whether the next decision ends a turn: what the last one said (gradients_wanted)

    def note(self, layers: Sequence[Sequence[nn.Parameter]], factor: float) -> None:
        """Before an optimizer step; parameters that did not train have no gradient. factor: on the gradients, as the
        optimizer will put it on them (a scaler's); 0 for a step that is none."""
        if not factor:
            return
        if self._policy == "autofreeze":
            self._n_layers = len(layers)
            for k, layer in enumerate(layers):
                for i, parameter in enumerate(layer):
                    if parameter.grad is not None:
                        self._add(f"{k}.{i}", parameter.grad.detach(), factor)
        elif self._policy == "rgn":
            norms = [_norm([p.grad for p in layer if p.grad is not None], 2) for layer in layers]
            self._found["gradient_norm"] = [factor * norm for norm in norms]
            self._found["parameter_norm"] = [_norm(layer, 2) for layer in layers]

    def _add(self, name: str, gradient: torch.Tensor, factor: float) -> None:
        known = self._sums.get(name)
        if known is None:
            self._sums[name] = gradient.float() * factor
        else:
            self._sums[name] = known.to(gradient.device).add_(gradient, alpha=factor)

    def take(self) -> Dict[str, List[float]]:
        """Keyword arguments for Policy.decide."""
        if self._policy == "autofreeze":
            if not self.turn_ends:
                return {}
            layers: List[List[torch.Tensor]] = [[] for _ in range(self._n_layers)]
            for name, total in self._sums.items():
                layers[int(name.split(".")[0])].append(total)
            self._sums = {}
            return {"gradient_l1": [_norm(layer, 1) for layer in layers]}
        found, self._found = self._found, {}
        return found

    def state_dict(self) -> Dict[str, torch.Tensor]:
        """For a checkpoint."""
        state = {name: torch.tensor(values, dtype=torch.float64, device="cpu") for name, values in self._found.items()}
        if self._policy == "autofreeze":
            state["turn"] = torch.tensor([self._n_layers, int(self.turn_ends)], device="cpu")
            state.update((f"turn.{name}", total.clone().cpu()) for name, total in self._sums.items())
        return state

    def load_state_dict(self, state: Dict[str, torch.Tensor]) -> None:
        """From a checkpoint."""
        if self._policy == "autofreeze":
            self._n_layers, self.turn_ends = int(state["turn"][0]), bool(state["turn"][1])
            self._sums = {name[5:]: total.clone() for name, total in state.items() if name.startswith("turn.")}
        else:
            self._found = {name: values.tolist() for name, values in state.items()}


def _norm(tensors: Sequence[torch.Tensor], order: int) -> float:
    """Norm of all elements together; 0 for none."""
    if not tensors:
        return 0.0
    norms = torch.stack([tensor.detach().float().norm(order).cpu() for tensor in tensors])
    return float(norms.norm(order))
