"""Hooks that belong to one model in one process: copies and files of the model go without them, and torch.compile runs
them as they are.

A copy (an average of weights, a reference model) must not feed the original's probe, and a model that is saved in the
middle of a run must not drag the library's handles along. A compiler must not look into calls of the library: it breaks
its graph around a hook and goes on behind it.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import torch
from torch import nn


def uncompiled(function: Callable[..., Any], inner: bool = False) -> Callable[..., Any]:
    """The function as it is, where torch.compile would trace it; inner: what it calls is not compiled either. PyTorch
    before 2.1 has no such word, and no hooks inside compiled graphs to be told of."""
    disable = getattr(getattr(torch, "compiler", None), "disable", None)
    if disable is None:
        return function
    wrapped: Callable[..., Any] = disable(function, recursive=inner)
    return wrapped


def _nothing(*_args: Any, **_named: Any) -> None:
    """What a hook is in a copy."""


class Hook:
    """A hook of a module."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    @functools.partial(uncompiled, inner=True)
    def __call__(self, *args: Any, **named: Any) -> Any:
        """What the module calls."""
        return self._call(*args, **named)

    def __reduce__(self) -> Any:
        return _same, (_nothing,)


class Forward:
    """What stands in the place of a layer's forward(). In a copy it is the copy's own forward() again."""

    def __init__(self, layer: nn.Module, own: Any, call: Callable[..., Any]) -> None:
        self._layer, self._own, self._call = layer, own, call

    @uncompiled
    def __call__(self, *args: Any, **named: Any) -> Any:
        """Takes the layer's arguments."""
        return self._call(*args, **named)

    def __reduce__(self) -> Any:
        if self._own is not None:
            return _same, (self._own,)
        return functools.partial, (type(self._layer).forward, self._layer)


def _same(value: Any) -> Any:
    return value


def forget_compiled(model: nn.Module) -> None:
    """A graph that was compiled before hooks were set does not know them: graphs are made anew. Compiling a second time
    is the price, paid by whatever else is compiled in the process, too."""
    made = any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())
    reset = getattr(getattr(torch, "compiler", None), "reset", None)
    if made and reset is not None:
        reset()
