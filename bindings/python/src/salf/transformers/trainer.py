"""SalfMixin and SalfTrainer: a Trainer of transformers that fine-tunes where it pays.

The mixin changes what a training step does around its forward and backward, what is loaded under a budget, and what a
checkpoint holds; the Trainer's loop, optimizer, scheduler, logging and evaluation stay as they are. Put it to the
left of any class derived from Trainer.
"""

from __future__ import annotations

import functools
import logging
import math
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer_utils import has_length

from salf import Context, Planner, distributed
from salf.methods import parse_method
from salf.torch.anatomy import find_parts
from salf.torch.controller import FreezeController
from salf.transformers.config import SalfConfig, config_of
from salf.transformers.ids import ID_KEY, IndexedCollator, IndexedDataset
from salf.transformers.plan import (
    UNIT_KEY,
    PlanLoader,
    PlanRun,
    Share,
    as_rows,
    data_of_run,
    data_of_steps,
    is_numbered,
    rows_of,
    shuffled_epochs,
)
from salf.transformers.state import load_state, save_state

logger = logging.getLogger(__name__)


class SalfMixin:
    """Layer-freezing for a Trainer: SalfMixin(..., salf="salf[half]") or salf=SalfConfig(...)."""

    def __init__(self, *args: Any, salf: Any = "salf[half]", **kwargs: Any) -> None:
        self.salf: SalfConfig = config_of(salf)
        self.controller: Optional[FreezeController] = None
        self.plan: Optional[PlanRun] = None
        self._salf_before: Optional[Dict[str, Any]] = None
        self._salf_resumed = False
        self._salf_seen = 0  # steps of the controller at the last optimizer step
        super().__init__(*args, **kwargs)
        self.add_callback(_Hooks(self))  # type: ignore[attr-defined]

    # ---- making ----

    def _salf_open(self) -> FreezeController:
        """The controller, made before anything wraps the model."""
        if self.controller is not None and not self.controller.closed:
            return self.controller
        me: Any = self
        if me.train_dataset is None:
            raise ValueError("Trainer: training requires a train_dataset")
        if getattr(me, "is_deepspeed_enabled", False):
            raise ValueError(distributed.NO_DEEPSPEED)
        config, method = self.salf, parse_method(self.salf.method)
        parts = config.parts or find_parts(me.model)
        seed = int(me.args.seed if config.seed is None else config.seed)
        planner: Any = None
        if method.planned:
            count = self._salf_data(len(parts.layers), seed)
            planner = config.plan_options(method, count, len(parts.layers), seed)
            if me.args.world_size > 1 and not self._salf_streams():
                # PlanRun fills windows, and so shares the tasks out by itself: from a planner that knows no ranks.
                planner = Planner(Context(backend="cpu", threads=1), len(parts.layers), **planner)
        policy = {"total_steps": self._salf_steps(), "seed": seed}
        if self.controller is not None:
            logger.warning(
                "train() again: a new run of salf from its beginning; resume_from_checkpoint goes on with an old one"
            )
        self.controller, self.plan, self._salf_resumed = None, None, False
        self.controller = config.controller(me.model, parts, planner, policy)
        if planner is not None and not self._salf_streams():
            self.plan = self._salf_plan(seed, count)
            stopping = [c for c in me.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
            if stopping:
                logger.warning(
                    f"a plan of {config.method!r} goes from shallow to deep stages, and a run that stops early leaves "
                    "the deep ones out: a stream of mixed order ('random[half][stream]') has all depths at all times"
                )
        return self.controller

    def _salf_close(self) -> None:
        """The model is as it was; the controller's figures stay."""
        if self.controller is not None:
            self.controller.close()

    def _salf_streams(self) -> bool:
        """Whether the plan hands its quotas to the Trainer's own batches."""
        method = parse_method(self.salf.method)
        return method.planned and self.salf.plan_options(method, 1, 1, 0)["matching"] == "stream"

    def _salf_unit_size(self) -> int:
        """Data of a batch over all ranks."""
        me: Any = self
        return int(getattr(me, "_train_batch_size", None) or me.args.train_batch_size) * int(me.args.world_size)

    def _salf_length(self) -> Optional[int]:
        """Length of the dataset, None where it has none."""
        me: Any = self
        length: Optional[int] = len(me.train_dataset) if has_length(me.train_dataset) else None
        if length is None and me.args.max_steps <= 0:
            raise ValueError(f"{type(me.train_dataset).__name__} has no length: set max_steps")
        return length

    def _salf_data(self, n_layers: int, seed: int) -> int:
        """Data that a plan counts: those of the whole run, each epoch's."""
        me: Any = self
        args, unit, length = me.args, self._salf_unit_size(), self._salf_length()
        accumulation = int(args.gradient_accumulation_steps)
        if self._salf_streams():
            several, drop_last = args.world_size > 1, bool(args.dataloader_drop_last)
            epochs = float(args.num_train_epochs)
            length, unit = as_rows(length, unit, self._salf_columns(me.train_dataset), self._salf_collator())
            return data_of_run(length, unit, accumulation, epochs, args.max_steps, several, drop_last)
        if length is None or not is_numbered(me.train_dataset):
            raise ValueError(
                f"a plan of {self.salf.method!r} chooses its data by number, and {type(me.train_dataset).__name__} has "
                "none: take a stream, such as 'random[half][stream]'"
            )
        if args.max_steps <= 0:
            return max(1, round(length * float(args.num_train_epochs)))
        method, context = parse_method(self.salf.method), Context(backend="cpu", threads=1)
        if self.salf.plan_options(method, 1, 1, 0).get("full_batches"):
            return int(args.max_steps) * unit * accumulation

        def counts(n_data: int) -> Any:
            return Planner(context, n_layers, **self.salf.plan_options(method, n_data, n_layers, seed)).counts

        return data_of_steps(int(args.max_steps), unit * accumulation, counts)

    def _salf_steps(self) -> int:
        me: Any = self
        if me.args.max_steps > 0:
            return int(me.args.max_steps)
        batches = max(1, -(-(self._salf_length() or 1) // self._salf_unit_size()))
        updates = -(-batches // int(me.args.gradient_accumulation_steps))
        return max(1, math.ceil(updates * float(me.args.num_train_epochs)))

    def _salf_plan(self, seed: int, n_data: int) -> PlanRun:
        me: Any = self
        assert self.controller is not None
        assert self.controller.planner is not None
        args = me.args
        if args.gradient_accumulation_steps > 1 and getattr(me, "is_fsdp_enabled", False):
            raise ValueError("a plan with gradient accumulation under FSDP is not supported: set accumulation to 1")
        return PlanRun(
            self.controller.planner,
            shuffled_epochs(len(me.train_dataset), n_data, seed),
            self._salf_unit_size() // args.world_size,
            args.gradient_accumulation_steps,
            args.process_index,
            args.world_size,
        )

    # ---- what the Trainer asks for ----

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's training. A resumed plan knows itself what is left, so that the Trainer must not skip data; it
        is told in its arguments, which are the caller's and get their value back."""
        arguments = self.args  # type: ignore[attr-defined]
        before = arguments.ignore_data_skip
        arguments.ignore_data_skip = before or (parse_method(self.salf.method).planned and not self._salf_streams())
        try:
            return super().train(*args, **kwargs)  # type: ignore[misc]
        finally:
            arguments.ignore_data_skip = before

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """One run of the Trainer's loop. Whatever ends it, the model gets its flags and hooks back; a run that is tried
        again with smaller batches begins anew."""
        self._salf_close()
        try:
            return super()._inner_training_loop(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._salf_close()

    def get_train_dataloader(self) -> Any:
        """The Trainer's own loader, or the plan's units."""
        me: Any = self
        controller = self._salf_open()
        if self.plan is not None:
            epochs = me.args.num_train_epochs if me.args.max_steps <= 0 else 1
            return PlanLoader(self.plan, me.train_dataset, epochs)
        if controller.cache is None and self.salf.boundary is None:
            return super().get_train_dataloader()  # type: ignore[misc]
        if not is_numbered(me.train_dataset):
            raise ValueError(
                f"cache= and boundary= know data by their numbers, and {type(me.train_dataset).__name__} has none: "
                "take a plain Trainer with SalfCallback, which knows them by their content"
            )
        dataset, collator = me.train_dataset, me.data_collator
        try:
            me.train_dataset = IndexedDataset(self._salf_columns(dataset))
            me.data_collator = IndexedCollator(self._salf_collator())
            remove, me.args.remove_unused_columns = me.args.remove_unused_columns, False
            try:
                return super().get_train_dataloader()  # type: ignore[misc]
            finally:
                me.args.remove_unused_columns = remove
        finally:
            me.train_dataset, me.data_collator = dataset, collator

    def _salf_columns(self, dataset: Any) -> Any:
        """The dataset without the columns that the model does not take, where it is one of datasets."""
        me: Any = self
        if hasattr(dataset, "column_names") and hasattr(dataset, "remove_columns"):
            return me._remove_unused_columns(dataset, description="training")
        return dataset

    def _salf_collator(self) -> Any:
        me: Any = self
        if hasattr(me.train_dataset, "column_names"):
            return me.data_collator
        return me._get_collator_with_removed_columns(me.data_collator, description="training")

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's optimizer, guarded."""
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        self._salf_open().attach(optimizer)
        return optimizer

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A training step whose backward stops at the cut."""
        controller = self.controller
        assert controller is not None, "training_step outside train()"
        try:
            if UNIT_KEY in inputs:
                return self._salf_unit(model)
            if not isinstance(inputs, Mapping):  # items, of which the Trainer makes its batch by itself
                controller.begin(size=len(inputs))
            else:
                inputs = dict(inputs)
                ids = inputs.pop(ID_KEY, None)
                ids = None if ids is None else ids.tolist()
                controller.begin(ids=ids, size=rows_of(inputs), inputs=inputs)
            with self._salf_backward(None):
                loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        except BaseException:
            controller.drop()
            raise
        return loss

    @contextmanager
    def _salf_backward(self, weight: Optional[int]) -> Iterator[None]:
        """For its duration, accelerate's backward goes through the controller."""
        accelerator = self.accelerator  # type: ignore[attr-defined]
        original, own = accelerator.backward, vars(accelerator).get("backward")

        def backward(loss: torch.Tensor, **kwargs: Any) -> None:
            assert self.controller is not None
            self.controller.backward(
                loss,
                run=lambda value, **arguments: original(value, **arguments, **kwargs),
                sync=accelerator.sync_gradients,
                weight=weight,
            )

        accelerator.backward = backward
        try:
            yield
        finally:
            del accelerator.backward
            if own is not None:  # somebody had put one of their own there
                accelerator.backward = own

    def log(self, logs: Dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds cut, saving, matched and filled data and mean deviations to what is logged in training."""
        if self.controller is not None and "loss" in logs:
            logs = {**logs, **self.controller.scalars()}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def floating_point_ops(self, inputs: Dict[str, Any]) -> int:
        """A plan's units carry no data of their own."""
        return 0 if UNIT_KEY in inputs else super().floating_point_ops(inputs)  # type: ignore[misc]

    # ---- checkpoints ----

    def _salf_state(self) -> Dict[str, Any]:
        assert self.controller is not None
        plan = None if self.plan is None else self.plan.state_dict()
        return {"controller": self.controller.state_dict(), "plan": plan}

    def _salf_load(self, state: Dict[str, Any]) -> None:
        assert self.controller is not None
        self.controller.load_state_dict(state["controller"])
        if self.plan is not None:
            self.plan.load_state_dict(state["plan"])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self.controller is not None and self.args.should_save:  # type: ignore[attr-defined]
            save_state(output_dir, self._salf_state())

    def _load_optimizer_and_scheduler(self, checkpoint: Optional[str]) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None and self.controller is not None:
            self._salf_load(load_state(checkpoint))
            self._salf_resumed = True

    # ---- a unit of a plan ----

    def _salf_unit(self, model: Any) -> torch.Tensor:
        """Trains one unit: tasks until it has its number of data. Returns its part of the step's loss."""
        me: Any = self
        plan = self.plan
        assert plan is not None
        assert self.controller is not None
        model.train()
        # Schedule-free ones, which an evaluation puts aside; a wrapper has the call also where they have not.
        if callable(getattr(getattr(me.optimizer, "optimizer", me.optimizer), "train", None)):
            me.optimizer.train()
        if getattr(me.accelerator, "scaler", None) is not None and plan.progress.units % plan.accumulation == 0:
            self._salf_before = self._salf_state()
        total = torch.zeros((), device=me.args.device)
        wanted = plan.open_unit()
        while wanted > 0:
            share = plan.next_share(wanted)
            if share is None:
                raise RuntimeError(f"the plan ended {wanted} data early")
            loss, trained = self._salf_task(model, share)
            total += loss
            wanted -= trained
            plan.close_task(trained)
        return total

    def _salf_task(self, model: Any, share: Share) -> Tuple[torch.Tensor, int]:
        """Forward and backward of one task; returns this rank's loss and how many data all ranks trained."""
        me: Any = self
        controller, plan = self.controller, self.plan
        assert controller is not None
        assert plan is not None
        inputs = self._salf_batch(share.indices)
        probing = share.kind == "probe"
        ids = share.indices if self.salf.boundary is not None else None
        if probing and plan.planner.full_batches:  # what is taken waits, and trains in a batch to come
            with torch.no_grad():
                controller.begin(size=len(share.indices), probe=True, inputs=inputs, ids=ids)
                self._salf_forward(inputs)
            self._salf_accept(share, len(share.indices))
            controller.drop()
            return torch.zeros((), device=me.args.device), 0
        first = share.first if share.real else 0
        controller.begin(size=len(share.indices), probe=probing, inputs=inputs, ids=ids, first=first)
        loss, outputs = self._salf_compute_loss(model, inputs)
        mine, trained = len(share.indices) if share.real else 0, share.total
        if probing:
            chosen, trained = self._salf_accept(share, len(share.indices))
            mine = int(chosen.sum())
            if 0 < trained < share.total:
                known = self._salf_loss_of_rows(loss, outputs, inputs, torch.from_numpy(chosen).to(loss.device))
                if me.args.world_size > 1:  # a second forward is one of all ranks
                    everywhere = distributed.Communicator().all_true(known is not None)
                    known = known if everywhere else None
                if known is None:
                    taken = [i for i, flag in zip(share.indices, chosen) if flag] or share.indices[:1]
                    known, _ = self._salf_compute_loss(model, self._salf_batch(taken))
                loss = known
        if trained == 0:
            controller.drop()
            return torch.zeros_like(loss.detach()), 0
        # The window's gradient is the mean over its data on all ranks; accelerate and the ranks' mean divide again.
        share_of_window = mine / plan.progress.window
        factor = share_of_window * plan.ranks * me.accelerator.gradient_accumulation_steps
        ends = plan.progress.window_done + trained == plan.progress.window
        controller.backward(loss * factor, run=me.accelerator.backward, sync=ends, weight=trained)
        return loss.detach() * share_of_window, trained

    def _salf_compute_loss(self, model: Any, inputs: Dict[str, Any]) -> Tuple[torch.Tensor, Any]:
        """The Trainer's own loss of a batch, whatever it is. It may take things out of what it is given."""
        me: Any = self
        with me.compute_loss_context_manager():
            loss, outputs = me.compute_loss(model, dict(me._prepare_inputs(inputs)), return_outputs=True)
        return loss, outputs

    def _salf_loss_of_rows(
        self, loss: torch.Tensor, outputs: Any, inputs: Dict[str, Any], chosen: torch.Tensor
    ) -> Optional[torch.Tensor]:
        """salf_loss of the chosen rows, where that of all of them is the loss that the Trainer computed; else None:
        labels are smoothed, experts balanced, or the loss is another one. The chosen rows are then run once more."""
        try:
            with torch.no_grad():
                whole = self.salf_loss(outputs, inputs, torch.ones_like(chosen))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError):
            return None  # outputs without logits, labels of another form
        # Rounding of the logits' type, from sums in another order.
        near = 1e-4 if outputs["logits"].dtype == torch.float32 else 1e-2
        if abs(float(whole) - float(loss.detach())) > near * abs(float(whole)):
            return None
        return self.salf_loss(outputs, inputs, chosen) if bool(chosen.any()) else loss

    def _salf_batch(self, indices: List[int]) -> Dict[str, Any]:
        me: Any = self
        dataset = self._salf_columns(me.train_dataset)
        batch = dict(self._salf_collator()([dataset[i] for i in indices]))
        if batch.get("labels") is None and "completion_mask" not in batch:
            raise ValueError("the collator gives no labels, from which the medium token and its target are taken")
        return batch

    def _salf_accept(self, share: Share, rows: int) -> Any:
        """Reports a probe's eof over all ranks; which of this rank's rows train, and how many of all."""
        controller, plan = self.controller, self.plan
        assert controller is not None
        assert plan is not None
        trace = controller.observe()
        assert trace is not None
        self._salf_check_data(len(trace.eof), rows)
        mine = [int(e) for e in trace.eof] if share.real else []
        if distributed.available():
            parts = distributed.Communicator().gather_objects(mine)
            whole = [eof for part in parts for eof in part]
        else:
            whole = mine
        accepted = plan.accept(whole)
        own = accepted[share.first : share.first + len(mine)] if share.real else numpy.zeros(rows, dtype=bool)
        return own, int(accepted.sum())

    def _salf_check_data(self, found: int, wanted: int) -> None:
        if found != wanted:
            raise ValueError(
                f"a plan asked for {wanted} data and the batch shows {found}: either labels lack a target (all -100), "
                "or rows are packed; a plan matches items of the dataset, so that packed data need a stream "
                "('salf[half][stream]') or method 'salf'"
            )

    def salf_loss(self, outputs: Any, inputs: Dict[str, Any], chosen: torch.Tensor) -> torch.Tensor:
        """Loss of the chosen data of a batch; to be overridden where compute_loss is."""
        logits = outputs["logits"][chosen][:, :-1]
        targets = inputs["labels"].to(logits.device)[chosen][:, 1:]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)

    # ---- events ----

    def _salf_begin(self) -> None:
        """The model is wrapped and a checkpoint loaded; what an offline plan needs is measured now."""
        me: Any = self
        controller = self.controller
        if controller is None:
            return
        controller.wrapped(me.model_wrapped, self.salf.when)
        self._salf_seen = controller.steps
        resumed = self._salf_resumed
        if self.plan is not None and self.salf.matching == "offline" and controller.method.probes and not resumed:
            self._salf_measure()

    def _salf_measure(self) -> None:
        """eof of all data by the weights at hand, each rank taking its share."""
        me: Any = self
        controller, plan = self.controller, self.plan
        assert controller is not None
        assert plan is not None
        count = len(me.train_dataset)
        eof = numpy.zeros(count, dtype=numpy.int32)
        bounds = [count * r // plan.ranks for r in range(plan.ranks + 1)]
        first, last = bounds[plan.rank], bounds[plan.rank + 1]
        for at in range(first, last, plan.batch):
            indices = list(range(at, min(at + plan.batch, last)))
            inputs = self._salf_batch(indices)
            trace = controller.measure(
                inputs.get("labels"), functools.partial(self._salf_forward, inputs), inputs=inputs
            )
            self._salf_check_data(len(trace.eof), len(indices))
            eof[indices] = trace.eof
        if plan.ranks > 1:
            parts = distributed.Communicator().gather_objects(eof[first:last])
            eof = numpy.concatenate(parts)
        plan.planner.set_eof(0, eof[plan.order])

    def _salf_forward(self, inputs: Dict[str, Any]) -> None:
        me: Any = self
        me.model_wrapped(**{k: v for k, v in me._prepare_inputs(inputs).items() if k != "labels"})

    def _salf_stepped(self) -> None:
        """After an optimizer step, also one that the scaler skipped, or a fused optimizer for it: a plan then stays
        where it was."""
        if self.controller is None:
            return
        before, self._salf_seen = self._salf_seen, self.controller.steps
        if self.controller.steps != before:
            return
        self.controller.skipped()
        if self._salf_before is not None and self.plan is not None:
            self._salf_load(self._salf_before)

    def _salf_end(self) -> None:
        plan = self.plan
        if plan is not None and not plan.finished:
            left = sum(plan.counts) - sum(plan.progress.trained)
            logger.warning(f"{left} of {sum(plan.counts)} data of the plan were not trained: the run was ended early")


class _Hooks(TrainerCallback):
    """Passes the Trainer's events on to the mixin."""

    def __init__(self, trainer: SalfMixin) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The model is wrapped and the checkpoint loaded."""
        self._trainer._salf_begin()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer has stepped, or its scaler skipped the step."""
        self._trainer._salf_stepped()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The run is over."""
        self._trainer._salf_end()


class SalfTrainer(SalfMixin, Trainer):
    """transformers.Trainer with layer-freezing."""
