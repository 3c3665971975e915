"""FreezeController: which layers of a model train at a step, and a backward pass that stops there.

A step is begin(labels), the model's forward, backward(loss), and the optimizer's step. A host that calls
loss.backward() itself, or accelerate's, gets the same gradients (salf.torch.passage); a batch that is begun and never
trained is an error at the next begin() or step. Two ways lead to a truncated backward:

between   the probe rides on the forward, the decision falls when it is over, and backward() asks autograd for the
          gradients of what trains alone (loss.backward(inputs=...)): nothing below the cut is computed.
before    the decision is known when the forward starts - turns of layers, a plan's stage, a stream's quota, cached
          deviations, or the last batch's trace - and requires_grad flags keep the graph from being built below the cut:
          this saves its memory too.

Rows of a batch may have cuts of their own (a planner that streams; reduction "prefix"). Where they are known before the
forward each layer keeps a graph for the rows that it trains alone; where they are known after it, layers are run again
for those rows (salf.torch.own_cuts).

With several ranks the policy is collective, so that all take the same cut. DistributedDataParallel's own reduction
expects gradients that a truncated backward does not make; the controller switches it off and averages what was
trained.
"""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import nn

import salf
from salf import distributed
from salf.methods import parse_method
from salf.torch.accounts import Accounts
from salf.torch.anatomy import Parts, find_parts, measured_again
from salf.torch.boundary import BoundaryCache
from salf.torch.build import RowCallback
from salf.torch.cache import EofCache, claim
from salf.torch.flags import Active, Flags
from salf.torch.groups import Groups
from salf.torch.hooks import forget_compiled
from salf.torch.optimizer import OptimizerGuard
from salf.torch.passage import Passage, Step, Withheld, leaves_above
from salf.torch.prepared import Prepared
from salf.torch.statistics import LayerStatistics
from salf.torch.targets import RowPolicy, Rows, whole
from salf.torch.verify import expected_of, option_word

_STATE_VERSION = 1

# The open controller of each layer.
_OPEN: weakref.WeakKeyDictionary[nn.Module, weakref.ref[FreezeController]] = weakref.WeakKeyDictionary()

Options = Mapping[str, Any]


