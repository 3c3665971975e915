"""What Python has of the program salf: advise() and report(), and the logs that a loop of one's own writes for it."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from small import ROOT

import salf
from salf import _program, errors

DEMO = ROOT / "examples" / "demo"


@pytest.fixture(scope="module", autouse=True)
def _program_is_there():
    try:
        salf.program_path()
    except salf.ProgramError as error:
        pytest.skip(str(error))


def pilot(minutes=0.25, **options):
    """A pilot on the demonstration's model; the machine may be busy, and then a longer one is tried."""
    given = {
        "model": DEMO / "model",
        "tokenizer": DEMO / "tokenizer.bin",
        "data": DEMO / "data",
        "batch": 8,
        "seeds": 1,
    }
    try:
        return salf.advise(**{**given, **options}, minutes=minutes)
    except salf.ProgramError as error:
        if "too short" not in str(error) or minutes > 20:
            raise
        return pilot(minutes * 4, **options)


def test_advice_on_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    advice = pilot(log=tmp_path / "log.jsonl", report=tmp_path / "page.html")
    assert advice.verdict in ("freeze", "trade", "full", "cannot_say")
    assert advice.pays == (advice.verdict in ("freeze", "trade"))
    assert [row.method for row in advice.rows][:2] == ["lora[full]", "lora[half]"]
    whole, half = advice.rows[:2]
    assert (whole.time, whole.difference, whole.memory_ratio, whole.saving) == (1, 0, 1, 0)
    assert half.memory_ratio < 1
    assert half.saving == pytest.approx(0.5)
    assert any(row.front for row in advice.rows)
    assert advice.method in [row.method for row in advice.rows]
    assert str(DEMO / "model") in advice.command
    assert advice.raw["methods"][0]["f1"] == whole.f1
    told = str(advice)
    assert advice.words in told
    assert advice.reasons in told
    assert all(row.method in told for row in advice.rows)
    page = advice._repr_html_()
    assert page.count("<tr>") == 1 + len(advice.rows)
    assert all(row.method in page for row in advice.rows)
    # The pilot's log is one that a report can be drawn of.
    report = salf.report(tmp_path / "log.jsonl")
    assert {result["method"] for result in report.results} == {row.method for row in advice.rows}
    assert "Macro F1 against the whole cost" in report.html
    assert report.html == (tmp_path / "page.html").read_text()


class Saved:
    """Something with save_pretrained, as a model or tokenizer of transformers has it."""

    def __init__(self, *files):
        self.files, self.folder = files, None

    def save_pretrained(self, folder):
        self.folder = folder
        for file in self.files:
            shutil.copy(file, folder)


def test_a_model_of_transformers_is_saved_for_the_pilot(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    model, tokenizer = Saved(*(DEMO / "model").iterdir()), Saved(DEMO / "tokenizer.bin")
    advice = pilot(model=model, tokenizer=tokenizer)
    assert model.folder == tokenizer.folder
    assert not pathlib.Path(model.folder).exists()
    assert "--model MODEL " in advice.command
    assert model.folder not in advice.command


def test_words_of_an_advice_cannot_be_markup():
    row = salf.AdviceRow("<m>", 0.5, 0.1, 0.0, 0.1, 0.5, 0.5, 0.5, True)
    advice = salf.Advice("new", "<m>", "<i>", "<b&", "c", "<p>", (row,), 0.1, 1, 8, 8, 1.0, {})
    page = advice._repr_html_()
    assert "<m>" not in page.replace("&lt;m&gt;", "")
    assert "&lt;i&gt;" in page
    assert "&lt;b&amp;" in page
    assert "new" in page


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"data": "/nowhere"}, salf.ProgramError, r"salf advise: /nowhere"),
        ({"lr": "lisa=0.1"}, errors.ArgumentError, "--lr: 'lisa' is not among the methods"),
        ({"template": "nothing"}, errors.ArgumentError, r"--template: .*\{text\}"),
        ({"minutes": -1}, errors.ArgumentError, "--minutes: "),
        ({"model": 3}, errors.ArgumentError, "model is a int; expected a folder or a model"),
        ({"report": "x.html"}, errors.ArgumentError, "--report needs --log"),
    ],
)  # fmt: skip
def test_what_a_pilot_refuses(options, kind, message):
    given = {"model": DEMO / "model", "tokenizer": DEMO / "tokenizer.bin", "data": DEMO / "data", **options}
    with pytest.raises(kind, match=message):
        salf.advise(**given)


def test_adapters_are_refused():
    wrapped = Saved()
    wrapped.peft_config = {}
    with pytest.raises(errors.ArgumentError, match="adapters of PEFT"):
        salf.advise(model=wrapped, data=DEMO / "data")
    assert wrapped.folder is None


def test_options_become_the_programs():
    options = {"label_words": {"A": "a b", "B": "b"}, "limit": None, "json": True, "no": False, "lr": 0.5, "l": [1, 2]}
    assert _program.arguments_of(options) == ["--label-words", "A=a b,B=b", "--json", "--lr", "0.5", "--l", "1,2"]
    for wrong in ({"label_words": {"A": "yes, sir"}}, {"methods": ["half", "a,b"]}):
        with pytest.raises(errors.ArgumentError, match="with a comma, which parts"):
            _program.arguments_of(wrong)


