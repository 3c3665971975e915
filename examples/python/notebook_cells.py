# %% [markdown]
# # Fine-tuning where it pays
#
# A run from start to end on the demonstration's model: does freezing pay, a run by that advice beside full training,
# what was saved, and what came out. `python make_notebook.py` makes and runs this notebook.

# %%
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import sys
from pathlib import Path

import torch
import transformers

import salf

sys.path.insert(0, str(Path.cwd() / "hosts"))
import demo  # model, tokenizer and data of the demonstration

torch.set_num_threads(1)
print("salf", salf.version(), "on", salf.Context().info.backend)

# %% [markdown]
# ## Does it pay?
#
# The pilot trains six methods on a part of the data for two minutes. For a model of your own take five minutes or
# more; the verdict says how wide its intervals are.

# %%
minutes = 2
advice = salf.advise(
    model="../demo/model", tokenizer="../demo/tokenizer.bin", data="../demo/data", minutes=minutes, seeds=1
)
advice

# %% [markdown]
# ## Full training, and a stream under half the budget
#
# The same Trainer twice; the second has one argument more. Each datum of a batch gets a cut of its own, and no layer
# below it keeps activations for it.

# %%
from salf.transformers import SalfConfig, SalfTrainer

task = demo.task()
items, tests = task.read("train"), task.read("test")
log = salf.RunLog("run.jsonl", layers=6, methods=["lora[full]", "salf[half][stream]"], model="demo", classes=6)


def train(method):
    """A run by a method, its macro F1, and what is logged of it."""
    model = demo.lora(demo.model())
    arguments = transformers.TrainingArguments(
        output_dir="run",
        num_train_epochs=1,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
    )
    trainer = SalfTrainer(
        model=model,
        args=arguments,
        train_dataset=items,
        data_collator=demo.collate,
        salf=SalfConfig(method, labels=task.label_tokens),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, entry in enumerate(steps):
        log.step(method, step, entry["loss"], scalars=entry, data=8 * (step + 1), rate=entry["learning_rate"])
    predicted = demo.classification.predict(model, tests, task.label_tokens)
    f1, accuracy, table = demo.classification.scores(tests.classes, predicted, len(task.classes))
    saving = trainer.controller.saving
    log.result(method, trainer.controller.planner, f1=f1, accuracy=accuracy, saving=saving, confusion=table)
    return trainer


full = train("lora[full]")
stream = train("salf[half][stream]")
log.close()

# %% [markdown]
# ## What came out
#
# `salf.report("run.jsonl")` as the last line of a cell shows the whole page here; its table is enough for print.

# %%
report = salf.report("run.jsonl", output="report.html")
print(report)

# %% [markdown]
# ## What the probes saw
#
# Mean deviations of the hidden states from the right next token, space by space, at the first step and at the last. And
# whether the probes' answers were of use: where nearly all data have the same layer, a cheaper method does as well.

# %%
steps = [entry for entry in stream.state.log_history if "loss" in entry]
for name, entry in (("first", steps[0]), ("last", steps[-1])):
    print(name, [round(entry[f"salf/deviation/{space}"], 3) for space in range(7)])
signal = stream.controller.signal.info
print(f"{signal.most_frequent_share:.0%} of the data chose layer {signal.most_frequent}")
print("data at each layer:", [stream.controller.planner.stage(layer).count for layer in range(6)])

# %% [markdown]
# ## Going on
#
# The model is as it was before training, but for its weights: save it, train it again, or merge the adapters.

# %%
merged = stream.model.merge_and_unload()
prompt = task.prompt("Anna was singing a song on Friday.")
ids = torch.tensor([task.tokenizer.encode(prompt)])
best = merged(input_ids=ids).logits[0, -1, task.label_tokens].argmax()
print(prompt, "->", task.classes[best])
