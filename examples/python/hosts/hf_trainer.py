"""Trainer of transformers with PEFT: LoRA, DoRA, rsLoRA or IA3 on the layers, frozen where the method says.

python hf_trainer.py --adapter dora --method 'lift*[half][stream]'
"""

import demo
import peft
import transformers

from salf.transformers import SalfConfig, SalfTrainer

ADAPTERS = ("lora", "dora", "rslora", "ia3", "none")


def adapted(model, kind):
    """The model with adapters of a kind; none: the layers' own weights train."""
    if kind == "none":
        return model
    if kind == "ia3":
        # Keys, values and the inner activations are scaled by vectors, as in IA3's paper.
        targets = ["k_proj", "v_proj", "down_proj"]
        return peft.get_peft_model(
            model, peft.IA3Config(task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=["down_proj"])
        )
    return demo.lora(model, use_dora=kind == "dora", use_rslora=kind == "rslora")


def main():
    o = demo.options(
        __doc__, "salf[half]", adapter={"choices": ADAPTERS, "default": "lora"}, accumulate={"type": int, "default": 1}
    )
    task = demo.task()
    rate = 5e-2 if o.adapter == "ia3" else 2e-3  # a few vectors need larger steps than matrices
    trainer = SalfTrainer(
        model=adapted(demo.model(), o.adapter),
        args=transformers.TrainingArguments(
            **demo.arguments(o, gradient_accumulation_steps=o.accumulate, learning_rate=rate)
        ),
        train_dataset=task.read("train"),
        data_collator=demo.collate,
        salf=SalfConfig(o.method, labels=task.label_tokens),
    )
    trainer.train()
    demo.told(demo.losses_of(trainer), trainer.controller)


if __name__ == "__main__":
    main()
