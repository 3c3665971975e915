"""libsalf over torch.distributed: collective callbacks, and the reduction of the gradients that a truncated backward
left.

Every rank gets the same cut because the policy's reduction spans the ranks through Communicator.
DistributedDataParallel does not reduce a backward that stops at chosen inputs, so reduce_gradients does it: over the
parameters that trained, which are the same on all ranks.
"""

from __future__ import annotations

from typing import Any, Iterable, List, Optional, Sequence

import numpy
import torch
import torch.distributed as dist
from torch import nn

from salf._ffi import name_of, number_of

NO_DEEPSPEED = (
    "DeepSpeed steps flat copies of all parameters, frozen ones too, and is not supported: use "
    "DistributedDataParallel, or FSDP"
)


def available() -> bool:
    """Whether this process is one of several."""
    return bool(dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


class Communicator:
    """The collective operations that a salf.Context asks for, over a process group (gloo, nccl or another)."""

    def __init__(self, group: Any = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError("torch.distributed is not initialised: call init_process_group first")
        self._group = group
        self.rank: int = dist.get_rank(group)
        self.ranks: int = dist.get_world_size(group)

    def _device(self) -> torch.device:
        if "nccl" in str(dist.get_backend(self._group)):
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def all_reduce(self, buffer: Any, op: Any) -> None:
        """In place: float64 or int64; op is SALF_ALL_REDUCE_* by its word or as a number."""
        operation = getattr(dist.ReduceOp, name_of("ALL_REDUCE", number_of("ALL_REDUCE", op, "op")).upper())
        host = torch.from_numpy(numpy.asarray(buffer))
        moved = host.to(self._device())
        dist.all_reduce(moved, op=operation, group=self._group)
        if moved.data_ptr() != host.data_ptr():
            host.copy_(moved)

    def all_true(self, value: bool) -> bool:
        """Whether the value is true on every rank."""
        flag = numpy.array([1 if value else 0], dtype=numpy.int64)
        self.all_reduce(flag, "min")
        return bool(flag[0])

    def gather_objects(self, value: Any) -> List[Any]:
        """The values of all ranks, in their order."""
        gathered: List[Any] = [None] * self.ranks
        dist.all_gather_object(gathered, value, group=self._group)
        return gathered


def wrapper_kind(model: nn.Module) -> Optional[str]:
    """ "ddp", "dp", "fsdp1", "fsdp2", "deepspeed" or None for a model that nothing wraps."""
    name = type(model).__name__
    if name == "DistributedDataParallel":
        return "ddp"
    if name == "DataParallel":
        return "dp"
    if name == "FullyShardedDataParallel":
        return "fsdp1"
    names = {base.__name__ for base in type(model).__mro__}
    if "DeepSpeedEngine" in names:
        return "deepspeed"
    if "FSDPModule" in names:
        return "fsdp2"
    return None


def check_whole(model: nn.Module, *parts: Optional[nn.Module]) -> None:
    """A probe reads head and norm whole: refuses, on all ranks alike, what something has already sharded."""
    kinds = {wrapper_kind(module) for module in model.modules()} & {"fsdp1", "fsdp2"}
    tensors = [p for part in parts if part is not None for p in part.parameters()]
    empty = any(p.numel() == 0 and hasattr(p, "ds_id") for p in tensors)
    if kinds or empty or any(type(p).__name__ == "DTensor" for p in tensors):
        raise ValueError(
            "head or final norm are sharded already, and a probe reads them whole: make the controller before FSDP "
            "wraps the model, then call controller.wrapped(model)"
        )


def check_wrapper(model: nn.Module, layers: Sequence[nn.Module] = ()) -> Optional[str]:
    """The kind of wrapper, or an error that says what is not supported and what to do instead."""
    kind = wrapper_kind(model)
    if kind == "ddp" and getattr(model, "static_graph", False):
        raise ValueError(
            "DistributedDataParallel(static_graph=True) learns from the first step which gradients come, and freezing "
            "changes them: make it without static_graph"
        )
    if kind == "dp":
        raise ValueError(
            "torch.nn.DataParallel runs replicas that hooks cannot tell apart: use DistributedDataParallel"
        )
    if kind == "deepspeed":
        raise ValueError(NO_DEEPSPEED)
    if kind == "fsdp1" and layers:
        _check_fsdp(model, layers)
    return kind


def _check_fsdp(model: nn.Module, layers: Sequence[nn.Module]) -> None:
    units = [module for module in model.modules() if type(module).__name__ == "FullyShardedDataParallel"]
    if not all(getattr(unit, "_use_orig_params", False) for unit in units):
        raise ValueError(
            "FSDP without use_orig_params=True keeps one flat parameter a unit, which cannot freeze by layer"
        )
    wrapped = {id(getattr(unit, "_fsdp_wrapped_module", None)) for unit in units}
    missing = [k for k, layer in enumerate(layers) if id(layer) not in wrapped and id(layer) not in map(id, units)]
    if missing:
        raise ValueError(f"layer {missing[0]} is no FSDP unit of its own: wrap with the decoder layer as unit")


def reduce_gradients(parameters: Iterable[nn.Parameter], group: Any = None, bucket_bytes: int = 25 << 20) -> None:
    """Averages gradients over the ranks, in flat buckets; one that a rank lacks counts as zero there. One that all of
    them lack (of an expert that no token was sent to) stays none, as in one process: an optimizer would move a
    parameter whose gradient is zero by its momentum and decay.

    All ranks must pass the same parameters in the same order.
    """
    members = list(parameters)
    if not members:
        return
    shown = torch.tensor([int(p.grad is not None) for p in members], device=members[0].device)
    dist.all_reduce(shown, op=dist.ReduceOp.MAX, group=group)
    bucket: List[nn.Parameter] = []
    size = 0
    for parameter in (p for p, somewhere in zip(members, shown.tolist()) if somewhere):
        bytes_here = parameter.numel() * parameter.element_size()
        if bucket and (size + bytes_here > bucket_bytes or parameter.dtype != bucket[0].dtype):
            _reduce_bucket(bucket, group)
            bucket, size = [], 0
        bucket.append(parameter)
        size += bytes_here
    if bucket:
        _reduce_bucket(bucket, group)


def _reduce_bucket(bucket: Sequence[nn.Parameter], group: Any) -> None:
    for parameter in bucket:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.reshape(-1) for p in bucket if p.grad is not None])
    flat.div_(dist.get_world_size(group))
    dist.all_reduce(flat, group=group)
    at = 0
    for parameter in bucket:
        assert parameter.grad is not None
        count = parameter.numel()
        parameter.grad.copy_(flat[at : at + count].view_as(parameter.grad))
        at += count
