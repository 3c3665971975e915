# ruff: noqa: E402 - what is missing is told before it is looked for
"""SalfCallback: layer-freezing in a Trainer of Lightning, with automatic or manual optimization.

    trainer = lightning.Trainer(callbacks=[SalfCallback("salf[half][stream]")])
    trainer.fit(module, loader)

The module's training_step calls its model with input_ids, attention_mask and labels, as ever. Cuts, savings and mean
deviations go to the Trainer's loggers; checkpoints hold the plan, and a resumed fit goes on with it.
"""

from __future__ import annotations

from salf._extras import need

need("lightning", "torch", "lightning", "numpy")

import math
from typing import Any, Dict, Optional

from lightning.pytorch.callbacks import Callback
from torch import nn

from salf import log_scalars
from salf.methods import parse_method
from salf.torch.anatomy import find_parts
from salf.torch.automatic import Automatic
from salf.torch.controller import FreezeController
from salf.transformers.config import SalfConfig, config_of
from salf.transformers.plan import as_rows, data_of_run


class SalfCallback(Callback):
    """The argument is a method's name, a SalfConfig, or a dictionary of one. model: the attribute of the module that
    holds the language model. A plan must be a stream ("salf[half][stream]"), since the loader chooses the data."""

    def __init__(self, salf: Any, model: str = "model") -> None:
        self.salf: SalfConfig = config_of(salf)
        self.controller: Optional[FreezeController] = None
        self._model_name = model
        self._automatic: Optional[Automatic] = None
        self._restored: Dict[str, Any] = {}
        self.salf.check_stream()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Makes the controller: optimizers are there, and a checkpoint is read."""
        if trainer.world_size > 1:
            raise ValueError(f"{trainer.world_size} ranks: the callback runs in one; several need SalfTrainer")
        model = getattr(pl_module, self._model_name, None)
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"{type(pl_module).__name__} has no module {self._model_name!r}: SalfCallback(..., model=NAME) names "
                "the attribute that holds the language model"
            )
        self.close()
        parts, config = self.salf.parts or find_parts(model), self.salf
        seed = 0 if config.seed is None else config.seed
        planner = None
        method = parse_method(config.method)
        if method.planned:
            planner = config.plan_options(method, _data_of(trainer), len(parts.layers), seed)
        policy = {"total_steps": _steps_of(trainer), "seed": seed}
        self.controller = config.controller(model, parts, planner, policy)
        optimizers = trainer.optimizers
        self.controller.attach(optimizers[0] if len(optimizers) == 1 else optimizers)
        numbered = config.cache or config.boundary is not None
        self._automatic = Automatic(self.controller, model, numbered)
        if self._restored:
            self.controller.load_state_dict(self._restored)
            self._restored = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Hands the figures to the loggers, as often as the Trainer logs."""
        controller = self.controller
        if controller is not None and trainer.loggers and trainer.global_step % trainer.log_every_n_steps == 0:
            scalars = controller.scalars()
            for logger in trainer.loggers:
                log_scalars(logger, scalars, trainer.global_step)

    def state_dict(self) -> Dict[str, Any]:
        """For a checkpoint of the Trainer."""
        return {} if self.controller is None else self.controller.state_dict()

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """From a checkpoint; kept until there is a controller to take it."""
        self._restored = dict(state_dict)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Gives the model back as it was; the controller's figures stay."""
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same where a run fails."""
        self.close()

    def close(self) -> None:
        """Takes hooks away and gives parameters their requires_grad back."""
        if self._automatic is not None:
            self._automatic.close()
            self._automatic = None
        if self.controller is not None:
            self.controller.close()


def _steps_of(trainer: Any) -> int:
    """Steps of the fit, 0 where nobody knows them; methods that need them say so."""
    steps = float(trainer.estimated_stepping_batches)
    return int(steps) if math.isfinite(steps) else 0


def _data_of(trainer: Any) -> int:
    """Data that the fit trains: those of max_steps, or of max_epochs; what limit_train_batches leaves of an epoch."""
    loader = trainer.train_dataloader
    unit = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if unit is None or trainer.num_training_batches == float("inf"):
        raise ValueError(
            "a plan counts the data of the run, and the loader tells no batch size or length: say n_data in planner="
        )
    batches = int(trainer.num_training_batches)
    length = len(loader.dataset) if hasattr(loader.dataset, "__len__") else batches * unit
    if batches < length // unit or getattr(loader, "drop_last", False):
        length = batches * unit
    rows, unit = as_rows(length, unit, loader.dataset, loader.collate_fn)
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else 0
    accumulation = int(trainer.accumulate_grad_batches)
    return data_of_run(rows, unit, accumulation, epochs, _steps_of(trainer), False, False)
