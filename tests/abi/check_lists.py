#!/usr/bin/env python3
"""The values of all constants and the order of all parameters, against the committed lists.

abidiff sees neither: an enumerator's value is no symbol, and two parameters of one type may be swapped without a change
of the function's type. constants.txt holds "NAME value", prototypes.txt each function and callback on a line, with the
names of its parameters; a parameter that only gets a better name is a difference too, for nothing tells it from a swap.
What a header adds is no difference. `make abi-baseline` calls this with --write, which takes over all that is there.
"""

import os
import re
import sys
import tempfile

import header
from header import Checks

HERE = os.path.dirname(os.path.abspath(__file__))


def constants():
    """Lines "NAME value"; the version numbers, which change with every release, are left out."""
    found = header.constants(header.preprocessed())
    return sorted(f"{name} {value}" for name, value in found.items() if not name.startswith("SALF_VERSION_"))


def prototypes():
    """Functions and callbacks, one a line, white space normalised."""
    flat = re.sub(r"\{[^{}]*\}", "", header.preprocessed())
    found = (" ".join(part.split()) for part in flat.split(";"))
    return sorted(part for part in found if "(" in part)


LISTS = {"constants.txt": constants, "prototypes.txt": prototypes}


def lost(name):
    """Lines of a committed list that the header at hand has no more."""
    with open(os.path.join(HERE, name)) as listed:
        there = set(LISTS[name]())
        return [line for line in listed.read().splitlines() if line not in there]


def write():
    for name, lines in LISTS.items():
        with open(os.path.join(HERE, name), "w") as out:
            out.write("\n".join(lines()) + "\n")


# Changes that must be found: (name, list that must find it, pattern in the header, replacement).
CHANGES = [
    ("two values of an enum that change places", "constants.txt",
     r"(SALF_\w+) = (\d+), (SALF_\w+) = (\d+)", r"\1 = \4, \3 = \2"),
    ("a status with another value", "constants.txt", r"X\(SALF_E_SHAPE, -3,", "X(SALF_E_SHAPE, -30,"),
    ("a constant that is gone", "constants.txt", r"SALF_BF16 = 2, ", ""),
    ("two parameters of one type of a function that change places", "prototypes.txt",
     r"int64_t first, int64_t n, const int32_t \*eof", "int64_t n, int64_t first, const int32_t *eof"),
    ("two parameters of one type of a callback that change places", "prototypes.txt",
     r"size_t size, size_t align\)", "size_t align, size_t size)"),
    ("a callback that returns something else", "prototypes.txt", r"typedef void \(\*salf_free_fn\)",
     "typedef int (*salf_free_fn)"),
]  # fmt: skip


def main():
    if sys.argv[1:] == ["--write"]:
        write()
        return 0
    check = Checks()
    original = header.HEADER
    for name in LISTS:
        check(len(LISTS[name]()) > 50, f"{name}: the header was read", LISTS[name]())
        gone = lost(name)
        check(not gone, f"{name}: all that is listed stands in the header", gone)
    with open(original) as source, tempfile.TemporaryDirectory() as work:
        text = source.read()
        header.HEADER = os.path.join(work, "salf.h")
        for what, name, pattern, replacement in CHANGES:
            changed, times = re.subn(pattern, replacement, text, count=1)
            with open(header.HEADER, "w") as out:
                out.write(changed)
            check(times == 1 and changed != text and bool(lost(name)), f"{what}: found")
        with open(header.HEADER, "w") as out:
            out.write(re.sub(r"SALF_BF16 = 2,", "SALF_BF16 = 2, SALF_ADDED = 99,", text))
        check(not lost("constants.txt"), "a constant that is added is no difference")
    return check.status()


if __name__ == "__main__":
    sys.exit(main())
