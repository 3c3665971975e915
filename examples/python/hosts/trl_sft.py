"""SFTTrainer of TRL on prompts and completions; with --packing on packed texts.

python trl_sft.py --method 'salf[half][stream]'
python trl_sft.py --packing --method 'lift*[half][stream]'
"""

import datasets
import demo
import trl

from salf.transformers import SalfConfig, SalfMixin


class SalfSFTTrainer(SalfMixin, trl.SFTTrainer):
    """TRL's trainer, with its losses, collators and packing; the mixin stands to the left."""


def main():
    o = demo.options(__doc__, "salf[half][stream]", packing={"action": "store_true"}, rows={"default": "auto"})
    task = demo.task()
    rows = [line.split("\t") for line in (demo.DEMO / "data" / "train.tsv").read_text().splitlines()]
    if o.packing:
        data = datasets.Dataset.from_list([{"text": f"{text} It is about {label}."} for label, text in rows])
    else:
        data = datasets.Dataset.from_list([{"prompt": task.prompt(t), "completion": f" {label}"} for label, t in rows])
    trainer = SalfSFTTrainer(
        model=demo.lora(demo.model()),
        args=trl.SFTConfig(
            # TRL turns checkpointing on; cuts that fall behind the forward bring their own.
            **demo.arguments(o, packing=o.packing, max_length=128, bf16=False, gradient_checkpointing=False)
        ),
        train_dataset=data,
        processing_class=demo.tokenizer(),
        salf=SalfConfig(o.method, rows=o.rows),
    )
    trainer.train()
    demo.told(demo.losses_of(trainer), trainer.controller)


if __name__ == "__main__":
    main()
