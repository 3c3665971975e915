"""What the examples of hosts share: the demonstration's model, its tokenizer and data, and a line about a run."""

import argparse
import pathlib
import sys

import tokenizers
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # classification.py, local_model.py
DEMO = HERE.parents[1] / "demo"

import classification  # noqa: E402
from local_model import load_model  # noqa: E402

collate = classification.collate


def options(description, method, **more):
    """Command line of an example: which method, how many steps, and what the example asks for itself."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--method", default=method, help=f"default: {method}")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps (default: 30)")
    parser.add_argument("--batch", type=int, default=8)
    for name, given in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **given)
    return parser.parse_args()


def model():
    """The demonstration's model: a Llama of 6 layers and 1.2 million parameters, which has read short stories."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    return load_model(DEMO / "model")


def lora(inner, **changes):
    """With LoRA on all matrices of the layers."""
    import peft

    config = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **changes}
    return peft.get_peft_model(inner, peft.LoraConfig(**config))


def task():
    """Six topics, told by the next token behind "... It is about"."""
    return classification.Task(DEMO / "data", classification.BinTokenizer(DEMO / "tokenizer.bin"))


def tokenizer():
    """The demonstration's tokenizer as one of transformers: pairs are merged by the scores of what they make."""
    pieces = classification.BinTokenizer(DEMO / "tokenizer.bin")
    names = ["<unk>", "<s>", "</s>", *(piece.decode("utf-8") for piece in pieces.pieces[3:])]
    merges = []
    for index, piece in enumerate(pieces.pieces):
        for at in range(1, len(piece)):
            left, right = pieces.ids.get(piece[:at]), pieces.ids.get(piece[at:])
            if left is not None and right is not None and pieces.ids.get(piece) == index:
                merges.append((-pieces.scores[index], index, names[left], names[right]))
    bpe = tokenizers.models.BPE(
        {name: index for index, name in enumerate(names)}, [pair[2:] for pair in sorted(merges)], unk_token="<unk>",
        fuse_unk=True, byte_fallback=True,
    )  # fmt: skip
    made = tokenizers.Tokenizer(bpe)
    made.normalizer = tokenizers.normalizers.Prepend(" ")
    start = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.post_processor = start
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def batches(items, size, steps):
    """So many collated batches, epoch after epoch in a seeded order."""
    made, epoch = 0, 0
    while made < steps:
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(epoch)).tolist()
        for first in range(0, len(order) - size + 1, size):
            if made == steps:
                return
            made += 1
            yield collate([items[i] for i in order[first : first + size]])
        epoch += 1


def arguments(o, **more):
    """Arguments of a Trainer: nothing is kept, every fifth step is logged."""
    import tempfile

    return {
        "output_dir": tempfile.mkdtemp(), "max_steps": o.steps, "per_device_train_batch_size": o.batch,
        "learning_rate": 2e-3, "logging_steps": 5, "save_strategy": "no", "report_to": [], "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(), **more,
    }  # fmt: skip


def told(losses, controller):
    """The line that each example ends with."""
    third = max(1, len(losses) // 3)
    first, last = sum(losses[:third]) / third, sum(losses[-third:]) / third
    print(f"loss {first:.3f} -> {last:.3f}, steps {controller.steps}, depth saved {controller.saving:.3f}")


def losses_of(trainer):
    """What a Trainer has logged of them."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
