#!/usr/bin/env python3
"""The programs, while the system below them fails, while they are killed, and with damaged checkpoints.

    commands.py [--seconds S] [--each N] [--jobs N] [faults] [kills] [flips] [calls]    all four when none is named

faults  every call of the C library below every subcommand fails in turn (tests/torture/faults.c): the subcommand says
        so and ends with exit code 1, or nothing was lost by it and all it writes is right; each file it was to write is
        the old one or the new one, whole, and nothing lies beside it.
kills   a run that is killed (SIGKILL) at random moments and resumed until it ends has the weights and the log of one
        that was not; with process numbers that vary, and with the same one each time, as in a container.
flips   a bit of a checkpoint is turned over: the run that resumes refuses it and says so, or ends with the weights of
        one that was not stopped (the bit meant nothing, or the generation before took its place).
calls   tests/torture/calls.c calls each function of salf.h.

Random choices follow from --seed. With --seconds as many as fit are tried of each, evenly spread; else all faults, and
1,000 kills and flips. With --each it is so many faults of each kind and subcommand, the same ones each time. --jobs
tries faults side by side. SALF, SALF_DEMO and FAULTS name the programs and the library of faults, CALLS the object of calls.c.
"""

import argparse
import concurrent.futures
import glob
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SALF = os.path.abspath(os.environ.get("SALF", "build/bin/salf"))
DEMO = os.path.abspath(os.environ.get("SALF_DEMO", SALF + "-demo"))
FAULTS = os.path.abspath(os.environ.get("FAULTS", "build/tests/torture/faults.so"))
CALLS = os.environ.get("CALLS", "")
GIVEN = os.path.join(ROOT, "examples", "demo")
MODEL, TOKENIZER, DATA = (os.path.join(GIVEN, name) for name in ("model", "tokenizer.bin", "data"))
KINDS = ("MALLOC", "OPEN", "READ", "WRITE", "SYNC", "CLOSE", "RENAME", "MMAP", "TRUNCATE", "STAT")
FINETUNE = [SALF, "finetune", "--model", MODEL, "--tokenizer", TOKENIZER, "--data", DATA, "--batch", "4",
            "--limit-test", "4"]  # fmt: skip

failed = 0


def tell(good, name, detail=""):
    global failed
    failed += not good
    print(("ok - " if good else "not ok - ") + name + (": " + detail if detail and not good else ""), flush=True)


def run(command, folder, **more):
    """A command in a folder, with the file "stdin" of it: (exit code, standard output, standard error)."""
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", SALF_BACKEND="cpu", **more)
    given = os.path.join(folder, "stdin")
    with open(given if os.path.exists(given) else os.devnull, "rb") as source:
        done = subprocess.run(command, cwd=folder, env=environment, stdin=source, capture_output=True)
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


CLOCKED = re.compile(r"_s$|time|memory|processor|cpu|wall|spread|version")


def without_clock(value):
    """A value of a log without what the clock says in it."""
    if isinstance(value, dict):
        return {key: without_clock(part) for key, part in value.items() if not CLOCKED.search(key)}
    return [without_clock(part) for part in value] if isinstance(value, list) else value


def timeless(text):
    """A file's bytes; of a log, what its lines say but for the clock."""
    if not text.startswith(b'{"event"'):
        return text
    try:
        return [without_clock(json.loads(line)) for line in text.splitlines()]
    except ValueError:
        return text


def files_of(folder):
    found = {}
    for path in glob.glob(glob.escape(folder) + "/**", recursive=True, include_hidden=True):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = timeless(file.read())
    return found


