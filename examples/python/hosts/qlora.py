"""QLoRA: LoRA on a body of four-bit NormalFloat (bitsandbytes) or eight-bit integers (torchao).

The head is not quantised, as is usual, so that its basis can be had; where it is, SalfConfig(head=...) takes the matrix
that it was made from.

    python qlora.py --quantiser torchao
"""

import demo
import torch
import transformers

from salf.transformers import SalfConfig, SalfTrainer


def with_bitsandbytes(model):
    """The layers' matrices in blocks of 64 four-bit numbers with a scale each; on processors bitsandbytes wants rows of
    whole blocks."""
    import bitsandbytes

    for layer in model.model.layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, torch.nn.Linear) and module.in_features % 64 == 0:
                made = bitsandbytes.nn.Linear4bit(
                    module.in_features, module.out_features, bias=module.bias is not None, quant_type="nf4",
                    compute_dtype=torch.float32,
                )  # fmt: skip
                made.load_state_dict(module.state_dict())
                layer.set_submodule(name, made.to("cuda" if torch.cuda.is_available() else "cpu"))
    return model


def with_torchao(model):
    """The layers' matrices as eight-bit integers with a scale for each row."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model.model.layers, Int8WeightOnlyConfig())
    return model


def main():
    o = demo.options(
        __doc__, "salf[half][stream]", quantiser={"choices": ("bitsandbytes", "torchao"), "default": "bitsandbytes"}
    )
    task = demo.task()
    model = {"bitsandbytes": with_bitsandbytes, "torchao": with_torchao}[o.quantiser](demo.model())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    trainer = SalfTrainer(
        model=demo.lora(model),
        args=transformers.TrainingArguments(**demo.arguments(o)),
        train_dataset=task.read("train"),
        data_collator=demo.collate,
        salf=SalfConfig(o.method, labels=task.label_tokens),
    )
    trainer.train()
    demo.told(demo.losses_of(trainer), trainer.controller)


if __name__ == "__main__":
    main()
