"""salf.advise(): a pilot of some minutes says whether freezing pays for a model and data."""

from __future__ import annotations

import contextlib
import html
import json
import os
import tempfile
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple, Union

from salf import errors
from salf._program import arguments_of, run_program

Path = Union[str, "os.PathLike[str]"]

#: What a verdict means, in few words.
VERDICTS: Mapping[str, str] = {
    "freeze": "freezing pays",
    "trade": "freezing saves, and may cost quality",
    "full": "freezing does not pay here",
    "cannot_say": "the pilot cannot say",
}


@dataclass(frozen=True)
class AdviceRow:
    """A method of the pilot. f1: macro F1 on the test data, f1_half half of its 95 % interval; difference: of F1 to
    lora[full], seed by seed, with half of its interval; time and memory_ratio: of the whole training, relative to
    lora[full]; saving: mean share of the depth that the backward left out; front: no other method has more F1 for less
    time."""

    method: str
    f1: float
    f1_half: float
    difference: float
    difference_half: float
    time: float
    memory_ratio: float
    saving: float
    front: bool


@dataclass(frozen=True)
class Advice:
    """What a pilot says. verdict: a key of VERDICTS; method: the one that is advised; words: the verdict with its
    figures, reasons: what would change it; command and python: lines to go on with; train, test: data that the pilot
    took; untrained: macro F1 of the model as it came; raw: all of what the program said. Notebooks show it as a table.
    """

    verdict: str
    method: str
    words: str
    reasons: str
    command: str
    python: str
    rows: Tuple[AdviceRow, ...]
    untrained: float
    seeds: int
    train: int
    test: int
    seconds: float
    raw: Dict[str, Any] = field(repr=False)

    @property
    def pays(self) -> bool:
        """Whether a method that freezes layers is advised."""
        return self.verdict in ("freeze", "trade")

    def __str__(self) -> str:
        lines = [f"{self.words}", "", f"  {'method':<24} {'F1':>15} {'time':>6} {'memory':>7} {'saving':>7}"]
        for row in self.rows:
            lines.append(
                f"{'*' if row.front else ' '} {row.method:<24} {row.f1:.3f} +-{row.f1_half:.3f}  {row.time:6.2f} "
                f"{row.memory_ratio:7.2f} {row.saving:7.3f}"
            )
        return "\n".join([*lines, "", self.reasons, "", self.command, self.python])

    def _repr_html_(self) -> str:
        longest = max((row.time for row in self.rows), default=1.0)
        cells = "".join(
            f"<tr><td>{'&#9733;' if row.front else ''}</td>"
            f"<td>{'<b>' if row.method == self.method else ''}{html.escape(row.method)}</td>"
            f"<td>{row.f1:.3f} &plusmn;{row.f1_half:.3f}</td><td>{row.time:.2f} "
            f'<span style="display:inline-block;height:.7em;background:#4477aa;width:{100 * row.time / longest:.0f}px">'
            f"</span></td><td>{row.memory_ratio:.2f}</td><td>{row.saving:.3f}</td></tr>"
            for row in self.rows
        )
        return (
            f"<p><b>{html.escape(VERDICTS.get(self.verdict, self.verdict))}</b>: {html.escape(self.words)}</p>"
            "<table><tr><th></th><th>method</th><th>macro F1</th><th>time</th><th>memory</th><th>depth saved</th></tr>"
            f"{cells}</table><p>&#9733; no other method has more F1 for less time; time and memory relative to "
            f"lora[full]. {html.escape(self.reasons)}</p><pre>{html.escape(self.python)}</pre>"
        )


@contextlib.contextmanager
def _folder(model: Any, tokenizer: Any) -> Iterator[Tuple[Path, Any]]:
    """The model's folder and the tokenizer's: those given, or where a model and a tokenizer of transformers are saved
    for the time of the pilot."""
    with tempfile.TemporaryDirectory(prefix="salf-") as folder:
        if hasattr(tokenizer, "save_pretrained"):
            tokenizer.save_pretrained(folder)
            tokenizer = folder
        if hasattr(model, "peft_config"):
            raise errors.ArgumentError("model has adapters of PEFT: pass it as it was, the pilot makes its own")
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(folder)
            yield folder, tokenizer
        elif isinstance(model, (str, os.PathLike)):
            yield model, tokenizer
        else:
            raise errors.ArgumentError(f"model is a {type(model).__name__}; expected a folder or a model")


def advise(
    *,
    model: Any,
    data: Path,
    tokenizer: Any = None,
    minutes: float = 5.0,
    seeds: int = 2,
    template: Optional[str] = None,
    label_words: Union[Mapping[str, str], Path, None] = None,
    lr: Union[float, str, None] = None,
    rank: Optional[int] = None,
    batch: Optional[int] = None,
    lens: Optional[str] = None,
    seed: Optional[int] = None,
    threads: Optional[int] = None,
    backend: Optional[str] = None,
    log: Optional[Path] = None,
    report: Optional[Path] = None,
) -> Advice:
    """Says whether freezing pays for a model and data: trains the methods that may pay, and full training, on a part of
    the data for so many minutes, with several seeds, and compares macro F1, time and memory.

    model: a checkpoint folder, or a model of transformers, which is saved to a folder for the pilot; tokenizer: a file
    or folder, or a tokenizer of transformers, by default beside the model. data: a folder with train.tsv, test.tsv and
    labels.txt. The rest are options of `salf advise` (`salf advise --help`); log and report are files to write.
    ArgumentError, a ValueError, for what the program refuses; RuntimeError where a run of it fails, with its message.
    """
    with _folder(model, tokenizer) as (folder, beside):
        options = {
            "model": folder, "tokenizer": beside, "data": data, "minutes": minutes, "seeds": seeds,
            "template": template, "label_words": label_words, "lr": lr, "rank": rank, "batch": batch, "lens": lens,
            "seed": seed, "threads": threads, "backend": backend, "log": log, "report": report, "json": True,
        }  # fmt: skip
        told = json.loads(run_program("advise", *arguments_of(options)))
    names = set(AdviceRow.__dataclass_fields__)
    rows = tuple(
        AdviceRow(**{name: value for name, value in method.items() if name in names}) for method in told["methods"]
    )
    command = told["command"] if folder is model else told["command"].replace(os.fspath(folder), "MODEL")
    return Advice(
        rows=rows,
        untrained=told["untrained"]["f1"],
        command=command,
        raw=told,
        **{name: told[name] for name in ("verdict", "method", "words", "reasons", "python", "seeds", "train", "test",
                                         "seconds")},
    )  # fmt: skip
