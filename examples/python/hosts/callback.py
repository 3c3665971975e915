"""Any Trainer, also one that is made by somebody else's program: one callback, and nothing more is known of it.

Cuts may be known before the forward (turns, streams, a cache) or fall behind it (salf): the callback begins each batch
when the model is called and notices its backward.

    python callback.py --method salf
"""

import demo
import transformers

from salf.transformers import SalfCallback, SalfConfig


def main():
    o = demo.options(__doc__, "salf[half][stream]")
    task = demo.task()
    callback = SalfCallback(SalfConfig(o.method, labels=task.label_tokens))
    trainer = transformers.Trainer(
        model=demo.lora(demo.model()),
        args=transformers.TrainingArguments(**demo.arguments(o)),
        train_dataset=task.read("train"),
        data_collator=demo.collate,
        callbacks=[callback],
    )
    trainer.train()
    demo.told(demo.losses_of(trainer), callback.controller)


if __name__ == "__main__":
    main()
