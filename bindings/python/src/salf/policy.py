"""Freezing policies: what trains at a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Tuple

from salf import _arrays, _callbacks
from salf._arrays import doubles, whole_numbers
from salf._ffi import NULL, Name, check, integer, lib, new_struct, number_of, set_fields
from salf._handles import create
from salf._saved import Saved
from salf.context import Context
from salf.errors import ShapeError
from salf.planner import Planner
from salf.probe import Trace, trace_of, trace_struct

Cut = Callable[[int, int, Optional[Trace]], int]


@dataclass(frozen=True)
class Decision:
    """What to do at a step. cut: lowest layer the backward must reach, n_layers when none. graph_changed: another set
    trains than before. added, removed, reset: layers that train now and did not, that did and do not, whose optimizer
    state starts afresh. batch_share: an update takes its rate times the sum of this over the decisions whose gradients
    it applies, at most 1. gradients_wanted: "autofreeze", pass gradient_l1 at the next step, which ends the turn. eof,
    order [rows] and active_rows [n_layers] are None unless the policy saw data: layer k's backward may run on the first
    active_rows[k] rows of order."""

    step: int
    n_layers: int
    cut: int
    graph_changed: bool
    train_embedding: bool
    train_head: bool
    trainable: Tuple[bool, ...]
    rate_scale: Tuple[float, ...]
    added: Tuple[int, ...]
    removed: Tuple[int, ...]
    reset: Tuple[int, ...]
    eof: Any
    order: Any
    active_rows: Any
    batch_share: float = 1.0
    gradients_wanted: bool = False


def _decision_of(found: Any) -> Decision:
    n, rows = found.n_layers, found.rows
    seen = found.eof != NULL
    return Decision(
        step=found.step,
        n_layers=n,
        cut=found.cut,
        graph_changed=bool(found.graph_changed),
        train_embedding=bool(found.train_embedding),
        train_head=bool(found.train_head),
        trainable=tuple(bool(value) for value in found.trainable[0:n]),
        rate_scale=tuple(found.rate_scale[0:n]),
        added=tuple(found.added[0 : found.n_added]) if found.n_added else (),
        removed=tuple(found.removed[0 : found.n_removed]) if found.n_removed else (),
        reset=tuple(found.reset[0 : found.n_reset]) if found.n_reset else (),
        eof=_arrays.copied(found.eof, [rows], "int32") if seen else None,
        order=_arrays.copied(found.order, [rows], "int64") if seen else None,
        active_rows=_arrays.copied(found.active_rows, [n], "int64") if seen else None,
        batch_share=found.batch_share,
        gradients_wanted=bool(found.gradients_wanted),
    )


class Policy(Saved):
    """A policy for n_layers layers.

    kind: "full", "suffix", "half", "salf", "budget", "lift", "lift_star", "lisa", "block", "freezeout", "linear",
    "autofreeze", "rgn", "random", "scripted", "callback" or "ramp"; the options that each takes are those of
    salf_policy_options in salf.h, by the same names. callback: a function (step, n_layers, trace) -> cut. planner: for
    "budget", and "ramp" if wanted; kept alive. rates: "default", "whole" or "by_rows".
    """

    _kind = "policy"

    def __init__(
        self,
        context: Context,
        kind: Name = "salf",
        n_layers: int = 0,
        *,
        reduction: Name = "mean_gain",
        planner: Optional[Planner] = None,
        callback: Optional[Cut] = None,
        script: Any = None,
        first_layer: int = 0,
        order: Name = "default",
        interval: int = 0,
        total_steps: int = 0,
        seed: int = 0,
        n_active: int = 0,
        always_on: bool = False,
        keep_moments: bool = False,
        train_embedding: bool = False,
        train_head: bool = False,
        cubic: bool = False,
        scale_rate: bool = False,
        start: float = 0.0,
        level: float = 0.0,
        percentile: float = 0.0,
        rates: Name = "default",
    ) -> None:
        options = new_struct("salf_policy_options")
        set_fields(
            options,
            {
                "reduction": reduction,
                "first_layer": first_layer,
                "order": order,
                "interval": interval,
                "total_steps": total_steps,
                "seed": seed,
                "n_active": n_active,
                "always_on": always_on,
                "keep_moments": keep_moments,
                "train_embedding": train_embedding,
                "train_head": train_head,
                "cubic": cubic,
                "scale_rate": scale_rate,
                "start": start,
                "level": level,
                "percentile": percentile,
                "rates": rates,
            },
        )
        keep: List[Any] = [Context._of(context, "context")]
        if script is not None:
            options.script, options.n_script, kept = whole_numbers(script, "script")
            keep.append(kept)
        if callback is not None:
            keep.append(_callbacks.cut(callback, trace_of))
            options.callback = keep[-1]
        if planner is not None:
            keep.append(Planner._of(planner, "planner"))
            options.planner = keep[-1].pointer
        self.n_layers = integer(n_layers, "n_layers")
        number = number_of("POLICY", kind, "kind")
        with Context._of(context, "context") as pointer:
            self._owner = create(
                "policy",
                tuple(keep),
                exclusive=True,
                call=lambda out: lib.salf_policy_create(out, pointer, number, self.n_layers, options),
            )

    def _norms(self, values: Any, name: str) -> Tuple[Any, Any]:
        if values is None:
            return NULL, None
        pointer, shape, keep = doubles(values, name)
        if tuple(shape) != (self.n_layers,):
            raise ShapeError(f"{name} has the shape {tuple(shape)} for {self.n_layers} layers")
        return pointer, keep

    def decide(
        self,
        step: int,
        trace: Optional[Trace] = None,
        gradient_l1: Any = None,
        gradient_norm: Any = None,
        parameter_norm: Any = None,
        n_data: int = 0,
    ) -> Decision:
        """The decision for a step; with several ranks all of them ask together and get the same cut.

        trace: for "salf", and "callback" if wanted. gradient_l1: for "autofreeze" where the decision before had
        gradients_wanted, the L1 norm of the sum of each layer's gradients since it was last wanted. gradient_norm,
        parameter_norm: for "rgn"; they may be None at the first decision. n_data: data of the batch, so that reduction
        "prefix" refuses a trace whose rows are no data."""
        seen, found = new_struct("salf_observation"), new_struct("salf_decision")
        set_fields(seen, {"step": step, "n_data": n_data})
        seen.trace, keep = trace_struct(trace)
        seen.gradient_l1, keep_l1 = self._norms(gradient_l1, "gradient_l1")
        seen.gradient_norm, keep_gradient = self._norms(gradient_norm, "gradient_norm")
        seen.parameter_norm, keep_parameter = self._norms(parameter_norm, "parameter_norm")
        with self._use() as pointer:
            check(lib.salf_policy_decide(pointer, seen, found))
            decision = _decision_of(found)
        del keep, keep_l1, keep_gradient, keep_parameter
        return decision
