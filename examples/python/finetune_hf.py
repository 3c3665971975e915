"""The paper's pipeline on a local model of transformers: prompts, next-token labels, LoRA, methods by their names.

    python finetune_hf.py --model FOLDER --data FOLDER --method 'lora[full],salf[half],salf[geom][df]'

prints macro F1, the share of the depth that the backward left out, and times; --log writes the events that
`salf report` draws.
"""

import argparse
import tempfile
import time

import classification
import peft
import torch
import transformers
from local_model import load_model

import salf
from salf.methods import METHODS, parse_method
from salf.transformers import SalfConfig, SalfTrainer


class TimedTrainer(SalfTrainer):
    """Takes the times of forward and backward, and an event for each step."""

    seconds = None

    def compute_loss(self, *args, **kwargs):
        start = time.perf_counter()
        result = super().compute_loss(*args, **kwargs)
        self.seconds["forward_s"] += time.perf_counter() - start
        return result

    def create_optimizer(self, *args, **kwargs):
        optimizer = super().create_optimizer(*args, **kwargs)
        inner = self.controller.backward

        def backward(*given, **named):
            start = time.perf_counter()
            inner(*given, **named)
            self.seconds["backward_s"] += time.perf_counter() - start

        self.controller.backward = backward
        return optimizer


def options():
    parser = argparse.ArgumentParser(
        description="Fine-tune a model on a classification task, with one or more methods."
    )
    parser.add_argument("--model", required=True, help="folder of a model of transformers")
    parser.add_argument("--data", required=True, help="folder with train.tsv, test.tsv and labels.txt")
    parser.add_argument("--tokenizer", help=".bin file (default: tok*.bin in the model's folder, else the model's own)")
    parser.add_argument("--method", default="salf[half]", help=f"M[,M...], of: {' '.join(METHODS)}")
    parser.add_argument("--template", help="prompt with {text} and {text2} (default: the data set's)")
    parser.add_argument("--rank", type=int, default=8, help="LoRA rank; 0: train the layers' own weights")
    parser.add_argument("--alpha", type=float, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--matching", choices=("online", "offline"), default="online")
    parser.add_argument("--probe-limit", type=float, help="in shares of a layer; default a half, 0 for no limit")
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--limit-test", type=int)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--log", help="file for the events of the run, as JSON lines")
    parser.add_argument("--output", help="folder for checkpoints (default: none are kept)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    return parser.parse_args()


def make_model(o):
    torch.manual_seed(o.seed)
    model = load_model(o.model)
    if not o.rank:
        return model
    lora = peft.LoraConfig(r=o.rank, lora_alpha=o.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, lora)


def arguments(o, folder):
    return transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=o.batch,
        gradient_accumulation_steps=o.accumulate,
        num_train_epochs=o.epochs,
        learning_rate=o.lr,
        warmup_steps=0,
        seed=o.seed,
        logging_steps=1,
        save_strategy="steps" if o.output else "no",
        save_steps=50,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )


def train(o, method, task, items):
    """Trains by one method; returns the trainer."""
    folder = f"{o.output}/{method.replace('*', '-star')}" if o.output else tempfile.mkdtemp()
    config = SalfConfig(method, labels=task.label_tokens, matching=o.matching, probe_limit=o.probe_limit)
    trainer = TimedTrainer(
        model=make_model(o),
        args=arguments(o, folder),
        train_dataset=items,
        data_collator=classification.collate,
        salf=config,
    )
    trainer.seconds = {"forward_s": 0.0, "probe_s": 0.0, "backward_s": 0.0, "update_s": 0.0}
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=o.resume and bool(o.output))
    return trainer


def write_events(log, o, method, trainer, result):
    """What `salf report` reads of one method."""
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    for number, entry in enumerate(steps):
        data = (number + 1) * o.batch * o.accumulate
        log.step(method, number, entry["loss"], scalars=entry, data=data, rate=entry["learning_rate"])
    log.result(method, trainer.controller.planner, **result)


def main():
    o = options()
    transformers.logging.set_verbosity_error()
    methods = [parse_method(name).name for name in o.method.split(",")]
    task = classification.Task(o.data, classification.open_tokenizer(o.model, o.tokenizer), o.template)
    longest = load_model(o.model).config.max_position_embeddings - 1
    items, tests = task.read("train", o.limit_train, longest), task.read("test", o.limit_test, longest)
    log = None
    if o.log:
        about = {"model": o.model, "data": o.data, "train": len(items), "test": len(tests), "seed": o.seed}
        about.update(classes=len(task.classes), loss="lm", trainable="lora" if o.rank else "dense", batch=o.batch)
        layers = load_model(o.model).config.num_hidden_layers
        log = salf.RunLog(o.log, layers=layers, methods=methods, epochs=int(o.epochs), shortened=0, **about)
    print(
        f"{'method':18} {'macro F1':>8} {'accuracy':>8} {'saving':>7} {'forward s':>9} {'backward s':>10} {'steps':>6}"
    )
    for method in methods:
        trainer = train(o, method, task, items)
        predicted = classification.predict(trainer.model, tests, task.label_tokens)
        f1, accuracy, table = classification.scores(tests.classes, predicted, len(task.classes))
        saving, steps = trainer.controller.saving, trainer.state.global_step
        seconds = trainer.seconds
        print(
            f"{method:18} {f1:8.3f} {accuracy:8.3f} {saving:7.3f} {seconds['forward_s']:9.2f} "
            f"{seconds['backward_s']:10.2f} {steps:6}",
            flush=True,
        )
        result = {
            "f1": f1,
            "accuracy": accuracy,
            "saving": saving,
            "predicted_saving": saving,
            "steps": steps,
            **seconds,
        }
        result.update(trained=len(items), probed=0, confusion=table)
        if log:
            write_events(log, o, method, trainer, result)
    if log:
        log.close()


if __name__ == "__main__":
    main()
