"""Batches that announce themselves, for hosts of which no more is known than that they call the model, loss.backward()
and optimizer.step().

A hook in front of the model's forward sees what the model is given and begins the batch with it; the controller notices
the backward by itself. Forwards in evaluation mode or without gradients pass: validation, generation, a reference
model's log-probabilities. Several forwards before one backward are one batch where layers take turns; where the data
decide they are refused.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from torch import nn

from salf.torch.controller import FreezeController
from salf.torch.hooks import Hook

#: Whether this PyTorch shows a hook the arguments that are given by name, as hosts give them (2.0 and later).
POSSIBLE = "with_kwargs" in inspect.signature(nn.Module.register_forward_pre_hook).parameters


class Automatic:
    """Begins each batch of a controller that a model is called with; close() ends that.

    model: the module whose forward the host calls, with input_ids or inputs_embeds, and labels where the method looks
    at data. numbered: give data ids, which caches need. There is no number to be had here, so that an id is made of
    the datum's content: tokens, what is masked, and labels.
    """

    def __init__(self, controller: FreezeController, model: nn.Module, numbered: bool = False) -> None:
        if not POSSIBLE:
            raise RuntimeError(f"PyTorch {torch.__version__} shows a hook no arguments by name: 2.0 or later is needed")
        self._controller, self._numbered = controller, numbered
        self._names = [
            name
            for name, parameter in inspect.signature(model.forward).parameters.items()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        self._hook = model.register_forward_pre_hook(Hook(self._begin), with_kwargs=True)

    def close(self) -> None:
        """Takes the hook away."""
        self._hook.remove()

    def _begin(self, module: nn.Module, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
        if not module.training or not torch.is_grad_enabled():
            return
        inputs = {**dict(zip(self._names, args)), **kwargs}
        tokens = inputs.get("input_ids")
        tokens = inputs.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:
            raise ValueError(
                f"{type(module).__name__} was called without input_ids or inputs_embeds, by which a batch is known: "
                "call controller.begin() yourself"
            )
        if self._controller.more(len(tokens)):
            return
        self._controller.begin(ids=_content_ids(inputs) if self._numbered else None, size=len(tokens), inputs=inputs)


def _content_ids(inputs: Mapping[str, Any]) -> Optional[List[int]]:
    """A number for each row of a batch that is the same whenever the datum comes again, however it is padded: 63 bits
    of a hash, so that among a million data two share one with a chance of 5e-8. All tensors that the model is given
    belong to it: of one that does not go by row, such as the pictures of all of them, the whole. None where there are
    no tokens."""
    tokens, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if tokens is None:
        return None
    if mask is None or mask.shape != tokens.shape:
        mask = torch.ones_like(tokens)
    kept = mask.detach().cpu() != 0
    found = [hashlib.blake2b(digest_size=8) for _ in range(len(tokens))]
    for name, value in sorted(inputs.items()):
        if not isinstance(value, torch.Tensor) or value.dim() == 0 or value is mask:
            continue
        held = value.detach().cpu()
        held = held.long() if not held.is_floating_point() else held.contiguous()
        for row, content in enumerate(found):
            own = held[row] if len(held) == len(found) else held
            own = own[kept[row]] if held.shape == kept.shape else own
            content.update(name.encode() + own.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return [int.from_bytes(content.digest(), "little") >> 1 for content in found]
