"""How a hidden state runs through a model: one small forward, watched by hooks.

A few tokens go through the model as it is called, without gradients and in evaluation mode. What each module took and
gave tells the decoder's layers (a list whose members run once each, one after the other), the final norm (what stands
between the last layer and the head) and what the head reads, whatever these parts are called. A second forward, with
chosen vectors in place of what the head reads, tells how the logits follow from the head's product.

The model comes out as it was: modes, random numbers, hooks of others. Modules under torch.compile run uncompiled here.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import torch
from torch import nn

from salf.torch.hooks import Hook

# Two rows of six tokens that differ in the last one only: where states before it differ, the model sees ahead.
_ROWS, _TOKENS = 2, 6


@dataclass(frozen=True)
class Call:
    """One call of a module: the first hidden state among its arguments, and the first of what it gave."""

    module: nn.Module
    name: str
    taken: Optional[torch.Tensor]
    given: Optional[torch.Tensor]


@dataclass(frozen=True)
class Flow:
    """All calls of a forward in the order of their ends, and its logits; error says why there was none."""

    calls: Tuple[Call, ...]
    logits: Optional[torch.Tensor]
    error: str = ""

    @cached_property
    def _by_module(self) -> Dict[int, List[Call]]:
        found: Dict[int, List[Call]] = {}
        for call in self.calls:
            found.setdefault(id(call.module), []).append(call)
        return found

    def of(self, module: Optional[nn.Module]) -> List[Call]:
        """The calls of one module."""
        return self._by_module.get(id(module), [])


def first_state(values: Any, named: Optional[Mapping[str, Any]] = None) -> Optional[torch.Tensor]:
    """The first tensor of floating-point numbers with a last dimension of features; of an output, or of arguments."""
    if isinstance(values, torch.Tensor):
        return values if values.is_floating_point() and values.dim() > 1 else None
    for value in values if isinstance(values, (tuple, list)) else getattr(values, "values", tuple)():
        found = first_state(value) if isinstance(value, (torch.Tensor, tuple, list)) else None
        if found is not None:
            return found
    if not named:
        return None
    return first_state((named.get("hidden_states"), *named.values()))


def tensors_of(output: Any) -> Iterator[torch.Tensor]:
    """The tensors of what a module gave."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for item in output:
            yield from tensors_of(item)
    elif isinstance(output, Mapping):
        yield from tensors_of(list(output.values()))


def detached(output: Any) -> Any:
    """What a module gave, in containers of the same kind, without its graph."""
    if isinstance(output, torch.Tensor):
        return output.detach()
    if isinstance(output, Mapping):
        found: Any = copy.copy(output)
        for name, value in output.items():
            found[name] = detached(value)
        return found
    if not isinstance(output, (tuple, list)):
        return output
    items = [detached(item) for item in output]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)


def leaves_from(tensors: Sequence[torch.Tensor], end: str = "") -> List[torch.Tensor]:
    """The leaves that tensors depend on, by way of nodes that are not marked as an end."""
    found: List[torch.Tensor] = []
    seen: Set[Any] = {None}
    todo: List[Any] = []
    for tensor in tensors:
        if tensor.grad_fn is None and tensor.requires_grad:
            found.append(tensor)
        todo.append(tensor.grad_fn)
    while todo:
        node = todo.pop()
        if node in seen or (end and end in node.metadata):
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo += [following for following, _ in node.next_functions]
    return found


def check_once() -> None:
    """In a backward of the library's own: it builds no graph, and what is differentiated once more would count as 0."""
    if torch.is_grad_enabled():
        raise RuntimeError("create_graph=True: gradients of gradients are not to be had here")


