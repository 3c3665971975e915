"""What a model's own final norm and head compute, measured by calling them.

A norm is called on seeded vectors of many scales and of both signs, and the formula that reproduces it is looked for:
n(x) = x / sqrt(mean(x^2) + eps) (RMS) or (x - mean(x)) / sqrt(var(x) + eps) (layer), then weight * n(x) + bias. Large
vectors tell the weight, the smallest tell eps. A head must be W h + b of a matrix that it stores; the logits must be
cap * tanh((scale * W h + bias) / cap), or the same without a cap. What is not reproduced to 1e-5 is not described.

Norms in half precision are measured on a float32 copy, whose parameters have the same values; a head that cannot be
copied is measured to the rounding of its own type. Only forward() is called: hooks that others put on a module do not
run here (the forward that finds the parts runs them, and must agree).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Tuple

import torch
from torch import nn

from salf.torch.flow import watch

TOLERANCE = 1e-5
_HALF = (torch.bfloat16, torch.float16)
# Scales of the vectors that a norm is called on: at the first eps is all that counts, at the last two nothing of it.
_SCALES = (1e-6, 1e-3, 1.0, 1e4, 1e5)
_LARGE = len(_SCALES) - 2


@dataclass(frozen=True)
class NormFit:
    """A formula for a norm. weight and bias are the module's own parameters where it has them, else constants; None for
    ones and zeros. kind is empty where no formula reproduces it; error is the largest difference, relative."""

    kind: str
    eps: float
    weight: Optional[torch.Tensor]
    bias: Optional[torch.Tensor]
    error: float
    own: bool = True

    def apply(self, states: torch.Tensor) -> torch.Tensor:
        """The formula in float64."""
        h = states.detach().double().cpu()
        gain = None if self.weight is None else self.weight.detach().double().cpu()
        if gain is not None and self.kind == "rms1p":
            gain = 1 + gain
        shift = None if self.bias is None else self.bias.detach().double().cpu()
        return _formula(h, self.kind, self.eps, gain, shift)


@dataclass(frozen=True)
class HeadFit:
    """matrix [vocabulary, hidden] (transposed: stored the other way round) and bias of a head; problem says why it is
    not one."""

    matrix: Optional[torch.Tensor]
    transposed: bool
    bias: Optional[torch.Tensor]
    error: float
    problem: str = ""


@dataclass(frozen=True)
class LogitFit:
    """logits = cap * tanh((scale * W h + bias) / cap), without tanh for cap 0. masked: tokens that the model sets to a
    constant; problem says why there is no such formula."""

    scale: float
    cap: float
    bias: Optional[torch.Tensor]
    masked: int
    error: float
    problem: str = ""


def _formula(
    x: torch.Tensor, kind: str, eps: float, gain: Optional[torch.Tensor], shift: Optional[torch.Tensor]
) -> torch.Tensor:
    if kind == "none":
        return x
    if kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)
    x = x if gain is None else x * gain
    return x if shift is None else x + shift


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference of each row, by that row's largest value; infinite where something is not finite."""
    error = (found - wanted).abs().amax(-1) / wanted.abs().amax(-1).clamp_min(1e-30)
    return float(error.max()) if bool(torch.isfinite(error).all()) else float("inf")


def has_values(*tensors: Optional[torch.Tensor]) -> bool:
    """Whether tensors hold numbers here and now: none is on the meta device, a shard, or emptied by a partitioner."""
    given = [t for t in tensors if t is not None]
    return not any(t.is_meta or t.numel() == 0 or _is_special(t) for t in given)


def _is_special(tensor: torch.Tensor) -> bool:
    return type(tensor).__name__ in ("DTensor", "FakeTensor", "ShardedTensor")


# ---- norms ----


def in_float(module: nn.Module) -> nn.Module:
    """The module, or a float32 copy of one in half precision."""
    halves = [p for p in (*module.parameters(), *module.buffers()) if p.dtype in _HALF]
    if not halves:
        return module
    with torch.no_grad():
        copied = copy.deepcopy(module).float()
    copied.training = module.training
    return copied


def _probes(hidden: int, scales: Tuple[float, ...], seed: int) -> torch.Tensor:
    """Vectors [scales, hidden] of a mean that is not zero, so that a norm that subtracts it is told from one that does
    not."""
    generator = torch.Generator("cpu").manual_seed(seed)
    directions = torch.randn(len(scales), hidden, generator=generator, dtype=torch.float64, device="cpu") + 0.5
    return directions * torch.tensor(scales, dtype=torch.float64, device="cpu").unsqueeze(1)


