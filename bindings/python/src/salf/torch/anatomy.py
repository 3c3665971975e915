"""Where a decoder language model keeps its layers, head, final norm and embedding, and what norm and head compute.

Nothing is taken from names. A small forward (flow.py) shows which list of modules runs layer by layer, which module
stands between the last of them and the head, and whether the model sees tokens that are still to come; norm and head
are called and described by formulas that reproduce them (measure.py). What a probe needs and cannot be had is said in
Parts.problem, which a probe raises; methods that freeze by turns do without. Wrappers (PEFT, DistributedDataParallel,
FSDP, torch.compile) are looked through. Parts of another build are named by the host.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import nn

from salf.torch.flow import Flow, LayerList, factor_between, layer_lists, same, small_batch, watch
from salf.torch.measure import HeadFit, LogitFit, NormFit, fit_head, fit_logits, fit_norm, has_values

Part = Union[str, nn.Module]

# Names of the list of layers, for a model that cannot be run here.
_LAYER_LISTS = ("layers", "h", "blocks")
# What wrappers put into the names of parameters.
_WRAPPER_NAMES = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
# States before the last token that differ by more than rounding: it was seen before its turn. In half precision experts
# may round differently for other company in a batch.
_SEES_AHEAD = {torch.bfloat16: 3e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Parts:
    """The parts of a decoder that layer-freezing has to know.

    norm_kind: "layer", "rms", "rms1p", "none", or "observed" for a norm without a formula, whose output is then taken
    from the norm itself. The fits hold what was measured. problem: why a probe cannot be made, in one sentence;
    logits_problem: why scores="logits" cannot.
    """

    base: nn.Module
    decoder: nn.Module
    layers: Tuple[nn.Module, ...]
    head: Optional[nn.Module]
    norm: Optional[nn.Module]
    embedding: Optional[nn.Module]
    norm_kind: str
    norm_eps: float
    logit_scale: float
    logit_softcap: float
    norm_fit: Optional[NormFit] = None
    head_fit: Optional[HeadFit] = None
    logit_fit: Optional[LogitFit] = None
    problem: str = ""
    head_problem: str = ""
    logits_problem: str = ""
    states_problem: str = ""

    @property
    def head_weight(self) -> Optional[torch.Tensor]:
        """The head's matrix [vocabulary, hidden]; a view where it is stored the other way round."""
        if self.head_fit is None or self.head_fit.matrix is None:
            return weight_of(self.head)
        return self.head_fit.matrix.t() if self.head_fit.transposed else self.head_fit.matrix

    @property
    def tied(self) -> bool:
        """Whether head and embedding are one parameter."""
        head, embedding = self.head_weight, weight_of(self.embedding)
        return head is not None and embedding is not None and head.data_ptr() == embedding.data_ptr()


