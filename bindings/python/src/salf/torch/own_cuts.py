"""How a FreezeController runs rows that have cuts of their own, and starts them at kept states.

Cuts known before the forward split the batch at each layer (RowCuts). Cuts known after it have the layers run again for
the rows that train (RowCheckpoint). A cache keeps the states below which nothing trains (Boundary).
"""

from __future__ import annotations

from typing import Any, Mapping, Optional

import salf
from salf.torch.anatomy import Parts
from salf.torch.boundary import Boundary, BoundaryCache
from salf.torch.recompute import RowCheckpoint
from salf.torch.rows import RowCuts


class OwnCuts:
    """Takes the layers' forward() over where a method gives rows cuts of their own, or states are kept.

    before, after: whether such cuts come before or after the forward.
    """

    def __init__(self, parts: Parts, before: bool, after: bool, kept: Optional[BoundaryCache]) -> None:
        self._parts = parts
        self._split = RowCuts(parts.layers) if before else None
        self._again = RowCheckpoint(parts.layers) if after else None
        # The last one is the outermost: what starts at a boundary is not seen below it.
        self._boundary = None if kept is None else Boundary(parts.layers, kept, parts.embedding)
        self._armed = False
        # Whether the rows of a batch have cuts of their own, not one for all.
        self.own_rows = before or after

    def close(self) -> None:
        """Gives the layers their forward() back."""
        for own in (self._boundary, self._again, self._split):
            if own is not None:
                own.close()

    @property
    def after(self) -> bool:
        """Whether the batch at hand is run again once its cuts are known."""
        return self._armed

    def decided(self, cut: int, eof: Any, rows: int, ids: Any, inputs: Optional[Mapping[str, Any]]) -> None:
        """The cut of the next forward is known, and those of its rows, if they have cuts of their own."""
        self.arm(False)
        if self._split is not None:
            if eof is not None and len(eof) != rows:
                raise ValueError(f"the decision is of {len(eof)} rows, the batch has {rows}")
            own = eof is not None and len(set(eof.tolist())) > 1
            self._split.set(eof.tolist() if own else None)
        if self._boundary is not None:
            if ids is None or inputs is None or "input_ids" not in inputs:
                raise ValueError("kept states belong to data: pass ids= and inputs=, which the model is given")
            self._boundary.set(min(int(cut), len(self._parts.layers)))
            others = {n: v for n, v in inputs.items() if n not in ("input_ids", "attention_mask") and "labels" not in n}
            self._boundary.begin(ids, inputs["input_ids"], inputs.get("attention_mask"), others)

    def arm(self, armed: bool = True) -> None:
        """The next forward keeps the layers' inputs alone, until settle() says how deep each row trains."""
        if self._split is not None:
            self._split.set(None)
        if self._boundary is not None:
            self._boundary.drop()
        if self._again is None:
            return
        if armed:
            for module in (self._parts.decoder, *self._parts.layers):
                if getattr(module, "gradient_checkpointing", False):
                    raise ValueError(
                        "rows whose cuts are known after the forward are run again, as checkpointing would: turn "
                        "gradient checkpointing off"
                    )
        self._armed = armed
        self._again.arm(armed)

    def settle(self, decision: salf.Decision, places: Any, rows: int) -> None:
        """After the forward: the cuts of the batch's rows. places: the rows that the decision speaks of; the others
        have no target and do not train."""
        if self._again is None or not self._armed:
            return
        if decision.eof is None:
            cuts = [int(decision.cut)] * rows
        else:
            cuts = [len(self._parts.layers)] * rows
            for place, eof in zip(places, decision.eof):
                cuts[int(place)] = int(eof)
        self._again.settle(cuts)
