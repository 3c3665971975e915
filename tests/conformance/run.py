#!/usr/bin/env python3
"""Checks salf on every class that the installed transformers knows as a causal language model, and writes the table.

    run.py --results FOLDER --table docs/conformance.md [--only TYPE,...] [--jobs N] [--again VERDICT,...]

Each model is checked in a process of its own with a time limit. Results are kept in FOLDER, one file a model type, for
this version of PyTorch and transformers; a run that was broken off goes on where it was. The status is 1 where a verdict
is "wrong".
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import time

import check
import tiny
import torch
import transformers

import salf

VERSIONS = (
    f"transformers {transformers.__version__}, PyTorch {torch.__version__.split('+')[0]}, libsalf {salf.version()}"
)


def start(model_type, class_name, target):
    """A process that writes the row of one model."""
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)
    log = os.open(target.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        write(target, check.check(model_type, class_name))
        status = 0
    finally:
        os._exit(status)


def write(target, row):
    """The file of a row, complete or not at all."""
    part = target.with_suffix(".part")
    part.write_text(json.dumps({"versions": VERSIONS, **row}, indent=1))
    part.replace(target)


def known(target, again):
    """The row of an earlier run, where it counts."""
    try:
        row = json.loads(target.read_text())
    except (OSError, ValueError):
        return None
    return row if row.get("versions") == VERSIONS and row["verdict"] not in again else None


def run_all(wanted, folder, jobs, limit):
    """Runs what is wanted, jobs at a time."""
    waiting, running = list(wanted), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            model_type, class_name = waiting.pop(0)
            target = folder / f"{model_type}.json"
            target.unlink(missing_ok=True)
            running[start(model_type, class_name, target)] = (model_type, class_name, target, time.monotonic() + limit)
        time.sleep(0.05)
        for child, (model_type, class_name, target, end) in list(running.items()):
            late = time.monotonic() > end
            if late:
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, 0 if late else os.WNOHANG)
            if not ended:
                continue
            del running[child]
            if not target.exists():
                why = f"no result within {limit} s" if late else f"its process ended with status {status}"
                row = {"type": model_type, "class": class_name, "verdict": "wrong", "reason": why, "notes": []}
                write(target, row)
            row = json.loads(target.read_text())
            print(f"{row['verdict']:8} {model_type:28} {row['reason'][:150]}", flush=True)


def main():
    """Runs what is missing, writes the table, and says how many there are of each verdict."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=pathlib.Path, required=True)
    parser.add_argument("--table", type=pathlib.Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--again", default="", help="verdicts of an earlier run that are checked anew")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=int, default=900, help="seconds for one model")
    options = parser.parse_args()
    print(VERSIONS, flush=True)
    transformers.logging.set_verbosity_error()
    options.results.mkdir(parents=True, exist_ok=True)
    chosen = options.only.split(",") if options.only else None
    everything = tiny.types()
    files = {t: options.results / f"{t}.json" for t, _ in everything}
    again = options.again.split(",")
    wanted = [(t, c) for t, c in everything if (t in chosen if chosen else known(files[t], again) is None)]
    run_all(wanted, options.results, options.jobs, options.limit)
    rows = [row for row in (known(files[t], ()) for t, _ in everything) if row]
    counts = {v: sum(row["verdict"] == v for row in rows) for v in ("right", "refused", "unbuilt", "wrong")}
    print(", ".join(f"{n} {v}" for v, n in counts.items()), f"of {len(everything)}")
    if options.table and len(rows) == len(everything):
        import table

        options.table.write_text(table.page(rows, counts, VERSIONS))
    sys.exit(1 if counts["wrong"] else 0)


if __name__ == "__main__":
    main()