class FreezeController(Prepared):
    """Decides, for a model of PyTorch, which layers train at each step, and stops the backward there.

    model: a decoder language model, also inside PEFT or DistributedDataParallel; parts: its find_parts() where they
    are not found by themselves. method: one of the paper's names (salf.methods.METHODS), with "[stream]" behind a
    budget, or a policy's kind. planner: for budgets, a salf.Planner or its options with n_data, those that the name
    says left out. policy, probe, basis, context: options of salf.Policy,
    salf.Probe, salf.Basis and salf.Context by name. labels: tokens whose basis rows are prepared (others are made
    when first met). rows: which targets of a datum are looked at, see salf.torch.RowPolicy. head, head_rows: an
    unquantised head, or a callback (first, count, out) that fills blocks of its rows; valid_vocab: rows beyond it are
    padding. when: "between", "before" or "auto" (see the module). moments: "keep" or "drop" the optimizer's moments of
    layers that do not train at a step. others: "error" or "train" parameters that belong to no layer, embedding or
    head. cache: an EofCache that spares probes of data seen before. boundary: a BoundaryCache that spares forwards
    below what trains; begin() then needs ids and inputs. group: of torch.distributed.

    Embedding, head and final norm are frozen unless the policy's train_embedding and train_head say otherwise.
    close(), or leaving the context manager, takes hooks away and gives parameters their requires_grad back.
    """

    signal: Optional[salf.Signal]

    def __init__(
        self,
        model: nn.Module,
        method: str = "salf",
        *,
        optimizer: Any = None,
        parts: Optional[Parts] = None,
        planner: Union[salf.Planner, Options, None] = None,
        labels: Sequence[int] = (),
        rows: str = "auto",
        policy: Optional[Options] = None,
        probe: Optional[Options] = None,
        basis: Optional[Options] = None,
        context: Optional[Options] = None,
        head: Optional[torch.Tensor] = None,
        head_rows: Optional[RowCallback] = None,
        valid_vocab: int = 0,
        when: str = "auto",
        moments: str = "keep",
        others: str = "error",
        cache: Optional[EofCache] = None,
        boundary: Optional[BoundaryCache] = None,
        group: Any = None,
    ) -> None:
        _check_choice("when", when, ("auto", "between", "before"))
        _check_choice("moments", moments, ("keep", "drop"))
        _check_choice("others", others, ("error", "train"))
        self.method = parse_method(method)
        self._by_trace = self.method.policy == "salf" or bool((policy or {}).get("callback"))
        self._check_used({"probe": probe, "basis": basis}, cache)
        if self._by_trace or self.method.probes:
            distributed.check_whole(model)
        distributed.check_wrapper(model)
        self.parts = parts if parts is not None else find_parts(model)
        self.n_layers = len(self.parts.layers)
        self._check_alone()
        self.cache, self.closed = cache, False
        self._group = group
        self._communicator = distributed.Communicator(group) if distributed.available() else None
        self._head_options = (head, head_rows, valid_vocab)
        self._probe_options = {"metric": self.method.metric, **(probe or {})}
        self._policy_options = dict(policy or {})
        self.row_policy = RowPolicy(rows, int(self._policy_options.get("seed", 0)))
        if self._by_trace or self.method.probes:
            self._check_parts(model)
        self._groups = Groups(self.parts, model)
        self._groups.check(others, self.method.policy)
        self._set_defaults(moments)
        try:
            self._build_policy(planner, dict(context or {}))
            if self._by_trace or self.method.probes:
                self.model = self._make_model()
                self.basis = salf.Basis(self.model, list(labels), **(basis or {}))
                self._make_feed()
                by_datum = self._policy_options.get("reduction") == "prefix" or self.method.policy == "budget"
                self.signal = salf.Signal(self.context, self.n_layers, by_datum and not self._stream_probes())
            self._check_embedding()
            if cache is not None:
                claim(cache, self)
            self._groups.say_frozen(self._flags.parameters_of(self._everything()))
            self._open_own_cuts(boundary)
            forget_compiled(model)
            self.wrapped(model, when)
            if optimizer is not None:
                self.attach(optimizer)
        except BaseException:
            self.close()
            raise
        _OPEN.update((layer, weakref.ref(self)) for layer in self.parts.layers)

    # ---- making ----

    def _check_alone(self) -> None:
        """What another controller has frozen would look as if it was never to train, and what stops its backward would
        stop this one's."""
        for layer in self.parts.layers:
            other = _OPEN[layer]() if layer in _OPEN else None
            if other is not None and not other.closed:
                raise RuntimeError(
                    f"the model is under another FreezeController (method {other.method.name!r}), whose close() was "
                    "not called: call it, or that of the callback that made it, before a new one is made"
                )

    def _check_used(self, of_probe: Mapping[str, Any], cache: Optional[EofCache]) -> None:
        """Options that would change nothing."""
        given = [name for name, options in of_probe.items() if options]
        if given and not (self._by_trace or self.method.probes):
            raise ValueError(f"method {self.method.name!r} has no probe: {' and '.join(given)}= would change nothing")
        if cache is not None and not self._by_trace:
            raise ValueError(
                f"cache= spares the probes of method 'salf'; method {self.method.name!r} decides without, or by those "
                "of its plan"
            )

    def _set_defaults(self, moments: str) -> None:
        self.steps = 0
        self.trace: Optional[salf.Trace] = None
        self.decision: Optional[salf.Decision] = None
        self._accounts = Accounts(self.n_layers)
        self._statistics = LayerStatistics(self.method.policy)
        self._flags = Flags(self.parts, self._groups)
        self._trains = [bool(layer) for layer in self._groups.layers]
        self._passage = Passage(self.parts, self._announced_step, self._reached, self._unannounced)
        self._moments = moments
        self._feed = None
        self._guard: Optional[OptimizerGuard] = None
        self._ddp: Any = None
        self._active: Optional[Active] = None
        self._step = None
        self._withheld: Optional[Withheld] = None
        self._decisions = 0
        self._begun = 0
        self._synchronised = True
        self._decided_step = -1
        self._trained: Dict[int, nn.Parameter] = {}
        # Of each batch of the window: the factors on layers' rates, None for what did not train, and its data.
        self._rates: List[Tuple[List[Optional[float]], int]] = []
        self._share = 0.0
        # How often the parameters of the window had been written to when its last backward came, and batches in a row
        # before which they were written to and no optimizer had stepped.
        self._versions: List[int] = []
        self._unseen = 0
        self._streams = self._by_rows = False
        self.planner = None
        self.signal = None
        self._own = None

    # ---- wrappers and optimizer ----

    def wrapped(self, model: nn.Module, when: str = "auto") -> None:
        """Tells the model as it is called, after DistributedDataParallel or FSDP was put around it."""
        self._check_open()
        kind = distributed.check_wrapper(model, self.parts.layers)
        self._sharded = sharded = kind in ("fsdp1", "fsdp2")
        if sharded and self.method.policy in ("autofreeze", "rgn"):
            raise ValueError(f"policy {self.method.policy!r} needs norms of whole gradients, which FSDP shards")
        if when == "between" and (sharded or not self._by_trace):
            reason = "under FSDP decisions fall" if sharded else f"decisions of {self.method.name!r} fall"
            raise ValueError(f"when='between' is not possible: {reason} before the forward")
        self._ddp = model if kind == "ddp" else None
        self._passage.anchors = not sharded
        self._before = sharded or not self._by_trace or when == "before"
        if self._before and self._by_trace and self._policy_options.get("reduction") == "prefix":
            raise ValueError("reduction 'prefix' cuts the rows of the batch that was seen: decide after the forward")
        self._groups.refresh()

    def attach(self, optimizer: Any) -> None:
        """Guards an optimizer, or several that step together, also within the backward: they must hold every parameter
        that may train, and move frozen ones at no step."""
        self._check_open()
        if self._guard is not None:
            self._guard.close()
        self._groups.refresh()
        self._guard = OptimizerGuard(optimizer, self._before_step, self._after_step, self._frozen, self.skipped)
        try:
            self._guard.check_members(self._named_candidates())
        except ValueError:
            self._guard.close()
            self._guard = None
            raise

    def _named_candidates(self) -> List[Tuple[str, nn.Parameter]]:
        everything = self._everything()
        wanted = {id(p) for p in self._flags.parameters_of(everything)}
        return [(n, p) for n, p in self._groups.outer.named_parameters() if id(p) in wanted]

    # ---- a step ----

    def begin(
        self,
        labels: Any = None,
        rows: Optional[Rows] = None,
        ids: Optional[Sequence[int]] = None,
        size: Optional[int] = None,
        probe: Optional[bool] = None,
        inputs: Optional[Mapping[str, Any]] = None,
        groups: Optional[Sequence[int]] = None,
        first: int = 0,
    ) -> None:
        """Announces the forward of a batch.

        labels: [batch, tokens], -100 where there is no target, as transformers takes them (default: those of inputs);
        or rows, what is looked at. ids: of the data, for the cache. size: data in the batch, where labels and rows do
        not tell. probe: whether this batch is observed (default: where the method needs it). inputs: what the model is
        given: position_ids or cu_seqlens tell the documents of a packed batch, input_ids and attention_mask what a
        BoundaryCache keeps. groups: of the data, in a stream that probes; rows of different groups do not compete for a
        cut (default: the tokens that should come next).

        first: where a host shares a plan's task out by itself, the place of the batch's first datum in it.

        A stream hands its next quota to the batch, whatever the data are: let n_data be all that the run trains.
        """
        self._check_open()
        self._flags.check_checkpointing()
        self._give_back()  # of a backward that failed
        if self._guard is not None:
            self._guard.finish()
        self._settle_last("begin() came again")
        if not self._sharded:  # sharding takes parameters and gradients out, and puts them in as it needs them
            self._groups.check_same()
            self._check_unmoved()
            if self._window_is_gone():
                self.skipped()
        try:
            self._begin(labels, rows, ids, size, probe, inputs, groups, first)
        except BaseException:
            self.drop()
            raise

    def _settle_last(self, what: str) -> None:
        """The batch begun before must have been trained, or been such that nothing of it could be."""
        step = self._step
        if step is not None and step.graphless and step.active is not None:
            self.expect_backward()
        elif step is not None:
            raise RuntimeError(
                f"{what} before the backward of the batch that was begun: call controller.backward(loss), or "
                "loss.backward(), behind its forward, or controller.drop() where it is not to be trained"
            )

    def _check_unmoved(self) -> None:
        """What a window trains moves by a step of the optimizers that are attached. An optimizer that nobody told of
        moves frozen layers by its momentum, and turns never change. A host may write to parameters once, such as
        behind a step that its scaler skipped; one that does so before every batch makes steps of its own."""
        moved = any(p._version != version for p, version in zip(self._trained.values(), self._versions))
        self._unseen = self._unseen + 1 if moved else 0
        if self._unseen > 1:
            raise RuntimeError(
                "what trains was moved twice, and no optimizer that is attached has stepped: call attach() with the "
                "one that steps, also where it was made anew; steps that do not go through its step() (SAM's two "
                "halves) are not supported"
            )

    def _window_is_gone(self) -> bool:
        """Whether gradients of the batches before were thrown away, and no step made of them: a scaler skipped it, or
        the loop did. On all ranks, or on none."""
        if not self._trained:
            return False
        held = (getattr(p.grad, "_local_tensor", p.grad) for p in self._trained.values() if p.grad is not None)
        gone = not any(bool(gradient.any()) for gradient in held)
        return self._communicator.all_true(gone) if self._communicator is not None else gone

    def _begin(
        self, labels: Any, rows: Any, ids: Any, size: Any, probe: Any, inputs: Any, groups: Any, first: int
    ) -> None:
        observed = self._by_trace if probe is None else probe
        observed = observed or self._stream_probes()
        self._step = step = self._announced(labels, rows, ids, size, observed, inputs)
        step.groups, step.first = groups, first
        self._begun += 1
        if self._ddp is not None:
            self._ddp.require_backward_grad_sync = False
        if self._own is not None:
            self._own.arm(False)
        if self._streams:
            self._begin_stream(step)
            return
        if self._by_trace:
            self._begin_by_trace(step)
            return
        if observed:
            self._arm(step)
        step.active = self._decide_by_step()
        self._known_before(step)

    def _known_before(self, step: Step) -> None:
        """The decision takes effect in the forward to come."""
        assert step.active is not None
        self._flags.apply(step.active, True)
        if self._own is not None and self.decision is not None:
            eof = self.decision.eof
            if self.planner is not None and self.planner.full_batches and eof is not None:
                eof = eof[step.first : step.first + step.size]
            self._own.decided(self.decision.cut, eof, step.size, step.ids, step.inputs)

    def _stream_probes(self) -> bool:
        return self._streams and self.planner is not None and self.planner.assignment != "random"

    def _begin_stream(self, step: Step) -> None:
        """The quota of the planner's next task goes to the rows of this batch."""
        assert self.planner is not None
        task = self.planner.next(step.size)
        if task.kind == "done":
            raise RuntimeError(
                f"the plan's {self.planner.n_data} data are trained: make n_data what the whole run trains"
            )
        if len(task.data) != step.size:
            raise ValueError(f"the plan's task at hand is of {len(task.data)} data, the batch has {step.size}")
        if task.kind == "probe":
            if step.rows is None or list(step.rows.data_of_units()) != list(range(step.size)):
                raise ValueError("a stream that probes needs a target of each datum: some labels are all -100")
            self._arm(step)
            everything = self._everything()
            self._flags.apply(everything, False)
            if self._own is not None:
                self._own.arm()
            return
        step.active = self._take(self.policy.decide(self._decisions))
        self._known_before(step)

    def _announced(
        self,
        labels: Any,
        rows: Optional[Rows],
        ids: Optional[Sequence[int]],
        size: Optional[int],
        observed: bool,
        inputs: Optional[Mapping[str, Any]],
    ) -> Step:
        if labels is None and inputs is not None:
            labels = inputs.get("labels")
        if observed and rows is None and labels is None and "completion_mask" not in (inputs or {}):
            raise ValueError(f"method {self.method.name!r} looks at data: pass labels or rows")
        if observed and rows is None:
            rows = self.row_policy.checked(labels, inputs, self._communicator)
            if rows.pairs and (self._streams or (self._own is not None and self._own.own_rows)):
                raise ValueError(
                    "a pair of preferences takes one cut, and here each row of a batch has its own: take method "
                    "'salf', or one that takes turns"
                )
            if self._one_datum_a_row(size, rows):
                rows = rows.by_row()
        if observed and not rows and self._communicator is None:
            raise ValueError("no datum of the batch has a target: all labels behind the first are -100")
        known = rows.n_units if rows is not None else 1 if labels is None else len(labels)
        step = Step(rows, None, known if size is None else size, inputs)
        step.batch = step.size if labels is None else len(labels)
        if ids is not None:
            numbers = whole(ids, "ids")
            least = 1 + int(rows.data.max(initial=-1)) if rows is not None else 0
            if len(numbers) < least or (labels is not None and len(numbers) != len(labels)):
                raise ValueError(
                    f"{len(numbers)} ids for a batch of {least if labels is None else len(labels)} rows: each has one, "
                    "also where several data are packed into it"
                )
            step.ids = numbers.tolist()
        return step

    def _one_datum_a_row(self, size: Optional[int], rows: Rows) -> bool:
        """Whether what is decided is for rows of the batch, of which each may hold several documents: where they have
        cuts of their own, where a plan counts them, and where a cache keeps them by id."""
        by_row = self.cache is not None or self._streams or (self._own is not None and self._own.own_rows)
        return by_row or (self.method.planned and rows.n_units != size)

    def _begin_by_trace(self, step: Step) -> None:
        if self.cache is not None and self._cached(self.cache, step):
            step.active = self._decide_by_trace(self.cache.trace(step.ids_of_rows(), *self._rules))
            self._known_before(step)
            return
        self._arm(step)
        everything = self._everything()
        if self._before:  # this batch runs by the decision of the last one
            step.active = self._active = self._active or everything
        self._flags.apply(step.active or everything, self._before)
        if self._own is not None and not self._before:
            self._own.arm()

    def _arm(self, step: Step) -> None:
        if self._feed is None:
            raise ValueError(f"method {self.method.name!r} has no probe")
        assert step.rows is not None
        # Under no_grad begin() is called for a look at the states, and observe() follows: any forward is meant then.
        self._feed.arm(step.rows, training=torch.is_grad_enabled())

    def _cached(self, cache: EofCache, step: Step) -> bool:
        """Whether the cache answers for this batch; on all ranks, or on none."""
        held = step.ids is not None and cache.holds(step.ids_of_rows(), self.steps)
        return self._communicator.all_true(held) if self._communicator is not None else held

    def observe(self) -> Optional[salf.Trace]:
        """After the forward: the trace of the batch, if it was observed."""
        if self._feed is None or not self._feed.armed:
            return None
        self.trace = self._feed.finish()
        self._accounts.note_trace(self.trace)
        if self.cache is not None and self._step is not None:
            self.cache.put(self._step.ids_of_rows(), self.trace, self.steps)
        return self.trace

    def decide(self) -> Active:
        """After the forward: what trains. backward() calls this where the host has not."""
        step = self._step
        if step is None:
            raise RuntimeError("backward() without begin(): announce the batch before its forward")
        trace = self.observe()
        if trace is not None and self._by_trace:
            decided = self._decide_by_trace(trace)
            step.active = step.active or decided  # a batch that was begun by a decision keeps it
        elif trace is not None and self._stream_probes():
            assert self.planner is not None and step.rows is not None  # noqa: PT018 - both follow from begin
            self.planner.assign(trace, step.rows.groups() if step.groups is None else step.groups)
            step.active = self._take(self.policy.decide(self._decisions))
        assert step.active is not None
        if trace is not None:
            self._note_signal(trace, step)
        if self._own is not None and self._own.after and self.decision is not None:
            assert step.rows is not None
            self._flags.apply(step.active, True)
            self._own.settle(self.decision, step.rows.data_of_units(), step.batch)
        return step.active

    def _note_signal(self, trace: salf.Trace, step: Step) -> None:
        if self.signal is None or step.rows is None:
            return
        eof = None if self.decision is None else self.decision.eof
        cuts = eof if eof is not None and len(eof) == trace.rows else None
        self.signal.add(trace, step.rows.groups(), cuts=cuts)

    def _decide_by_trace(self, trace: salf.Trace) -> Active:
        return self._take(self.policy.decide(self._decisions, trace=trace))

    def _decide_by_step(self) -> Active:
        """One decision for each task of a plan, or for each optimizer step, however many batches it accumulates."""
        if self.method.planned:
            return self._take(self.policy.decide(self._decisions))
        if self._active is None or self._decided_step != self.steps:
            self._decided_step = self.steps
            norms: Dict[str, Any] = {**self._statistics.take()}
            return self._take(self.policy.decide(self.steps, **norms))
        return self._active

    def _take(self, decision: salf.Decision) -> Active:
        self.decision = decision
        self._active = Active.of(decision, self._trains)
        self._statistics.turn_ends = decision.gradients_wanted
        self._decisions += 1
        if self._guard is not None and len(decision.reset):
            self._guard.forget([p for k in decision.reset for p in self._groups.layers[k]])
        return self._active

    def backward(
        self,
        loss: torch.Tensor,
        run: Optional[Callable[..., Any]] = None,
        sync: bool = True,
        weight: Optional[int] = None,
    ) -> None:
        """Back-propagates the loss down to the cut.

        run(loss, **arguments) stands in for loss.backward (a scaler's, accelerate's). sync: whether this is the last
        backward before the optimizer's step; ranks then average their gradients. weight: data that count as trained.
        """
        active = self.decide()
        self.expect_backward(weight)
        if loss.requires_grad:
            # A graph that was built before the decision is asked for what trains; what stands outside of the layers, a
            # head of the host's own, trains with it.
            wanted: List[torch.Tensor] = list(self._flags.parameters_of(active))
            whole = self._flags.are(active)
            if not whole:
                managed = {id(p) for p in self._groups.managed()}
                wanted += [leaf for leaf in leaves_above(loss) if id(leaf) not in managed]
            if wanted:
                (run or torch.Tensor.backward)(loss, **({} if whole else {"inputs": wanted}))
        if sync:
            self.synchronise()

    def _announced_step(self) -> Optional[Step]:
        """For a forward: the batch at hand. A wrapper around this forward that nobody told of is refused here."""
        around = getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None)
        if around is not None and around is not self._ddp:
            raise RuntimeError(
                "DistributedDataParallel was put around the model and the controller was not told: call "
                "controller.wrapped(model) before the first batch"
            )
        return self._step

    def _reached(self, step: Step) -> Active:
        """A gradient has come to the layers: of a backward of the controller's, or of the host's own."""
        if step.settled and step.active is not None:
            if self._withheld is None:  # another backward through the same graph, or the first of controller.backward()
                self._withhold(step.active)
            return step.active
        if step is not self._step:
            raise RuntimeError("this backward is of a batch that was dropped, or of a controller that is closed")
        if self._ddp is not None:
            raise RuntimeError(
                "under DistributedDataParallel call controller.backward(loss), which averages what was trained, not "
                "loss.backward()"
            )
        active = self.decide()
        self.expect_backward()
        self._withhold(active)
        return active

    def _withhold(self, active: Active) -> None:
        """Where the forward was not built for its decision, parameters that do not train take no gradient of it, until
        the backward at hand is over."""
        self._give_back()
        chosen = {id(p) for p in self._flags.parameters_of(active)}
        self._withheld = Withheld([p for p in self._groups.managed() if p.requires_grad and id(p) not in chosen])
        torch.autograd.Variable._execution_engine.queue_callback(self._give_back)

    def _unannounced(self) -> None:
        """A gradient has come to the layers of a forward before which nothing was begun. Beside a batch that was, it
        would train by that one's decision, in layers that nobody asked for."""
        if self._trained and not self.closed and not self._flags.final:
            raise RuntimeError(
                "a backward of a batch that was not announced, beside one that was: call begin() before each forward "
                "that trains"
            )

    def _give_back(self) -> None:
        if self._withheld is not None:
            self._withheld.give_back()
            self._withheld = None

    def expect_backward(self, weight: Optional[int] = None) -> None:
        """Says that the host's own loss.backward() of the batch that was begun comes next, where its decision was known
        before the forward. Needed under DistributedDataParallel, with synchronise() behind the last one before a step,
        and where no begin() follows each backward; elsewhere a backward is noticed."""
        if self._guard is None:
            raise RuntimeError("no optimizer is attached: call attach(optimizer), so that frozen layers stay untouched")
        step = self._step
        if step is None or step.active is None:
            raise RuntimeError("no batch is announced whose decision is known: call begin() before its forward")
        active = step.active
        parameters = self._flags.parameters_of(active)
        if not self._trained:
            self._drop_gradients(parameters)
        self._trained.update((id(p), p) for p in parameters)
        self._versions = [p._version for p in self._trained.values()]
        # Ranks have to find the same mean, whatever each has of a batch.
        scales = [scale if trains else None for scale, trains in zip(active.rate_scale, active.layers)]
        self._rates.append((scales, 1 if self._communicator is not None else max(1, step.size)))
        self._accounts.note_trained(active.depth, step.size if weight is None else weight)
        self._share += 1.0 if self.decision is None else self.decision.batch_share
        if self._streams and self.planner is not None:
            self.planner.done()
        self._synchronised = self._ddp is None
        step.settled = True
        self._step = None

    def more(self, size: int) -> bool:
        """Whether a forward of so many data more may belong to the batch at hand, which has not been trained: losses of
        several forwards. It may where the decision is a turn's, the same for all data; the batch then has them too."""
        step = self._step
        turn = not (self._by_trace or self.method.planned) and self._own is None and self._feed_idle()
        if not turn or step is None or step.active is None or step.graphless or self._ddp is not None:
            return False
        step.size += size
        return True

    def _feed_idle(self) -> bool:
        return self._feed is None or not self._feed.armed

    def drop(self) -> None:
        """The batch announced is not trained after all."""
        if self._feed is not None:
            self._feed.disarm()
        if self._own is not None:
            self._own.arm(False)
        self._step = None

    def synchronise(self) -> None:
        """Averages over the ranks what this window trained, where DistributedDataParallel does not do it."""
        if self._ddp is not None and self._trained:
            distributed.reduce_gradients(self._trained.values(), self._group)
        self._synchronised = True

    # ---- optimizer ----

    def _drop_gradients(self, kept: Sequence[nn.Parameter]) -> None:
        """What does not train has no gradient, whatever zero_grad() left."""
        wanted = {id(p) for p in kept}
        for parameter in self._groups.managed():
            if id(parameter) not in wanted:
                parameter.grad = None

    def _before_step(self) -> Dict[int, float]:
        self._settle_last("optimizer.step() came")
        if not self._synchronised:
            raise RuntimeError(
                "the ranks' gradients were not averaged: call controller.synchronise(), or give the last backward "
                "before the step sync=True"
            )
        assert self._guard is not None
        held = self._guard.members()
        lost = next((p for p in self._trained.values() if id(p) not in held), None)
        if lost is not None:
            raise RuntimeError(
                f"the optimizer does not hold {self._groups.name_of(lost)!r} any more, which it did when it was "
                "attached: one that steps copies of the parameters (master weights, flat partitions of DeepSpeed) "
                "moves frozen layers, too"
            )
        managed = self._groups.managed()
        if not self._begun and any(p.grad is not None and bool(p.grad.any()) for p in managed):
            raise RuntimeError("gradients of a batch that was not announced: call begin() before its forward")
        self._drop_gradients(list(self._trained.values()))
        if self.method.policy in ("autofreeze", "rgn") and _in_backward():
            raise ValueError(
                f"policy {self.method.policy!r} looks at all gradients of a step, and an optimizer that steps within "
                "the backward has them one by one"
            )
        self._statistics.note(self._groups.layers, self._guard.factor())
        if self._moments == "drop":
            self._guard.forget(self._frozen())
        scales = self._window_scales()
        if self._share >= 1.0 or not self._trained:
            return scales
        # A batch that a stage cut short must not move the weights as far as a whole one.
        return {place: scales.get(place, 1.0) * self._share for place in self._trained}

    def _window_scales(self) -> Dict[int, float]:
        """Factors on the rates of parameters, where they are not 1: the mean over the window's batches. Where a factor
        is the share of the rows that train a layer, a batch in which none does counts with 0."""
        found: Dict[int, float] = {}
        for k, layer in enumerate(self._groups.layers):
            own = [(scales[k] or 0.0, data) for scales, data in self._rates if self._by_rows or scales[k] is not None]
            scale = own[0][0] if own else 1.0
            if any(other != scale for other, _ in own):
                scale = sum(other * data for other, data in own) / sum(data for _, data in own)
            if scale != 1.0:
                found.update((id(p), scale) for p in layer if id(p) in self._trained)
        return found

    def _frozen(self) -> List[nn.Parameter]:
        return [p for p in self._groups.managed() if id(p) not in self._trained]

    def _after_step(self) -> None:
        self.steps += 1
        self.skipped()

    def skipped(self) -> None:
        """A gradient scaler skipped the step: what the window trained counts for nothing. Needed where gradients are
        not thrown away before the next begin(), which tells the same, and under FSDP, where parameters do not show
        them."""
        self._trained = {}
        self._rates = []
        self._share = 0.0
        self._begun = 0
        self._synchronised = True

    # ---- figures and state ----

    @property
    def cut(self) -> Optional[int]:
        """The cut of the batch at hand where it is known, else of the last decision."""
        active = (self._step and self._step.active) or self._active
        return None if active is None else active.cut

    @property
    def saving(self) -> float:
        """Mean share of the depth that the backward left out, over all data trained (the paper's cost saving)."""
        return self._accounts.saving

    def scalars(self) -> Dict[str, float]:
        """Figures since the last call, for a logger: cut, saving, matched and filled data, deviations of the spaces,
        and what the probe's answers were worth so far (salf.Signal)."""
        if self._active is None:
            return {}
        found = self._accounts.scalars(self._active.cut, self.planner)
        if self.signal is not None and self.signal.info.rows:
            seen = self.signal.info
            found["salf/signal/most_frequent_share"] = seen.most_frequent_share
            found["salf/signal/group_adjusted"] = seen.group_adjusted
        return found

    def refresh(self) -> None:
        """Measures the final norm and makes the basis anew, after head or norm were trained, between two steps."""
        if self._feed is not None:
            self._check_idle("refresh")
            self.parts = measured_again(self.parts)
            self.model = self._make_model()
            self.basis = self.basis.refresh(self.model)
            self._make_feed()

    def state_dict(self) -> Dict[str, Any]:
        """Everything that a resumed run needs, in tensors, integers and strings, which torch.load takes with
        weights_only=True; to be asked for between optimizer steps."""
        if self._guard is not None:
            self._guard.finish()
        if self._trained:
            raise RuntimeError("the state is that of a step's end: save it after the optimizer's step")
        return {
            "version": _STATE_VERSION,
            "method": self.method.name,
            "policy": _bytes_to_tensor(self.policy.save()),
            "planner": None if self.planner is None else _bytes_to_tensor(self.planner.save()),
            "active": None if self._active is None else self._active.state(),
            "numbers": [self.steps, self._decisions, self._decided_step],
            "accounts": self._accounts.state(),
            "statistics": self._statistics.state_dict(),
            "cache": None if self.cache is None else self.cache.state_dict(),
            "options": self._options_of_state(),
        }

    def _options_of_state(self) -> Dict[str, str]:
        """What decisions follow beside the options of policy and plan, whose bytes know their own; in words, as PyTorch
        before 2 loads no files with other numbers than whole ones by weights_only=True."""
        cache = "none" if self.cache is None else f"of max_age {self.cache.max_age}"
        found: Dict[str, Any] = {"moments": self._moments, "cache": cache}
        if self._by_trace or self.method.probes:
            basis = self.basis.info
            found.update(vocab=basis.vocab, rows=self.row_policy.word)
            found.update(dataclasses.asdict(expected_of(self._probe_options, basis)))
            found.update((name, option_word(self._probe_options, name)) for name in ("eof_rule", "nonfinite"))
        return {name: str(value) for name, value in found.items()}

    def load_state_dict(self, state: Options) -> None:
        """Goes on where state_dict() was taken; the same model, method and options must have been given."""
        if state.get("version") != _STATE_VERSION:
            raise ValueError(f"state of version {state.get('version')}, expected {_STATE_VERSION}")
        if state["method"] != self.method.name:
            raise ValueError(f"state of method {state['method']!r} for method {self.method.name!r}")
        if (state["planner"] is None) != (self.planner is None):
            raise ValueError("the state has a plan and the controller none, or the other way round")
        now = self._options_of_state()
        for name, then in state.get("options", now).items():  # states of older versions say nothing of them
            if now.get(name) != then:
                words = f"the state was made with {name} {then!r:.80}, this controller has {now.get(name)!r:.80}"
                raise ValueError(words)
        before = self.policy.save()
        self.policy.load(_tensor_to_bytes(state["policy"]))
        if self.planner is not None:
            try:
                self.planner.load(_tensor_to_bytes(state["planner"]))
            except salf.errors.Error:
                self.policy.load(before)  # both or neither
                raise
        self._active = None if state["active"] is None else Active.from_state(state["active"])
        self.steps, self._decisions, self._decided_step = state["numbers"]
        self._accounts.load(state["accounts"])
        self._statistics.load_state_dict(state["statistics"])
        if self.cache is not None and state["cache"] is not None:
            self.cache.load_state_dict(state["cache"])

    def close(self) -> None:
        """Takes all hooks away and gives parameters their requires_grad back. Figures can still be read."""
        self.closed, self._step = True, None
        self._passage.close()
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        if self._feed is not None:
            self._feed.close()
        if self._ddp is not None:
            self._ddp.require_backward_grad_sync = True
            self._ddp = None
        if self._own is not None:
            self._own.close()
        self._flags.close()

    def __enter__(self) -> FreezeController:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _in_backward() -> bool:
    """Whether autograd is at work; not told by PyTorch before 2.1."""
    told = getattr(torch._C, "_current_graph_task_id", None)
    return told is not None and told() != -1


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")


def _bytes_to_tensor(data: bytes) -> torch.Tensor:
    return torch.tensor(list(data), dtype=torch.uint8, device="cpu")


def _tensor_to_bytes(data: torch.Tensor) -> bytes:
    return bytes(data.cpu().numpy().tobytes())
