# ruff: noqa: E402 - what is missing is told before it is looked for
"""libsalf for transformers.Trainer, with PEFT and accelerate.

    trainer = SalfTrainer(model=model, args=args, train_dataset=data, data_collator=collate, salf="salf[half]")
    trainer.train()

SalfMixin makes the same of any class derived from Trainer; SalfCallback is enough for methods that take turns.
"""

from salf._extras import need

need("transformers", "torch", "transformers", "numpy")

from salf.transformers.callback import SalfCallback
from salf.transformers.config import SalfConfig
from salf.transformers.plan import PlanLoader, PlanRun
from salf.transformers.trainer import SalfMixin, SalfTrainer

__all__ = ["PlanLoader", "PlanRun", "SalfCallback", "SalfConfig", "SalfMixin", "SalfTrainer"]
