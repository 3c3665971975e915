"""Work of two streams in order, and small arrays on their way to a device without a wait of the host.

A context enqueues on the stream it was made with, PyTorch on whichever is current. Where these differ, nothing but
events puts what one writes before what the other reads.
"""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

import torch

import salf


@contextlib.contextmanager
def in_order(context: salf.Context, device: torch.device) -> Iterator[None]:
    """Around a call that hands tensors of a device to the library: it comes behind what the current stream has, and
    what the current stream gets next comes behind it, the reuse of the tensors' memory too. Nothing waits."""
    if device.type != "cuda" or context.info.backend != "cuda":
        yield
        return
    here, address = torch.cuda.current_stream(device), context.stream or 0
    if here.cuda_stream == address:
        yield
        return
    default = torch.cuda.default_stream(device)
    own: Any = default if default.cuda_stream == address else torch.cuda.ExternalStream(address, device=device)
    own.wait_stream(here)
    try:
        yield
    finally:
        here.wait_stream(own)


def moved(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on a device. By way of page-locked memory: a copy from other memory would wait until the
    stream has done all that it was given before."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
