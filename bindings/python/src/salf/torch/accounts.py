"""What a run saved, and what its probes saw: the figures that go to a logger."""

from __future__ import annotations

from typing import Any, Dict, Optional

import torch

import salf


class Accounts:
    """Depth left out, data trained and deviations, over the run and since the last look."""

    def __init__(self, n_layers: int) -> None:
        self._n_layers = n_layers
        self._depth = 0.0
        self._count = 0
        self._seen = (0.0, 0)
        self._deviations: Any = None
        self._rows = 0

    @property
    def saving(self) -> float:
        """Mean share of the depth that the backward left out (the paper's cost saving)."""
        return self._depth / self._count if self._count else 0.0

    def note_trained(self, depth: float, data: int) -> None:
        """data were trained whose backward left out so many layers, in the mean."""
        self._depth += depth / self._n_layers * data
        self._count += data

    def note_trace(self, trace: salf.Trace) -> None:
        """A batch was observed."""
        total = trace.deviations.sum(axis=0)
        self._deviations = total if self._deviations is None else self._deviations + total
        self._rows += len(trace.deviations)

    def scalars(self, cut: int, planner: Optional[salf.Planner]) -> Dict[str, float]:
        """Figures since the last call."""
        found = {"salf/cut": float(cut), "salf/saving_total": self.saving}
        count = self._count - self._seen[1]
        if count:
            found["salf/saving"] = (self._depth - self._seen[0]) / count
        self._seen = (self._depth, self._count)
        if self._rows:
            mean = self._deviations / self._rows
            found.update({f"salf/deviation/{space}": float(value) for space, value in enumerate(mean)})
            self._deviations, self._rows = None, 0
        if planner is not None:
            stages = [planner.stage(layer) for layer in range(self._n_layers)]
            found["salf/matched"] = float(sum(stage.matched for stage in stages))
            found["salf/filled"] = float(sum(stage.filled for stage in stages))
        return found

    def state(self) -> torch.Tensor:
        """For a checkpoint."""
        return torch.tensor([self._depth, self._count], dtype=torch.float64, device="cpu")

    def load(self, state: torch.Tensor) -> None:
        """From a checkpoint."""
        self._depth, self._count = float(state[0]), int(state[1])
        self._seen = (self._depth, self._count)
