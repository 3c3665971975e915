#!/usr/bin/env python3
"""Mutation score: changes one line of the sources at a time, in a copy of the tree, and sees whether a suite notices.

    mutate.py [--only WORD]... [--again] [--list] [--least PERCENT]

mutants.txt beside this file holds the mutants. A heading "[FILE] SUITE..." names a source file and the suites that
should notice, the quickest first; a mutant below it has four lines at most:

    operator        comparison, constant, sign, logic, dropped call, dropped check or swapped argument
    - text          what stands in the file, exactly once; white space of any kind is one blank, so that lines may move
    + text          what takes its place
    = reason        only where no test can notice: what the mutant computes is the same

A suite is a program of tests/unit ("planner"), one of another folder ("parity/test_backend") or a script of tests/cli
("cli/test_report.sh"). Each is built when its turn comes, runs until its first failure, and has a limit of processor
time that follows from its time without a mutant. --only takes those whose heading, operator or text has a word.

What was found stands in results.txt in the copy's folder, so a run that was stopped goes on. It holds while the mutant
and its file are the same; that it survived, also while its suites are. A suite that loses a test is not noticed
by what it caught before: --again forgets everything.

The score is caught / (caught + survived); mutants that do not compile and those with a reason are left out. A mutant
whose text is not found is lost, which is said aloud and fails: mend its line. So is a mutant with a reason that a suite
catches. Below --least (95) the script fails.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OPERATORS = ("comparison", "constant", "sign", "logic", "dropped call", "dropped check", "swapped argument")
SOURCES = ("examples", "include", "libsalf", "tests")  # folders of what is built
SECONDS_LEAST = 3  # of processor time for a suite, however quick it is without a mutant
SECONDS_TIMES = 4  # of its own time
SECONDS_STILL = 20  # by the clock, without any processor time: threads that wait for each other


class Mutant:
    def __init__(self, file, suites, operator, line):
        self.file, self.suites, self.operator, self.line = file, suites, operator, line
        self.found = self.put = self.reason = None

    def apply(self, text):
        """The file's text with the mutant in it, or None where what it replaces does not stand there exactly once."""
        pattern = r"\s+".join(re.escape(part) for part in self.found.split())
        changed, times = re.subn(pattern, lambda _: self.put, text)
        return changed if times == 1 else None

    def name(self):
        return f"{self.file}: {self.operator}: {' '.join(self.found.split())}  ->  {self.put or '(nothing)'}"


def read_list(path):
    """The mutants; a line that fits nowhere ends the program with its number."""
    mutants, file, suites = [], None, None
    with open(path) as lines:
        for number, line in enumerate(map(str.rstrip, lines), 1):
            heading = re.fullmatch(r"\[(\S+)\]((?: \S+)+)", line)
            if heading:
                file, suites = heading[1], heading[2].split()
            elif line in OPERATORS and file:
                mutants.append(Mutant(file, suites, line, number))
            elif line[:2] == "- " and mutants:
                mutants[-1].found = line[2:]
            elif line[:1] == "+" and mutants:
                mutants[-1].put = line[2:]
            elif line[:2] == "= " and mutants:
                mutants[-1].reason = line[2:]
            elif line and line[0] != "#":
                sys.exit(f"{path}:{number}: '{line}' is no heading, operator or text")
    for m in mutants:
        if m.found is None or m.put is None:
            sys.exit(f"{path}:{m.line}: a mutant needs a line '- ' and a line '+ '")
    return mutants


