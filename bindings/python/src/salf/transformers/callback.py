"""SalfCallback: layer-freezing by turns in any Trainer, without a class of its own.

For methods whose decision needs no data of the step (half, lift, lift*, lisa, block, linear, ...): flags are set
before the forward. Methods that look at data need SalfTrainer, because a callback has no hand on the backward pass.
"""

from __future__ import annotations

import os
from typing import Any, Optional

from transformers import TrainerCallback

from salf import distributed
from salf.methods import parse_method
from salf.torch.anatomy import find_parts
from salf.torch.controller import FreezeController
from salf.transformers.config import SalfConfig, config_of
from salf.transformers.state import load_state, save_state


class SalfCallback(TrainerCallback):
    """Trainer(..., callbacks=[SalfCallback("lift[half]")]); the argument is a method's name or a SalfConfig."""

    def __init__(self, salf: Any) -> None:
        self.salf: SalfConfig = config_of(salf)
        self.controller: Optional[FreezeController] = None
        method = parse_method(self.salf.method)
        if method.probes or method.planned:
            raise ValueError(
                f"method {self.salf.method!r} decides by data: use SalfTrainer(..., salf={self.salf.method!r})"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Makes the controller, and takes its state from the checkpoint of a resumed run."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if distributed.available():
            raise ValueError("several ranks need SalfTrainer, which averages what was trained")
        self.close()  # of a run that failed, of whose end a callback hears nothing
        seed = args.seed if self.salf.seed is None else self.salf.seed
        policy = {"total_steps": state.max_steps, "seed": seed}
        self.controller = self.salf.controller(model, self.salf.parts or find_parts(model), None, policy)
        self.controller.attach(optimizer)
        if state.global_step > 0:
            folder = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
            self.controller.load_state_dict(load_state(folder)["controller"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the flags of the step to come."""
        assert self.controller is not None
        self.controller.begin(size=args.train_batch_size * args.gradient_accumulation_steps)
        self.controller.expect_backward()

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
            save_state(folder, {"controller": self.controller.state_dict(), "plan": None})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gives the model its requires_grad flags back; the controller's figures stay."""
        self.close()

    def close(self) -> None:
        """The same, for a run that ended with an exception: a Trainer tells its callbacks nothing then."""
        if self.controller is not None:
            self.controller.close()
