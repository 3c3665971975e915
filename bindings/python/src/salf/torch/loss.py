"""The semantic losses (paper 2.2) as losses of PyTorch: gradients come from the library."""

from __future__ import annotations

from typing import Any, Tuple

import torch
from torch import nn

import salf
from salf.torch.flow import check_once
from salf.torch.streams import in_order
from salf.torch.targets import whole

_IGNORED = -100


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, tokens: Any, loss: salf.Loss) -> torch.Tensor:
        gradient = torch.empty(states.shape, dtype=torch.float32, device=states.device)
        losses = torch.empty(len(states), dtype=torch.float32, device=states.device)
        with in_order(loss.context, states.device):
            loss.compute(tokens, states.detach(), gradient=gradient, losses=losses)
        ctx.save_for_backward(gradient)
        ctx.dtype = states.dtype
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> Tuple[torch.Tensor, None, None]:
        check_once()
        (gradient,) = ctx.saved_tensors
        return (outputs[0].unsqueeze(1) * gradient).to(ctx.dtype), None, None


class SemanticLoss(nn.Module):
    """Mean semantic loss of states [rows, D], as they enter the head, against the right next tokens [rows].

    kind and options are those of salf.Loss. Rows whose token is -100 have no part in it, as in PyTorch's cross_entropy;
    without any other it is 0. Gradients of gradients are an error.
    """

    def __init__(self, basis: salf.Basis, kind: str = "cosine", **options: Any) -> None:
        super().__init__()
        self._loss = salf.Loss(basis, kind=kind, **options)

    def forward(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The mean over the rows that have a token."""
        if states.dim() != 2:
            raise ValueError(f"states have shape {tuple(states.shape)}; expected [rows, D]")
        wanted = whole(tokens, "tokens", "int32")
        result: torch.Tensor = _Function.apply(states.contiguous(), wanted, self._loss)
        return result.sum() / max(1, int((wanted != _IGNORED).sum()))
