"""Options of SalfTrainer and SalfCallback."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Sequence

import torch
from torch import nn

from salf.torch.anatomy import Parts
from salf.torch.build import RowCallback
from salf.torch.cache import EofCache
from salf.torch.controller import FreezeController


@dataclass
class SalfConfig:
    """How a run freezes layers.

    method: one of salf.methods.METHODS, such as "salf[half]", or a policy's kind. labels: tokens that can be the next
    ones, whose basis rows are prepared. matching, probe_limit, as_published: of the plan (see salf.methods and
    salf.Planner). cache: keep deviations of data from epoch to epoch, for max_cache_age optimizer steps. seed:
    default the Trainer's. The rest goes to FreezeController and to salf.Policy, salf.Probe, salf.Basis and
    salf.Context by name.
    """

    method: str = "salf[half]"
    labels: Sequence[int] = ()
    matching: str = "online"
    probe_limit: float = 0.5
    as_published: bool = False
    cache: bool = False
    max_cache_age: Optional[int] = None
    seed: Optional[int] = None
    when: str = "auto"
    moments: str = "keep"
    valid_vocab: int = 0
    parts: Optional[Parts] = None
    head: Optional[torch.Tensor] = None
    head_rows: Optional[RowCallback] = None
    policy: Dict[str, Any] = field(default_factory=dict)
    probe: Dict[str, Any] = field(default_factory=dict)
    basis: Dict[str, Any] = field(default_factory=dict)
    context: Dict[str, Any] = field(default_factory=dict)

    def controller(self, model: nn.Module, planner: Any, policy: Dict[str, Any]) -> FreezeController:
        """A controller with these options; policy adds to them."""
        return FreezeController(
            model,
            self.method,
            parts=self.parts,
            labels=self.labels,
            planner=planner,
            policy={**policy, **self.policy},
            probe=self.probe,
            basis=self.basis,
            context=self.context,
            head=self.head,
            head_rows=self.head_rows,
            valid_vocab=self.valid_vocab,
            when=self.when,
            moments=self.moments,
            cache=EofCache(self.max_cache_age) if self.cache else None,
        )


def config_of(value: Any) -> SalfConfig:
    """A config from itself, or from a method's name."""
    if isinstance(value, str):
        return SalfConfig(method=value)
    if isinstance(value, SalfConfig):
        return value
    raise TypeError(f"salf is a {type(value).__name__}; expected a method's name or a SalfConfig")
