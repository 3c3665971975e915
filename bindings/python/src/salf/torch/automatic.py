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

import numpy
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
    of a hash, so that among a million data two share one with a chance of 5e-8. None where there are no tokens."""
    if inputs.get("input_ids") is None:
        return None
    given: Dict[str, Any] = {
        name: inputs[name].detach().cpu().numpy()
        for name in ("input_ids", "attention_mask", "labels")
        if inputs.get(name) is not None
    }
    tokens, mask, labels = given["input_ids"], given.get("attention_mask"), given.get("labels")
    kept: Any = numpy.ones_like(tokens) if mask is None or mask.shape != tokens.shape else mask
    found = []
    for row, held in enumerate(kept != 0):
        content = hashlib.blake2b(tokens[row][held].astype(numpy.int64).tobytes(), digest_size=8)
        if labels is not None and labels.shape == tokens.shape:
            content.update(labels[row][held].astype(numpy.int64).tobytes())
        found.append(int.from_bytes(content.digest(), "little") >> 1)
    return found
