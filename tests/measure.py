#!/usr/bin/env python3
"""Figures of the sources that docs/structure.md shows, and the limits they are held to.

    measure.py [--markdown | --check | --once] [ROOT]

Prints a line a figure: what it is, its value, its limit. --markdown prints the rows of the table in docs/structure.md,
--check prints one line a figure in the form tests/run.sh counts, --once lists the static functions called exactly once.
ROOT is the root of a checkout, this one by default.

How they are counted, without a parser of C: comments and strings are blanked, functions are what stands before a brace
at file level and ends in a parameter list.
- Lines of comment are those that hold nothing else; lines of code are those that hold anything else. Empty lines and
  licences count for neither.
- A function is as long as its physical lines, from its first to its closing brace, comments within included.
- A static function is called exactly once when its name occurs once in its file beyond its definition and
  declarations. Functions in unnamed namespaces of the cuda backend count as static; inline functions of headers do not.
- A file of libsalf depends on the headers it includes and on the files whose functions it calls; a row of a table of
  functions is no call, nor is a call from an inline function to a source of the same header. A circle is a set of files
  each of which depends on all others; it counts as many as there are pairs in it that depend on each other directly, and
  at least one.
"""

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict, namedtuple

# What --check holds the tree to: figure, the most (or, where negative, the least) it may be.
LIMITS = {
    "once": 40.0,
    "comments": -0.22,
    "longest": 60,
    "slots": 21,
    "arguments": 6,
    "core": 6000,
    "header": 980,
    "circles": 0,
    "makefile": 200,
}

# Limits that the tree has not reached yet: --check tells them as skipped. Take a figure out once it is there.
AIMS = {"core"}

# The same figures of libraries that this one takes as models: libdeflate lib/ 28e88e9, SCS src/ and linsys/ 41efd34,
# zstd lib/ 2dddf0905, libgit2 src/util 0551dfd, lua 53b41d0, and of redis 4f8cdc2 sds, adlist, dict, rax and listpack.
# Counted once, with lizard 1.24.3 and a script that took names in comments for uses; they do not follow those projects.
PEERS = {
    "once": "libdeflate 24, zstd 30, SCS 39, lua 44, libgit2 55, redis 9",
    "comments": "libdeflate .44, zstd .37, redis .36, lua .27, SCS .22, libgit2 .20",
    "median": "libdeflate 15, SCS 14, libgit2 12, zstd 11, lua 10, redis 9",
    "p95": "libdeflate 156, SCS 106, zstd 100, redis 79, libgit2 60, lua 36",
    "longest": "redis 1,105, lua 773, libdeflate 728, libgit2 416, SCS 376, zstd 364",
    "header": "libdeflate 412, SCS 343, ggml-backend.h 437, zstd.h 3,106",
    "functions": "libdeflate 21, SCS 6, ggml-backend.h 115, zstd.h 68 stable",
    "makefile": "lua 224, llm.c 290, zstd lib 387 + 235, redis 528",
}

Function = namedtuple("Function", "name static start end")
TRANSPARENT = re.compile(r'^\s*(extern\s*"[^"]*"|(inline\s+)?namespace\b[\w\s:]*|.*\b(struct|class)\s+\w+(\s*:[^()]*)?)\s*$', re.S)


def blanked(text):
    """The text with comments and the contents of strings as spaces, and the same with code as spaces (comments only)."""
    code, comments = [], []
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)
    at = 0
    spaces = lambda part: re.sub(r"[^\n]", " ", part)
    for match in pattern.finditer(text):
        before, found = text[at : match.start()], match.group()
        code.append(before)
        comments.append(spaces(before))
        if found[0] == "/":
            code.append(spaces(found))
            comments.append(found)
        else:
            code.append(found[0] + " " * (len(found) - 2) + found[0])
            comments.append(spaces(found))
        at = match.end()
    return "".join(code) + text[at:], "".join(comments) + spaces(text[at:])


def without_directives(code):
    return re.sub(r"^[ \t]*#(?:\\\n|[^\n])*", lambda m: re.sub(r"[^\n]", " ", m.group()), code, flags=re.M)


