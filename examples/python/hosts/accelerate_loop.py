"""A loop with accelerate: its backward, its gradient accumulation and its mixed precision.

python accelerate_loop.py --accumulate 2
"""

import accelerate
import demo
import torch

from salf.torch import FreezeController


def main():
    o = demo.options(
        __doc__, "salf", accumulate={"type": int, "default": 2}, precision={"default": "no", "choices": ("no", "bf16")}
    )
    task = demo.task()
    accelerator = accelerate.Accelerator(
        gradient_accumulation_steps=o.accumulate, mixed_precision=o.precision, cpu=not torch.cuda.is_available()
    )
    model = demo.lora(demo.model()).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    # Before prepare(): it may wrap the model. Afterwards the controller is told what is called.
    controller = FreezeController(model, o.method, labels=task.label_tokens, policy={"total_steps": o.steps})
    model, optimizer = accelerator.prepare(model, optimizer)
    controller.wrapped(model)
    controller.attach(optimizer)
    losses = []
    for given in demo.batches(task.read("train"), o.batch, o.steps * o.accumulate):
        batch = {name: tensor.to(accelerator.device) for name, tensor in given.items()}
        with accelerator.accumulate(model):
            controller.begin(batch["labels"])
            loss = model(**batch).loss
            controller.backward(loss, run=accelerator.backward, sync=accelerator.sync_gradients)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    demo.told(losses, controller)
    controller.close()


if __name__ == "__main__":
    main()
