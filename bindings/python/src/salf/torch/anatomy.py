"""Where a decoder language model keeps its layers, head, final norm and embedding.

The parts are found by structure: the output embedding of the model is the head, the decoder is the module that holds
the list of layers, and the norm stands beside that list. Wrappers (PEFT, DistributedDataParallel, FSDP,
torch.compile) are looked through. Models of another build name their parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
from torch import nn

Part = Union[str, nn.Module]

_LAYER_LISTS = ("layers", "h", "blocks")
_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f")
# What wrappers put into the names of parameters.
_WRAPPER_NAMES = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


@dataclass(frozen=True)
class Parts:
    """The parts of a decoder that layer-freezing has to know."""

    base: nn.Module
    decoder: nn.Module
    layers: Tuple[nn.Module, ...]
    head: Optional[nn.Module]
    norm: Optional[nn.Module]
    embedding: Optional[nn.Module]
    norm_kind: str
    norm_eps: float
    logit_scale: float
    logit_softcap: float

    @property
    def head_weight(self) -> Optional[torch.Tensor]:
        """The head's matrix [vocabulary, hidden]."""
        return weight_of(self.head)

    @property
    def tied(self) -> bool:
        """Whether head and embedding are one parameter."""
        head, embedding = weight_of(self.head), weight_of(self.embedding)
        return head is not None and embedding is not None and head.data_ptr() == embedding.data_ptr()