def hook_arguments(module: nn.Module, hook: Callable[..., Any], before: bool = False) -> Any:
    """A forward hook (module, positional, keywords[, output]); PyTorch before 2.0 does not show the keywords."""
    register = module.register_forward_pre_hook if before else module.register_forward_hook
    if "with_kwargs" in inspect.signature(register).parameters:
        return register(hook, with_kwargs=True)
    if before:
        return register(Hook(lambda owner, inputs: hook(owner, inputs, {})))
    return register(Hook(lambda owner, inputs, output: hook(owner, inputs, {}, output)))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients. Modes are set, and given back, one by one: train() of a host's class may do
    more, and a host may have put single modules into evaluation mode."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The same, uncompiled, and random numbers are as before afterwards."""
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    stance = getattr(torch.compiler, "set_stance", None) if hasattr(torch, "compiler") else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(i for i in devices if i is not None)))
        if stance is not None:
            stack.enter_context(stance("force_eager"))
        stack.enter_context(evaluating(model))
        yield


def special_tokens(config: Any) -> frozenset[int]:
    """Ids that a configuration gives a meaning of their own (padding, images, ends): not to be fed as text."""
    found: set[int] = set()
    for name, value in getattr(config, "__dict__", {}).items():
        if name.endswith(("token_id", "token_index", "token")):
            found.update(int(v) for v in (value if isinstance(value, (list, tuple)) else [value]) if type(v) is int)
        elif hasattr(value, "__dict__") and name.endswith("config"):
            found |= special_tokens(value)
    return frozenset(found)


def small_batch(base: nn.Module, embedding: Optional[nn.Module]) -> Dict[str, Any]:
    """Tokens for a forward: seeded, none of them special, on the embedding's device."""
    if embedding is None:
        embedding = next((module for module in base.modules() if isinstance(module, nn.Embedding)), None)
    weight = getattr(embedding, "weight", None)
    vocabulary = int(weight.shape[0]) if isinstance(weight, torch.Tensor) and weight.dim() == 2 else 2
    special = special_tokens(getattr(base, "config", None))
    free = [i for i in range(min(vocabulary, 4096)) if i not in special] or [0]
    seeded = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randint(0, len(free), (_TOKENS + 1,), generator=seeded, device="cpu")
    ids = torch.tensor(free, device="cpu")[drawn]
    ids[-1] = free[(int(drawn[-2]) + 1) % len(free)]  # another last token for the second row
    device = weight.device if isinstance(weight, torch.Tensor) else next(base.parameters()).device
    return {"input_ids": torch.stack([ids[:-1], torch.cat([ids[:-2], ids[-1:]])]).to(device)}


def call_model(base: nn.Module, batch: Any, **options: Any) -> Any:
    """The model's output for a batch: a mapping of arguments, or what is passed alone. Options go where they are
    known."""
    known = inspect.signature(base.forward).parameters
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    chosen = {name: value for name, value in options.items() if name in known or (any_name and hasattr(base, "config"))}
    if not isinstance(batch, Mapping):
        return base(batch, **chosen)
    if not any_name and len(batch) == 1 and not set(batch) <= set(known):
        return base(next(iter(batch.values())), **chosen)
    return base(**{**chosen, **batch})


def logits_of(output: Any) -> Optional[torch.Tensor]:
    """The logits [rows, tokens, vocabulary] of a model's output."""
    found = getattr(output, "logits", None)
    return found if isinstance(found, torch.Tensor) else first_state(output)


def watch(base: nn.Module, batch: Any, chosen: Optional[Tuple[nn.Module, torch.Tensor]] = None) -> Flow:
    """Runs the model once and notes every call. chosen = (module, values): the module reads these values instead."""
    names = {id(module): name for name, module in base.named_modules()}
    calls: List[Call] = []
    handles: List[Any] = []

    def note(module: nn.Module, inputs: Any, named: Mapping[str, Any], output: Any) -> None:
        calls.append(Call(module, names[id(module)], first_state(inputs, named), first_state(output)))

    def replace(_module: nn.Module, inputs: Any, named: Mapping[str, Any]) -> Any:
        assert chosen is not None
        at = next(i for i, value in enumerate(inputs) if isinstance(value, torch.Tensor))
        values = chosen[1].to(inputs[at]).expand_as(inputs[at])
        new = (*inputs[:at], values, *inputs[at + 1 :])
        return (new, dict(named)) if "with_kwargs" in _PRE_HOOK else new

    try:
        handles += [hook_arguments(module, note) for module in base.modules()]
        if chosen is not None:
            handles.append(hook_arguments(chosen[0], replace, before=True))
        with undisturbed(base):
            output = call_model(base, batch, use_cache=False, return_dict=True)
    except Exception as error:  # whatever a host's forward raises: the reason why nothing could be measured
        return Flow((), None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200])
    finally:
        for handle in handles:
            handle.remove()
    return Flow(tuple(calls), logits_of(output))


