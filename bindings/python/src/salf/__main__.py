"""`python -m salf` and the command `salf`: the program that the package carries, with all its subcommands."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from salf._program import ProgramError, program_path


def main() -> NoReturn:
    """Becomes the program, so that signals, terminal and exit status are its own."""
    try:
        path = program_path()
    except ProgramError as error:
        sys.exit(f"salf: {error}")
    sys.stdout.flush()
    os.execv(path, ["salf", *sys.argv[1:]])


if __name__ == "__main__":
    main()