def weight_of(module: Optional[nn.Module]) -> Optional[torch.Tensor]:
    """The weight of a module, also inside a LoRA layer or a copy that PEFT trains."""
    if module is None:
        return None
    for inner in ("base_layer", "original_module"):
        found = getattr(module, inner, None)
        if isinstance(found, nn.Module):
            return weight_of(found)
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, torch.Tensor) else None


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, FSDP, torch.compile and PEFT."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif type(model).__name__ in ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"):
            model = model.module
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers add to it."""
    for part in _WRAPPER_NAMES:
        name = name.replace(part, "")
    return name


def find_parts(
    model: nn.Module,
    layers: Union[Part, Sequence[nn.Module], None] = None,
    head: Optional[Part] = None,
    norm: Optional[Part] = None,
    embedding: Optional[Part] = None,
    norm_kind: Optional[str] = None,
) -> Parts:
    """Finds the parts of a model; what is given, as a module or by its dotted name, is not searched for."""
    base = unwrap(model)
    decoder, found_layers = _find_layers(base, layers)
    found_norm = _resolve(base, norm) if norm is not None else _first(decoder, _NORMS)
    kind, eps = _describe_norm(found_norm, norm_kind)
    config = getattr(base, "config", None)
    return Parts(
        base=base,
        decoder=decoder,
        layers=found_layers,
        head=_resolve(base, head) if head is not None else _call(base, "get_output_embeddings"),
        norm=found_norm,
        embedding=_resolve(base, embedding) if embedding is not None else _call(base, "get_input_embeddings"),
        norm_kind=kind,
        norm_eps=eps,
        logit_scale=_logit_scale(config),
        logit_softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
    )


def _resolve(base: nn.Module, part: Part) -> nn.Module:
    if isinstance(part, nn.Module):
        return part
    try:
        return base.get_submodule(part)
    except AttributeError:
        raise ValueError(f"the model has no part named {part!r}") from None


def _call(base: nn.Module, method: str) -> Optional[nn.Module]:
    getter = getattr(base, method, None)
    found = getter() if callable(getter) else None
    return found if isinstance(found, nn.Module) else None


def _first(module: nn.Module, names: Sequence[str]) -> Optional[nn.Module]:
    for name in names:
        found = getattr(module, name, None)
        if isinstance(found, nn.Module):
            return found
    return None


def _find_layers(
    base: nn.Module, given: Union[Part, Sequence[nn.Module], None]
) -> Tuple[nn.Module, Tuple[nn.Module, ...]]:
    """The layers with the module that owns them."""
    if isinstance(given, str):
        parent = given.rpartition(".")[0]
        listed = _resolve(base, given)
        return (_resolve(base, parent) if parent else base), tuple(listed.children())
    if isinstance(given, nn.Module):
        return base, tuple(given.children())
    if given is not None:
        return base, tuple(given)
    candidates = list(_layer_lists(base))
    if len(candidates) != 1:
        names = ", ".join(repr(name) for name, _, _ in candidates) or "none"
        raise ValueError(
            f"{type(base).__name__}: the list of decoder layers is not certain (found: {names}); name it with layers="
        )
    return candidates[0][1], tuple(candidates[0][2])


def _layer_lists(base: nn.Module) -> Iterator[Tuple[str, nn.Module, List[nn.Module]]]:
    """Lists of layers as long as the configuration says, or all if it says nothing."""
    config = getattr(base, "config", None)
    wanted = getattr(config, "num_hidden_layers", None) or getattr(config, "n_layer", None)
    for parent_name, parent in base.named_modules():
        for name in _LAYER_LISTS:
            found = getattr(parent, name, None)
            if isinstance(found, nn.ModuleList) and len(found) > 0 and wanted in (None, len(found)):
                yield f"{parent_name}.{name}".lstrip("."), parent, list(found)


def _describe_norm(norm: Optional[nn.Module], kind: Optional[str]) -> Tuple[str, float]:
    if norm is None:
        if kind not in (None, "none"):
            raise ValueError(f"norm_kind is {kind!r}, but the final norm was not found; name it with norm=")
        return "none", 0.0
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None) or 0.0
    if kind is None:
        kind = _norm_kind(norm)
    return kind, float(eps)


def _norm_kind(norm: nn.Module) -> str:
    name = type(norm).__name__
    if isinstance(norm, nn.LayerNorm):
        return "layer"
    if name.startswith("Gemma") and name.endswith("RMSNorm"):
        return "rms1p"
    if name.endswith("RMSNorm"):
        return "rms"
    raise ValueError(f"norm of class {name} is not known; give norm_kind ('layer', 'rms', 'rms1p' or 'none')")


def _logit_scale(config: Any) -> float:
    scale = getattr(config, "logit_scale", None)
    if scale:
        return float(scale)
    divisor = getattr(config, "logits_scaling", None)
    return 1.0 / float(divisor) if divisor else 0.0


class Groups:
    """Parameters by what they belong to: a layer, the embedding, the head with the final norm.

    Names of those that may train are fixed when the groups are made; the parameters themselves are looked up anew after
    a wrapper has replaced them (refresh).
    """

    def __init__(self, parts: Parts, outer: nn.Module) -> None:
        self.parts = parts
        self.outer = outer
        self._names: List[frozenset[str]] = []
        self._original: Dict[str, bool] = {plain_name(n): p.requires_grad for n, p in outer.named_parameters()}
        for layer in parts.layers:
            self._names.append(frozenset(plain_name(n) for n, p in layer.named_parameters() if p.requires_grad))
        self.refresh()
        self.other = self._find_other()

    def refresh(self) -> None:
        """Looks the parameters up again, after the model was wrapped."""
        self.layers: List[List[nn.Parameter]] = [
            [p for n, p in layer.named_parameters() if plain_name(n) in names]
            for layer, names in zip(self.parts.layers, self._names)
        ]
        inside = {id(p) for layer in self.parts.layers for p in layer.parameters()}
        self.head: List[nn.Parameter] = []
        for module in (self.parts.head, self.parts.norm):
            self.head += [p for p in module.parameters() if id(p) not in inside] if module is not None else []
        above = {id(p) for p in self.head}
        below = list(self.parts.decoder.parameters()) if self.parts.decoder is not self.parts.base else []
        if self.parts.embedding is not None:
            below += list(self.parts.embedding.parameters())
        seen: set[int] = set()
        self.embedding: List[nn.Parameter] = []
        for p in below:
            if id(p) not in inside | above | seen:
                seen.add(id(p))
                self.embedding.append(p)

    def _find_other(self) -> List[str]:
        known = {id(p) for layer in self.parts.layers for p in layer.parameters()}
        known |= {id(p) for p in self.head} | {id(p) for p in self.embedding}
        return [n for n, p in self.outer.named_parameters() if p.requires_grad and id(p) not in known]

    def restore(self) -> None:
        """Gives every parameter back the requires_grad that it had before."""
        for name, parameter in self.outer.named_parameters():
            parameter.requires_grad_(self._original.get(plain_name(name), parameter.requires_grad))

    def check(self, others: str) -> None:
        """Says what could not be trained as it is meant to be."""
        if not any(self.layers):
            raise ValueError("no parameter of any decoder layer requires a gradient: nothing could be trained")
        if self.other and others == "error":
            raise ValueError(
                f"{len(self.other)} trainable parameters belong to no layer, embedding or head, the first of them "
                f"{self.other[0]!r}: freeze them, or pass others='train' if they lie above the last layer"
            )

    def managed(self) -> List[nn.Parameter]:
        """All parameters that are frozen at some time."""
        return [p for layer in self.layers for p in layer] + self.embedding + self.head

    def others(self) -> List[nn.Parameter]:
        """Parameters that belong to no part and always train."""
        if not self.other:
            return []
        wanted = set(self.other)
        return [p for n, p in self.outer.named_parameters() if n in wanted]

    def trainable_of(self, parameters: Sequence[nn.Parameter]) -> List[nn.Parameter]:
        """Those that might train when the groups were made."""
        wanted = {id(p) for p in parameters}
        return [
            p for n, p in self.outer.named_parameters() if id(p) in wanted and self._original.get(plain_name(n), False)
        ]
