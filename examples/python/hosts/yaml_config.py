"""What a plug-in of axolotl, LLaMA-Factory and the like does: a section of the trainer's YAML becomes a callback.

axolotl's plug-ins return callbacks from add_callbacks_post_trainer(cfg, trainer), LLaMA-Factory's run_exp() takes
callbacks=: `SalfCallback(section)` is all that either needs.

    python yaml_config.py --config salf.yaml
"""

import pathlib

import demo
import transformers
import yaml

from salf.torch import automatic
from salf.transformers import SalfCallback, SalfTrainer


def main():
    o = demo.options(__doc__, "", config={"required": True})
    section = yaml.safe_load(pathlib.Path(o.config).read_text(encoding="utf-8"))["salf"]
    task = demo.task()
    given = {
        "model": demo.lora(demo.model()), "args": transformers.TrainingArguments(**demo.arguments(o)),
        "train_dataset": task.read("train"), "data_collator": demo.collate,
    }  # fmt: skip
    if automatic.POSSIBLE:
        callback = SalfCallback(section)
        trainer = transformers.Trainer(**given, callbacks=[callback])
    else:  # before PyTorch 2.0 a callback sees too little of a batch
        callback = trainer = SalfTrainer(**given, salf=section)
    trainer.train()
    demo.told(demo.losses_of(trainer), callback.controller)


if __name__ == "__main__":
    main()
