"""salf.report(): the page that `salf report` draws, in a notebook; RunLog, which writes the logs that it reads; and
log_scalars(), which hands figures to the logger that a host has."""

from __future__ import annotations

import html
import json
import math
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, TextIO, Tuple, Union

from salf import errors
from salf._program import run_program
from salf.tensors import save_file

Path = Union[str, "os.PathLike[str]"]


class Report:
    """A page of one or several logs: html is all of it, results the figures of each method and seed. Notebooks show the
    page in a frame."""

    #: Height of the frame in a notebook, in pixels.
    height = 640

    def __init__(self, logs: Sequence[str], page: str, results: List[Dict[str, Any]]) -> None:
        self.logs = tuple(logs)
        self.html = page
        self.results = results

    def save(self, path: Path) -> None:
        """Makes the page the content of a file, whole or not at all."""
        save_file(path, self.html.encode())

    def __str__(self) -> str:
        names = ("method", "seed", "f1", "accuracy", "saving", "cpu_s")
        lines = [f"{'method':<24} {'seed':>6} {'F1':>7} {'accuracy':>8} {'saving':>7} {'seconds':>8}"]
        for result in self.results:
            method, seed, *rest = (result.get(name) for name in names)
            figures = ["-" if value is None else f"{value:.3f}" for value in rest]
            lines.append(f"{method:<24} {'-' if seed is None else seed:>6} {figures[0]:>7} {figures[1]:>8} "
                         f"{figures[2]:>7} {figures[3]:>8}")  # fmt: skip
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        # A document of its own, so that neither page changes the other's looks; its scripts stay in it.
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" width="100%" height="{self.height}" '
            'style="border:1px solid #ccc"></iframe>'
        )


def _results_of(path: str) -> List[Dict[str, Any]]:
    """The `result` events of a log, the last of each method and seed; lines that were cut short are left out."""
    found: Dict[Tuple[Any, Any], Dict[str, Any]] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("event") == "result":
                kept = {name: value for name, value in event.items() if name not in ("event", "confusion")}
                found[(event.get("method"), event.get("seed"))] = {"log": path, **kept}
    return list(found.values())


def report(*logs: Path, output: Optional[Path] = None) -> Report:
    """The report of logs of `salf finetune`, `salf advise` or a RunLog, written to a file too where output says so."""
    if not logs:
        raise errors.ArgumentError("report() needs a log")
    paths = [os.fspath(log) for log in logs]
    page = run_program("report", "--output", "/dev/stdout", "--", *paths)
    made = Report(paths, page, [result for path in paths for result in _results_of(path)])
    if output is not None:
        made.save(output)
    return made


def _finite(value: Any) -> Any:
    """Numbers for JSON, which knows no NaN; those of NumPy and PyTorch become Python's."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _drop_torn_line(path: Path) -> None:
    """Takes away the last line of a log that a crash cut short: what is written next would be lost with it."""
    if not os.path.isfile(path):
        return
    with open(path, "rb+") as file:
        last = file.read().rpartition(b"\n")[2]
        try:
            json.loads(last or b"{}")
            file.write(b"\n" if last else b"")  # whole, but for its end
        except ValueError:
            file.truncate(file.tell() - len(last))


class RunLog:
    """Writes the events of a training loop of your own as JSON lines (docs/formats.md, "Logs"), each as soon as it is
    known: what was written before a crash can be drawn.

        log = salf.RunLog("run.jsonl", layers=12, methods=["salf[half]"], model="llama")
        log.step("salf[half]", step, loss, scalars=controller.scalars(), data=n)
        log.result("salf[half]", f1=f1, accuracy=accuracy, saving=controller.saving)
        salf.report("run.jsonl")

    layers: of the model. What else is given by name stands in the log's first line. append: go on with a log, whose
    first line is there already; a last line that a crash cut short is taken away.
    """

    def __init__(
        self, path: Path, *, layers: int, methods: Sequence[str] = (), append: bool = False, **about: Any
    ) -> None:
        if append:
            _drop_torn_line(path)
        self._file: TextIO = open(path, "a" if append else "w", encoding="utf-8")  # noqa: SIM115 - until close()
        if not append:
            self.write("run", layers=layers, methods=list(methods), **about)

    def write(self, event: str, **values: Any) -> None:
        """A line of any event."""
        self._file.write(json.dumps({"event": event, **_finite(values)}) + "\n")
        self._file.flush()

    def step(
        self, method: str, step: int, loss: Any, scalars: Optional[Mapping[str, float]] = None, **values: Any
    ) -> None:
        """An optimizer step: its loss, what FreezeController.scalars() said, and by name data (trained so far), rate,
        forward_s, backward_s and the like."""
        seen = scalars or {}
        known = {"cut": seen.get("salf/cut"), "saving": seen.get("salf/saving")}
        values = {**{name: value for name, value in known.items() if value is not None}, **values}
        self.write("step", method=method, step=step, loss=float(loss), **values)

    def result(self, method: str, planner: Any = None, **values: Any) -> None:
        """The end of a method: f1, accuracy, saving, confusion and whatever else the report knows; of a plan also what
        it did."""
        if planner is not None:
            stages = [planner.stage(layer) for layer in range(len(planner.counts))]
            told = {name: [getattr(stage, name) for stage in stages] for name in ("matched", "filled")}
            self.write("plan", method=method, counts=[s.count for s in stages], saving=planner.saving, **told)
        self.write("result", method=method, **values)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def log_scalars(logger: Any, scalars: Mapping[str, float], step: Optional[int] = None) -> None:
    """Hands figures, such as FreezeController.scalars(), to a logger by its own function: TensorBoard's SummaryWriter
    (add_scalar), loggers of Lightning, MLflow, Comet (log_metrics), runs of W&B, Trackio, accelerate's Accelerator
    (log), or a function of name, value and step."""
    figures = {name: float(value) for name, value in scalars.items()}
    if hasattr(logger, "add_scalar"):
        for name, value in figures.items():
            logger.add_scalar(name, value, step)
    elif hasattr(logger, "log_metrics"):
        logger.log_metrics(figures, step=step)
    elif hasattr(logger, "log"):
        logger.log(figures, step=step)
    elif callable(logger):
        for name, value in figures.items():
            logger(name, value, step)
    else:
        raise errors.ArgumentError(
            f"logger is a {type(logger).__name__}: it has none of add_scalar, log_metrics and log, and is no function"
        )