def weight_of(module: Optional[nn.Module]) -> Optional[torch.Tensor]:
    """The weight of a module, also inside a LoRA layer or a copy that PEFT trains."""
    if module is None:
        return None
    for inner in ("base_layer", "original_module"):
        found = getattr(module, inner, None)
        if isinstance(found, nn.Module):
            return weight_of(found)
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, torch.Tensor) else None


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, FSDP, torch.compile and PEFT."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif type(model).__name__ in ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"):
            model = model.module
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers add to it."""
    for part in _WRAPPER_NAMES:
        name = name.replace(part, "")
    return name


def find_parts(
    model: nn.Module,
    layers: Union[Part, Sequence[nn.Module], None] = None,
    head: Optional[Part] = None,
    norm: Optional[Part] = None,
    embedding: Optional[Part] = None,
    norm_kind: Optional[str] = None,
    example: Any = None,
) -> Parts:
    """Finds and measures the parts of a model; what is given, as a module or by its dotted name, is not searched for.

    The model is run on a few tokens, or on example: the arguments of its forward by name. norm_kind is checked against
    what the norm computes.
    """
    base = unwrap(model)
    if layers is None and getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        raise ValueError(f"{type(base).__name__} is an encoder-decoder; salf freezes the layers of decoders")
    found_embedding = _resolve(base, embedding) if embedding is not None else _call(base, "get_input_embeddings")
    batch = small_batch(base, found_embedding) if example is None else example
    flow = watch(base, batch)
    if flow.error and example is None:  # a class head may take one row only where there is no padding token
        one = {name: value[:1] for name, value in batch.items()}
        again = watch(base, one)
        batch, flow = (batch, flow) if again.error else (one, again)
    if found_embedding is None:
        found_embedding = next((c.module for c in flow.calls if isinstance(c.module, nn.Embedding)), None)
    decoder, found_layers = _find_layers(base, layers, flow)
    _check_order(found_layers, flow)
    check_shared(found_layers)
    found_head = _resolve(base, head) if head is not None else _find_head(base, flow)
    search = _Search(base, batch, flow, found_layers, found_head, example is None)
    search.measure_head()
    found_norm, kind, fit = search.measure_norm(_resolve(base, norm) if norm is not None else None, norm_kind)
    logit_fit = search.measure_logits()
    return Parts(
        base=base,
        decoder=decoder,
        layers=found_layers,
        head=found_head,
        norm=found_norm,
        embedding=found_embedding,
        norm_kind=kind,
        norm_eps=fit.eps if fit is not None else 0.0,
        logit_scale=logit_fit.scale if logit_fit is not None and logit_fit.scale != 1.0 else 0.0,
        logit_softcap=logit_fit.cap if logit_fit is not None else 0.0,
        norm_fit=fit,
        head_fit=search.head_fit,
        logit_fit=logit_fit,
        problem=search.problem,
        head_problem=search.head_problem,
        logits_problem=search.logits_problem,
        states_problem=search.states_problem,
    )


def measured_again(parts: Parts) -> Parts:
    """The same parts with norm and head as they are now, after they were trained."""
    weight = parts.head_weight
    if weight is None:
        return parts
    hidden = int(weight.shape[-1])
    if parts.head is not None and parts.head_fit is not None and parts.head_fit.matrix is not None:
        # An adapter, or a copy that trains, computed what the stored matrix did until it moved.
        head_fit = fit_head(parts.head, weight_of(parts.head), hidden)
        if head_fit.problem:
            raise ValueError(head_fit.problem)
        parts = dataclasses.replace(parts, head_fit=head_fit)
    if parts.norm is None or parts.norm_fit is None or parts.norm_kind in ("none", "observed"):
        return parts
    fit = fit_norm(parts.norm, hidden)
    if not fit.kind:
        raise ValueError(f"norm of class {type(parts.norm).__name__} computes no longer what it did")
    return dataclasses.replace(parts, norm_kind=fit.kind, norm_eps=fit.eps, norm_fit=fit)


def _resolve(base: nn.Module, part: Part) -> nn.Module:
    if isinstance(part, nn.Module):
        return part
    try:
        return base.get_submodule(part)
    except AttributeError:
        raise ValueError(f"the model has no part named {part!r}") from None


def _call(base: nn.Module, method: str) -> Optional[nn.Module]:
    getter = getattr(base, method, None)
    found = getter() if callable(getter) else None
    return found if isinstance(found, nn.Module) else None


def _find_head(base: nn.Module, flow: Flow) -> Optional[nn.Module]:
    """The output embedding; of a model that has no such method, the last module that gave the logits."""
    if callable(getattr(base, "get_output_embeddings", None)):
        return _call(base, "get_output_embeddings")
    if flow.logits is None or flow.logits.dim() != 3:
        return None
    shape = flow.logits.shape
    ends = [call.module for call in flow.calls if call.given is not None and call.given.shape == shape]
    return next((module for module in reversed(ends) if weight_of(module) is not None), None)


# ---- layers ----


def _find_layers(
    base: nn.Module, given: Union[Part, Sequence[nn.Module], None], flow: Flow
) -> Tuple[nn.Module, Tuple[nn.Module, ...]]:
    """The layers with the module that owns them."""
    if isinstance(given, str):
        parent = given.rpartition(".")[0]
        listed = _resolve(base, given)
        return (_resolve(base, parent) if parent else base), tuple(listed.children())
    if isinstance(given, nn.Module):
        return base, tuple(given.children())
    if given is not None:
        return base, tuple(given)
    ran = layer_lists(base, flow) if not flow.error else list(_by_name(base))
    once = [found for found in ran if found.times == 1]
    if len(once) > 1:  # towers of several modalities, adapters: the configuration says how long the decoder's list is
        count = getattr(_text_config(base), "num_hidden_layers", None)
        once = [found for found in once if len(found.layers) == count] or once
    if len(once) == 1:
        return once[0].owner, once[0].layers
    if len(ran) == 1:
        raise ValueError(
            f"{type(base).__name__}: the layers {ran[0].name!r} run {ran[0].times} times in a forward, so that no "
            "layer has a latent space of its own; salf freezes layers that run once"
        )
    names = ", ".join(repr(found.name) for found in ran) or "none"
    why = f"; its forward was not run: {flow.error}" if flow.error else _idle(base, flow)
    raise ValueError(
        f"{type(base).__name__}: the list of decoder layers is not certain (found: {names}); name it with layers={why}"
    )


def _check_order(layers: Sequence[nn.Module], flow: Flow) -> None:
    """Layers that a host names have to be in the order in which they run: what lies below a cut is told by that."""
    place = {id(call.module): i for i, call in enumerate(flow.calls)}
    ran = [(place[id(layer)], k) for k, layer in enumerate(layers) if id(layer) in place]
    for (before, j), (after, k) in zip(ran, ran[1:]):
        if after <= before:
            raise ValueError(f"layers= are not in the order in which they run: number {k} ends before number {j}")
    times = next((len(flow.of(layer)) for layer in layers if len(flow.of(layer)) > 1), 1)
    if times > 1:
        raise ValueError(f"layers= run {times} times in a forward: salf freezes layers that run once")


def _idle(base: nn.Module, flow: Flow) -> str:
    """Of a list in which some layers ran, how many did not (a text-only forward leaves out cross-attention)."""
    for name, module in base.named_modules():
        ran = [bool(flow.of(member)) for member in module.children()] if isinstance(module, nn.ModuleList) else []
        if any(ran) and not all(ran):
            return f"; of {name!r}, {ran.count(False)} of {len(ran)} did not run on tokens alone"
    return ""


def _by_name(base: nn.Module) -> Iterator[LayerList]:
    """For a model that was not run: lists of layers as long as the configuration says, or all if it says nothing."""
    config = _text_config(base)
    wanted = getattr(config, "num_hidden_layers", None) or getattr(config, "n_layer", None)
    for parent_name, parent in base.named_modules():
        for name in _LAYER_LISTS:
            found = getattr(parent, name, None)
            if isinstance(found, nn.ModuleList) and len(found) > 0 and wanted in (None, len(found)):
                yield LayerList(f"{parent_name}.{name}".lstrip("."), parent, tuple(found), 1, False)


def _text_config(base: nn.Module) -> Any:
    config = getattr(base, "config", None)
    inner = getattr(config, "get_text_config", None)
    return inner() if callable(inner) else config


def check_shared(layers: Sequence[nn.Module]) -> None:
    """A parameter of two layers has gradients of both: no backward could stop between them. One that does not train
    (layers that an adapter repeats) does no harm."""
    owner: Dict[int, int] = {}
    for k, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            other = owner.setdefault(id(parameter), k)
            if other != k and parameter.requires_grad:
                raise ValueError(
                    f"layers {other} and {k} share the parameter {plain_name(name)!r}: a backward cannot stop between "
                    "them"
                )


# ---- norm and head ----


class _Search:
    """What a probe needs to know of norm and head. problem keeps the first reason why there can be no probe,
    head_problem the one that lies with the head."""

    def __init__(
        self,
        base: nn.Module,
        batch: Any,
        flow: Flow,
        layers: Tuple[nn.Module, ...],
        head: Optional[nn.Module],
        own_batch: bool,
    ) -> None:
        self._base, self._batch, self._flow, self._head = base, batch, flow, head
        self._layers = layers
        self._name = type(base).__name__
        self.problem = ""
        self.head_problem = ""
        self.logits_problem = ""
        self.states_problem = ""
        self._between = ""
        self.head_fit: Optional[HeadFit] = None
        self._states: Optional[torch.Tensor] = None
        self._read: Optional[torch.Tensor] = None
        if flow.error:
            return
        ends = flow.of(layers[-1])
        self._states = ends[-1].given if ends else None
        read = flow.of(head)
        self._read = read[-1].taken if read else None
        self._check_states(own_batch)

    def _say(self, problem: str) -> None:
        self.problem = self.problem or problem

    def _check_states(self, own_batch: bool) -> None:
        states = self._states
        ids = self._batch.get("input_ids") if isinstance(self._batch, Mapping) else None
        if states is None:
            self._say(f"the last layer of {self._name} did not run in its forward: name the layers with layers=")
        elif states.dim() != 3 or (ids is not None and states.shape[:2] != ids.shape):
            self.states_problem = (
                f"the layers of {self._name} pass states of shape {tuple(states.shape)}, where a probe, rows with cuts "
                "of their own and kept states take one state a token, [batch, tokens, D]"
            )
            self._say(self.states_problem)
        elif own_batch and len(states) == 2 and not states.is_meta:
            first, second = states[0, :-1].detach().double(), states[1, :-1].detach().double()
            if float((first - second).abs().max()) > _SEES_AHEAD.get(states.dtype, 1e-4) * float(first.abs().max()):
                self._say(
                    f"{self._name} is an encoder: its states depend on tokens that are still to come (a decoder's "
                    "configuration may have is_decoder=True)"
                )

    @property
    def _hidden(self) -> Optional[int]:
        if self._states is not None:
            return int(self._states.shape[-1])
        weight = weight_of(self._head)
        return int(weight.shape[-1]) if weight is not None and weight.dim() == 2 else None

    def measure_head(self) -> None:
        """The head as W h + b, of states as wide as the layers'."""
        weight, hidden = weight_of(self._head), self._hidden
        if self._head is None:
            self.head_problem = (
                f"{self._name} has no head over a vocabulary: a classification head, or none, has no semantic basis. "
                "Methods that take turns, and plans that do not probe, need none (others='train' trains the head "
                "beside them); name the head with find_parts(model, head=...) if there is one"
            )
        elif self._read is not None and self._states is not None and self._read.shape[-1] != hidden:
            self.head_problem = (
                f"{self._name} has a projected head: it reads {self._read.shape[-1]} columns where the layers' states "
                f"have {hidden}"
            )
        elif hidden is None or weight is None or not weight.is_floating_point() or weight.dim() != 2:
            return  # stored in a form of its own: the host has to hand over the matrix
        elif not has_values(*self._head.parameters()):
            self.head_problem = (
                f"the head of {self._name} has no values here (meta device, or sharded): load the weights first, and "
                "make the controller before anything shards them"
            )
        else:
            self.head_fit = fit_head(self._head, weight, hidden)
            self.head_problem = self.head_fit.problem

    # What stands between the last layer and the head.

    def _norm_by_flow(self) -> Tuple[Optional[nn.Module], bool]:
        """The final norm, and whether it takes the last layer's states as they are."""
        around = {id(m) for m in self._base.modules() if any(inner is self._layers[-1] for inner in m.modules())}
        last = max(i for i, call in enumerate(self._flow.calls) if call.module is self._layers[-1])
        after = [c for c in self._flow.calls[last + 1 :] if id(c.module) not in around and c.module is not self._head]
        after = [c for c in after if c.taken is not None and c.given is not None and c.taken.shape == c.given.shape]
        if same(self._states, self._read):
            return None, True
        takers = [call for call in after if same(call.taken, self._states)]
        if self._read is None:  # the head's matrix is used without calling its module
            return _outermost([c for c in takers if is_norm_like(c.module)]), True
        ends = _outermost([call for call in takers if factor_between(call.given, self._read) != 0])
        if ends is not None:
            return ends, True
        if factor_between(self._states, self._read) != 0:
            return None, True
        # A factor stands before the norm; or something else, and then there is none (_transformed says so).
        beside = [call for call in after if factor_between(call.given, self._read) != 0 and is_norm_like(call.module)]
        return _outermost([call for call in beside if factor_between(self._states, call.taken) != 0]), False

    def measure_norm(
        self, given: Optional[nn.Module], kind: Optional[str]
    ) -> Tuple[Optional[nn.Module], str, Optional[NormFit]]:
        """The final norm, its kind, and the formula that reproduces it."""
        norm, exact = given, True
        if self._flow.error:
            if norm is None:
                self._say(
                    f"{self._name} was not run, so that its final norm is not known ({self._flow.error}): name it with "
                    "norm=, or give the arguments of a forward with example="
                )
        elif norm is None and self._states is not None:
            norm, exact = self._norm_by_flow()
        elif norm is not None:
            exact = any(same(call.taken, self._states) for call in self._flow.of(norm))
        if self._transformed(norm):
            self._between = "a dense layer or another change stands between the last layer and the head's matrix"
            if given is None and kind != "none":
                self._say(
                    f"{self._name} has a transformed head: {self._between}, so that the matrix reads another space; "
                    f"name {self._last_norm()} to compare the states before it"
                )
            norm = given
        if norm is None:
            if kind not in (None, "none"):
                raise ValueError(f"norm_kind is {kind!r}, but the final norm was not found; name it with norm=")
            return None, "none", None
        if kind == "none":
            return norm, "none", None
        return self._kind_of(norm, kind, exact)

    def _last_norm(self) -> str:
        """How the host names the norm that ends the last space, ahead of a transform."""
        last = max(i for i, call in enumerate(self._flow.calls) if call.module is self._layers[-1])
        after = [call for call in self._flow.calls[last + 1 :] if same(call.taken, self._states)]
        norms = [
            call for call in after if is_norm_like(call.module) and next(call.module.parameters(), None) is not None
        ]
        return f"norm={norms[0].name!r}" if norms else "norm_kind='none'"

    def _transformed(self, norm: Optional[nn.Module]) -> bool:
        """Whether the head reads something else than the norm's output (or the last layer's, without a norm)."""
        ran = self._flow.of(norm)
        between = (ran[-1].given if ran else None) if norm is not None else self._states
        if self._read is None or between is None or between.shape != self._read.shape:
            return False
        return factor_between(between, self._read) == 0 or (norm is not None and not is_norm_like(norm))

    def _kind_of(self, norm: nn.Module, kind: Optional[str], exact: bool) -> Tuple[nn.Module, str, Optional[NormFit]]:
        name, hidden = type(norm).__name__, self._hidden
        stored = [*norm.parameters(), *norm.buffers()]
        if hidden is None and stored:
            hidden = int(stored[0].shape[-1])
        if not has_values(*stored) or hidden is None:
            self._say(
                f"the final norm of {self._name} has no values here (meta device, or sharded): load the weights "
                "first, and make the controller before anything shards them"
            )
            return norm, kind or "unknown", None
        fit = fit_norm(norm, hidden)
        if kind is not None and kind not in (fit.kind, "observed"):
            computes = f"{fit.kind!r}" if fit.kind else "none of 'layer', 'rms' and 'rms1p'"
            raise ValueError(f"norm_kind is {kind!r}, but the norm of class {name} computes {computes}")
        if fit.kind and exact and kind != "observed":
            return norm, fit.kind, fit
        if not is_norm_like(norm):
            if self.problem:
                return norm, "unknown", None
            raise ValueError(
                f"norm of class {name} is no norm that could be observed: it stores a matrix; name the final norm "
                "with norm="
            )
        if not self._flow.of(norm):
            raise ValueError(
                f"norm of class {name} is not known (measured: no LayerNorm, no RMSNorm, error {fit.error:.1e}), and "
                "it was not seen in a forward; name another with norm=, or give the arguments of a forward with "
                "example="
            )
        return norm, "observed", fit

    def measure_logits(self) -> Optional[LogitFit]:
        """Scale, cap and bias of the logits, by a second forward."""
        matrix = self.head_fit.matrix if self.head_fit is not None else None
        if self._flow.error or self._head is None or matrix is None:
            self.logits_problem = "the head was not measured"
            return None
        if self._read is None or self._between:
            self.logits_problem = self._between or "the head's module is not called by the model"
            return None
        fit = fit_logits(self._base, self._batch, self._head, matrix, self._read)
        self.logits_problem = fit.problem
        return None if fit.problem else fit


def is_norm_like(module: nn.Module) -> bool:
    """Whether a module stores vectors alone: it may scale and shift each feature, and mixes none."""
    return all(max(p.shape, default=1) == p.numel() for p in module.parameters())


def _outermost(calls: List[Any]) -> Optional[nn.Module]:
    """Of modules inside each other, the outermost, which ends last."""
    return calls[-1].module if calls else None
