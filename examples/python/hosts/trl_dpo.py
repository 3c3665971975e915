"""DPOTrainer of TRL: preferences between a right and a wrong topic. Frozen layers need no backward in either answer.

python trl_dpo.py --method 'lift*[half][stream]'
"""

import datasets
import demo
import trl

from salf.transformers import SalfMixin


class SalfDPOTrainer(SalfMixin, trl.DPOTrainer):
    """TRL's trainer with its reference model and losses."""


def main():
    o = demo.options(__doc__, "lift*[half][stream]")
    task = demo.task()
    rows = [line.split("\t") for line in (demo.DEMO / "data" / "train.tsv").read_text().splitlines()]
    pairs = []
    for label, text in rows:
        other = task.classes[(task.classes.index(label) + 1) % len(task.classes)]
        pairs.append({"prompt": task.prompt(text), "chosen": f" {label}", "rejected": f" {other}"})
    trainer = SalfDPOTrainer(
        model=demo.lora(demo.model()),
        args=trl.DPOConfig(**demo.arguments(o, max_length=128, bf16=False, gradient_checkpointing=False)),
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=demo.tokenizer(),
        salf=o.method,
    )
    trainer.train()
    demo.told(demo.losses_of(trainer), trainer.controller)


if __name__ == "__main__":
    main()
