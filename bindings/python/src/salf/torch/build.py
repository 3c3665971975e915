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
from salf.torch.anatomy import Parts
from salf.torch.measure import fit_norm

_log = logging.getLogger("salf")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_NO_EPS = 1e-300
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
        "logit_scale": parts.logit_scale,
        "logit_softcap": parts.logit_softcap,
        **_norm_options(parts, int(weight.shape[-1])),
    }
    bias = _logit_bias(parts)
    if bias is not None:
        options["logit_bias"] = bias
    if head_rows is None and weight.dtype not in _FLOATS:
        raise TypeError(
            f"the head is stored as {weight.dtype}: pass head=, an unquantised [vocabulary, hidden] tensor, or "
            "head_rows=, a callback that fills blocks of its rows"
        )
    if head_rows is None and (not in_place or weight.stride(-1) != 1):
        head_rows = _rows_from(weight)
    if head_rows is None:
        return salf.Model(context, head=weight.detach(), **options)
    vocabulary, hidden = _head_shape(parts, weight)
    return salf.Model(context, head_rows=head_rows, vocab=vocabulary, hidden=hidden, **options)


def _norm_options(parts: Parts, hidden: int) -> Dict[str, Any]:
    """The final norm as measured. One without a formula is not described: its output is observed instead. Parts that a
    host made by itself are measured here."""
    if parts.norm is None or parts.norm_kind in ("none", "observed"):
        return {"norm_kind": "none"}
    fit = parts.norm_fit
    if fit is None or fit.kind != parts.norm_kind or fit.eps != parts.norm_eps:
        fit = fit_norm(parts.norm, hidden)
        if fit.kind != parts.norm_kind:
            computes = repr(fit.kind) if fit.kind else "no norm that the library knows"
            raise ValueError(f"norm_kind is {parts.norm_kind!r}, but {type(parts.norm).__name__} computes {computes}")
    # To the library an eps of 0 means its default; the smallest there is adds nothing to any state.
    options: Dict[str, Any] = {"norm_kind": fit.kind, "norm_eps": fit.eps or _NO_EPS}
    for name, tensor in (("norm_weight", fit.weight), ("norm_bias", fit.bias)):
        if tensor is not None:
            options[name] = tensor.detach().flatten().float().cpu()
    return options


def _logit_bias(parts: Parts) -> Optional[torch.Tensor]:
    """The bias of the logits: that of the head, scaled as they are, and what the model adds behind it."""
    own = parts.head_fit.bias if parts.head_fit is not None else getattr(parts.head, "bias", None)
    later = parts.logit_fit.bias if parts.logit_fit is not None else None
    bias = None if not isinstance(own, torch.Tensor) else own.detach().float().cpu() * (parts.logit_scale or 1.0)
    if later is None:
        return bias
    return later if bias is None else bias + later


def _head_shape(parts: Parts, weight: torch.Tensor) -> Tuple[int, int]:
    """Rows and columns of the head; a quantised one is stored in another shape than it has."""
    rows = getattr(parts.head, "out_features", None) or weight.shape[0]
    columns = getattr(parts.head, "in_features", None) or weight.shape[1]
    return int(rows), int(columns)


def _rows_from(weight: torch.Tensor) -> RowCallback:
    def rows(first: int, count: int, out: Any) -> None:
        out[...] = weight.detach()[first : first + count].float().cpu().numpy()

    return rows
