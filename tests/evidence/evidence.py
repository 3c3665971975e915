#!/usr/bin/env python3
"""Does freezing pay? The runs behind docs/evidence.md: methods, controls and seeds, one file a run, resumable.

    evidence.py run    [--only WORD]... [--part P] [--jobs N] [--seeds N] [--dry]     make the runs that are missing
    evidence.py table                                                      tables of what is there, as Markdown
    evidence.py models                                                     which models are found, and where

Every method gets the learning rate that does best on data held out of the training set (first part, "tune"), then runs
with several seeds on the test set ("final"). A run is one call of `salf finetune` on one thread; its JSON lies in
RUNS/, and a run that is there is not made again. Times are processor seconds of the training loop, compared within a
model and a set only.

Environment: SALF (the program), SALF_SHARED (models and data), SMOLLM2 (folder of SmolLM2-135M in Hugging Face form),
RUNS (default build/evidence).
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SALF = os.environ.get("SALF", str(ROOT / "build/bin/salf"))
SHARED = pathlib.Path(os.environ.get("SALF_SHARED", ROOT.parent / "shared"))
RUNS = pathlib.Path(os.environ.get("RUNS", ROOT / "build/evidence"))
SETS = ("trec", "carer", "sst5")
TUNE_SEEDS, HELD_OUT = (11, 12), 300
CLOSE = 0.02  # rates whose accuracy on held-out data differs by less with one seed are tried with the second
QUARTER = 0.75  # share of the operations that half depth leaves of a LoRA step; "fewer data" trains that share of data

# What each model trains on: data, test texts, batch, learning rates to choose from, and tests on the way, for the time
# that a method takes to 95 % of full training's F1 (0: too dear).
MODELS = {
    "smollm2": {"layers": 30, "data": 480, "test": 300, "batch": 8, "rates": (0.001, 0.002, 0.004), "tests": 0},
    "stories3m": {
        "layers": 6, "data": 1500, "test": 500, "batch": 16, "rates": (0.001, 0.002, 0.004, 0.008), "tests": 8,
    },
}
TITLES = {"smollm2": "SmolLM2-135M", "stories3m": "stories3m"}

# Name in the tables -> arguments of salf finetune, in the order of the tables. "epochs" and "dense" stand apart: they
# are compared with a full run of their own kind.
METHODS = {
    "full": ["--method", "lora[full]"],
    "full, 3/4 of the data": ["--method", "lora[full]"],
    "half": ["--method", "lora[half]"],
    "lift*[half]": ["--method", "lift*[half]"],
    "salf[half]": ["--method", "salf[half]"],
    "salf[arith][df]": ["--method", "salf[arith][df]"],
    "random[half][stream]": ["--method", "random[half][stream]"],
    "salf[half][stream]": ["--method", "salf[half][stream]"],
    "ramp": ["--method", "ramp"],
    "linear": ["--method", "linear"],
    "a quarter": ["--method", "suffix", "--first-layer", "m/4"],
    "salf[half], offline": ["--method", "salf[half]", "--matching", "offline"],
}
# What the probe's answer is worth: the same with another answer in its place, or with next to none.
CONTROLS = {
    "salf[half], eof by class": ["--method", "salf[half]", "--eof-from", "class"],
    "salf[half], eof by chance": ["--method", "salf[half]", "--eof-from", "chance"],
    "salf[half], no probes": ["--method", "salf[half]", "--probe-limit", "0.01"],
}
# Two epochs in full cost .67 of three: what half's three, cached (.6), have to beat.
EPOCHS = {
    "full, 3 epochs": ["--method", "lora[full]", "--epochs", "3"],
    "full, 2 epochs": ["--method", "lora[full]", "--epochs", "2"],
    "half, 3 epochs": ["--method", "lora[half]", "--epochs", "3"],
    "half, 3 epochs, cached": ["--method", "lora[half]", "--epochs", "3", "--cache", "2G"],
}
DENSE = {
    f"{name}, dense": [*METHODS[name], "--dense"]
    for name in ("full", "half", "lift*[half]", "random[half][stream]", "salf[half][stream]", "ramp")
}
REFERENCE = {
    **dict.fromkeys([*METHODS, *CONTROLS], "full"),
    **dict.fromkeys(EPOCHS, "full, 3 epochs"),
    **dict.fromkeys(DENSE, "full, dense"),
}
ALL = {**METHODS, **CONTROLS, **EPOCHS, **DENSE}
# SmolLM2 is large for a CPU: dense training is left to the small model.
SKIPPED = {
    ("smollm2", name)
    for name in (*DENSE, *CONTROLS, "salf[arith][df]", "salf[half], offline")
    if name != "salf[half], no probes"
}
# Dense training wants lower rates: at the ones above some methods collapse.
DENSE_RATES = (0.00025, 0.0005, 0.001, 0.002)
# What is run on the first set alone.
ONE_SET = {*DENSE, ("smollm2", "half, 3 epochs"), "salf[half], offline"}
# Methods that take another's rate: they differ from it in data or epochs alone; or, on SmolLM2, in who gets a cut.
RATE_OF = {
    "full, 3/4 of the data": "full", "linear": "full", "a quarter": "full", "half, 3 epochs, cached": "half, 3 epochs",
    "full, 2 epochs": "full, 3 epochs",
    **dict.fromkeys(CONTROLS, "salf[half]"),
}  # fmt: skip
RATE_OF_LARGE = {
    **RATE_OF, "random[half][stream]": "lift*[half]", "salf[half][stream]": "lift*[half]", "ramp": "full",
    "full, 3 epochs": "full", "full, 2 epochs": "full", "half, 3 epochs": "half", "half, 3 epochs, cached": "half",
}  # fmt: skip
# At the rate that the tuning runs choose here some runs collapse: the same a step below.
BELOW = {("smollm2", "trec"): (0.002, ("full", "full, 3/4 of the data", "lift*[half]", "linear"))}


def models():
    """The folders of the models that are there."""
    found = {"stories3m": SHARED / "models/stories3m"}
    if os.environ.get("SMOLLM2"):
        found["smollm2"] = pathlib.Path(os.environ["SMOLLM2"])
    return {name: found[name] for name in MODELS if name in found and (found[name] / "config.json").is_file()}


def tokenizer(folder):
    return next(iter([*sorted(folder.glob("tok*.bin")), folder / "tokenizer.json"]))


def held_out(name):
    """A folder whose test set is held out of the training set, for choosing rates."""
    folder = RUNS / "held-out" / name
    if (folder / "labels.txt").is_file():
        return folder
    source = SHARED / "data" / name
    lines = (source / "train.tsv").read_text(encoding="utf8").splitlines(keepends=True)
    order = list(range(len(lines)))
    random.Random(1234).shuffle(order)
    folder.mkdir(parents=True, exist_ok=True)
    for file, part in (("test.tsv", order[:HELD_OUT]), ("train.tsv", order[HELD_OUT:])):
        (folder / file).write_text("".join(lines[i] for i in sorted(part)), encoding="utf8")
    (folder / "labels.txt").write_text((source / "labels.txt").read_text(encoding="utf8"), encoding="utf8")
    return folder


def size(model, name):
    return round(MODELS[model]["data"] * (QUARTER if name == "full, 3/4 of the data" else 1))


def command(model, dataset, name, rate, seed, part):
    own = MODELS[model]
    folder = models()[model]
    data = held_out(dataset) if part == "tune" else SHARED / "data" / dataset
    tests = HELD_OUT if part == "tune" else own["test"]
    updates = -(-size(model, name) // own["batch"])
    way = ["--eval-every", str(max(1, updates // own["tests"]))] if own["tests"] and part == "final" else []
    return [
        SALF, "finetune", "--model", str(folder), "--tokenizer", str(tokenizer(folder)), "--data", str(data),
        "--limit-train", str(size(model, name)), "--limit-test", str(tests), "--batch", str(own["batch"]),
        "--threads", "1", "--seed", str(seed), "--lr", str(rate), "--json", *way,
        *(str(own["layers"] // 4) if word == "m/4" else word for word in ALL[name]),
    ]  # fmt: skip


def place(model, dataset, name, rate, seed, part):
    plain = name.translate(str.maketrans({"[": "-", "]": "", "*": "+", " ": "_", ",": "", "/": "-", "(": "", ")": ""}))
    return RUNS / part / f"{model}-{dataset}-{plain}-{rate}-{seed}.json"


def result(path):
    """What a run found, None where it is not there."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return {**document["methods"][0], "untrained": document["untrained"], "curve": document.get("curve", [])}


