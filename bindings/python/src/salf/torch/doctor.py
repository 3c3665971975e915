"""What salf makes of a model of PyTorch: parts, measured norm and head, vocabulary, basis, a self-check."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple

from torch import nn

from salf.torch.anatomy import Parts, find_parts
from salf.torch.controller import FreezeController
from salf.torch.flow import small_batch
from salf.torch.targets import Rows

Sections = Dict[str, Dict[str, Any]]


def examine(model: nn.Module, tokenizer: Any = None) -> Tuple[Sections, List[str]]:
    """Sections of names and values, and what is wrong."""
    try:
        parts = find_parts(model)
    except ValueError as error:
        return {"model": {"class": type(model).__name__}}, [str(error)]
    vocabulary, problems = _vocabulary(parts, tokenizer)
    sections: Sections = {"model": _parts(model, parts), "norm": _norm(parts), "head": _head(parts)}
    sections["vocabulary"] = vocabulary
    problem = parts.head_problem or parts.problem
    if problem:
        return sections, [problem, *problems]
    try:
        sections["basis"], sections["self-check"] = _check(model, parts, vocabulary)
        if not sections["self-check"]["ok"]:
            problems.append(f"the probe's deviations are off by up to {sections['self-check']['worst']:.3g}")
    except (ValueError, TypeError, RuntimeError) as error:  # errors of the library are ValueErrors or RuntimeErrors
        problems.append(str(error))
    return sections, problems


def _name_of(base: nn.Module, part: Any) -> str:
    names = [name for name, module in base.named_modules() if module is part]
    return f"{names[0] or 'the model'} ({type(part).__name__})" if names else type(part).__name__


def _parts(model: nn.Module, parts: Parts) -> Dict[str, Any]:
    first = next(parts.layers[0].parameters(), None)
    return {
        "class": type(model).__name__,
        "decoder": type(parts.base).__name__,
        "layers": len(parts.layers),
        "first layer": _name_of(parts.base, parts.layers[0]),
        "final norm": None if parts.norm is None else _name_of(parts.base, parts.norm),
        "head": None if parts.head is None else _name_of(parts.base, parts.head),
        "embedding": None if parts.embedding is None else _name_of(parts.base, parts.embedding),
        "tied": parts.tied,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": None if first is None else str(first.dtype).replace("torch.", ""),
        "device": None if first is None else str(first.device),
    }


def _norm(parts: Parts) -> Dict[str, Any]:
    fit = parts.norm_fit
    found: Dict[str, Any] = {"kind": parts.norm_kind}
    if fit is not None and fit.kind:
        found |= {"eps": fit.eps, "error": fit.error, "weight": _origin(fit.weight, fit.own, "ones")}
        found["bias"] = _origin(fit.bias, fit.own, "none")
    elif parts.norm_kind == "observed":
        found["why"] = (
            "no formula reproduces it, or it reads another state than the last layer's: its output is observed"
        )
    return found


def _origin(vector: Any, own: bool, absent: str) -> str:
    if vector is None:
        return absent
    return "the module's own" if own else "a constant, measured"


def _head(parts: Parts) -> Dict[str, Any]:
    weight, fit = parts.head_weight, parts.head_fit
    return {
        "shape": None if weight is None else list(weight.shape),
        "error": None if fit is None else fit.error,
        "stored transposed": fit is not None and fit.transposed,
        "bias": fit is not None and fit.bias is not None,
        "logit scale": parts.logit_scale or 1.0,
        "soft cap": parts.logit_softcap or None,
        "masked tokens": parts.logit_fit.masked if parts.logit_fit is not None else None,
        "scores='logits'": parts.logits_problem or "can be had",
    }


def _vocabulary(parts: Parts, tokenizer: Any) -> Tuple[Dict[str, Any], List[str]]:
    """Rows of the head that belong to no token of the tokenizer, and whether there are tokens without a row."""
    weight = parts.head_weight
    rows = None if weight is None else int(weight.shape[0])
    found: Dict[str, Any] = {"rows": rows}
    if tokenizer is None or rows is None:
        return found, []
    known = getattr(tokenizer, "get_vocab", None)
    tokens = 1 + max(known().values()) if callable(known) else len(tokenizer)
    found |= {"tokens": tokens, "padding rows": max(0, rows - tokens), "valid_vocab": min(tokens, rows)}
    if tokens > rows:
        return found, [f"the tokenizer has {tokens} tokens and the head {rows} rows: labels beyond them are errors"]
    return found, []


def _check(model: nn.Module, parts: Parts, vocabulary: Mapping[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """The basis, and deviations of a few tokens against float64."""
    valid = int(vocabulary.get("valid_vocab") or 0)
    with FreezeController(model, "salf", parts=parts, valid_vocab=valid, others="train") as controller:
        batch = small_batch(parts.base, parts.embedding)
        count, last = batch["input_ids"].shape
        tokens = batch["input_ids"][:, -1].cpu() % controller.basis.info.vocab
        rows = Rows([last - 1] * count, tokens)
        found = controller.verify(batch, rows=rows)
        info = controller.basis.info
    basis = {
        "method": info.method,
        "rank": f"{info.rank} of {info.hidden}",
        "condition": info.condition,
        "largest": info.sigma_max,
        "smallest": info.sigma_min,
        "rtol": info.rtol,
    }
    return basis, found.to_dict()
