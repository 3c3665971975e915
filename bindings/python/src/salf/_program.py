"""Finds and runs the program `salf`, which a wheel carries beside the library."""

from __future__ import annotations

import os
import subprocess
from typing import Any, List, Mapping, Optional

from salf._library import CHECKOUT, PACKAGE, in_checkout
from salf.errors import ArgumentError

_MISUSE = 2  # exit status of the program


class ProgramError(RuntimeError):
    """The program `salf` failed; the message is its own."""


def _on_path() -> Optional[str]:
    """A program `salf` on the search path that is not the command of a Python package, which would call itself."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = os.path.join(folder, "salf")
        if folder and os.access(path, os.X_OK) and os.path.isfile(path):
            with open(path, "rb") as file:
                if file.read(4) == b"\x7fELF":
                    return path
    return None


def program_path() -> str:
    """The program's path. SALF_PROGRAM alone counts when it is set; then the one in the package, in a checkout the one
    that make built, and one on the search path."""
    asked = os.environ.get("SALF_PROGRAM")
    if asked:
        if not os.access(asked, os.X_OK) or os.path.isdir(asked):
            raise ProgramError(f"SALF_PROGRAM is {asked!r}, which is no program")
        return asked
    known = [os.path.join(PACKAGE, "_native", "bin", "salf")]
    if in_checkout():
        known.append(os.path.join(CHECKOUT, "build", "bin", "salf"))
    found = next((path for path in known if os.access(path, os.X_OK)), None) or _on_path()
    if found is None:
        where = "`make bin` builds it" if in_checkout() else "this installation carries none"
        raise ProgramError(f"the program salf is not there: {where}; SALF_PROGRAM names another")
    return found


def arguments_of(options: Mapping[str, Any]) -> List[str]:
    """Options of the program from arguments of Python: label_words=... is --label-words. None and False are left out,
    True is a flag, and what has several values is given with commas."""
    found: List[str] = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(option)
        elif value is not None and value is not False:
            found += [option, _text(name, value)]
    return found


def _text(name: str, value: Any) -> str:
    parts = [str(item) for item in value] if isinstance(value, (list, tuple)) else []
    if isinstance(value, Mapping):
        parts = [f"{key}={item}" for key, item in value.items()]
    wrong = next((part for part in parts if "," in part), None)
    if wrong is not None:
        raise ArgumentError(f"{name} holds {wrong!r}, with a comma, which parts one of them from the next")
    if isinstance(value, (list, tuple, Mapping)):
        return ",".join(parts)
    return str(os.fspath(value)) if isinstance(value, os.PathLike) else str(value)


def run_program(*arguments: str) -> str:
    """What the program writes to its standard output. Where it fails its message is raised: ArgumentError, a
    ValueError, for an argument that it refuses (exit status 2), else ProgramError. It ends with this call, also where
    Ctrl-C does."""
    done = subprocess.run([program_path(), *arguments], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return done.stdout
    message = done.stderr.strip() or f"salf {arguments[0]} ended with status {done.returncode}"
    raise ArgumentError(message) if done.returncode == _MISUSE else ProgramError(message)