def run(job):
    path, arguments = job
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    log, temporary = path.with_suffix(".log"), path.with_suffix(".part")
    log.unlink(missing_ok=True)
    done = subprocess.run([*arguments, "--log", str(log)], capture_output=True, text=True, env=own, check=False)
    if done.returncode:
        return f"{path.name}: {(done.stderr.strip().splitlines() or [f'status {done.returncode}'])[-1]}"
    events = [json.loads(line) for line in log.read_text(encoding="utf8").splitlines()]
    curve = [(event["cpu_s"], event["f1"]) for event in events if event["event"] == "eval"]
    temporary.write_text(json.dumps({**json.loads(done.stdout), "curve": curve}))
    temporary.replace(path)
    log.unlink()
    return None


def rate_of(model):
    """Whose rate a method takes."""
    return RATE_OF_LARGE if model == "smollm2" else RATE_OF


def rates_of(model, name):
    """The rates that a method chooses from."""
    return DENSE_RATES if name in DENSE else MODELS[model]["rates"]


def held_out_accuracy(model, dataset, name, rate, seeds):
    found = [result(place(model, dataset, name, rate, seed, "tune")) for seed in seeds]
    return None if None in found else statistics.mean(one["accuracy"] for one in found)


def best_rates(model, dataset, name, rates, seeds):
    """The rates by their mean accuracy on held-out data, the best first, the lower first of equals; () while runs are
    missing."""
    scores = [(held_out_accuracy(model, dataset, name, rate, seeds), rate) for rate in rates]
    if any(score is None for score, _ in scores):
        return ()
    return [rate for _, rate in sorted(scores, key=lambda pair: (-pair[0], pair[1]))]


