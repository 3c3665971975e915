"""SalfCallback: layer-freezing in any Trainer, also TRL's, without a class of its own.

The Trainer keeps its loop, loader, loss and backward: batches announce themselves by a hook in front of the model's
forward (salf.torch.automatic). A plan must be a stream, since the Trainer chooses the data; one that chooses data by
their probes (salf[half]) needs SalfTrainer, and so do several ranks.
"""

from __future__ import annotations

import os
import uuid
from typing import Any, Optional, Union

from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from salf import distributed
from salf.methods import parse_method
from salf.torch import automatic
from salf.torch.anatomy import find_parts
from salf.torch.controller import FreezeController
from salf.transformers.config import SalfConfig, config_of
from salf.transformers.plan import as_rows, data_of_run
from salf.transformers.state import load_state, save_state

# Under what a Trainer's state, which is in every checkpoint, holds the name of the run.
_RUN = "salf"


class SalfCallback(TrainerCallback):
    """Trainer(..., callbacks=[SalfCallback("salf[half][stream]")]); the argument is a method's name, a SalfConfig or a
    dictionary of one. checkpoint: the folder that a run is resumed from, where it does not lie in the output_dir: a
    callback is not told."""

    def __init__(self, salf: Any, checkpoint: Union[str, os.PathLike[str], None] = None) -> None:
        self._checkpoint, self._run = checkpoint, ""
        self.salf: SalfConfig = config_of(salf)
        self.controller: Optional[FreezeController] = None
        self._automatic: Optional[automatic.Automatic] = None
        self._steps = 0
        method = parse_method(self.salf.method)
        self.salf.check_stream()
        if not automatic.POSSIBLE and (method.probes or method.planned):
            raise ValueError(
                f"method {self.salf.method!r} decides by data, for which a callback needs PyTorch 2.0: use "
                f"SalfTrainer(..., salf={self.salf.method!r})"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Makes the controller, and takes its state from the checkpoint of a resumed run."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if distributed.available():
            raise ValueError("several ranks need SalfTrainer, which averages what was trained")
        if getattr(args, "deepspeed", None):
            raise ValueError(distributed.NO_DEEPSPEED)
        self.close()  # of a run that failed, of whose end a callback hears nothing
        config, method = self.salf, parse_method(self.salf.method)
        parts, seed = config.parts or find_parts(model), args.seed if config.seed is None else config.seed
        planner = None
        if method.planned:
            n_data = self._data_of(args, state, kwargs.get("train_dataloader"))
            planner = config.plan_options(method, n_data, len(parts.layers), seed)
        self.controller = config.controller(model, parts, planner, {"total_steps": state.max_steps, "seed": seed})
        self.controller.attach(optimizer)
        if automatic.POSSIBLE:
            numbered = config.cache or config.boundary is not None
            self._automatic = automatic.Automatic(self.controller, model, numbered)
        self._resume(args, state)

    def _resume(self, args: Any, state: Any) -> None:
        """Takes the state of a run that is resumed, or gives a new one its name, by which its checkpoints are known: a
        folder of the same number may be there from another."""
        named = getattr(state, "stateful_callbacks", None)
        self._run = (named or {}).get(_RUN, {}).get("run", "") if state.global_step > 0 else uuid.uuid4().hex
        if state.global_step > 0:
            folder = self._checkpoint or os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
            found = load_state(os.fspath(folder)) if self._checkpoint or os.path.isdir(folder) else {}
            if found.get("run", "") != self._run or not found:
                raise ValueError(
                    f"{folder} is not the checkpoint of the run that is resumed: SalfCallback(..., checkpoint=FOLDER) "
                    "says where that is"
                )
            assert self.controller is not None
            self.controller.load_state_dict(found["controller"])
        elif isinstance(named, dict):
            named[_RUN] = {"run": self._run}

    @staticmethod
    def _data_of(args: Any, state: Any, loader: Any) -> int:
        """Data that the Trainer's own batches train."""
        dataset = getattr(loader, "dataset", None)
        length = len(dataset) if dataset is not None and has_length(dataset) else None
        if length is None and args.max_steps <= 0:
            raise ValueError(f"{type(dataset).__name__} has no length: set max_steps")
        unit = int(getattr(state, "train_batch_size", None) or args.train_batch_size)
        if loader is not None:
            length, unit = as_rows(length, unit, dataset, loader.collate_fn)
        accumulation, drop_last = int(args.gradient_accumulation_steps), bool(args.dataloader_drop_last)
        return data_of_run(length, unit, accumulation, args.num_train_epochs, args.max_steps, False, drop_last)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remembers how many steps there were; where hooks see no arguments, sets the flags of the step to come."""
        assert self.controller is not None
        self._steps = self.controller.steps
        if self._automatic is None:
            self.controller.begin(size=args.train_batch_size * args.gradient_accumulation_steps)
            self.controller.expect_backward()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step that a gradient scaler skipped trained nothing."""
        if self.controller is not None and self.controller.steps == self._steps:
            self.controller.skipped()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds cut and saving to what was logged."""
        logs = kwargs.get("logs") or {}
        if self.controller is not None and "loss" in logs:
            found = self.controller.scalars()
            logs.update(found)
            if state.log_history:
                state.log_history[-1].update(found)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts the state beside the Trainer's own."""
        if self.controller is not None and args.should_save:
            folder = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
            save_state(folder, {"controller": self.controller.state_dict(), "plan": None, "run": self._run})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gives the model its requires_grad flags back; the controller's figures stay."""
        self.close()

    def close(self) -> None:
        """The same, for a run that ended with an exception: a Trainer tells its callbacks nothing then."""
        if self._automatic is not None:
            self._automatic.close()
            self._automatic = None
        if self.controller is not None:
            self.controller.close()
