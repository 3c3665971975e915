"""requires_grad flags and the gate in the forward: how a decision that is known before a forward takes effect.

Flags alone do not stop a backward where something makes the embedding's output require a gradient (as PEFT and gradient
checkpointing do), so the output of the layer below the cut is also detached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import nn

import salf
from salf.torch.anatomy import Parts
from salf.torch.flow import detached, hook_arguments, leaves_from, tensors_of
from salf.torch.groups import Groups
from salf.torch.hooks import Hook


@dataclass(frozen=True)
class Active:
    """What trains: the part of a decision that the backward and the optimizer have to know. depth: the layers that the
    backward leaves out, the mean over rows that have cuts of their own."""

    cut: int
    layers: Tuple[bool, ...]
    rate_scale: Tuple[float, ...]
    train_embedding: bool = False
    train_head: bool = False
    depth: float = 0.0

    @classmethod
    def of(cls, decision: salf.Decision, trains: Sequence[bool]) -> Active:
        """From a decision of salf.Policy; trains: which layers hold something that may."""
        ends_at = [bool(flag) and some for flag, some in zip(decision.trainable, trains)]
        cuts = [decision.cut] if decision.eof is None or not len(decision.eof) else decision.eof.tolist()
        # A backward ends at the lowest layer that it has something to do for. Where a cut leaves layers of which none
        # has anything, the datum is lost and nothing saved; a policy's own "no layer" leaves out the whole depth.
        n_layers = len(ends_at)
        if decision.train_embedding and n_layers:  # below the first layer
            ends_at[0] = True
        ends = [next((k for k in range(cut, n_layers) if ends_at[k]), n_layers * (cut == n_layers)) for cut in cuts]
        return cls(
            cut=int(decision.cut),
            layers=tuple(bool(flag) for flag in decision.trainable),
            rate_scale=tuple(float(scale) for scale in decision.rate_scale),
            train_embedding=bool(decision.train_embedding),
            train_head=bool(decision.train_head),
            depth=sum(ends) / len(ends),
        )

    @classmethod
    def everything(cls, n_layers: int, embedding: bool, head: bool) -> Active:
        """All layers."""
        return cls(0, (True,) * n_layers, (1.0,) * n_layers, embedding, head)

    def state(self) -> Dict[str, Any]:
        """For a checkpoint."""
        return {
            "cut": self.cut,
            "layers": list(self.layers),
            "rate_scale": torch.tensor(self.rate_scale, dtype=torch.float64, device="cpu"),
            "train_embedding": self.train_embedding,
            "train_head": self.train_head,
            "depth": torch.tensor(self.depth, dtype=torch.float64, device="cpu"),
        }

    @classmethod
    def from_state(cls, state: Dict[str, Any]) -> Active:
        """From a checkpoint."""
        layers, scale = tuple(state["layers"]), tuple(state["rate_scale"].tolist())
        return cls(**{**state, "layers": layers, "rate_scale": scale, "depth": float(state["depth"])})


class Flags:
    """Sets flags and gate of a model for what trains."""

    def __init__(self, parts: Parts, groups: Groups) -> None:
        self._parts = parts
        self._groups = groups
        self._gate: Optional[int] = None
        self._of: Optional[Active] = None
        self._hooks = [
            layer.register_forward_hook(Hook(self._gate_hook(k))) for k, layer in enumerate(parts.layers[:-1])
        ]
        if groups.other:
            self._hooks.append(hook_arguments(parts.layers[0], Hook(self._others_hook), before=True))

    def close(self) -> None:
        """Takes the hooks away and gives parameters the flags that they had at first."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._groups.restore()

    def detach_embedding(self) -> None:
        """A tied head that trains must not drag the backward down to the embedding, which is the same parameter."""
        assert self._parts.embedding is not None
        hook = Hook(lambda _module, _inputs, output: output.detach())
        self._hooks.append(self._parts.embedding.register_forward_hook(hook))

    def apply(self, shown: Active, final: bool) -> None:
        """Sets flags; final: shown is the decision itself, not all candidates while it is still to come."""
        n_layers = len(self._parts.layers)
        self._gate = shown.cut - 1 if final and 0 < shown.cut < n_layers else None
        self._of = shown if final else None
        # All of them each time: others set flags too, such as PEFT when it turns adapters off and on again.
        trainable = {id(p) for p in self.parameters_of(shown)}
        for parameter in self._groups.managed():
            if parameter.requires_grad != (id(parameter) in trainable):
                parameter.requires_grad_(id(parameter) in trainable)

    @property
    def final(self) -> bool:
        """Whether forwards are built for a decision, not for all candidates while it is still to come."""
        return self._of is not None

    def are(self, active: Active) -> bool:
        """Whether the forward was built for exactly this. Not so where flags were set since: PEFT sets those of all
        adapters when it turns them on again, as behind the log-probabilities of a reference model."""
        chosen = {id(p) for p in self.parameters_of(active)}
        managed = self._groups.managed()
        return self._of is active and not any(p.requires_grad and id(p) not in chosen for p in managed)

    def parameters_of(self, active: Active) -> List[nn.Parameter]:
        """The parameters that train."""
        chosen = [p for k, flag in enumerate(active.layers) if flag for p in self._groups.layers[k]]
        if active.train_embedding:
            chosen += self._groups.trainable_of(self._groups.embedding)
        if active.train_head:
            chosen += self._groups.trainable_of(self._groups.head)
        return chosen + self._groups.others()

    def _gate_hook(self, layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            return detached(output) if self._gate == layer and torch.is_grad_enabled() else None

        return hook

    def _others_hook(self, _module: nn.Module, inputs: Any, named: Any) -> None:
        """What trains beside the layers must not feed them: of its gradient a backward that stops brings a part, or
        nothing. Looked at in each forward, as a picture may come with the second batch only."""
        if not torch.is_grad_enabled():
            return
        others = {id(p) for p in self._groups.others()}
        entering = leaves_from([t for t in tensors_of([*inputs, *named.values()]) if t.requires_grad])
        found = next((leaf for leaf in entering if id(leaf) in others), None)
        if found is not None:
            raise ValueError(
                f"the parameter {self._groups.name_of(found)!r} feeds the layers, whose backward stops above it: "
                "others='train' is for what lies above the last layer; freeze it"
            )

    def check_checkpointing(self) -> None:
        """Reentrant checkpointing hides the graph, so that a backward through it cannot stop."""
        for module in (self._parts.decoder, *self._parts.layers):
            function = getattr(module, "_gradient_checkpointing_func", None)
            if not getattr(module, "gradient_checkpointing", False) or function is None:
                continue
            if getattr(function, "keywords", {}).get("use_reentrant", True):
                raise ValueError(
                    "gradient checkpointing is reentrant, and a backward through it cannot stop: enable it with "
                    'gradient_checkpointing_kwargs={"use_reentrant": False}'
                )
