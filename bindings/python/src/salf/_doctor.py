"""salf.doctor(): what libsalf found on this machine, and what it makes of a model."""

from __future__ import annotations

import ctypes
import json
import platform
import sys
from typing import Any, Dict, List, Optional

from salf import errors
from salf._ffi import constant, lib, library_path, text
from salf._library import PACKAGE
from salf.context import Context


class Diagnosis:
    """What doctor() found: sections of names and values. problems are sentences, none where all is well."""

    def __init__(self, sections: Dict[str, Dict[str, Any]], problems: List[str]) -> None:
        self.sections = sections
        self.problems = problems

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def to_dict(self) -> Dict[str, Any]:
        """Plain numbers, words and lists."""
        return {**self.sections, "problems": list(self.problems), "ok": self.ok}

    def json(self, indent: Optional[int] = 2) -> str:
        """The same as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        lines: List[str] = []
        for title, values in self.sections.items():
            lines.append(title)
            lines += [f"  {name:<20} {_plain(value)}" for name, value in values.items()]
        lines += [f"PROBLEM: {problem}" for problem in self.problems] or ["no problem found"]
        return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "-"
    return ", ".join(_plain(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def _library() -> Dict[str, Any]:
    return {
        "version": text(lib.salf_version_string()),
        "ABI": constant("SALF_SOVERSION"),
        "file": library_path,
        "Python": platform.python_version(),
        "packages": [
            f"{name} {getattr(sys.modules[name], '__version__', '?')}"
            for name in ("numpy", "torch", "transformers", "peft")
            if name in sys.modules
        ],
    }


def _backend() -> Dict[str, Any]:
    """The backend that "auto" takes, and why it is not the GPU's."""
    with Context() as context:
        info = context.info
    found = {"backend": info.backend, "kernels": info.kernels, "threads": info.threads}
    if info.backend == "cuda":
        return {**found, "device": info.device, "why": "a device was found"}
    try:
        Context("cuda").close()
    except errors.Error as error:
        return {**found, "why": f"no GPU: {error}"}
    return {**found, "why": "chosen though a GPU works: SALF_BACKEND or the library's default"}


def _blas() -> Dict[str, Any]:
    """The OpenBLAS that is loaded in this process, as it tells of itself."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            files = sorted(
                {line.split()[-1] for line in maps if "blas" in line.rpartition("/")[2]},
                key=lambda file: (not file.startswith(PACKAGE), file),  # what a wheel brings lies in salf.libs
            )
    except OSError:
        files = []
    found: Dict[str, Any] = {"files": files}
    for file in files:
        try:
            blas = ctypes.CDLL(file)
            prefix = "" if hasattr(blas, "openblas_get_config") else "scipy_"  # as in wheels
            told = getattr(blas, f"{prefix}openblas_get_config")
            threads = getattr(blas, f"{prefix}openblas_get_num_threads")
        except (OSError, AttributeError):
            continue  # a copy with names of its own (NumPy's), which the library does not call
        told.restype = ctypes.c_char_p
        return {**found, "config": told().decode(), "threads": int(threads())}
    return found


def doctor(model: Any = None, tokenizer: Any = None, show: bool = True) -> Diagnosis:
    """Says what libsalf found here: version, backend and why, kernels, BLAS; of a model of PyTorch also its parts, how
    final norm and head were measured, padding rows of the vocabulary (with a tokenizer), rank and condition of the
    basis, and whether the probe's deviations are those of the model's own states. Prints it unless show is False.
    """
    sections = {"library": _library(), "backend": _backend(), "BLAS": _blas()}
    problems: List[str] = []
    if model is not None:
        from salf.torch.doctor import examine  # needs PyTorch

        examined, problems = examine(model, tokenizer)
        sections.update(examined)
    diagnosis = Diagnosis(sections, problems)
    if show:
        print(diagnosis)
    return diagnosis