def finalists(model, dataset, name):
    """The best rate with the first seed, and those that one seed cannot tell from it."""
    first = TUNE_SEEDS[:1]
    rates = best_rates(model, dataset, name, rates_of(model, name), first)
    scores = [held_out_accuracy(model, dataset, name, rate, first) for rate in rates]
    return [rate for rate, score in zip(rates, scores, strict=True) if score > scores[0] - CLOSE]


def best_rate(model, dataset, name):
    """The rate that is best over the tuning seeds, None while runs are missing."""
    name = rate_of(model).get(name, name)
    rates = finalists(model, dataset, name)
    return rates[0] if len(rates) == 1 else next(iter(best_rates(model, dataset, name, rates, TUNE_SEEDS)), None)


def wanted(model, dataset, only):
    for name in ALL:
        if (model, name) in SKIPPED or (dataset != "trec" and not ONE_SET.isdisjoint((name, (model, name)))):
            continue
        if not only or any(word in f"{model} {dataset} {name}" for word in only):
            yield name


def final_rates(model, dataset, name):
    """The rates of a method's lines in the table: the best, and one below it where that is asked for."""
    below, names = BELOW.get((model, dataset), (None, ()))
    return [best_rate(model, dataset, name), *([below] if name in names else [])]


def rates_to_run(model, dataset, name, seed, part):
    if part == "final":
        return final_rates(model, dataset, name)
    if name in rate_of(model):
        return []
    if seed == TUNE_SEEDS[0]:
        return rates_of(model, name)
    rates = finalists(model, dataset, name)
    return rates if len(rates) > 1 else []


def jobs(seeds, only, part):
    for seed in seeds:
        for model in models():
            for dataset in SETS:
                for name in wanted(model, dataset, only):
                    for rate in rates_to_run(model, dataset, name, seed, part):
                        path = place(model, dataset, name, rate, seed, part)
                        if rate is not None and result(path) is None:
                            yield path, command(model, dataset, name, rate, seed, part)