_PRE_HOOK = inspect.signature(nn.Module.register_forward_pre_hook).parameters


# ---- what equals what ----


def same(a: Optional[torch.Tensor], b: Optional[torch.Tensor]) -> bool:
    """Whether two tensors hold the same numbers; without values (meta device), whether they are one tensor or views."""
    if a is None or b is None or a.shape != b.shape:
        return False
    if a is b:
        return True
    if a.is_meta or b.is_meta:
        return (a if a._base is None else a._base) is (b if b._base is None else b._base)
    return bool(torch.equal(a.to(b), b))


def factor_between(a: Optional[torch.Tensor], b: Optional[torch.Tensor]) -> float:
    """c with b = c * a to rounding, or 0 where there is none."""
    if a is None or b is None or a.shape != b.shape or a.is_meta or b.is_meta:
        return 1.0 if same(a, b) else 0.0
    if same(a, b):
        return 1.0
    rounding = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    left, right = a.detach().double().flatten().cpu(), b.detach().double().flatten().cpu()
    square = float(left @ left)
    factor = float(left @ right) / square if square > 0 else 0.0
    error = float((right - factor * left).abs().max())
    return factor if factor != 0 and error <= 8 * rounding * float(right.abs().max()) else 0.0


# ---- the layers ----


@dataclass(frozen=True)
class LayerList:
    """A list of modules that ran as layers do. chained: each took what the one before it gave."""

    name: str
    owner: nn.Module
    layers: Tuple[nn.Module, ...]
    times: int
    chained: bool


def _as_layers(flow: Flow, name: str, owner: nn.Module, members: Sequence[nn.Module]) -> Optional[LayerList]:
    """The list as layers, if every member ran, equally often and in order, on states of one shape."""
    order = {id(call.module): i for i, call in enumerate(flow.calls)}
    ran = [flow.of(member) for member in members]
    times = {len(calls) for calls in ran}
    if len(times) != 1 or 0 in times:
        return None
    first = [calls[0] for calls in ran]
    states = [state for call in first for state in (call.taken, call.given)]
    shapes = {tuple(state.shape) for state in states if state is not None}
    ends = [order[id(member)] for member in members]
    if None in states or len(shapes) != 1 or len(next(iter(shapes))) < 3 or ends != sorted(ends):
        return None
    chained = all(factor_between(a.given, b.taken) != 0 for a, b in zip(first, first[1:]))
    return LayerList(name, owner, tuple(members), times.pop(), chained)


def layer_lists(base: nn.Module, flow: Flow) -> List[LayerList]:
    """Every outermost list of modules that ran as layers; of several, those that are chained."""
    modules = dict(base.named_modules())
    found: List[LayerList] = []
    for kinds in ((nn.ModuleList, nn.ModuleDict), (nn.Sequential,)):  # what runs by itself is looked at last
        for name, module in modules.items():
            inside = any(name.startswith(f"{other.name}.") for other in found)
            if not isinstance(module, kinds) or inside or next(module.parameters(), None) is None:
                continue
            owner = modules[name.rpartition(".")[0]] if name else base
            layers = _as_layers(flow, name, owner, list(module.children()))
            if layers is not None:
                found.append(layers)
        if found:
            break
    return [layers for layers in found if layers.chained] or found
