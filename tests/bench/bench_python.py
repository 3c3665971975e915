"""What layer freezing costs and saves in a Trainer: time per step against a plain Trainer of transformers.

    make bench-python

A random Llama with LoRA trains a few steps by each variant in turns. Times are processor time, so that what else runs on
the machine counts little; with more threads than one they add up. `overhead` is hooks, probe and decision of an
untruncated step as a share of it; the ideal saving of a cut is its share of the layers times the plain step's backward,
and `of ideal` how much of it the step really lost.
"""

import argparse
import statistics
import tempfile
import time

import peft
import torch
import transformers

from salf.transformers import SalfConfig, SalfTrainer

VOCABULARY = 2048


class Random(torch.utils.data.Dataset):
    def __init__(self, count, tokens):
        self.ids = torch.randint(3, VOCABULARY, (count, tokens), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        labels = torch.full_like(self.ids[index], -100)
        labels[-1] = self.ids[index, -1]
        return {"input_ids": self.ids[index], "labels": labels}


class Clock(transformers.TrainerCallback):
    """Seconds of each step, and of the backward in it."""

    def __init__(self):
        self.steps, self.backwards = [], []

    def on_step_begin(self, args, state, control, **kwargs):
        self.start, self.backward = time.process_time(), 0.0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(time.process_time() - self.start)
        self.backwards.append(self.backward)

    def watch(self, accelerator):
        inner = type(accelerator).backward

        def backward(loss, **rest):
            start = time.process_time()
            inner(accelerator, loss, **rest)
            self.backward += time.process_time() - start

        accelerator.backward = backward


class Variant:
    """A Trainer that trains a few steps at a time."""

    def __init__(self, o, cut):
        self.o, self.cut = o, cut
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            hidden_size=o.hidden, intermediate_size=3 * o.hidden, num_hidden_layers=o.layers, num_attention_heads=8,
            num_key_value_heads=4, vocab_size=VOCABULARY,
        )  # fmt: skip
        lora = peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)
        self.steps, self.backwards = [], []

    def run(self):
        o, clock = self.o, Clock()
        arguments = transformers.TrainingArguments(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=o.batch, max_steps=o.steps + 2, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        common = {
            "model": self.model, "args": arguments, "train_dataset": Random(o.batch * (o.steps + 2), o.tokens),
            "data_collator": transformers.default_data_collator, "callbacks": [clock],
        }  # fmt: skip
        if self.cut is None:
            trainer = transformers.Trainer(**common)
        else:
            cut = self.cut
            config = SalfConfig("callback", policy={"callback": lambda step, n_layers, trace: cut})
            trainer = SalfTrainer(**common, salf=config)
        trainer.remove_callback(transformers.PrinterCallback)
        clock.watch(trainer.accelerator)
        trainer.train()
        if self.cut is not None:
            trainer.controller.close()
        self.steps += clock.steps[2:]  # the first ones warm up
        self.backwards += clock.backwards[2:]


def main():
    parser = argparse.ArgumentParser(description="Time per step of a Trainer with and without salf.")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="of each variant in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    transformers.logging.set_verbosity_error()
    cuts = [0, o.layers // 4, o.layers // 2, 3 * o.layers // 4]
    variants = [Variant(o, None), *(Variant(o, cut) for cut in cuts)]
    for _ in range(o.rounds):
        for variant in variants:
            variant.run()
    plain = statistics.median(variants[0].steps)
    backward = statistics.median(variants[0].backwards)
    print(f"{o.layers} layers, hidden {o.hidden}, {o.batch} x {o.tokens} tokens, LoRA 8, {o.threads} threads, ", end="")
    print(f"PyTorch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{'variant':12} {'step ms':>8} {'backward ms':>11} {'step saved':>10} {'ideal':>7} {'of ideal':>8}")
    print(f"{'plain':12} {1e3 * plain:8.1f} {1e3 * backward:11.1f}")
    for variant in variants[1:]:
        step, seconds = statistics.median(variant.steps), statistics.median(variant.backwards)
        ideal = variant.cut / o.layers * backward / plain
        saved = 1 - step / plain
        share = f"{saved / ideal:8.2f}" if ideal else f"overhead {-saved:.1%}"
        print(f"{f'cut {variant.cut}':12} {1e3 * step:8.1f} {1e3 * seconds:11.1f} {saved:10.3f} {ideal:7.3f} {share}")


if __name__ == "__main__":
    main()
