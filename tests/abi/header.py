"""What the ABI checks know of salf.h: its text after the preprocessor, as a cffi parser reads it."""

import os
import re
import shlex
import subprocess

HEADER = "include/salf.h"


def preprocessed():
    command = shlex.split(os.environ.get("CC", "gcc"))
    command += ["-E", "-P", "-DSALF_NO_INCLUDES", "-x", "c", HEADER]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def functions(text):
    """Names of the functions declared: what stands before a parameter list at the outermost level."""
    flat = re.sub(r"\{[^{}]*\}", "", text)
    declarations = [part.strip() for part in flat.split(";")]
    found = []
    for declaration in declarations:
        match = re.match(r"^(?!typedef\b)[\w\s*]*?\b(\w+)\s*\(", declaration)
        if match:
            found.append(match.group(1))
    return found


def constants(text):
    """Public constants with their values: enumerators and the #define'd numbers. A trailing _ marks private ones."""
    found = {}
    for body in re.findall(r"enum\s*\{([^{}]*)\}", text):
        value = -1
        for item in filter(None, (item.strip() for item in body.split(","))):
            name, _, given = item.partition("=")
            value = int(given, 0) if given else value + 1
            found[name.strip()] = value
    with open(HEADER) as header:
        for name, value in re.findall(r"^#define (SALF_\w+) (-?\d+)\b", header.read(), re.M):
            found[name] = int(value)
    return {name: value for name, value in found.items() if not name.endswith("_")}


def structs(ffi):
    """The public structs with fields, in order of name: (name, cffi type)."""
    names = sorted(ffi.list_types()[0])
    types = [(name, ffi.typeof(name)) for name in names]
    return [(name, kind) for name, kind in types if kind.kind == "struct" and kind.fields is not None]


class Checks:
    """Prints one line a check, in the form tests/run.sh counts."""

    def __init__(self):
        self.failed = 0

    def __call__(self, good, name, detail=""):
        self.failed += not good
        print(("ok - " if good else "not ok - ") + name + (": " + str(detail) if detail and not good else ""))

    def status(self):
        return 1 if self.failed else 0
