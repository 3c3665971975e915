"""The deviations of a batch once more, by another road: float64, a pseudo-inverse by SVD, states from the model's own
hidden_states or from hooks of this file. What the library gives is compared with that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy
import torch

import salf
from salf._ffi import name_of, number_of
from salf.torch.anatomy import Parts
from salf.torch.flow import call_model, first_state, hook_arguments, undisturbed
from salf.torch.measure import in_float
from salf.torch.targets import Rows

# Above so many elements of the head the SVD gives way to the eigenvalues of the Gram matrix.
_SVD_ELEMENTS = 20_000_000


@dataclass(frozen=True)
class Verification:
    """What controller.verify() found. differences: of each space, the largest difference of a deviation (of a rank: in
    ranks, beyond what ties of the scores allow). states: whose states were compared, "hidden_states" of the model or
    those of hooks."""

    differences: Tuple[float, ...]
    tolerance: float
    rows: int
    metric: str
    lens: str
    states: str

    @property
    def worst(self) -> float:
        """The largest of all."""
        return max(self.differences)

    @property
    def ok(self) -> bool:
        """Whether every space is within the tolerance; a difference that is not a number is not."""
        return all(difference <= self.tolerance for difference in self.differences)

    def check(self) -> None:
        """Raises where a space is beyond the tolerance."""
        if not self.ok:
            wrong = [f"{k}: {d:.3g}" for k, d in enumerate(self.differences) if not d <= self.tolerance]
            raise RuntimeError(
                f"deviations ({self.metric}, lens {self.lens}) differ from those of the model's own states by more "
                f"than {self.tolerance:g} in the spaces {', '.join(wrong)}"
            )

    def to_dict(self) -> Dict[str, Any]:
        """Plain numbers and words, for JSON."""
        return {
            "ok": self.ok,
            "worst": self.worst,
            "differences": list(self.differences),
            "tolerance": self.tolerance,
            "rows": self.rows,
            "metric": self.metric,
            "lens": self.lens,
            "states": self.states,
        }


@dataclass(frozen=True)
class Expected:
    """How deviations are to be computed: the options of basis and probe, in words and numbers."""

    metric: str
    lens: str
    scores: str
    side: str
    mode: str
    rtol: float
    ridge: float
    temperature: float
    candidates: Optional[List[int]]


def option_word(options: Mapping[str, Any], name: str) -> str:
    """An option of a probe as a word, where it may be given as a number; its default where it is not given."""
    group = {"metric": "METRIC", "lens": "LENS", "scores": "SCORE", "eof_rule": "EOF", "nonfinite": "NONFINITE"}[name]
    return name_of(group, number_of(group, options.get(name, 0), name))


def expected_of(probe: Mapping[str, Any], basis: salf.BasisInfo) -> Expected:
    """From the options of a probe and what a basis says of itself."""
    candidates = probe.get("candidates")
    return Expected(
        metric=option_word(probe, "metric"),
        lens=option_word(probe, "lens"),
        scores=option_word(probe, "scores"),
        side=basis.side,
        mode=basis.mode,
        rtol=basis.rtol,
        ridge=basis.ridge,
        temperature=float(probe.get("temperature") or 1.0),
        candidates=None if candidates is None else [int(token) for token in candidates],
    )


# ---- states ----


def states_of(parts: Parts, rows: Rows, run: Callable[[], Any], lens: str, observed: bool) -> Tuple[torch.Tensor, str]:
    """States [spaces, rows, D] in float64 of a forward that run() makes, and where they are from. The norm of a model
    in half precision rounds what it gives; unless that is observed itself, a float32 copy of the norm stands in for
    it."""
    seen: Dict[int, torch.Tensor] = {}
    picked = (torch.from_numpy(rows.data), torch.from_numpy(rows.positions))

    def pick(states: Optional[torch.Tensor]) -> torch.Tensor:
        assert states is not None
        return states.detach()[picked[0].to(states.device), picked[1].to(states.device)].double().cpu()

    last = len(parts.layers)

    def enter(_module: Any, inputs: Any, named: Any, _output: Any) -> None:
        seen[0] = pick(first_state(inputs, named))

    handles = [hook_arguments(parts.layers[0], enter)]
    for k, layer in enumerate(parts.layers):
        handles.append(layer.register_forward_hook(_into(seen, k + 1, pick)))
    if parts.norm is not None:
        handles.append(parts.norm.register_forward_hook(_into(seen, last + 1, pick)))
    try:
        output = run()
    finally:
        for handle in handles:
            handle.remove()
    raw = torch.stack([seen[k] for k in range(last + 1)])
    if lens == "raw" or parts.norm is None or parts.norm_kind == "none":
        return raw, "hooks"
    if lens == "normed":
        return torch.stack([_normed(parts.norm, states) for states in raw]), "hooks"
    if not observed and any(p.dtype in (torch.bfloat16, torch.float16) for p in parts.norm.parameters()):
        return torch.cat([raw[:last], _normed(parts.norm, raw[last]).unsqueeze(0)]), "hooks, norm in float32"
    hidden = getattr(output, "hidden_states", None)
    if hidden is not None and len(hidden) == last + 1:
        told = torch.stack([pick(states) for states in hidden])
        if torch.equal(told[:last], raw[:last]):  # some models count their spaces in another way
            return told, "hidden_states"
    return torch.cat([raw[:last], seen[last + 1].unsqueeze(0)]), "hooks"


def _into(seen: Dict[int, torch.Tensor], space: int, pick: Callable[[Optional[torch.Tensor]], torch.Tensor]) -> Any:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        seen[space] = pick(first_state(output))

    return hook


def _normed(norm: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
    norm = in_float(norm)
    first = next((t for t in (*norm.parameters(), *norm.buffers()) if t.is_floating_point()), states.float())
    with torch.no_grad():
        given = norm.forward(states.unsqueeze(0).to(first.device, first.dtype))
    return given.squeeze(0).double().cpu()


# ---- deviations ----


def _inverse(matrix: torch.Tensor, expected: Expected) -> torch.Tensor:
    """P [D, D] with basis rows b = P w: the pseudo-inverse of W^T W where singular values above rtol * the largest are
    kept, or (W^T W + ridge I)^-1."""
    if matrix.numel() <= _SVD_ELEMENTS:
        _, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64, device="cpu")
        for block in matrix.split(16384):
            gram += block.t() @ block
        values, vectors = torch.linalg.eigh(gram)
        sigma, right = values.clamp_min(0).sqrt(), vectors.t()
    if expected.mode == "ridge":
        return right.t() @ torch.diag(1 / (sigma**2 + expected.ridge)) @ right
    kept = sigma > expected.rtol * sigma.max()
    return right[kept].t() @ torch.diag(1 / sigma[kept] ** 2) @ right[kept]


def deviations_of(
    states: torch.Tensor, matrix: torch.Tensor, tokens: torch.Tensor, expected: Expected, logits: Any = None
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest right deviation [rows, spaces] of states [spaces, rows, D]: they differ for ranks alone, by
    scores that are equal to rounding. matrix [valid vocabulary, D] float64; logits(h): the model's own, for their
    scores."""
    basis = matrix if expected.side == "input" else matrix @ _inverse(matrix, expected)
    lengths = basis.norm(dim=1).clamp_min(1e-300)
    candidates = range(len(matrix)) if expected.candidates is None else expected.candidates
    wanted = torch.tensor(candidates, dtype=torch.long, device="cpu")
    low, high = [], []
    for space in states:
        if expected.metric != "cosine" and expected.scores == "logits":
            scores = logits(space)
        else:
            scores = (space @ basis.t()) / lengths / space.norm(dim=1, keepdim=True)
        own = scores.gather(1, tokens.unsqueeze(1))
        others = scores[:, wanted]
        if expected.metric == "cosine":
            low.append(1 - own[:, 0])
            high.append(1 - own[:, 0])
        elif expected.metric == "ce":
            value = torch.logsumexp(others / expected.temperature, 1) - own[:, 0] / expected.temperature
            low.append(value)
            high.append(value)
        else:
            near = 1e-6 * scores.abs().amax(1, keepdim=True)
            low.append((others > own + near).sum(1).double())
            high.append(((others > own - near) & (wanted != tokens.unsqueeze(1))).sum(1).double())
    return torch.stack(low, 1), torch.stack(high, 1)


