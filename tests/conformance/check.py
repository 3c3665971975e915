"""Whether salf is right about one small model: parts, norm, deviations, truncated gradients.

right    everything below holds
refused  salf says in one sentence why it does not take this model
wrong    salf takes the model, and something below does not hold
unbuilt  the small model could not be made or run by transformers itself
"""

import math
import traceback

import numpy
import tiny
import torch

from salf.torch import FreezeController, Rows, find_parts
from salf.torch.groups import Groups

DEVIATION, GRADIENT = 1e-5, 1e-4


class Wrong(Exception):
    """Something that salf got wrong."""


def loss_of(model, ids, labels):
    """A plain forward with loss; the model's own where it has one."""
    output = model(input_ids=ids, **({"use_cache": False} if hasattr(model.config, "use_cache") else {}))
    logits = output.logits if hasattr(output, "logits") else output[0]
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
    )


def gradients(model, run):
    """Gradients by parameter name after run()."""
    model.zero_grad(set_to_none=True)
    run()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def check_last_space(controller, model, ids, labels):
    """The last space against what transformers gives as the last of hidden_states, with NumPy's pseudo-inverse."""
    with torch.no_grad():
        output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    hidden = getattr(output, "hidden_states", None)
    if not hidden:
        return "no hidden_states"
    if hidden[-1].dim() != 3:
        return f"hidden_states of shape {tuple(hidden[-1].shape)}"
    rows, positions = torch.nonzero(labels[:, 1:] != -100, as_tuple=True)
    tokens = labels[rows, positions + 1]
    head = controller.parts.head_weight.detach().double().numpy()
    basis = numpy.linalg.pinv(head).T[tokens]
    states = hidden[-1][rows, positions].double().numpy()
    cosine = (basis * states).sum(1) / numpy.linalg.norm(basis, axis=1) / numpy.linalg.norm(states, axis=1)
    found = controller.measure(labels, lambda: model(input_ids=ids, use_cache=False)).deviations[:, -1]
    error = float(numpy.abs(found - (1 - cosine)).max())
    if not error <= DEVIATION:
        raise Wrong(f"the last space is off by {error:.2g} from hidden_states[-1]")
    return ""


def check_gradients(model, parts, ids, labels, cut):
    """Cut in the middle: gradients at and above the cut are those of a full backward, below it there are none."""
    whole = gradients(model, lambda: loss_of(model, ids, labels).backward())
    options = {"policy": {"callback": lambda step, n_layers, trace: cut}}
    with FreezeController(model, "callback", parts=parts, **options) as controller:
        controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))

        def run():
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))

        found = gradients(model, run)
        layer_of = {id(p): k for k, layer in enumerate(controller.parts.layers) for p in layer.parameters()}
        layers = {n: layer_of.get(id(p), -1) for n, p in model.named_parameters()}
    wanted = {n for n in whole if layers[n] >= cut}
    if extra := sorted(set(found) - wanted):
        raise Wrong(f"{len(extra)} gradients below the cut, the first of {extra[0]}")
    if missing := sorted(wanted - set(found)):
        raise Wrong(f"{len(missing)} gradients are missing, the first of {missing[0]}")
    if not wanted:
        raise Wrong("nothing above the cut has a gradient")
    scale = max(float(whole[n].abs().max()) for n in wanted)
    for name in wanted:
        error = float((found[name] - whole[name]).abs().max())
        if not error <= GRADIENT * max(float(whole[name].abs().max()), 1e-3 * scale):
            raise Wrong(f"the gradient of {name} is off by {error:.2g}")


def without_forward(model):
    """Of a model that does not run on tokens alone: whether salf refuses it."""
    try:
        FreezeController(model, "salf").close()
    except ValueError as error:
        return {} if "not run" in str(error) else {"verdict": "refused", "reason": reason_of(error)}
    return {}


def check(model_type, class_name):
    """The row of one model: verdict, reason, what was measured."""
    row = {"type": model_type, "class": class_name, "verdict": "unbuilt", "reason": "", "notes": []}
    try:
        model = None
        model = tiny.make(model_type, class_name)
        ids, labels = tiny.batch_of()
        with torch.no_grad():
            if not math.isfinite(float(loss_of(model, ids, labels))):
                raise ValueError("its loss is not a number")
    except Exception as error:
        row |= {"reason": reason_of(error), "trace": traceback.format_exc()[-3000:]}
        return row if model is None else {**row, **without_forward(model)}
    try:
        parts = find_parts(model)
        if "transformed head" in parts.problem:  # told what salf asks for, it takes the model
            told = tiny.NAMED.get(model_type, {"norm_kind": "none"})
            row["told"] = ", ".join(f"{name}={value!r}" for name, value in told.items())
            parts = find_parts(model, **told)
        other = Groups(parts, model).other
        if other and not (parts.problem or parts.head_problem):  # towers of other modalities, as salf asks
            row["notes"].append(f"{len(other)} parameters frozen first, such as {other[0]}")
            for name in other:
                model.get_parameter(name).requires_grad_(False)
        with FreezeController(model, "salf", parts=parts) as controller:
            row |= {"norm": parts.norm_kind, "eps": parts.norm_eps, "layers": len(parts.layers)}
            row |= {"scale": parts.logit_scale, "cap": parts.logit_softcap, "logits": parts.logits_problem}
            row["norm_error"] = parts.norm_fit.error if parts.norm_fit else None
            rows = Rows.from_labels(labels)
            found = controller.verify({"input_ids": ids}, tolerance=DEVIATION, rows=rows)
            row |= {"deviation": found.worst, "states": found.states}
            if not found.ok:
                raise Wrong(f"deviations are off by {found.worst:.2g}: {found.differences}")
            note = check_last_space(controller, model, ids, labels)
            row["notes"] += [note] if note else []
        if len(parts.layers) < 2:
            raise Wrong(f"{len(parts.layers)} layers were found")
        check_gradients(model, parts, ids, labels, len(parts.layers) // 2)
    except ValueError as error:
        return {**row, "verdict": "refused", "reason": reason_of(error), "trace": traceback.format_exc()[-3000:]}
    except Exception as error:
        return {**row, "verdict": "wrong", "reason": reason_of(error), "trace": traceback.format_exc()[-3000:]}
    return {**row, "verdict": "right"}


def reason_of(error):
    """One line."""
    text = str(error).strip().splitlines()
    return (f"{type(error).__name__}: " if not isinstance(error, (ValueError, Wrong)) else "") + (
        text[0] if text else ""
    )
