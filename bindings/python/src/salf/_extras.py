"""What the parts of the package need beyond it, told by name where it is missing."""

from __future__ import annotations

import importlib.util
import sys


def need(part: str, *modules: str) -> None:
    """ImportError with the line to type, where a package that salf.<part> stands on is not installed."""
    missing = [name for name in modules if not _there(name)]
    if missing:
        raise ImportError(f"salf.{part} needs {' and '.join(missing)}: pip install 'salf[{part}]'")


def _there(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None  # None: an import that somebody has forbidden
    return importlib.util.find_spec(name) is not None
