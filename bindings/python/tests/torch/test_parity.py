"""transformers' Llama against the C trainer and the reference values of the shared models."""

import os
import subprocess

import classification
import numpy
import pytest
import torch
from conftest import ROOT
from local_model import load_model

from salf.torch import FreezeController, Rows

MODELS = ["stories260k", "stories656k", "stories3m"]


@pytest.fixture(params=MODELS)
def folder(shared, request):
    return shared / "models" / request.param


def ids_of(text):
    return [int(i) for i in text.split(",")]


def rows_of(path):
    return [line.rstrip("\n").split("\t") for line in path.open(encoding="utf-8") if not line.startswith("#")]


def test_logits_and_hidden_states_are_the_references(folder):
    """The references' logits are those that the tests of the C trainer compare it with."""
    model = load_model(folder).eval()
    tokens = rows_of(folder / "reference" / "tokens.tsv")
    inputs, compared = {}, 0
    for prompt, *values in rows_of(folder / "reference" / "last_logits.tsv"):
        text = tokens[int(prompt) - 1][-1]
        inputs[prompt] = [int(i) for i in text.replace(",", " ").split()][:64]
        expected = numpy.array([float(v) for v in " ".join(values).split()])
        with torch.no_grad():
            found = model(input_ids=torch.tensor([inputs[prompt]])).logits[0, -1]
        numpy.testing.assert_allclose(found.numpy(), expected, atol=1e-3)
        compared += 1
    assert compared == 2
    for prompt, layer, *values in rows_of(folder / "reference" / "hidden.tsv"):
        expected = numpy.array([float(v) for v in " ".join(values).split()])
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([inputs[prompt]]), output_hidden_states=True).hidden_states
        if layer == "norm":
            numpy.testing.assert_allclose(hidden[-1][0, -1].numpy(), expected, atol=1e-3)
        elif int(layer) < len(hidden) - 1:  # the last one that transformers gives is behind the norm
            numpy.testing.assert_allclose(hidden[int(layer)][0, -1].numpy(), expected, atol=1e-3)


def prompts_of(shared, name):
    """Reference rows by (lens, metric): label, ids, deviations, eof."""
    found = {}
    for _, label, ids, lens, metric, *numbers in rows_of(shared / "reference" / f"deviations_{name}_trec.tsv"):
        entry = (int(label), ids_of(ids), [float(v) for v in numbers[:-1]], int(numbers[-1]))
        found.setdefault((lens, metric), []).append(entry)
    return found


def trace_of(model, prompts, lens, metric):
    longest = max(len(ids) for _, ids, _, _ in prompts)
    batch = torch.tensor([ids + [0] * (longest - len(ids)) for _, ids, _, _ in prompts])
    rows = Rows([len(ids) - 1 for _, ids, _, _ in prompts], [label for label, _, _, _ in prompts])
    options = {"probe": {"lens": lens}, "basis": {"mode": "exact"}}
    with FreezeController(model, f"salf[{metric}]", **options) as controller, torch.no_grad():
        controller.begin(rows=rows)
        model(input_ids=batch)
        return controller.observe()


@pytest.mark.parametrize("metric", ["cosine", "ce", "rank"])
@pytest.mark.parametrize("lens", ["hf", "normed"])
def test_deviations_are_the_references(shared, folder, lens, metric):
    prompts = prompts_of(shared, folder.name)[(lens, metric)]
    trace = trace_of(load_model(folder).eval(), prompts, lens, metric)
    expected = numpy.array([deviations for _, _, deviations, _ in prompts])
    if metric == "rank":  # may move by a few places where two similarities are closer than rounding
        assert numpy.abs(trace.deviations - expected).max() <= 4
        return
    numpy.testing.assert_allclose(trace.deviations, expected, atol=5e-5)
    gains = -numpy.diff(expected, axis=1)
    for row, (_, _, _, eof) in enumerate(prompts):
        ahead = numpy.sort(gains[row])[-2:]
        if ahead[1] - ahead[0] > 2e-4:
            assert trace.eof[row] == eof


@pytest.mark.parametrize("metric", ["cosine", "ce"])
def test_eof_is_that_of_the_c_program(shared, folder, metric, tmp_path):
    """salf probe runs the C trainer's own forward."""
    program = ROOT / os.environ.get("SALF_BUILD", "build") / "bin" / "salf"
    if not program.exists():
        pytest.skip(f"{program} is not built")
    tokenizer = classification.open_tokenizer(folder)
    task = classification.Task(shared / "data" / "trec", tokenizer)
    items = task.read("test", limit=60)
    prompts = [(target, ids, None, None) for target, ids in zip(items.targets, items.prompts)]
    listed = "".join(f"{label}\t{','.join(map(str, ids))}\n" for label, ids, _, _ in prompts)
    (tmp_path / "prompts.tsv").write_text(listed)
    arguments = [
        program,
        "probe",
        "--model",
        folder,
        "--prompts",
        tmp_path / "prompts.tsv",
        "--metric",
        metric,
        "--exact",
    ]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    table = numpy.array([[float(v) for v in line.split("\t")] for line in said.splitlines()])
    trace = trace_of(load_model(folder).eval(), prompts, "hf", metric)
    numpy.testing.assert_allclose(trace.deviations, table[:, :-1], atol=1e-4)
    gains = numpy.sort(-numpy.diff(table[:, :-1], axis=1), axis=1)
    clear = gains[:, -1] - gains[:, -2] > 5e-4
    assert clear.sum() > 30
    assert list(trace.eof[clear]) == list(table[clear, -1].astype(int))


def test_the_tokenizer_is_the_c_programs(shared, folder):
    """The ids of the references, and the first tokens of the label words."""
    tokenizer = classification.BinTokenizer(sorted(folder.glob("tok*.bin"))[0])
    for text, ids in rows_of(folder / "reference" / "tokens.tsv"):
        assert tokenizer.encode(text) == [int(i) for i in ids.replace(",", " ").split()]
    for name in classification.TEMPLATES:
        task = classification.Task(shared / "data" / name, tokenizer)
        assert len(set(task.label_tokens)) == len(task.classes)
