"""The example programs, run as a user would run them, and the lines of the guide."""

import json
import os
import pathlib
import re
import subprocess
import sys
import xml.dom.minidom

import classification
import pytest
import small_models as small
import torch
import transformers
from conftest import ROOT

from salf.methods import METHODS

EXAMPLES = ROOT / "examples" / "python"
GUIDE = ROOT / "docs" / "python.md"


def run(program, *arguments, status=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program), *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr  # progress bars go to the latter


@pytest.fixture
def tiny(tmp_path):
    """A random model with a tokenizer of characters, and a data set of two classes told by one word."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, vocab_size=354,
        max_position_embeddings=128,
    )  # fmt: skip
    model = tmp_path / "model"
    transformers.LlamaForCausalLM(config).save_pretrained(model)
    pieces = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{b:02X}>".encode() for b in range(256)]
    pieces += [bytes([character]) for character in range(32, 127)]
    body = b"".join(b"\0\0\0\0" + len(p).to_bytes(4, "little") + p for p in pieces)
    (model / "tok.bin").write_bytes((6).to_bytes(4, "little") + body)
    data = tmp_path / "data"
    data.mkdir()
    (data / "labels.txt").write_text("up\ndown\n")
    for split, count in (("train", 96), ("test", 20)):
        rows = [f"{'up' if i % 2 else 'down'}\tit {'rose' if i % 2 else 'fell'} {i}" for i in range(count)]
        (data / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    (data / "words.txt").write_text("up\tu\ndown\td\n")
    return model, data


def test_prompts_are_what_the_data_say(tiny):
    model, data = tiny
    tokenizer = classification.open_tokenizer(model)
    for template in ("It is", "{text} {label}", "{text} is "):
        with pytest.raises(ValueError, match="needs {text}"):
            classification.Task(data, tokenizer, template)
    task = classification.Task(data, tokenizer, "{text} it")
    with pytest.raises(ValueError, match="has a second text"):
        task.prompt("one", "two")
    assert classification.Task(data, tokenizer, "{text}-{text2}").prompt("a {text2}", "{text}") == "a {text2}-{text}"
    # U+0085 and U+2028 end no line
    (data / "test.tsv").write_text("up\tone\u2028two\u0085three\ndown\tx\r\n", encoding="utf-8")
    assert len(task.read("test")) == 2


def test_no_end_token_stands_behind_a_prompt(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "<s>": 2, "</s>": 3}, []))
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(tmp_path)
    assert classification.HubTokenizer(tmp_path).encode("ab") == [2, 0, 1]


def test_finetune_learns_and_logs(tiny, tmp_path):
    model, data = tiny
    log = tmp_path / "log.jsonl"
    methods = "lora[full],salf,salf[half],lift*[arith][df]"
    said = run(
        "finetune_hf.py", "--model", model, "--data", data, "--method", methods, "--epochs", 4, "--log", log, "--lr",
        "0.005", "--batch", 8,
    )  # fmt: skip
    rows = [line.split() for line in said.splitlines() if line.startswith(("lora", "salf", "lift"))]
    assert [row[0] for row in rows] == methods.split(",")
    assert float(rows[0][1]) > 0.9  # macro F1 of a task this easy
    assert [float(row[3]) for row in rows[2:]] == [0.375, 0.499]  # 39, 77, 115 and 153 of 384 data at layers 0 to 3
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["event"] for e in events].count("result") == 4
    program = pathlib.Path(os.environ.get("SALF_BUILD", ROOT / "build")) / "bin" / "salf"
    if program.exists():
        subprocess.run([program, "report", "--output", tmp_path / "report.html", log], check=True)
        assert "salf[half]" in (tmp_path / "report.html").read_text()


def test_finetune_goes_on_from_its_checkpoint(tiny, tmp_path):
    model, data = tiny
    common = ("--model", model, "--data", data, "--method", "salf[half]", "--batch", 1, "--output", tmp_path / "out")
    first = run("finetune_hf.py", *common).splitlines()[-1].split()
    again = run("finetune_hf.py", *common, "--resume").splitlines()[-1].split()
    assert first[:4] == again[:4]


def test_finetune_names_an_unknown_method(tiny):
    model, data = tiny
    assert "unknown method 'salf[quarter]'" in run(
        "finetune_hf.py", "--model", model, "--data", data, "--method", "salf[quarter]", status=1
    )


def test_lens_draws(tiny, tmp_path):
    model, _ = tiny
    (tmp_path / "text.txt").write_text("it rose & <fell>")
    said = run("lens.py", "--model", model, "--text", tmp_path / "text.txt", "--output", tmp_path / "lens.svg")
    assert len(said.splitlines()) == 5
    picture = xml.dom.minidom.parse(str(tmp_path / "lens.svg"))
    assert len(picture.getElementsByTagName("rect")) == 1 + 5 * 17
    assert len(picture.getElementsByTagName("circle")) == 17


@pytest.mark.parametrize("method", METHODS)
def test_trec_by_all_methods(shared, method, tmp_path):
    """Trainer and PEFT on the model and data of the paper's kind; the C program's saving for the same plan."""
    import peft
    from local_model import load_model

    from salf.transformers import SalfConfig, SalfTrainer

    folder = shared / "models" / "stories3m"
    tokenizer = classification.open_tokenizer(folder)
    task = classification.Task(shared / "data" / "trec", tokenizer)
    items = task.read("train", limit=120)
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SalfTrainer(
        model=peft.get_peft_model(load_model(folder), lora),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=12, learning_rate=2e-3, num_train_epochs=1,
            report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True, logging_steps=1,
        ),
        train_dataset=items,
        data_collator=classification.collate,
        salf=SalfConfig(method, labels=task.label_tokens),
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    if trainer.plan is not None:
        assert trainer.plan.finished
        assert trainer.controller.saving == pytest.approx(trainer.controller.planner.saving)


def snippets():
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)


@pytest.mark.parametrize("number", range(len(snippets())))
def test_code_of_the_guide_runs(number, tmp_path, monkeypatch):
    """Every block stands on what a fine-tuning script has already: model, data, collator, arguments, optimizer."""
    monkeypatch.chdir(tmp_path)
    model = small.add_lora(small.make_model("llama"), "llama")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_train_epochs=1, report_to=[], disable_tqdm=True,
        use_cpu=True, save_strategy="no",
    )  # fmt: skip
    ids, labels = small.make_batch()
    known = {
        "model": model,
        "args": arguments,
        "train_dataset": small.Items(),
        "data_collator": transformers.default_data_collator,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "batches": [{"input_ids": ids, "labels": labels}],
        "label_tokens": [1, 2, 3],
        "torch": torch,
    }
    before = [p.detach().clone() for p in model.parameters()]
    exec(compile(snippets()[number], f"{GUIDE}:{number}", "exec"), known)
    if "backward" in snippets()[number] or "train()" in snippets()[number]:
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_three_lines_are_three_lines():
    """The guide's first block differs from a plain Trainer's in the import, the class and one argument."""
    lines = [line for line in snippets()[0].splitlines() if line.strip()]
    assert len(lines) == 3
    assert lines[0] == "from salf.transformers import SalfTrainer"
    assert "salf=" in lines[1]
    assert lines[2] == "trainer.train()"


def test_the_notebook_is_of_its_script_and_runs(monkeypatch):
    """What is committed are the cells of the script with outputs, small ones; the script still runs. The pilot, which
    takes its minutes, is left to the tests of advise()."""
    import make_notebook

    script = (EXAMPLES / "notebook_cells.py").read_text(encoding="utf-8")
    text = (EXAMPLES / "finetune.ipynb").read_text(encoding="utf-8")
    committed = json.loads(text)
    assert len(text) < 60_000
    sources = ["".join(cell["source"]) for cell in committed["cells"]]
    assert sources == [source for _, source in make_notebook.cells_of(script)]
    assert sum(bool(cell.get("outputs")) for cell in committed["cells"]) >= 5
    changes = (
        ("advice = salf.advise(", "advice = dict("),
        ('read("train")', 'read("train", 48)'),
        ('read("test")', 'read("test", 24)'),
    )
    again = make_notebook.make(script, changes)
    kinds = [[output["output_type"] for output in cell.get("outputs", ())] for cell in committed["cells"]]
    assert [[output["output_type"] for output in cell.get("outputs", ())] for cell in again["cells"]] == kinds
