"""A training loop of one's own: three calls of a controller, and the log that `salf report` draws.

python plain_loop.py --log run.jsonl && salf report run.jsonl
"""

import demo
import torch

import salf
from salf.torch import FreezeController


def main():
    o = demo.options(
        __doc__, "salf[half][stream]", log={"help": "file for a log, which becomes a page by `salf report`"}
    )
    task = demo.task()
    model = demo.lora(demo.model()).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    planned = salf.methods.parse_method(o.method).planned
    controller = FreezeController(
        model, o.method, optimizer=optimizer, labels=task.label_tokens,
        planner={"n_data": o.steps * o.batch} if planned else None, policy={"total_steps": o.steps},
    )  # fmt: skip
    log = salf.RunLog(o.log, layers=controller.n_layers, methods=[o.method], model="demo") if o.log else None
    losses = []
    for step, batch in enumerate(demo.batches(task.read("train"), o.batch, o.steps)):
        controller.begin(batch["labels"])
        loss = model(**batch).loss
        controller.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        scalars = controller.scalars()  # also for salf.log_scalars(writer, scalars, step): TensorBoard, W&B, ...
        if log:
            log.step(o.method, step, losses[-1], scalars=scalars, data=(step + 1) * o.batch, rate=2e-3)
    if log:
        log.result(o.method, controller.planner, saving=controller.saving, steps=o.steps, trained=o.steps * o.batch)
        log.close()
    demo.told(losses, controller)
    controller.close()


if __name__ == "__main__":
    main()