def make_runs(options):
    failed = []
    # A tuning seed at a time: the second runs what the first has found.
    rounds = [("tune", [seed]) for seed in TUNE_SEEDS] + [("final", range(1, options.seeds + 1))]
    for part, seeds in rounds:
        if options.part and part not in options.part:
            continue
        todo = list(jobs(seeds, options.only, part))
        print(f"{part}: {len(todo)} runs to make", flush=True)
        if options.dry:
            continue
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for n, problem in enumerate(pool.map(run, todo), 1):
                failed += [problem] if problem else []
                print(f"{part} {n} of {len(todo)}{': ' + problem if problem else ''}", flush=True)
    return 1 if failed else 0


def mean_sd(values, digits=3):
    text = f"{statistics.mean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def rows_of(model, dataset):
    """(name, rate, results of the seeds, those that are there), in the order of the tables."""
    for line in (0, 1):
        for name in wanted(model, dataset, ()):
            for rate in final_rates(model, dataset, name)[line : line + 1]:
                pattern = place(model, dataset, name, rate, "*", "final").name
                runs = [result(path) for path in sorted((RUNS / "final").glob(pattern.replace("[", "[[]")))]
                if rate and runs:
                    yield name, rate, runs


COLUMNS = (
    "method", "rate", "n", "F1", "accuracy", "time", "predicted", "depth saving", "forwards", "matched", "memory",
    "updates", "to 95 %",
)  # fmt: skip


def time_to(runs, reference):
    """Seconds to 95 % of the reference's F1, relative to the reference's whole time; how many runs got there."""
    if not reference or not all(run["curve"] for run in runs):
        return "-"
    goal = 0.95 * statistics.mean(run["f1"] for run in reference)
    whole = statistics.mean(run["cpu_s"] for run in reference)
    times = []
    for run in runs:
        times += [seconds for seconds, f1 in [*run["curve"], (run["cpu_s"], run["f1"])] if f1 >= goal][:1]
    if not times:
        return "never"
    some = f" ({len(times)} of {len(runs)})" if len(times) < len(runs) else ""
    return f"{statistics.mean(times) / whole:.2f}{some}"



def row_of(name, rate, runs, reference):
    """One line of a table; time and memory relative to the mean of the reference's runs."""

    def mean(key, of=runs):
        return statistics.mean(run[key] for run in of)

    def relative(key):
        return f"{mean(key) / mean(key, reference):.2f}" if reference else "-"

    return (
        name, rate, len(runs), mean_sd([run["f1"] for run in runs]), mean_sd([run["accuracy"] for run in runs]),
        relative("cpu_s"), f"{1 - mean('predicted_saving'):.2f}", f"{mean('saving'):.3f}", f"{mean('forwards'):.2f}",
        f"{mean('matched') / mean('trained'):.2f}", relative("memory"), f"{mean('updates'):.0f}",
        time_to(runs, reference),
    )  # fmt: skip


def table(_options):
    for model in models():
        own = MODELS[model]
        for dataset in SETS:
            rows = list(rows_of(model, dataset))
            if not rows:
                continue
            untrained = rows[0][2][0]["untrained"]
            print(
                f"**{TITLES[model]}, {dataset.upper()}**: {own['data']} data, {own['test']} test texts, "
                f"batch {own['batch']}; "
                f"untrained F1 {untrained['f1']:.3f}, accuracy {untrained['accuracy']:.3f}\n"
            )
            print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
            for name, rate, runs in rows:
                same = [row for row in rows if row[0] == REFERENCE[name]]
                reference = next((row[2] for row in sorted(same, key=lambda row, r=rate: row[1] != r)), [])
                print(f"| {' | '.join(map(str, row_of(name, rate, runs, reference)))} |")
            print()
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table", "models"))
    parser.add_argument("--only", action="append", default=[], help="runs whose model, set and method have this word")
    parser.add_argument("--part", action="append", choices=("tune", "final"), help="only this part (default: both)")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="say how many runs are missing")
    options = parser.parse_args()
    if options.what == "models":
        for name in MODELS:
            print(f"{name}: {models().get(name, 'not found')}")
        return 0
    return table(options) if options.what == "table" else make_runs(options)


if __name__ == "__main__":
    sys.exit(main())