class Tree:
    """A copy of the files that git knows, with its build folder."""

    def __init__(self, folder, flags):
        self.folder, self.flags = folder, flags
        # Of each suite without a mutant: its limit, and whether its tests need processes of their own. Kept, since some
        # suites take long; a suite that takes longer later has room.
        self.limits = os.path.join(folder, "limits.json")
        self.seconds, self.fork = json.loads(read(self.limits)) if os.path.exists(self.limits) else ({}, {})

    def refresh(self):
        """Takes over what has changed, and only that, so that a build after it is short. From here on only the copy is
        read: you may go on working in the tree. Suites of changed sources have to pass again before they count: one that
        fails without a mutant would catch them all."""
        names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                               capture_output=True, text=True).stdout.split("\n")  # fmt: skip
        changed = []
        for folder in SOURCES:  # are found by their place
            for place, _, files in os.walk(os.path.join(self.folder, folder)):
                paths = [os.path.relpath(os.path.join(place, file), self.folder) for file in files]
                changed += [path for path in paths if path not in names]
        for path in changed:
            os.remove(os.path.join(self.folder, path))
        for name in filter(None, names):
            source, target = os.path.join(ROOT, name), os.path.join(self.folder, name)
            if os.path.isfile(source) and (not os.path.exists(target) or read(source) != read(target)):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy(source, target)
                changed.append(name)
        if any(name.split("/")[0] in SOURCES and not name.startswith("tests/mutation/") for name in changed):
            self.seconds, self.fork = {}, {}

    def target(self, suite):
        if suite.startswith("cli/"):
            return "bin"
        return f"build/tests/{suite}" if "/" in suite else f"build/tests/unit/test_{suite}"

    def compile(self, suite):
        """Whether a suite's program builds; one job. Linked with the leak sanitizer, so that memory which a mutant forgets
        to give back is noticed, but for those that have an allocator of their own, and the program, of
        which scripts limit the memory. Most of a mutant's time is this, so
        ccache is used where it is there."""
        command = ["make", "-s", "-j1", "BUILD=build", f"CFLAGS={self.flags}", "CUDA=0", self.target(suite)]
        if not suite.startswith(("torture/", "cli/")):
            command.append("LIBS=$(DEPS_LIBS) $(JSON_LIBS) -lm -lpthread -ldl -fsanitize=leak")
        if shutil.which("ccache"):
            command.append("CC=ccache gcc")
        environment = dict(os.environ, CCACHE_BASEDIR=self.folder, CCACHE_NOHASHDIR="1")
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def passes(self, suite, limit):
        """Whether a suite finds no fault. limit: seconds of processor time for each of its processes."""
        command = ["bash", f"tests/{suite}"] if suite.startswith("cli/") else [self.target(suite)]
        log = os.path.join(self.folder, "log.tap")  # a line after each test: programs write it, scripts say it
        write(log, "")
        environment = dict(os.environ, CK_FORK=self.fork.get(suite, "no"), CK_DEFAULT_TIMEOUT="0", SALF_TEST_QUICK="1",
                           SALF="build/bin/salf", OPENBLAS_NUM_THREADS="1", CK_TAP_LOG_FILE_NAME=log,
                           SALF_SHARED=os.path.join(ROOT, os.environ.get("SALF_SHARED", "../shared")))  # fmt: skip
        with open(log if suite.startswith("cli/") else os.devnull, "a") as said:
            run = subprocess.Popen(command, cwd=self.folder, env=environment, start_new_session=True,
                                   stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.DEVNULL,
                                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5)))  # fmt: skip
        before, still, failed = -1, 0, False
        while still < SECONDS_STILL and not failed:
            for _ in range(20):
                if run.poll() is not None:
                    return run.returncode == 0
                time.sleep(0.1)
                failed = b"\nnot ok" in b"\n" + read(log)
                if failed:
                    break
            now = session_time(run.pid)
            still = still + 2 if now == before else 0
            before = now
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        return False

    def limit(self, suite):
        if suite not in self.seconds:
            built = self.compile(suite)
            if built.returncode != 0:
                sys.exit(f"{suite} does not build without a mutant:\n{built.stderr[-2000:]}")
            # Tests in one process: a mutant that never ends then uses up the limit once, not once a test.
            start = os.times()
            if not self.passes(suite, 900):
                self.fork[suite] = "yes"
                start = os.times()
                if not self.passes(suite, 900):
                    sys.exit(f"{suite} does not pass without a mutant")
            end = os.times()
            used = end.children_user + end.children_system - start.children_user - start.children_system
            self.seconds[suite] = max(SECONDS_LEAST, int(SECONDS_TIMES * used) + 1)
            write(self.limits, json.dumps([self.seconds, self.fork]))
        return self.seconds[suite]

    def keys(self, mutant):
        """What the outcome follows from: of the mutant, and of the suites."""
        paths = [f"tests/{suite}" if suite.startswith("cli/") else f"tests/{suite}.c" if "/" in suite
                 else f"tests/unit/test_{suite}.c" for suite in mutant.suites]  # fmt: skip
        source = [mutant.found, mutant.put, read(os.path.join(self.folder, mutant.file)).decode()]
        return digest(source), digest([read(os.path.join(self.folder, path)).decode() for path in paths])

    def attempt(self, mutant):
        """caught, survived, not compiled or lost, with the suite that caught it."""
        path = os.path.join(self.folder, mutant.file)
        text = read(path).decode()
        changed = mutant.apply(text)
        if changed is None or changed == text:
            return "lost", ""
        try:
            for suite in mutant.suites:
                if suite not in self.seconds:
                    write(path, text)
                limit = self.limit(suite)
                if read(path) != changed.encode():
                    write(path, changed)
                if self.compile(suite).returncode != 0:
                    return "not compiled", ""
                if not self.passes(suite, limit):
                    return "caught", suite
            return "survived", ""
        finally:
            write(path, text)