def verify(
    parts: Parts,
    batch: Mapping[str, Any],
    rows: Rows,
    matrix: torch.Tensor,
    expected: Expected,
    observe: Any,
    observed: bool = False,
) -> Tuple[Tuple[float, ...], str]:
    """Runs the model once; observe = (arm, finish) of the probe; observed: it takes the final norm's own
    output. The differences of each space, and where the states are
    from."""
    arm, finish = observe

    def run() -> Any:
        asked = {"output_hidden_states": True} if hasattr(parts.base, "config") else {}
        return call_model(parts.base, {**batch, **asked}, use_cache=False, return_dict=True)

    with undisturbed(parts.base):
        arm(rows)
        states, source = states_of(parts, rows, run, expected.lens, observed)
        trace = finish()
    scale, cap, fit = parts.logit_scale or 1.0, parts.logit_softcap, parts.logit_fit
    head_bias = parts.head_fit.bias if parts.head_fit is not None else None

    def logits(space: torch.Tensor) -> torch.Tensor:
        found = scale * (space @ matrix.t())
        if head_bias is not None:
            found = found + scale * head_bias.detach().double().cpu()[: found.shape[1]]
        if fit is not None and fit.bias is not None:
            found = found + fit.bias.double()[: found.shape[1]]
        return cap * torch.tanh(found / cap) if cap else found

    low, high = deviations_of(states, matrix, torch.from_numpy(rows.tokens).long(), expected, logits)
    found = torch.from_numpy(numpy.asarray(trace.deviations, dtype=numpy.float64))
    beyond = torch.maximum(low - found, found - high).clamp_min(0)
    beyond[torch.isnan(found)] = float("nan")
    largest = beyond.amax(0) if len(rows) else states.new_zeros(len(states))
    return tuple(float(value) for value in largest), source
