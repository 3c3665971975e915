"""Feeds a probe from forward hooks: of each latent space, the rows of the medium tokens.

Space 0 is what enters the first layer, space k+1 what layer k gives out, all of them raw: the library applies the final
norm where the lens wants it. A space is a view of the hidden states [batch, tokens, D] with an index of the rows that
count, so that nothing is copied. Where the library cannot read the memory (states on a GPU, but no CUDA backend; layers
spread over several devices) the rows alone are gathered and copied to the host, in one transfer after the forward.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import torch
from torch import nn

import salf
from salf.torch.flow import first_state, hook_arguments
from salf.torch.hooks import Hook
from salf.torch.streams import in_order, moved
from salf.torch.targets import Rows


def _states_of(output: Any) -> torch.Tensor:
    states = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(states, torch.Tensor):
        raise TypeError(f"a layer gave a {type(states).__name__} where hidden states were expected")
    return states


class ProbeFeed:
    """Hooks on the layers of a decoder that hand the states of one armed forward to a probe.

    norm: the final norm, where its own output is the last space's, instead of the last layer's. normed: the spaces that
    are given as they stand behind the final norm: the last one then, and every one that the lens wants normed of a
    model without a norm. rule, nonfinite: as the probe's, for data of several rows.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        probe: salf.Probe,
        direct: Optional[torch.device],
        norm: Optional[nn.Module] = None,
        normed: Sequence[int] = (),
        rule: str = "most_gain",
        nonfinite: str = "error",
    ) -> None:
        self._probe = probe
        self._rule, self._nonfinite = rule, nonfinite
        self._direct = direct
        self._rows: Optional[Rows] = None
        self._training = False
        self._index: Optional[torch.Tensor] = None
        self._next = 0
        self._spaces = len(layers) + 1
        self._gathered: List[torch.Tensor] = []
        self._by_norm = norm is not None
        self._normed = frozenset(normed)
        self._ended = False
        self._handles = [hook_arguments(layer, Hook(self._hook(k))) for k, layer in enumerate(layers)]
        if norm is not None:
            self._handles.append(norm.register_forward_hook(Hook(self._norm_hook)))

    def close(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._rows = None

    @property
    def armed(self) -> bool:
        """Whether a forward is being observed."""
        return self._rows is not None

    def arm(self, rows: Rows, training: bool = False) -> None:
        """The next forward is observed at these rows; training: the next one that builds a graph. Text that is
        generated, and a reference model that shares the layers, go by unseen then."""
        self._probe.begin(rows.tokens)
        self._rows = rows
        self._training = training
        self._index = None
        self._next = 0
        self._ended = False
        self._gathered = []

    def disarm(self) -> None:
        """Nothing is observed any more."""
        self._rows = None
        self._index = None
        self._gathered = []

    def finish(self) -> salf.Trace:
        """Ends the batch: the trace of the data of the forward that went by."""
        if self._rows is None:
            raise RuntimeError("no forward was announced with begin()")
        if self._next != self._spaces:
            raise RuntimeError(
                f"the forward passed {self._next} of {self._spaces} latent spaces: run the model between begin() and "
                "backward(), through its layers' own forward() (one under torch.no_grad() is seen where begin() is "
                "called under it too)"
            )
        if self._gathered:
            self._observe_gathered()
        rows = self._rows
        self.disarm()
        return rows.averaged(self._probe.end(), self._rule, self._nonfinite)

    def _hook(self, layer: int) -> Any:
        def hook(module: nn.Module, inputs: Tuple[Any, ...], named: Any, output: Any) -> None:
            # Recomputation under checkpointing runs the hooks again, when nothing is armed any more.
            if self._rows is None or (self._training and not torch.is_grad_enabled()):
                return
            if self._next == self._spaces:
                if layer == 0 and self._training:
                    raise RuntimeError(
                        "a second forward of the batch that was begun: call begin() before each one that trains, and "
                        "run others under torch.no_grad()"
                    )
                return
            if layer == 0:
                entered = first_state(inputs, named)
                if entered is None:
                    raise RuntimeError(
                        f"{type(module).__name__} got its hidden states by keyword; space 0 cannot be seen"
                    )
                self._observe(0, entered)
            self._ended = layer + 2 == self._spaces
            if not (self._by_norm and self._ended):
                self._observe(layer + 1, _states_of(output))

        return hook

    def _norm_hook(self, _module: nn.Module, _inputs: Tuple[Any, ...], output: Any) -> None:
        # A norm that also runs elsewhere in the forward is the final one when the last layer has ended.
        unseen = self._training and not torch.is_grad_enabled()
        if self._rows is not None and not unseen and self._ended and self._next == self._spaces - 1:
            self._observe(self._next, _states_of(output))

    def _observe(self, space: int, states: torch.Tensor) -> None:
        if space != self._next:
            raise RuntimeError(
                f"latent space {space} came where {self._next} was expected: one forward for each begin(), through all "
                "layers in their order (none left out at random, no early exit)"
            )
        self._next += 1
        states = states.detach()
        index = self._flat_index(states)
        normed = space in self._normed
        if self._direct is not None and states.device == self._direct and states.is_contiguous():
            with in_order(self._probe.context, states.device):
                self._probe.observe(space, states.view(-1, states.shape[-1]), rows=index, normed=normed)
        elif self._direct is not None and states.device == self._direct:  # turned or cut out of something larger
            picked = states.reshape(-1, states.shape[-1])[index]
            with in_order(self._probe.context, states.device):
                self._probe.observe(space, picked, normed=normed)
        else:
            self._gathered.append(self._gather(states))

    def _gather(self, states: torch.Tensor) -> torch.Tensor:
        rows = self._rows
        assert rows is not None
        if len(self._gathered) != self._next - 1:
            raise RuntimeError("some layers' states can be read in place and others cannot; spread over devices?")
        data = moved(torch.from_numpy(rows.data), states.device)
        positions = moved(torch.from_numpy(rows.positions), states.device)
        return states[data, positions]

    def _observe_gathered(self) -> None:
        device = self._gathered[0].device
        one_device = all(part.device == device for part in self._gathered)
        stacked = torch.stack(self._gathered).cpu() if one_device else torch.stack([g.cpu() for g in self._gathered])
        for space in range(self._spaces):
            self._probe.observe(space, stacked[space], normed=space in self._normed)

    def _flat_index(self, states: torch.Tensor) -> torch.Tensor:
        """Rows of the view [batch * tokens, D], on the states' device; the same for all layers of a forward."""
        rows = self._rows
        assert rows is not None
        if states.dim() != 3:
            raise ValueError(f"hidden states have shape {tuple(states.shape)}; expected [batch, tokens, D]")
        if self._index is None or self._index.device != states.device:
            batch, tokens = states.shape[0], states.shape[1]
            if len(rows) and (rows.data.max() >= batch or rows.positions.max() >= tokens):
                raise ValueError(
                    f"hidden states are [{batch}, {tokens}, D], but rows reach datum {rows.data.max()} and token "
                    f"{rows.positions.max()}: announce the batch that the model gets"
                )
            self._index = moved(torch.from_numpy(rows.data * tokens + rows.positions), states.device)
        return self._index
