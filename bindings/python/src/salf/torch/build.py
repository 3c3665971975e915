"""The library's handles for a model of PyTorch: context, model and head, borrowed where they lie.

The head is handed over as it is stored. Where the library cannot read it - on a GPU without the CUDA backend - its rows
come through a callback, block by block, which costs one transfer of the head when the basis is made.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib.util
import logging
import os
from typing import Any, Callable, Dict, Optional, Tuple

import torch

import salf
from salf.torch.anatomy import Parts, weight_of

_log = logging.getLogger("salf")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_NO_BACKEND = ("SALF_E_BACKEND", "SALF_E_PLUGIN", "SALF_E_DEVICE")

RowCallback = Callable[[int, int, Any], Any]


def make_context(
    device: torch.device, backend: str, communicator: Any, options: Dict[str, Any]
) -> Tuple[salf.Context, Optional[torch.device]]:
    """A context for states on a device, and that device where the library reads its memory in place (else None). On the
    CPU it has PyTorch's number of threads, unless the options say otherwise."""
    if communicator is not None:
        options = {**options, "communicator": communicator}
    if device.type == "cuda" and backend in ("auto", "cuda"):
        try:
            return _cuda_context(device, options), device
        except salf.Error as error:
            if backend == "cuda" or error.status_name not in _NO_BACKEND:
                raise
            _log.warning("the CUDA backend cannot be used, states are moved to the host: %s", error)
    host = "cpu" if backend in ("auto", "cuda") else backend
    options = {"threads": torch.get_num_threads(), **options}
    return salf.Context(backend=host, **options), device if device.type == "cpu" else None


def _open_libraries() -> None:
    """The CUDA backend opens cuBLAS and cuSOLVER by their names. PyTorch's packages hold both where no search path
    leads, and PyTorch itself opens cuSOLVER with its first decomposition only; a library that the process has open is
    found by its name alone. What cannot be opened here the backend may find elsewhere, or names in its error."""
    found = importlib.util.find_spec("nvidia")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        for name in ("libcublas.so.*", "libcusolver.so.*"):
            for path in sorted(glob.glob(os.path.join(folder, "*", "lib", name))):
                with contextlib.suppress(OSError):
                    ctypes.CDLL(path)


def _cuda_context(device: torch.device, options: Dict[str, Any]) -> salf.Context:
    _open_libraries()
    stream = torch.cuda.current_stream(device).cuda_stream
    ordinal = device.index if device.index is not None else torch.cuda.current_device()
    return salf.Context(backend="cuda", device=ordinal, stream=stream, **options)


def make_model(
    context: salf.Context,
    parts: Parts,
    in_place: bool,
    head: Optional[torch.Tensor],
    head_rows: Optional[RowCallback],
    valid_vocab: int,
) -> salf.Model:
    """Describes the model to the library. head or head_rows stand in for a head that is quantised."""
    weight = head if head is not None else parts.head_weight
    if weight is None:
        raise ValueError("the model's head was not found; name it with find_parts(model, head=...)")
    options: Dict[str, Any] = {
        "n_layers": len(parts.layers),
        "valid_vocab": valid_vocab,
        "tied": parts.tied,
        "norm_kind": parts.norm_kind,
        "norm_eps": parts.norm_eps,
        "logit_scale": parts.logit_scale,
        "logit_softcap": parts.logit_softcap,
    }
    for name, tensor in _small_tensors(parts):
        options[name] = tensor.detach() if in_place else tensor.detach().float().cpu()
    if head_rows is None and weight.dtype not in _FLOATS:
        raise TypeError(
            f"the head is stored as {weight.dtype}: pass head=, an unquantised [vocabulary, hidden] tensor, or "
            "head_rows=, a callback that fills blocks of its rows"
        )
    if head_rows is None and not in_place:
        head_rows = _rows_from(weight)
    if head_rows is None:
        return salf.Model(context, head=weight.detach(), **options)
    vocabulary, hidden = _head_shape(parts, weight)
    return salf.Model(context, head_rows=head_rows, vocab=vocabulary, hidden=hidden, **options)


def _small_tensors(parts: Parts) -> list[tuple[str, torch.Tensor]]:
    found = []
    if parts.norm is not None and parts.norm_kind != "none":
        found.append(("norm_weight", weight_of(parts.norm)))
        found.append(("norm_bias", getattr(parts.norm, "bias", None) if parts.norm_kind == "layer" else None))
    found.append(("logit_bias", getattr(parts.head, "bias", None)))
    return [(name, tensor) for name, tensor in found if isinstance(tensor, torch.Tensor)]


def _head_shape(parts: Parts, weight: torch.Tensor) -> Tuple[int, int]:
    """Rows and columns of the head; a quantised one is stored in another shape than it has."""
    rows = getattr(parts.head, "out_features", None) or weight.shape[0]
    columns = getattr(parts.head, "in_features", None) or weight.shape[1]
    return int(rows), int(columns)


def _rows_from(weight: torch.Tensor) -> RowCallback:
    def rows(first: int, count: int, out: Any) -> None:
        out[...] = weight.detach()[first : first + count].float().cpu().numpy()

    return rows
