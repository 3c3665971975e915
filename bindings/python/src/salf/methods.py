"""The paper's method names (its section 4.1 and Appendix A.3), and which policy and plan stand behind each.

A name is a base with a budget, and for those that look at data a metric at its end: ``salf[half][ce]``. The budget
[half] of salf is the uniform plan; of lift and lift* it is their plain schedule, in which every layer has its turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple


@dataclass(frozen=True)
class Method:
    """A method by name: the policy's kind, the plan's growth and infill (None: no plan), the metric of the probe."""

    name: str
    policy: str
    growth: Optional[str] = None
    infill: Optional[str] = None
    probes: bool = False
    metric: str = "cosine"

    @property
    def planned(self) -> bool:
        """Whether a plan says which data train at which depth."""
        return self.policy == "budget"

    def plan_options(self, n_data: int, n_layers: int, matching: str = "online", **options: Any) -> Dict[str, Any]:
        """Options of the planner. probe_limit bounds what is probed for a layer, in multiples of its mean share."""
        share = float(options.pop("probe_limit", 0.5))
        planned: Dict[str, Any] = {"growth": self.growth, "infill": self.infill, **options}
        planned["matching"] = matching if self.probes else "none"
        limit = share * n_data / n_layers
        if planned["matching"] == "online" and 0 < limit < n_data:
            planned["probe_limit"] = int(limit) + 1
        return planned

    def policy_options(self, n_layers: int, total_steps: int, **options: Any) -> Dict[str, Any]:
        """Options of the policy; turns are rounded up, so that the remainder does not start again at layer 0."""
        chosen: Dict[str, Any] = {"total_steps": total_steps, **options}
        if self.policy in ("lift", "lift_star"):
            chosen.setdefault("interval", -(-total_steps // n_layers))
        return chosen


def _budgets(base: str, probes: bool) -> Tuple[Method, ...]:
    growths = (("geom", "geometric"), ("arith", "arithmetic"))
    infills = (("bf", "breadth"), ("df", "depth"))
    return tuple(
        Method(f"{base}[{short}][{fill}]", "budget", growth, infill, probes)
        for short, growth in growths
        for fill, infill in infills
    )


_ALL = (
    Method("lora[full]", "full"),
    Method("lora[half]", "half"),
    Method("lift[half]", "lift"),
    Method("lift*[half]", "lift_star"),
    *_budgets("lift*", False),
    Method("salf", "salf", probes=True),
    Method("salf[half]", "budget", "uniform", "breadth", True),
    *_budgets("salf", True),
)

#: The names, in the order of the paper's tables.
METHODS: Tuple[str, ...] = tuple(method.name for method in _ALL)

#: Kinds of policy that have no name in the paper.
POLICIES: Tuple[str, ...] = (
    "full", "suffix", "half", "salf", "lift", "lift_star", "lisa", "block", "freezeout", "linear", "autofreeze", "rgn",
    "random", "scripted", "callback",
)  # fmt: skip


def parse_method(name: str) -> Method:
    """A method by the paper's name, or by a policy's kind such as "lisa"."""
    base, metric = name, "cosine"
    for candidate in ("cosine", "ce", "rank"):
        if name.endswith(f"[{candidate}]"):
            base, metric = name[: -len(candidate) - 2], candidate
    for method in _ALL:
        if method.name == base and (method.probes or base == name):
            return Method(name, method.policy, method.growth, method.infill, method.probes, metric)
    if name in POLICIES:
        return Method(name, name, probes=name == "salf")
    known = f"{' '.join(METHODS)} (salf... also with [ce] or [rank]), and {' '.join(POLICIES)}"
    raise ValueError(f"unknown method {name!r}; known: {known}")