def functions(code, cplusplus):
    """Functions defined in a file, and the names declared static there, from text without comments and directives."""
    code = without_directives(code)
    found, declared = [], Counter()
    start, depth, inner, unnamed = 0, 0, 0, 0
    header = None
    scopes = []  # of transparent braces: whether it is an unnamed namespace
    for i, c in enumerate(code):
        if c == "{":
            if inner == 0:
                before = code[start:i]
                if cplusplus and TRANSPARENT.match(before) and "=" not in before or re.match(r'^\s*extern\s*"[^"]*"\s*$', before):
                    scopes.append(bool(re.match(r"^\s*namespace\s*$", before)))
                    start = i + 1
                    continue
                header = (start, before)
            inner += 1
        elif c == "}":
            if inner == 0:
                if scopes:
                    scopes.pop()
                start = i + 1
                continue
            inner -= 1
            if inner == 0:
                where, before = header
                name = function_name(before)
                if name:
                    first = where + len(before) - len(before.lstrip())
                    static = bool(re.search(r"\bstatic\b", before)) or any(scopes)
                    found.append(Function(name, static, code.count("\n", 0, first) + 1, code.count("\n", 0, i) + 1))
                    start = i + 1
        elif c == ";" and inner == 0:
            before = code[start:i]
            name = function_name(before)
            if name and "=" not in before:
                declared[name] += 1
            start = i + 1
    return found, declared


def function_name(before):
    """Name of the function whose text before its body (or semicolon) this is; None when it is no function."""
    text = re.sub(r"__attribute__\s*\(\([^()]*(?:\([^()]*\)[^()]*)*\)\)|__launch_bounds__\s*\([^()]*\)", " ", before)
    text = re.sub(r"\btemplate\s*<[^{}()]*?>", " ", text)
    match = re.search(r"\b([A-Za-z_]\w*)\s*\(", text)
    if not match or "=" in text[: match.start()] or not text[: match.start()].strip():
        return None
    if re.match(r"\s*typedef\b", text) or match.group(1) in ("if", "for", "while", "switch", "sizeof", "_Static_assert", "operator"):
        return None
    return match.group(1)


class Source:
    def __init__(self, root, path):
        self.path = path
        with open(os.path.join(root, path), encoding="utf-8") as file:
            self.text = file.read()
        self.code, comments = blanked(self.text)
        self.lines = self.text.count("\n")
        code_lines = [bool(line.strip()) for line in self.code.split("\n")]
        self.code_lines = sum(code_lines)
        self.comment_lines = sum(bool(c.strip()) and not k for c, k in zip(comments.split("\n"), code_lines))
        self.functions, self.declared = functions(self.code, path.endswith((".cu", ".cpp")))
        self.names = Counter(re.findall(r"\b[A-Za-z_]\w*\b", self.code))
        self.includes = re.findall(r'^\s*#\s*include\s*"([^"]+)"', self.text, re.M)


def sources(root):
    listed = [
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(os.path.join(root, "libsalf"))
        for name in names
        if name.endswith((".c", ".h", ".cu", ".cpp"))
    ]
    return [Source(root, path) for path in sorted(listed)]


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def called_once(files):
    """Static functions of C files, and those of them that their file names once beyond definition and declarations."""
    static = [(file, f.name) for file in files if file.path.endswith(".c") for f in file.functions if f.static]
    return static, [(file, name) for file, name in static if file.names[name] - 1 - file.declared[name] == 1]


def is_core(path):
    """Neither files nor backends. device_memory and plugin are the handles' side of backends, counted since the first."""
    return not re.match(r"libsalf/(io|backend)/", path) or bool(re.search(r"/(device_memory|plugin)\.[ch]$", path))


def dispatch_table(root):
    """Numbers of arguments of the function pointers in struct slf_backend, as the preprocessor leaves it."""
    command = [*os.environ.get("CC", "cc").split(), "-E", "-P", "-I", "include", "libsalf/backend/backend.h"]
    text = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    body = re.search(r"struct slf_backend \{(.*?)\}", text, re.S).group(1)
    arguments = re.findall(r"\(\s*\*\s*\w+\s*\)\s*\(([^()]*)\)", body)
    return [len(a.split(",")) for a in arguments]


def dependencies(files):
    """What each file depends on, by its includes and by the functions it calls."""
    paths = {file.path for file in files}
    home = defaultdict(set)
    for file in files:
        for f in file.functions:
            if not f.static:
                home[f.name].add(file.path)
    graph = {}
    for file in files:
        own = {f.name for f in file.functions}
        calls = Counter(re.findall(r"(?<![.>\w])([A-Za-z_]\w*)(?=\s*\()", without_directives(file.code)))
        called = {n for n in calls if n in home and n not in own and calls[n] > file.declared[n]}
        to = {next(iter(home[n])) for n in called if len(home[n]) == 1}
        for name in file.includes:
            beside = os.path.normpath(os.path.join(os.path.dirname(file.path), name))
            to.add(beside if beside in paths else os.path.join("libsalf", name))
        graph[file.path] = (to & paths) - {file.path}
    for path, to in graph.items():
        if path.endswith(".h"):
            to -= {other for other in to if not other.endswith(".h") and path in graph[other]}
    return graph


