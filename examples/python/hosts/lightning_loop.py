"""A Trainer of Lightning, with a callback.

python lightning_loop.py
"""

import demo
import lightning
import torch

from salf.lightning import SalfCallback
from salf.transformers import SalfConfig


class Module(lightning.LightningModule):
    """A module as one writes it without salf; its model is the attribute that the callback looks at."""

    def __init__(self):
        super().__init__()
        self.model, self.losses = demo.lora(demo.model()).train(), []

    def training_step(self, batch, index):
        loss = self.model(**batch).loss
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=2e-3)


def main():
    o = demo.options(__doc__, "salf[half][stream]")
    task = demo.task()
    loader = torch.utils.data.DataLoader(
        task.read("train"), o.batch, shuffle=True, collate_fn=demo.collate, generator=torch.Generator().manual_seed(0)
    )
    callback = SalfCallback(SalfConfig(o.method, labels=task.label_tokens, seed=0))
    trainer = lightning.Trainer(
        max_steps=o.steps, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="auto", devices=1,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, loader)
    demo.told(module.losses, callback.controller)


if __name__ == "__main__":
    main()