def session_time(leader):
    """Ticks of processor time of all processes of a session."""
    ticks = 0
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = read(f"/proc/{number}/stat").decode().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == leader:
            ticks += sum(map(int, fields[11:15]))
    return ticks


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def digest(texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


class Results:
    """A line for each: the mutant's key, that of its suites, the outcome, the suite that caught it, its name."""

    def __init__(self, path, again):
        self.path, self.found = path, {}
        for line in [] if again or not os.path.exists(path) else read(path).decode().splitlines():
            mutant, suites, outcome, suite = line.split("\t")[:4]
            self.found[mutant] = (suites, outcome, suite)

    def get(self, keys):
        suites, *outcome = self.found.get(keys[0], ("", "", ""))
        holds = outcome[0] in ("caught", "not compiled") or (outcome[0] and suites == keys[1])
        return outcome if holds else None

    def put(self, keys, outcome, name):
        self.found[keys[0]] = (keys[1], *outcome)
        with open(self.path, "a") as out:
            out.write("\t".join([*keys, *outcome, name]) + "\n")


def settings():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--only", action="append", default=[], metavar="WORD")
    options.add_argument("--again", action="store_true", help="forget what was found")
    options.add_argument("--list", action="store_true", help="show the mutants, and which texts are not found")
    options.add_argument("--least", type=float, default=95.0, metavar="PERCENT")
    options.add_argument("--nice", type=int, default=15, help="how far it steps back for others")
    options.add_argument("--flags", default="-O1", help="of the compiler; those of another build spare time with ccache")
    options.add_argument("--folder", default=os.path.join(ROOT, "build", "mutation"), help="of the copy")
    return options.parse_args()


def main():
    given = settings()
    mutants = [m for m in read_list(os.path.join(HERE, "mutants.txt"))
               if not given.only or any(word in m.name() for word in given.only)]  # fmt: skip
    if given.list:
        for m in mutants:
            there = m.apply(read(os.path.join(ROOT, m.file)).decode()) is not None
            print(f"{'' if there else 'LOST  '}{m.name()}")
        return 0
    os.nice(given.nice)
    tree = Tree(os.path.abspath(given.folder), given.flags)
    os.makedirs(tree.folder, exist_ok=True)
    tree.refresh()
    results = Results(os.path.join(tree.folder, "results.txt"), given.again)
    count = dict.fromkeys(["caught", "survived", "not compiled", "lost", "equivalent"], 0)
    wrong, start = [], time.time()
    for number, m in enumerate(mutants, 1):
        keys = tree.keys(m)
        outcome, suite = results.get(keys) or tree.attempt(m)
        if not results.get(keys):
            results.put(keys, (outcome, suite), m.name())
        if outcome == "survived" and m.reason:
            outcome = "equivalent"
        count[outcome] += 1
        if outcome in ("survived", "lost") or (outcome == "caught" and m.reason):
            wrong.append((outcome, m))
        print(f"{number}/{len(mutants)} {outcome}{' by ' + suite if suite else ''}: {m.name()}", flush=True)
    print()
    for outcome, m in wrong:
        print(f"{outcome.upper()} (mutants.txt:{m.line}): {m.name()}")
    tried = count["caught"] + count["survived"]
    score = 100 * count["caught"] / tried if tried else 100.0
    print(f"{len(mutants)} mutants: " + ", ".join(f"{n} {outcome}" for outcome, n in count.items()) +
          f"; score {score:.1f} % in {time.time() - start:.0f} s")  # fmt: skip
    misjudged = any(outcome != "survived" for outcome, _ in wrong)
    return 1 if score < given.least or misjudged else 0


if __name__ == "__main__":
    sys.exit(main())
