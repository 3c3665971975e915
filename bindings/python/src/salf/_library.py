"""Finds the shared library and the declarations that go with it, opens it, and checks that the two belong together."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from typing import Any, Dict, List, Optional, Tuple

from salf import _header

PACKAGE = os.path.dirname(os.path.abspath(__file__))
# In a checkout this file is bindings/python/src/salf/_library.py.
CHECKOUT = os.path.abspath(os.path.join(PACKAGE, *[os.pardir] * 4))
HEADER = os.path.join(CHECKOUT, "include", "salf.h")
# Libraries that libsalf needs of the system, and the packages that hold them.
_PACKAGES = {
    "libopenblas.so.0": ("libopenblas0", "openblas"),
    "libjansson.so.4": ("libjansson4", "jansson"),
    "libgfortran.so.5": ("libgfortran5", "libgfortran"),
}


def in_checkout() -> bool:
    """Whether the package runs where it is developed."""
    return os.path.isfile(HEADER) and os.path.isfile(os.path.join(CHECKOUT, "bindings", "python", "pyproject.toml"))


def declarations() -> Any:
    """The cffi `FFI` object: from the module made when the wheel was built, else from the checkout's header."""
    try:
        return importlib.import_module("salf._declarations").ffi
    except ModuleNotFoundError as error:
        if error.name != "salf._declarations":
            raise ImportError(f"salf needs the package {error.name}") from error
    if not in_checkout():
        raise ImportError("salf is neither installed nor in a checkout of libsalf: there is no salf._declarations")
    namespace: Dict[str, Any] = {}
    try:
        exec(compile(_header.python_source(HEADER), _header.MODULE, "exec"), namespace)
    except (RuntimeError, ModuleNotFoundError) as error:
        raise ImportError(
            f"salf in a checkout reads include/salf.h with cffi, pycparser and a C compiler: {error}"
        ) from error
    return namespace["ffi"]


def _pkg_config() -> Optional[str]:
    """The folder of an installed libsalf, as pkg-config knows it."""
    if shutil.which("pkg-config") is None:
        return None
    done = subprocess.run(["pkg-config", "--variable=libdir", "salf"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None


def candidates(soname: str) -> List[str]:
    """Where the library may be, the best first. SALF_LIBRARY alone counts when it is set."""
    asked = os.environ.get("SALF_LIBRARY")
    if asked and asked != "pkg-config":
        return [asked]
    if asked:
        folder = _pkg_config()
        if folder is None:
            raise ImportError("SALF_LIBRARY is pkg-config, but pkg-config does not know salf")
        return [os.path.join(folder, soname)]
    bundled = os.path.join(PACKAGE, "_native", "lib", soname)
    built = os.path.join(CHECKOUT, "build", "lib", "libsalf.so")
    if os.path.isfile(bundled):
        return [bundled]
    if in_checkout() and os.path.isfile(built):
        return [built]
    folder = _pkg_config()
    return ([os.path.join(folder, soname)] if folder else []) + [soname]


def _open(ffi: Any, paths: List[str]) -> Tuple[Any, str]:
    # The library stays mapped to the end of the process: handles may be finalised after this module is gone.
    flags = ffi.RTLD_NOW | ffi.RTLD_LOCAL | getattr(ffi, "RTLD_NODELETE", 0)
    failures = []
    for path in paths:
        try:
            return ffi.dlopen(path, flags), path
        except OSError as error:
            failures.append(str(error))
    raise ImportError(
        "libsalf could not be loaded (build it with make, or name it with SALF_LIBRARY): "
        + "; ".join(failures)
        + _remedy(failures)
    )


def _remedy(failures: List[str]) -> str:
    """The packages whose libraries the loader did not find, by their names in Debian and Ubuntu, and in Fedora."""
    missing = [names for library, names in _PACKAGES.items() if any(f"{library}: " in text for text in failures)]
    if not missing:
        return ""
    debian, fedora = (" ".join(names[k] for names in missing) for k in (0, 1))
    return f". What is missing: apt install {debian}, or dnf install {fedora}; a manylinux wheel of salf carries it"


def _loaded_version(ffi: Any, lib: Any, path: str) -> Tuple[int, int]:
    """The library's ABI number and version number."""
    value = ffi.new("int64_t *")
    try:
        status = lib.salf_constant(b"SALF_SOVERSION", value)
        return (int(value[0]) if status == 0 else -1), int(lib.salf_version_number())
    except (AttributeError, ffi.error) as error:
        raise ImportError(f"{path} is not libsalf: {error}") from error


def _text(number: int) -> str:
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def check_version(ffi: Any, lib: Any, path: str) -> None:
    """ImportError unless the library has the ABI of the header this package was made from, and is as new."""
    soversion, number = _loaded_version(ffi, lib, path)
    need = lib.SALF_VERSION_MAJOR * 10000 + lib.SALF_VERSION_MINOR * 100 + lib.SALF_VERSION_PATCH
    if soversion == lib.SALF_SOVERSION and number >= need:
        return
    raise ImportError(
        f"{path} is libsalf {_text(number)} with ABI {soversion}; this package was made for libsalf "
        f"{_text(need)} or newer with ABI {lib.SALF_SOVERSION}"
    )


def load() -> Tuple[Any, Any, str]:
    """(ffi, lib, path of the library)."""
    ffi = declarations()
    # The number is needed before there is a library to ask: cffi keeps the header's macros as constants of `ffi`.
    soname = f"libsalf.so.{ffi.integer_const('SALF_SOVERSION')}"
    lib, path = _open(ffi, candidates(soname))
    check_version(ffi, lib, path)
    return ffi, lib, path