def test_how_the_program_ends_is_told(tmp_path, monkeypatch):
    program = tmp_path / "program"
    monkeypatch.setenv("SALF_PROGRAM", str(program))
    for status, kind in ((1, salf.ProgramError), (2, errors.ArgumentError), (139, salf.ProgramError)):
        program.write_text(f"#!/bin/sh\necho why >&2\nexit {status}\n")
        program.chmod(0o755)
        with pytest.raises(kind, match="^why$"):
            salf.report("log")
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(salf.ProgramError, match="salf report ended with status -9"):
        salf.report("log")


def write_run(path, **about):
    with salf.RunLog(path, layers=4, methods=["salf[half]"], model="m", **about) as log:
        for step in range(6):
            scalars = {"salf/cut": 2.0, "salf/saving": 0.5}
            log.step("salf[half]", step, np.float32(2 - 0.1 * step), scalars=scalars, data=8 * (step + 1), rate=1e-3)
        with salf.Context("cpu") as context:
            planner = salf.Planner(context, 4, 20)
            log.result("salf[half]", planner, f1=0.5, accuracy=0.5, saving=0.375, confusion=np.eye(2, 3, dtype=int))


def test_a_log_of_a_loop_of_ones_own_is_drawn(tmp_path):
    path = tmp_path / "run.jsonl"
    write_run(path, classes=2, worst=float("nan"))
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event"] for event in events] == ["run"] + 6 * ["step"] + ["plan", "result"]
    assert events[0]["worst"] is None
    assert events[1] == {"event": "step", "method": "salf[half]", "step": 0, "loss": 2.0, "cut": 2.0, "saving": 0.5,
                         "data": 8, "rate": 1e-3}  # fmt: skip
    assert sum(events[-2]["counts"]) == 20
    assert events[-1]["confusion"] == [[1, 0, 0], [0, 1, 0]]
    with salf.RunLog(path, layers=4, append=True) as log:
        log.result("lora[full]", f1=0.6)
    report = salf.report(path, output=tmp_path / "page.html")
    assert report.logs == (str(path),)
    assert report.html.startswith("<!")
    assert "lora[full]" in report.html
    assert report.html == (tmp_path / "page.html").read_text()
    assert [(result["method"], result["f1"]) for result in report.results] == [("salf[half]", 0.5), ("lora[full]", 0.6)]
    assert [line.split()[:3] for line in str(report).splitlines()[1:]] == [
        ["salf[half]", "-", "0.500"], ["lora[full]", "-", "0.600"]
    ]  # fmt: skip
    frame = report._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    assert frame.count('"') == 10  # the page's own are escaped


def test_a_log_that_a_crash_cut_short_goes_on(tmp_path):
    path = tmp_path / "run.jsonl"
    write_run(path)
    whole = path.read_text()
    for rest, kept in (('{"event": "step", "met', whole), ("", whole), ("{}", whole + "{}\n")):
        path.write_text(whole + rest)
        with salf.RunLog(path, layers=4, append=True) as log:
            log.result("lora[full]", f1=0.6)
        assert path.read_text().startswith(kept + '{"event": "result"')
    assert [result["method"] for result in salf.report(path).results] == ["salf[half]", "lora[full]"]
    with salf.RunLog(tmp_path / "new.jsonl", layers=4, append=True) as log:
        log.result("lora[full]", f1=0.6)
    assert (tmp_path / "new.jsonl").read_text().count("\n") == 1


def test_names_of_logs_are_no_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run("--output")
    assert "salf[half]" in salf.report("--output").html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["--output"]


def test_what_a_report_refuses(tmp_path):
    with pytest.raises(errors.ArgumentError, match="needs a log"):
        salf.report()
    with pytest.raises(salf.ProgramError, match="none.jsonl"):
        salf.report(tmp_path / "none.jsonl")
    (tmp_path / "empty").write_text("")
    with pytest.raises(salf.ProgramError, match="no method in the log"):
        salf.report(tmp_path / "empty")


class Writer:
    """Keeps what it is given, by the names of the functions that a logger has."""

    def __init__(self, *names):
        self.seen = []
        for name in names:
            setattr(self, name, getattr(self, f"_{name}"))

    def _add_scalar(self, name, value, step):
        self.seen.append((name, value, step))

    def _log_metrics(self, figures, step=None):
        self.seen += [(name, value, step) for name, value in figures.items()]

    _log = _log_metrics


@pytest.mark.parametrize("names", [("add_scalar",), ("log_metrics", "log"), ("log",)])
def test_scalars_reach_any_logger(names):
    logger = Writer(*names)
    salf.log_scalars(logger, {"salf/cut": np.float32(3), "salf/saving": 0.5}, 7)
    assert logger.seen == [("salf/cut", 3.0, 7), ("salf/saving", 0.5, 7)]
    assert type(logger.seen[0][1]) is float


def test_scalars_reach_a_function_and_nothing_else():
    seen = []
    salf.log_scalars(lambda *given: seen.append(given), {"a": 1})
    assert seen == [("a", 1.0, None)]
    with pytest.raises(errors.ArgumentError, match="logger is a int"):
        salf.log_scalars(3, {"a": 1})
