"""Norms of layers' gradients and parameters, for the policies that ask for them (AutoFreeze, RGN).

Taken when the optimizer steps, from the gradients it is about to use: L1 norms add up over the steps since the last
decision, norms of RGN are those of the last step.
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

    def note(self, layers: Sequence[Sequence[nn.Parameter]]) -> None:
        """Before an optimizer step; parameters that did not train have no gradient."""
        if self._policy == "autofreeze":
            l1 = [_norm([p.grad for p in layer if p.grad is not None], 1) for layer in layers]
            before = self._found.get("gradient_l1", [0.0] * len(layers))
            self._found["gradient_l1"] = [a + b for a, b in zip(before, l1)]
        elif self._policy == "rgn":
            self._found["gradient_norm"] = [_norm([p.grad for p in layer if p.grad is not None], 2) for layer in layers]
            self._found["parameter_norm"] = [_norm(layer, 2) for layer in layers]

    def take(self) -> Dict[str, List[float]]:
        """Keyword arguments for Policy.decide."""
        found, self._found = self._found, {}
        return found

    def state_dict(self) -> Dict[str, torch.Tensor]:
        """For a checkpoint."""
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in self._found.items()}

    def load_state_dict(self, state: Dict[str, torch.Tensor]) -> None:
        """From a checkpoint."""
        self._found = {name: values.tolist() for name, values in state.items()}


def _norm(tensors: Sequence[torch.Tensor], order: int) -> float:
    """Norm of all elements together; 0 for none."""
    if not tensors:
        return 0.0
    norms = torch.stack([tensor.detach().float().norm(order) for tensor in tensors])
    return float(norms.norm(order))
