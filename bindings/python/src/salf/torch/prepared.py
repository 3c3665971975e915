"""What a FreezeController is made of, and what it can be asked outside of training: traces of a batch, and whether they
are right."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

import numpy
import torch
from torch import nn

import salf
from salf import distributed
from salf.methods import Method
from salf.torch.anatomy import Parts, measured_again
from salf.torch.boundary import BoundaryCache
from salf.torch.build import RowCallback, make_context, make_model
from salf.torch.feed import ProbeFeed
from salf.torch.flags import Active, Flags
from salf.torch.flow import evaluating
from salf.torch.groups import Groups
from salf.torch.own_cuts import OwnCuts
from salf.torch.passage import Step
from salf.torch.targets import RowPolicy, Rows
from salf.torch.verify import Verification, expected_of, option_word, verify

# What a method's name says of its plan.
_PLAN_OPTIONS = ("growth", "infill", "matching", "assignment", "stream_order")


class Prepared:
    """The library's handles for a model and a method: context, policy, plan, basis and probe."""

    method: Method
    parts: Parts
    n_layers: int
    model: salf.Model
    basis: salf.Basis
    planner: Optional[salf.Planner]
    row_policy: RowPolicy
    _by_trace: bool
    _communicator: Optional[distributed.Communicator]
    _head_options: Tuple[Optional[torch.Tensor], Optional[RowCallback], int]
    _probe_options: Dict[str, Any]
    _policy_options: Dict[str, Any]
    _groups: Groups
    _flags: Flags
    _feed: Optional[ProbeFeed]
    _own: Optional[OwnCuts]
    _step: Optional[Step]
    _streams: bool
    _by_rows: bool
    closed: bool

    def _build_policy(self, planner: Any, context: Dict[str, Any]) -> None:
        kind = self.method.policy
        if kind == "budget" and planner is None:
            raise ValueError(f"method {self.method.name!r} follows a plan: pass planner=")
        if kind not in ("budget", "ramp") and planner is not None:
            raise ValueError(f"method {self.method.name!r} follows no plan: leave planner= out, or take a budget")
        if kind == "suffix" and "first_layer" not in self._policy_options:
            raise ValueError("method 'suffix' needs policy={'first_layer': K}, the lowest layer that trains")
        device = next(self.parts.layers[0].parameters()).device
        context.setdefault("log", logging.getLogger("salf"))
        self.context, self._direct = make_context(device, context.pop("backend", "auto"), self._communicator, context)
        if isinstance(planner, Mapping):
            named = {key: getattr(self.method, key) for key in _PLAN_OPTIONS} if kind == "budget" else {}
            planner = salf.Planner(self.context, self.n_layers, **{**named, **planner})
        elif planner is not None and (self.method.matching == "stream") > (planner.matching == "stream"):
            raise ValueError(f"method {self.method.name!r} is a stream, and the planner matches {planner.matching!r}")
        self.planner = planner
        self._streams = kind == "budget" and planner is not None and planner.matching == "stream"
        self.policy = salf.Policy(self.context, kind, self.n_layers, planner=planner, **self._policy_options)

    def _open_own_cuts(self, boundary: Optional[BoundaryCache]) -> None:
        """Takes the layers over where rows have cuts of their own: before the forward in a stream by random and in full
        batches of a plan, else after it."""
        plan = self.planner
        after = self._by_trace and self._policy_options.get("reduction") == "prefix"
        before = plan is not None and self.method.policy == "budget" and plan.full_batches
        if plan is not None and self._streams and not plan.one_cut:
            before, after = plan.assignment == "random", plan.assignment != "random"
        self._by_rows = (before or after or self._streams) and self._policy_options.get("rates") != "whole"
        if before or after or boundary is not None:
            if self.parts.states_problem:
                raise ValueError(self.parts.states_problem)
            self._own = OwnCuts(self.parts, before, after, boundary)

    def _check_parts(self, model: nn.Module) -> None:
        """What a probe needs of the model beyond its layers."""
        distributed.check_whole(model, self.parts.head, self.parts.norm)
        head_given = self._head_options[0] is not None or self._head_options[1] is not None
        problem = ("" if head_given else self.parts.head_problem) or self.parts.problem
        if problem:
            raise ValueError(problem)
        lens, scores = option_word(self._probe_options, "lens"), option_word(self._probe_options, "scores")
        if lens == "normed" and self.parts.norm_kind == "observed":
            raise ValueError(
                f"lens 'normed' needs a formula of the final norm, and {type(self.parts.norm).__name__} computes none "
                "that the library knows: take lens 'hf' or 'raw'"
            )
        if scores == "logits" and self.parts.logits_problem:
            raise ValueError(f"scores 'logits' cannot be had of this model: {self.parts.logits_problem}")
        # A norm that trains is not the one that was measured: the state behind it is then taken from itself.
        trains = bool(self._policy_options.get("train_head") or self._policy_options.get("always_on"))
        observed = self.parts.norm_kind == "observed" or (trains and self.parts.norm_kind not in ("none", "unknown"))
        self._observed_norm = self.parts.norm if observed and lens == "hf" else None
        # Without a norm a state is what it would be behind one.
        bare = self.parts.norm is None or self.parts.norm_kind == "none"
        self._normed: Sequence[int] = range(self.n_layers + 1) if bare and lens == "normed" else ()
        if lens == "hf" and (bare or observed):
            self._normed = (self.n_layers,)

    def _make_model(self) -> salf.Model:
        return make_model(self.context, self.parts, self._direct is not None, *self._head_options)

    def _make_feed(self) -> None:
        if self._feed is not None:
            self._feed.close()
        self.probe = salf.Probe(self.basis, n_layers=self.n_layers, **self._probe_options)
        options = self._probe_options
        self._rules = options.get("eof_rule", "most_gain"), options.get("nonfinite", "error")
        self._feed = ProbeFeed(
            self.parts.layers, self.probe, self._direct, self._observed_norm, self._normed, *self._rules
        )

    def _check_embedding(self) -> None:
        always = bool(self._policy_options.get("always_on"))
        self._train_embedding = bool(self._policy_options.get("train_embedding")) or always
        self._train_head = bool(self._policy_options.get("train_head")) or always
        if not (self.parts.tied and self._train_head):
            return
        if always:  # LISA: both train at every step, and so does the one parameter that they are
            return
        if self._train_embedding:
            raise ValueError("head and embedding are tied: train the one or the other, not both at cuts of their own")
        self._flags.detach_embedding()

    def _everything(self) -> Active:
        return Active.everything(self.n_layers, self._train_embedding, self._train_head)

    # ---- outside of training ----

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError("the controller is closed: make another one")

    def _check_idle(self, call: str) -> ProbeFeed:
        """The probe, for a look at states outside of a step."""
        self._check_open()
        if self._feed is None:
            raise ValueError(f"method {self.method.name!r} has no probe")
        if self._step is not None:
            raise RuntimeError(f"a batch is announced: {call} before begin(), or after the step")
        return self._feed

    def measure(
        self, labels: Any, forward: Callable[[], Any], inputs: Optional[Mapping[str, Any]] = None
    ) -> salf.Trace:
        """The trace of a batch outside training: runs forward() without gradients, and nothing is decided. inputs: as
        begin() takes them."""
        feed = self._check_idle("measure")
        try:
            feed.arm(self.row_policy.rows(labels, inputs))
            with evaluating(self._groups.outer):
                forward()
            return feed.finish()
        finally:
            feed.disarm()

    def verify(self, batch: Mapping[str, Any], tolerance: float = 1e-4, rows: Optional[Rows] = None) -> Verification:
        """Compares the probe's deviations of a batch with those that follow in float64, by a pseudo-inverse of the
        head, from the model's own hidden states. batch: arguments of the model's forward by name, with labels, or rows.
        The model runs once, in evaluation mode; nothing is decided or trained. verify(batch).check() raises where a
        space is beyond the tolerance. Needs the head, and for ce and rank its basis, in float64."""
        feed = self._check_idle("verify")
        if rows is None and "labels" not in batch:
            raise ValueError("the batch has no labels: pass rows=, which say what is observed")
        rows = Rows.from_labels(batch["labels"]) if rows is None else rows
        rows = Rows(rows.positions, rows.tokens, rows.data, range(len(rows)))  # each by itself
        expected = expected_of(self._probe_options, self.basis.info)
        try:
            differences, source = verify(
                self.parts,
                batch,
                rows,
                self._whole_head(),
                expected,
                (feed.arm, feed.finish),
                self._observed_norm is not None,
            )
        finally:
            feed.disarm()
        return Verification(differences, tolerance, len(rows), expected.metric, expected.lens, source)

    def _whole_head(self) -> torch.Tensor:
        """The valid rows of the matrix that the basis is made of, in float64."""
        head, head_rows, _ = self._head_options
        # What the head computes now, or an error: an adapter on it may have moved since it was measured.
        weight = head if head is not None or head_rows is not None else measured_again(self.parts).head_weight
        info = self.model.info
        if self.basis.info.side == "input" or head_rows is None:
            assert weight is not None
            return weight.detach().double().cpu()[: self.basis.info.vocab]
        filled = numpy.empty((info.vocab, info.hidden), dtype=numpy.float32)
        head_rows(0, info.vocab, filled)
        return torch.from_numpy(filled).double()[: self.basis.info.vocab]