def circles(graph):
    """Lists of the files of each circle."""

    def reach(start):
        seen, todo = set(), [start]
        while todo:
            for other in graph[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        return seen

    reached = {file: reach(file) for file in graph}
    found = {frozenset(o for o in reached[file] if file in reached[o]) for file in graph if file in reached[file]}
    return sorted(sorted(members) for members in found)


def circle_count(graph):
    pairs = lambda members: sum(b in graph[a] and a in graph[b] for a in members for b in members if a < b)
    return sum(max(1, pairs(members)) for members in circles(graph))


def lines_of(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read().count("\n")


def figures(root):
    """Rows (key or None, what it is, value); those without a limit are for reading only."""
    files = sources(root)
    static, once = called_once(files)
    lengths = [f.end - f.start + 1 for file in files for f in file.functions]
    longest = max((f.end - f.start + 1, f.name, file.path) for file in files for f in file.functions)
    slots = dispatch_table(root)
    graph = dependencies(files)
    core = [file for file in files if is_core(file.path)]
    with open(os.path.join(root, "include/salf.h"), encoding="utf-8") as header:
        public = len(re.findall(r"^SALF_API\b", header.read(), re.M))
    rows = [
        ("once", "static functions called exactly once, libsalf/, %", round(100 * len(once) / len(static), 1)),
        (None, "  of how many", f"{len(once)} of {len(static)}"),
        ("comments", "comment lines per code line, libsalf/",
         round(sum(f.comment_lines for f in files) / sum(f.code_lines for f in files), 2)),
        ("median", "functions of libsalf/, median length", percentile(lengths, 0.5)),
        ("p95", "  95 % are at most", percentile(lengths, 0.95)),
        ("longest", "  longest", longest[0]),
        (None, "  which is", f"{longest[1]}, {longest[2]}"),
        ("slots", "function slots in the table of a backend", len(slots)),
        ("arguments", "  most arguments of one", max(slots)),
        ("core", "lines of libsalf/ without io and backends", sum(file.lines for file in core)),
        (None, "lines of libsalf/", sum(file.lines for file in files)),
        ("header", "lines of include/salf.h", lines_of(root, "include/salf.h")),
        ("functions", "  functions in it", public),
        ("circles", "circles between files of libsalf/", circle_count(graph)),
        ("makefile", "lines of Makefile", lines_of(root, "Makefile")),
    ]  # fmt: skip
    for members in circles(graph):
        inside = [f"{a} -> {b}" for a in members for b in sorted(graph[a]) if b in members]
        rows.append((None, "  a circle", ", ".join(inside)))
    return rows


def limit(key):
    return "" if key not in LIMITS else f"at least {-LIMITS[key]}" if LIMITS[key] < 0 else f"at most {LIMITS[key]}"


def kept(key, value):
    return value >= -LIMITS[key] if LIMITS[key] < 0 else value <= LIMITS[key]


def main():
    flags = [a for a in sys.argv[1:] if a.startswith("--")]
    roots = [a for a in sys.argv[1:] if not a.startswith("--")]
    root = roots[0] if roots else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    if "--once" in flags:
        for file, name in called_once(sources(root))[1]:
            print(file.path, name)
        return 0
    rows = figures(root)
    if "--check" in flags:
        bad = [key for key, _, value in rows if key in LIMITS and not kept(key, value)]
        for key, what, value in rows:
            if key in LIMITS:
                mark = "ok" if key not in bad else "skip" if key in AIMS else "not ok"
                print(f"{mark} - {what.strip()}: {value}, {limit(key)}")
        return 0 if AIMS.issuperset(bad) else 1
    if "--markdown" in flags:
        print("| | here | limit | others |\n|---|---|---|---|")
    for key, what, value in rows:
        if "--markdown" not in flags:
            print(f"{what:50} {value!s:>12}  {limit(key)}")
        elif not what.startswith("  a circle"):
            print(f"| {what.strip()} | {value} | {limit(key)} | {PEERS.get(key, '')} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
