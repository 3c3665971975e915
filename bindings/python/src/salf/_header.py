"""The C declarations of libsalf, derived from salf.h: used when a wheel is built, and in a checkout at import.

`python_source(header)` gives the text of a module with one name, `ffi`: what cffi writes for its ABI mode. Such a
module is loaded without a C compiler and without pycparser.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import tempfile
from typing import Any, Dict

MODULE = "salf._declarations"


def preprocessed(header: str) -> str:
    """The header as a parser of plain C declarations can read it, with its numeric macros kept."""
    command = [*shlex.split(os.environ.get("CC", "cc")), "-E", "-P", "-DSALF_NO_INCLUDES", "-x", "c", header]
    try:
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is needed to read {header}, and is not there; CC names another") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{shlex.join(command)} failed: {error.stderr.strip()}") from error
    return "".join(f"#define {name} {value}\n" for name, value in numbers(header).items()) + text


def numbers(header: str) -> Dict[str, int]:
    """The macros of the header that are plain numbers: version and soname."""
    with open(header, encoding="utf-8") as file:
        found = re.findall(r"^#define (SALF_\w+)\s+(\d+)\b", file.read(), re.MULTILINE)
    return {name: int(value) for name, value in found}


def version(header: str) -> str:
    """The version that the header states, as text."""
    known = numbers(header)
    return ".".join(str(known[f"SALF_VERSION_{part}"]) for part in ("MAJOR", "MINOR", "PATCH"))


def python_source(header: str) -> str:
    """The text of the module `salf._declarations` for a header."""
    # Here only: an installed package does without the parser that cffi then needs.
    cffi = importlib.import_module("cffi")

    ffi: Any = cffi.FFI()
    ffi.cdef(preprocessed(header))
    ffi.set_source(MODULE, None)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "declarations.py")
        with contextlib.redirect_stdout(io.StringIO()):  # cffi tells which file it writes
            ffi.emit_python_code(path)
        with open(path, encoding="utf-8") as file:
            return file.read()