# ---- faults ----------------------------------------------------------------------------------------------------------
# name, command, files that it reads and that lie in its folder, files that it replaces, whether it is timed (then what
# it prints and logs is not compared)
SCENES = [
    ("plan", [SALF, "plan", "--layers", "4", "--data", "100", "--json"], {}, [], False),
    ("tokens", [SALF, "tokens", "--tokenizer", TOKENIZER], {"stdin": "it is\n" + "so long " * 40}, [], False),
    ("basis", [SALF, "basis", "--model", MODEL, "--tokens", "1,7,100", "--output", "basis"], {}, ["basis"], False),
    ("probe", [SALF, "probe", "--model", MODEL, "--prompts", "prompts"], {"prompts": "7\t1,2,3\n9\t4,5\n"}, [], False),
    ("doctor", [SALF, "doctor", MODEL, "--json"], {}, [], True),
    ("report", [SALF, "report", "log", "-o", "page.html"], {"log": None}, ["page.html"], True),
    ("tokenizer", [DEMO, "tokenizer", "--size", "360", "--output", "t.bin", os.path.join(DATA, "words.txt")], {},
     ["t.bin"], False),
    ("pretrain", [DEMO, "pretrain", "--text", os.path.join(DATA, "test.tsv"), "--tokenizer", TOKENIZER, "--output",
                  "made", "--layers", "1", "--hidden", "16", "--ffn", "16", "--heads", "2", "--steps", "1", "--batch",
                  "2"], {}, [], True),
    ("finetune", [*FINETUNE, "--limit-train", "12", "--method", "salf[half]", "--log", "log", "--output", "out",
                  "--checkpoint", "ck", "--checkpoint-every", "1"], {}, [], True),
]  # fmt: skip


def example_log(place):
    """A log to report on, made once."""
    run([*FINETUNE, "--limit-train", "8", "--method", "salf[half],lora[half]", "--log", "log"], place)
    with open(os.path.join(place, "log")) as log:
        return log.read()