def _runner(module: nn.Module, hidden: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """forward() on rows [n, hidden] of float64: in the module's own type and on its device, shaped as hidden states."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    device = tensors[0].device if tensors else torch.device("cpu")
    dtype = tensors[0].dtype if tensors else torch.float32

    def run(rows: torch.Tensor) -> torch.Tensor:
        given = module.forward(rows.to(device, dtype).unsqueeze(0))
        given = given[0] if isinstance(given, (tuple, list)) else given
        if given.dim() == 3:
            given = given.squeeze(0)
        if given.shape[0] != rows.shape[0]:
            raise ValueError(f"it gives the shape {tuple(given.shape)} for rows {tuple(rows.shape)}")
        return given.detach().double().cpu()

    return run


def _fit_kind(kind: str, x: torch.Tensor, odd: torch.Tensor, bias: torch.Tensor) -> Tuple[float, torch.Tensor]:
    """eps and gain of a kind from the odd part of a norm: odd = gain * n(x).

    At the two largest scales eps counts for nothing, so that gain = sum(odd n) / sum(n^2), element by element. The
    smallest scale gives odd = gain * c / sqrt(v + eps), for c the centred vector and v its mean square.
    """
    large = _formula(x[_LARGE:], kind, 0.0, None, None)
    gain = (odd[_LARGE:] * large).sum(0) / (large * large).sum(0)
    centred = x[0] - x[0].mean() if kind == "layer" else x[0]
    along = gain * centred
    slope = float((odd[0] * along).sum() / (along * along).sum().clamp_min(1e-300))
    eps = 1 / slope**2 - float((centred * centred).mean()) if slope > 0 else 0.0
    rounded = float(f"{max(eps, 0.0):.3g}")  # settings are round numbers
    return (rounded if abs(rounded - eps) <= 1e-4 * eps else max(eps, 0.0)), gain


def _named_vectors(module: nn.Module, hidden: int) -> List[torch.Tensor]:
    found = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() and t.numel() == hidden]
    return [t for t in found if t.dim() == 1 or t.shape[-1] == hidden]


def _own(values: torch.Tensor, candidates: List[torch.Tensor], plus: float) -> Optional[torch.Tensor]:
    """The module's own vector that values are, when plus is added to it."""
    for candidate in candidates:
        stored = candidate.detach().double().cpu().flatten() + plus
        if bool(torch.allclose(stored, values, rtol=TOLERANCE, atol=TOLERANCE)):
            return candidate
    return None


def fit_norm(module: nn.Module, hidden: int) -> NormFit:
    """The formula of a norm, with kind "" where none reproduces forward() to 1e-5."""
    copied = in_float(module)
    x, check = _probes(hidden, _SCALES, 1), _probes(hidden, (1e-4, 3e-3, 0.1, 1.0, 10.0), 2)
    try:
        with torch.no_grad():
            run = _runner(copied, hidden)
            plus, minus, wanted = run(x), run(-x), run(check)
    except Exception as failure:  # a module that is no norm fails as it likes
        raise ValueError(f"{type(module).__name__} cannot be called on hidden states: {failure}") from None
    if plus.shape != x.shape:
        raise ValueError(f"norm of class {type(module).__name__} gives {plus.shape[-1]} columns for {hidden}")
    bias, odd = ((plus + minus) / 2).mean(0), (plus - minus) / 2
    best = NormFit("", 0.0, None, None, float("inf"))
    for kind in ("rms", "layer"):
        eps, gain = _fit_kind(kind, x, odd, bias)
        error = relative_error(_formula(check, kind, eps, gain, bias), wanted)
        if error < best.error:
            best = NormFit(kind if error <= TOLERANCE else "", eps, gain, bias, error)
    return _with_own_vectors(best, module, hidden, check, wanted) if best.kind else best


def _with_own_vectors(
    fit: NormFit, module: nn.Module, hidden: int, check: torch.Tensor, wanted: torch.Tensor
) -> NormFit:
    """The same fit, by the module's own weight and bias where they are what was measured; these are exact."""
    gain, shift = fit.weight, fit.bias
    assert gain is not None
    assert shift is not None
    vectors = _named_vectors(module, hidden)
    silent = float(shift.abs().max()) <= TOLERANCE * float(gain.abs().max())
    if fit.kind != "layer" and not silent:  # an RMS norm with a bias: the library has no such kind
        return NormFit("", fit.eps, None, None, fit.error)
    kind, weight, own = fit.kind, _own(gain, vectors, 0.0), True
    raised = _own(gain, vectors, 1.0) if weight is None else None
    if raised is not None and kind == "rms":
        kind, weight = "rms1p", raised
    elif raised is not None:  # a LayerNorm with 1 + weight is one whose weight has the 1 added
        weight, own = (raised.detach().double().cpu().flatten() + 1).float(), False
    elif weight is None and not bool(torch.allclose(gain, torch.ones_like(gain), rtol=TOLERANCE)):
        weight, own = gain.float(), False
    rest = [vector for vector in vectors if vector is not weight and vector is not raised]
    bias = _own(shift, rest, 0.0) if kind == "layer" else None
    if bias is None and not silent:
        bias, own = shift.float(), False
    exact = NormFit(kind, fit.eps, weight, bias, 0.0, own)
    error = relative_error(exact.apply(check), wanted)
    return NormFit(kind if error <= TOLERANCE else "", fit.eps, weight, bias, error, own)


# ---- heads ----


def _matrices(head: nn.Module, first: Optional[torch.Tensor], hidden: int) -> List[Tuple[torch.Tensor, bool]]:
    stored = [p for p in head.parameters() if p.dim() == 2 and p is not first]
    found: List[Tuple[torch.Tensor, bool]] = []
    for matrix in ([first] if first is not None else []) + stored:
        if matrix.dim() != 2 or not matrix.is_floating_point():
            continue
        if matrix.shape[1] == hidden:
            found.append((matrix, False))
        if matrix.shape[0] == hidden:
            found.append((matrix, True))
    return found


def fit_head(head: nn.Module, weight: Optional[torch.Tensor], hidden: int) -> HeadFit:
    """The stored matrix and bias that reproduce a head's forward()."""
    name = type(head).__name__
    stored = _matrices(head, weight, hidden)
    if not stored:
        shape = "no matrix" if weight is None else f"a matrix of shape {tuple(weight.shape)}"
        return HeadFit(None, False, None, 0.0, f"{name} has {shape}, which does not take {hidden} columns")
    x = _probes(hidden, (0.1, 1.0, 3.0), 3)
    # Beside its matrix and vectors a plain head stores nothing; an adapter's small product would drown in a half's
    # rounding.
    measured = head if len([p for p in head.parameters() if p.dim() > 1]) == 1 else in_float(head)
    try:
        with torch.no_grad():
            run = _runner(measured, hidden)
            given, at_zero = run(x), run(torch.zeros(1, hidden, dtype=torch.float64, device="cpu"))[0]
    except Exception as failure:
        return HeadFit(None, False, None, 0.0, f"{name} cannot be called on hidden states: {failure}")
    best = HeadFit(None, False, None, float("inf"), "")
    for matrix, transposed in stored:
        half = measured is head and matrix.dtype in _HALF
        product = _product(x, matrix, transposed, matrix.dtype if half else torch.float64)
        if product.shape != given.shape:
            continue
        error = relative_error(given - at_zero, product)
        if error < best.error and error <= (2 * float(torch.finfo(matrix.dtype).eps) if half else TOLERANCE):
            best = HeadFit(matrix, transposed, _bias_of(head, at_zero), error)
    if best.matrix is None:
        why = f"{name} computes something else than a product with the matrix that it stores"
        return HeadFit(None, False, None, best.error, f"{why} (an adapter on the head is merged first)")
    return best


def _product(x: torch.Tensor, matrix: torch.Tensor, transposed: bool, dtype: torch.dtype) -> torch.Tensor:
    """x W^T [rows, vocabulary], a block of the vocabulary at a time; in half precision as the head itself
    multiplies."""
    columns = matrix.detach().t() if transposed else matrix.detach()
    rows = x.to(matrix.device, dtype)
    return torch.cat([rows @ part.to(dtype).t() for part in columns.split(16384)], dim=1).double().cpu()


def _bias_of(head: nn.Module, at_zero: torch.Tensor) -> Optional[torch.Tensor]:
    """What the head gives for a zero vector; its own parameter where that is it, so that no rounding is added."""
    if bool((at_zero == 0).all()):
        return None
    rounding = max(float(torch.finfo(p.dtype).eps) for p in head.parameters() if p.is_floating_point())
    for vector in head.parameters():
        stored = vector.detach().double().cpu().flatten()
        if stored.shape == at_zero.shape and torch.allclose(stored, at_zero, rtol=4 * rounding, atol=1e-6):
            return vector
    return at_zero.float()


# ---- from the head's product to the logits ----

# What the head is made to give, by position: nothing, then products of about this size (so that a cap shows).
_LENGTHS = (0.0, 1e-2, 1.0, 1e1, 1e3, 1e4)


def fit_logits(base: nn.Module, batch: Any, head: nn.Module, matrix: torch.Tensor, taken: torch.Tensor) -> LogitFit:
    """How logits follow from what the head gives: a forward whose head reads chosen vectors. taken: what it read."""
    failed = LogitFit(0.0, 0.0, None, 0, float("inf"))
    if taken.dim() != 3 or taken.shape[1] < len(_LENGTHS):
        return _failing(failed, f"the head reads states of shape {tuple(taken.shape)}")
    hidden = taken.shape[-1]
    some = matrix.detach()[:1024].double()
    typical = float(some.square().sum().div(some.numel()).sqrt()) * hidden**0.5  # |w| of a row
    rows = _probes(hidden, (1.0,), 4) * torch.tensor(_LENGTHS, dtype=torch.float64, device="cpu").unsqueeze(1)
    chosen = torch.zeros(taken.shape[1:], dtype=torch.float64, device="cpu")
    chosen[: len(_LENGTHS)] = rows / max(typical, 1e-30)
    flow = watch(base, batch, (head, chosen))
    if flow.logits is None:
        return _failing(failed, f"a second forward failed: {flow.error}")
    given = flow.of(head)[-1].given
    if given is None or given.dim() != 3 or flow.logits.dim() != 3 or flow.logits.shape[:2] != given.shape[:2]:
        return _failing(failed, f"logits have the shape {tuple(flow.logits.shape)}")
    width = min(given.shape[-1], flow.logits.shape[-1])
    rounding = max(torch.finfo(given.dtype).eps, torch.finfo(flow.logits.dtype).eps)
    u, y = (t[0, : len(_LENGTHS), :width].detach().double().cpu() for t in (given, flow.logits))
    return _fit_post(u, y, max(TOLERANCE, 4 * rounding))


def _failing(fit: LogitFit, problem: str) -> LogitFit:
    return LogitFit(fit.scale, fit.cap, fit.bias, fit.masked, fit.error, problem)


def _fit_post(u: torch.Tensor, y: torch.Tensor, tolerance: float) -> LogitFit:
    """Scale, cap and bias with y = f(u), row by row of growing length; u and y [rows, vocabulary]."""
    masked = ((y == y[0]).all(0) & (u != u[0]).any(0)) | ~torch.isfinite(y).all(0)
    u, y = u[:, ~masked], y[:, ~masked]
    if u.shape[1] == 0:
        return LogitFit(0.0, 0.0, None, int(masked.sum()), float("inf"), "all logits are masked")
    best = LogitFit(0.0, 0.0, None, int(masked.sum()), float("inf"))
    for cap in (0.0, float(y[-1].abs().max())):
        z = y if cap == 0 else cap * torch.atanh((y / cap).clamp(-1 + 1e-9, 1 - 1e-9))
        # The rows of middling length: long enough to outweigh rounding, short enough for the cap to be undone.
        step, rise = u[2] - u[0], z[2] - z[0]
        scale = float((step * rise).sum() / (step * step).sum())
        bias = z[0] - scale * u[0]
        linear = scale * u + bias
        error = relative_error(linear if cap == 0 else cap * torch.tanh(linear / cap), y)
        if error < best.error:
            extra = bias.float() if float(bias.abs().max()) > tolerance * float(z[2].abs().max()) else None
            best = LogitFit(_round(scale, error), _round(cap, error), extra, best.masked, error)
    if best.error > tolerance:
        return _failing(best, "the logits do not follow from the head's product by a scale and a soft cap")
    return best


def _round(value: float, error: float) -> float:
    """Settings are round numbers, or one over such: the one of fewest digits that is as good as what was measured."""
    near = max(error, 1e-6) * abs(value) / 2
    for digits in range(1, 6):
        for candidate in (float(f"{value:.{digits}g}"), 1 / float(f"{1 / value:.{digits}g}") if value else 0.0):
            if abs(candidate - value) <= near:
                return candidate
    return value
