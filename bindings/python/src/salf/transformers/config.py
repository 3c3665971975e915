"""Options of SalfTrainer and SalfCallback."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from typing import Any, Dict, Mapping, Optional, Sequence, Union

import torch
from torch import nn

from salf.methods import Method, parse_method
from salf.torch.anatomy import Parts
from salf.torch.boundary import BoundaryCache
from salf.torch.build import RowCallback
from salf.torch.cache import EofCache
from salf.torch.controller import FreezeController


@dataclass(frozen=True)
class SalfConfig:
    """How a run freezes layers. A value: nothing is ever written to it, so that many runs may share one.

    method: one of salf.methods.METHODS, such as "salf[half]", or a policy's kind. labels: tokens that can be the next
    ones, whose basis rows are prepared. matching: of a plan that probes, "online" or "offline". probe_limit: the most
    data that a plan probes for one layer, in multiples of the layer's mean share; None for the library's default, a
    half; 0 for all data that are unused. A plan that streams (planner={"matching": "stream"}, or such a name) leaves
    the Trainer its loader, samplers and loss. cache: keep deviations of data from epoch to epoch, for max_cache_age
    optimizer steps. boundary: options of a BoundaryCache, which spares the forward below what trains. rows: which
    targets of a datum are probed, see salf.torch.RowPolicy. others: "train" for a class head, or what else belongs to
    no layer and lies above the last one. seed: default the Trainer's. The rest goes to FreezeController and to
    salf.Policy, salf.Planner, salf.Probe, salf.Basis and salf.Context by name.
    """

    method: str = "salf[half]"
    labels: Sequence[int] = ()
    rows: str = "auto"
    matching: str = "online"
    probe_limit: Optional[float] = None
    cache: bool = False
    max_cache_age: Optional[int] = None
    boundary: Optional[Dict[str, Any]] = None
    seed: Optional[int] = None
    when: str = "auto"
    moments: str = "keep"
    others: str = "error"
    valid_vocab: int = 0
    parts: Optional[Parts] = None
    head: Optional[torch.Tensor] = None
    head_rows: Optional[RowCallback] = None
    policy: Dict[str, Any] = field(default_factory=dict)
    planner: Dict[str, Any] = field(default_factory=dict)
    probe: Dict[str, Any] = field(default_factory=dict)
    basis: Dict[str, Any] = field(default_factory=dict)
    context: Dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SalfConfig:
        """From a dictionary, such as a section of a YAML file: the fields by their names, with policy, planner, probe,
        basis, context and boundary as dictionaries of their own. A name that is not known, or a value of another kind,
        is refused by name; what only Python can give (parts, head, head_rows) too, but for None. So is
        dataclasses.asdict() of a config read back."""
        known = {item.name: item for item in fields(cls) if item.name not in _OBJECTS}
        for name, value in values.items():
            if name in _OBJECTS and value is None:
                continue
            if name in _OBJECTS:
                raise ValueError(f"salf: {name} is an object of Python: SalfConfig({name}=...) takes it, no dictionary")
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
                raise ValueError(f"salf has no option {name!r}{hint}")
            wanted = _KINDS[str(known[name].type)]
            if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
                kinds = " or ".join(_WORDS[kind] for kind in wanted)
                raise ValueError(f"salf: {name} is {value!r}, which is not {kinds}")
        config = cls(**values)
        parse_method(config.method)
        return config

    def check_stream(self) -> None:
        """ValueError for a plan that chooses its data, where the host does that."""
        method = parse_method(self.method)
        if method.planned and self.plan_options(method, 1, 1, 0)["matching"] != "stream":
            raise ValueError(
                f"method {self.method!r} chooses the data of each step: use SalfTrainer(..., salf={self.method!r}), or "
                f"the stream '{self.method}[stream]', which takes them as they come"
            )

    def plan_options(self, method: Method, n_data: int, n_layers: int, seed: int) -> Dict[str, Any]:
        """Options of the planner of a method that needs one."""
        limit: Union[int, str] = 0  # the library's
        if self.probe_limit is not None:
            if not self.probe_limit >= 0:
                raise ValueError(f"probe_limit is {self.probe_limit}; it counts shares of a layer and is not negative")
            limit = int(self.probe_limit * n_data / n_layers) + 1 if self.probe_limit > 0 else "all"
        return {
            "n_data": n_data,
            "growth": method.growth,
            "infill": method.infill,
            "matching": self.matching if method.probes and method.matching != "stream" else method.matching,
            "assignment": method.assignment,
            "stream_order": method.stream_order,
            "probe_limit": limit,
            "seed": seed,
            **self.planner,
        }

    def controller(self, model: nn.Module, parts: Parts, planner: Any, policy: Dict[str, Any]) -> FreezeController:
        """A controller with these options for a model with these parts; options of the policy stand behind its own."""
        if self.planner and planner is None:
            raise ValueError(f"planner= has options of a plan, and method {self.method!r} follows none")
        if self.max_cache_age is not None and not self.cache:
            raise ValueError(f"max_cache_age is {self.max_cache_age}, and there is no cache: set cache=True")
        return FreezeController(
            model,
            self.method,
            parts=parts,
            labels=self.labels,
            rows=self.rows,
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
            others=self.others,
            cache=EofCache(self.max_cache_age) if self.cache else None,
            boundary=None if self.boundary is None else BoundaryCache(**self.boundary),
        )


# Fields that no file can hold, the types of the others, and what to call these.
_OBJECTS = ("parts", "head", "head_rows")
_KINDS: Dict[str, Any] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "Optional[int]": (int, type(None)),
    "Optional[float]": (int, float, type(None)),
    "Sequence[int]": (list, tuple),
    "Dict[str, Any]": (dict,),
    "Optional[Dict[str, Any]]": (dict, type(None)),
}
_WORDS = {
    str: "a text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", tuple: "a tuple",
    dict: "a dictionary", type(None): "nothing",
}  # fmt: skip


def config_of(value: Any) -> SalfConfig:
    """A config from itself, from a method's name, or from a dictionary."""
    if isinstance(value, Mapping):
        return SalfConfig.from_dict(value)
    if isinstance(value, str):
        return SalfConfig(method=value)
    if isinstance(value, SalfConfig):
        return value
    raise TypeError(f"salf is a {type(value).__name__}; expected a method's name, a SalfConfig or a dictionary of one")