class Scene:
    """A subcommand in folders of its own, each as it was before."""

    def __init__(self, place, name, command, inputs, outputs, timed):
        self.place, self.name, self.command, self.timed = place, name, command, timed
        self.start = {file: text.encode() for file, text in inputs.items()}
        self.old = {file: b"what was there before\n" for file in outputs}
        self.code, self.said, self.complaint = self.play(SALF_FAULT_COUNTS=os.path.join(place, "counts"))
        self.files = files_of(self.folder())
        with open(os.path.join(place, "counts")) as counts:
            self.counts = {kind: int(n) for kind, n in (line.split() for line in counts)}

    def folder(self):
        """Of each thread its own: faults are tried side by side."""
        return os.path.join(self.place, f"{self.name} {threading.get_ident()}")

    def play(self, **more):
        shutil.rmtree(self.folder(), ignore_errors=True)
        os.mkdir(self.folder())
        for file, text in (self.start | self.old).items():
            with open(os.path.join(self.folder(), file), "wb") as out:
                out.write(text)
        return run(self.command, self.folder(), LD_PRELOAD=FAULTS, **more)

    def torment(self, kind, number):
        """What is wrong after one fault; empty when nothing is."""
        code, said, complaint = self.play(SALF_FAULT=f"{kind}:{number}")
        there = files_of(self.folder())
        if code not in (0, 1):
            return f"exit code {code}: {complaint[-300:]}"
        if code == 1 and not complaint.strip():
            return "exit code 1 without a word"
        if code == 1 and kind == "MALLOC" and "memory" not in complaint:
            return f"says nothing of memory: {complaint[-300:]}"
        if code == 0 and not self.timed and said != self.said:
            return "exit code 0, but something else on standard output"
        beside = set(there) - set(self.files) - set(self.start)
        if beside:
            return f"left behind: {', '.join(sorted(beside))}"
        for file in self.files:
            grows = file == "log" and code == 1  # a log is written line by line
            old = there.get(file) == self.old.get(file)  # or not there, as before
            if there.get(file) != self.files[file] and not grows and (code == 0 or not old) and not self.newer(file, there):
                return f"exit code {code}, and {file} is neither the old file nor the right one"
        return ""

    def newer(self, file, there):
        """A checkpoint is replaced on the way; each is whole when its run can go on from it, which kills looks at."""
        return file.startswith("ck/") and file in there

    def points(self, kind, most):
        n = self.counts[kind]
        return list(range(n)) if n <= most else sorted({(2 * i + 1) * n // (2 * most) for i in range(most)})


def faults(place, seconds, each, jobs):
    scenes = [Scene(place, name, command, {f: example_log(place) if t is None else t for f, t in inputs.items()}, *rest)
              for name, command, inputs, *rest in SCENES]  # fmt: skip
    began, cost = time.time(), 0.02
    for number, scene in enumerate(scenes):
        tell(scene.code == 0, f"{scene.name} under the library of faults", scene.complaint)
        left = (began + seconds - time.time()) / (len(scenes) - number) if seconds else 0
        most = each or (max(2, int(left / cost / len(KINDS))) if seconds else 1 << 60)
        start = time.time()
        points = [(kind, point) for kind in KINDS for point in scene.points(kind, most)]
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            found = pool.map(lambda at, scene=scene: scene.torment(*at), points)
            wrong = []
            for n, ((kind, point), fault) in enumerate(zip(points, found), 1):
                if fault:  # at once: all of them take hours
                    wrong.append(f"{kind}:{point} {fault}")
                    print(f"# {scene.name}: {wrong[-1]}", flush=True)
                if n % 1000 == 0:
                    print(f"# {scene.name}: {n} of {len(points)}, {len(wrong)} wrong", flush=True)
        cost = max(cost, (time.time() - start) / max(1, len(points)))
        tell(not wrong, f"{scene.name}: {len(points)} of {sum(scene.counts.values())} faults",
             f"{len(wrong)} wrong\n    " + "\n    ".join(wrong[:20]))  # fmt: skip


# ---- kills and flips -------------------------------------------------------------------------------------------------
class Run:
    """A fine-tuning run with a checkpoint at each update."""

    def __init__(self, place, name, method, before=()):
        self.folder = os.path.join(place, name)
        os.makedirs(self.folder)
        self.command = [*before, *FINETUNE, "--limit-train", "48", "--method", method, "--log", "log", "--output", "out",
                        "--checkpoint", "ck", "--checkpoint-every", "1"]  # fmt: skip

    def go(self, *more):
        return run([*self.command, *more], self.folder)

    def killed(self, after):
        """Starts or resumes the run and kills it; returns its exit code, 0 when it came to its end before that."""
        environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", SALF_BACKEND="cpu")
        running = subprocess.Popen([*self.command, "--resume"], cwd=self.folder, env=environment,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
        try:
            _, complaint = running.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            running.kill()
            _, complaint = running.communicate()
            return None, ""
        return running.returncode, complaint.decode(errors="replace")

    def result(self):
        """Weights, and the log without the clock and "signal", which is of the rows since the run was resumed. What a
        kill has left of a file under its temporary name is nobody's."""
        found = files_of(self.folder)
        lines = [line for line in found.get("log", []) if isinstance(line, dict) and line["event"] != "signal"]
        return {f: text for f, text in found.items() if f.startswith("out/") and ".tmp." not in f} | {"log": lines}


METHODS = ("salf[half]", "lift*[half],salf[half][stream]")


def kills(place, seconds, rng):
    constant = ["unshare", "--pid", "--fork", "--kill-child"]
    can = shutil.which("unshare") and subprocess.run([*constant, "true"], capture_output=True).returncode == 0
    if not can:
        print("skip - the same process number each time: unshare is not there, or not allowed")
    ways = [("numbers that vary", ()), ("the same number", constant)][: 2 if can else 1]
    for way, before in ways:
        for method in METHODS:
            began, made, rounds, wrong = time.time(), 0, 0, ""
            whole = Run(place, f"whole {len(before)} {method}", method, before)
            code, _, complaint = whole.go()
            took = time.time() - began
            expected = whole.result()  # of a run that failed there would be nothing to compare with
            if code != 0 or len(expected["log"]) < 12 or len(expected) < 3:
                wrong = f"the run that is left alone ends with {code} and {sorted(expected)}: {complaint[-400:]}"
            while not wrong and (time.time() - began < seconds / 4 if seconds else made < 250):
                rounds += 1
                each = Run(place, f"killed {len(before)} {method} {rounds}", method, before)
                start = time.time()
                for attempt in range(200):
                    code, complaint = each.killed(rng.uniform(0.1, 1.2) * took * (1 + attempt / 20))
                    if code is not None:
                        break
                    made += 1
                if attempt == 0:  # the machine has less to do than it had: moments within what a run takes now
                    took = min(took, time.time() - start)
                if code != 0:
                    wrong = f"after {made} kills: exit code {code}: {complaint[-400:]}"
                elif each.result() != expected:
                    wrong = f"after {made} kills: other weights, or another log"
                shutil.rmtree(each.folder)
            tell(not wrong, f"{method} killed {made} times in {rounds} runs, {way}", wrong)


def flips(place, seconds, rng):
    began, made, refused, wrong = time.time(), 0, 0, []
    whole, stopped = (Run(place, name, METHODS[0]) for name in ("whole", "stopped"))
    whole.go()
    stopped.go("--stop-after", "7")
    kept = os.path.join(place, "kept")
    os.rename(stopped.folder, kept)
    candidates = [path for path in glob.glob(kept + "/ck/*") if os.path.getsize(path) > 0]
    while time.time() - began < seconds if seconds else made < 1000:
        shutil.rmtree(stopped.folder, ignore_errors=True)
        shutil.copytree(kept, stopped.folder)
        path = rng.choice(candidates).replace(kept, stopped.folder)
        with open(path, "r+b") as file:
            size = os.path.getsize(path)
            place_of_bit = rng.randrange(size if rng.random() < 0.7 else min(size, 2000))
            file.seek(place_of_bit)
            byte = file.read(1)
            bit = rng.randrange(8)
            file.seek(place_of_bit)
            file.write(bytes([byte[0] ^ 1 << bit]))
        made += 1
        code, _, complaint = stopped.go("--resume")
        refused += code == 1
        same = code == 0 and all(stopped.result()[f] == t for f, t in whole.result().items() if f != "log")
        if not same and not (code == 1 and complaint.strip()):
            wrong.append(f"bit {bit} of byte {place_of_bit} of {os.path.basename(path)}: " +
                         ("other weights" if code == 0 else f"exit code {code}: {complaint[-200:]}"))  # fmt: skip
    tell(not wrong, f"{made} bits turned over, {refused} of them refused", f"{len(wrong)} wrong\n    " +
         "\n    ".join(wrong[:20]))  # fmt: skip


def calls():
    sys.path.insert(0, os.path.join(ROOT, "tests", "abi"))
    import header

    header.HEADER = os.path.join(ROOT, "include", "salf.h")
    names = subprocess.run(["nm", "-u", CALLS], check=True, capture_output=True, text=True).stdout.split()
    missing = set(header.functions(header.preprocessed())) - set(names)
    tell(not missing, "calls.c calls each function of salf.h", ", ".join(sorted(missing)))


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--seconds", type=float, default=0, help="for all parts together")
    options.add_argument("--each", type=int, default=0, help="faults of each kind below each subcommand")
    options.add_argument("--jobs", type=int, default=1, help="faults that are tried side by side")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("parts", nargs="*", metavar="PART")
    given = options.parse_args()
    parts = given.parts or ["faults", "kills", "flips", "calls"]
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:
        timed = [p for p in parts if p != "calls" and not (p == "faults" and given.each)]
        share = given.seconds / max(1, len(timed))
        if "faults" in parts:
            faults(place, share, given.each, given.jobs)
        if "kills" in parts:
            kills(place, share, rng)
        if "flips" in parts:
            flips(place, share, rng)
    if "calls" in parts:
        calls()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
