"""A model's parameters by what they belong to."""

from __future__ import annotations

import itertools
import logging
from typing import Any, Dict, List, Sequence

from torch import nn

from salf.torch.anatomy import Parts, check_shared, plain_name

_log = logging.getLogger("salf")

_AGAIN = "close the controller and make a new one, with an optimizer over what trains"


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
        check_shared(parts.layers)
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
        managed = {id(p) for layer in self.layers for p in layer}
        self._idle = [(k, p) for k, layer in enumerate(self.parts.layers) for p in layer.parameters()]
        self._idle = [(k, p) for k, p in self._idle if id(p) not in managed]
        self._held = [held for module in self.outer.modules() for held in (module._parameters, module._modules)]
        self._members = _ids_in(self._held)
        self._parts = self._present()
        above = {id(p) for p in self.head}
        around = self._around()
        below = list(around.parameters()) if around is not self.parts.base else []
        if self.parts.embedding is not None:
            below += list(self.parts.embedding.parameters())
        seen: set[int] = set()
        self.embedding: List[nn.Parameter] = []
        for p in below:
            if id(p) not in inside | above | seen:
                seen.add(id(p))
                self.embedding.append(p)

    def _present(self) -> List[str]:
        """Which parts are modules of the model; a host may have named one that is none, such as a norm."""
        here = {id(module) for module in self.outer.modules()}
        named = [(f"layer {k}", layer) for k, layer in enumerate(self.parts.layers)]
        named += [("the head", self.parts.head), ("the norm", self.parts.norm), ("the embedding", self.parts.embedding)]
        return [name for name, part in named if id(part) in here]

    def check_same(self) -> None:
        """Whether the layers still hold what they held: one that a parameter was put into, or taken from, would train
        it when it is frozen, or never. And whether layers, norm, head and embedding are those that the model has: a new
        one would train freely, and the basis be another head's."""
        if not any(p.requires_grad for _, p in self._idle) and _ids_in(self._held) == self._members:
            return
        now = self._present()
        gone = next((name for name in self._parts if name not in now), None)
        if gone is not None:
            raise RuntimeError(f"{gone} is no part of the model any more: {_AGAIN}")
        for k, (layer, names) in enumerate(zip(self.parts.layers, self._names)):
            held = {plain_name(n): p for n, p in layer.named_parameters()}
            kept = {id(p) for p in self.layers[k]}
            new = [n for n, p in held.items() if p.requires_grad and id(p) not in kept]
            lost = [n for n in names if id(held.get(n)) not in kept]
            if new or lost:
                what = (
                    f"{new[0]!r} requires a gradient, and did not"
                    if new
                    else f"{sorted(lost)[0]!r} is no more what it was"
                )
                raise RuntimeError(
                    f"layer {k}: {what} when the controller was made (another adapter, one that was merged, a layer "
                    f"thawed by hand): {_AGAIN}"
                )
        before = self.head, self.embedding
        self.refresh()  # what changed holds nothing that trains, or is one of these
        for name, known, part in zip(("head or final norm", "embedding"), before, (self.head, self.embedding)):
            if {id(p) for p in part} != {id(p) for p in known}:
                self.head, self.embedding, self._members = *before, []  # refused the next time, too
                raise RuntimeError(f"parameters of {name} are no more what they were: {_AGAIN}")

    def _around(self) -> nn.Module:
        """The smallest module that holds both the layers and the embedding: what else is in it feeds the layers."""
        base, decoder = self.parts.base, self.parts.decoder
        names = {id(module): name.split(".") if name else [] for name, module in base.named_modules()}
        first, second = names.get(id(decoder)), names.get(id(self.parts.embedding))
        if first is None or second is None:
            return decoder
        shared = [a for a, b in zip(first, second[:-1]) if a == b]
        if first[: len(shared)] != shared or second[: len(shared)] != shared:
            shared = []
        return base.get_submodule(".".join(shared)) if shared else decoder

    def _find_other(self) -> List[str]:
        known = {id(p) for layer in self.parts.layers for p in layer.parameters()}
        known |= {id(p) for p in self.head} | {id(p) for p in self.embedding}
        return [n for n, p in self.outer.named_parameters() if p.requires_grad and id(p) not in known]

    def restore(self) -> None:
        """Gives every parameter back the requires_grad that it had before."""
        for name, parameter in self.outer.named_parameters():
            parameter.requires_grad_(self._original.get(plain_name(name), parameter.requires_grad))

    def check(self, others: str, policy: str) -> None:
        """Says what could not be trained as it is meant to be."""
        if policy != "full" and any(hasattr(module, "rankallocator") for module in self.outer.modules()):
            raise ValueError(
                "AdaLoRA moves ranks between all layers by the gradients of each at every step, and layers that are "
                "frozen have none: take another adapter, such as LoRA, or method 'full'"
            )
        if not any(self.layers):
            raise ValueError("no parameter of any decoder layer requires a gradient: nothing could be trained")
        if self.other and others == "error":
            raise ValueError(
                f"{len(self.other)} trainable parameters belong to no layer, embedding or head, the first of them "
                f"{self.other[0]!r}: freeze them, or pass others='train' if they lie above the last layer"
            )

    def say_frozen(self, trained: Sequence[nn.Parameter]) -> None:
        """Names, once, what was set to train and never will, and layers that have nothing to train. A model that is
        trained whole was not asked for its parts one by one: of that one nothing is said."""
        chosen = not all(self._original.values())
        known = {id(p) for p in trained}
        kept = [plain_name(n) for n, p in self.outer.named_parameters() if self.wanted(n) and id(p) not in known]
        if kept and chosen:
            _log.warning(
                f"{len(kept)} parameters that were set to train stay frozen: {', '.join(kept[:8])}"
                f"{', ...' if len(kept) > 8 else ''}. Policy options train_head and train_embedding train those of "
                "head, final norm and embedding"
            )
        empty = [str(k) for k, layer in enumerate(self.layers) if not layer]
        if empty:
            _log.warning(
                f"layers {', '.join(empty)} have nothing to train: a cut that leaves no others trains nothing, and "
                "what is saved counts from the lowest layer that trains"
            )

    def wanted(self, name: str) -> bool:
        """Whether a parameter was set to train when the groups were made."""
        return self._original.get(plain_name(name), False)

    def managed(self) -> List[nn.Parameter]:
        """All parameters that are frozen at some time."""
        return [p for layer in self.layers for p in layer] + self.embedding + self.head

    def others(self) -> List[nn.Parameter]:
        """Parameters that belong to no part and always train."""
        if not self.other:
            return []
        wanted = set(self.other)
        return [p for n, p in self.outer.named_parameters() if n in wanted]

    def name_of(self, parameter: Any) -> str:
        """A parameter's name in the model."""
        return next((plain_name(n) for n, p in self.outer.named_parameters() if p is parameter), "?")

    def trainable_of(self, parameters: Sequence[nn.Parameter]) -> List[nn.Parameter]:
        """Those that might train when the groups were made."""
        wanted = {id(p) for p in parameters}
        return [p for n, p in self.outer.named_parameters() if id(p) in wanted and self.wanted(n)]


def _ids_in(held: Sequence[Dict[str, Any]]) -> List[int]:
    """What modules hold, as numbers that change with it. Asked at each step: no line of Python runs for each module."""
    return list(map(id, itertools.chain.from_iterable(map(dict.values, held))))
