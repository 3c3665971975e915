"""Builds the wheel: the Python files, the declarations made from salf.h, and the shared library that `make lib` builds.

SALF_BUILD=FOLDER  take the library from FOLDER/lib, as it is there
SALF_BUILD=system  carry no library: the package finds an installed libsalf when it is imported
"""

import importlib.util
import os
import shutil
import subprocess
import sys

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before setuptools 70.1 the package wheel had it
    from wheel.bdist_wheel import bdist_wheel

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = os.path.join(HERE, "libsalf")  # in a source distribution; the root of the repository otherwise
IN_CHECKOUT = not os.path.isdir(SOURCES)
ROOT = os.path.abspath(os.path.join(HERE, "..", "..")) if IN_CHECKOUT else SOURCES
BUILD = os.environ.get("SALF_BUILD") or ""
NEEDED = ["Makefile", "LICENSE", "README.md", "include", "libsalf", "pkgconfig"]  # to build the library


def header_module():
    """_header.py of the package, without importing the package, which needs what is made here."""
    spec = importlib.util.spec_from_file_location("header", os.path.join(HERE, "src", "salf", "_header.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HEADER = os.path.join(ROOT, "include", "salf.h")
if not os.path.isfile(HEADER):
    sys.exit(f"{HEADER} is not there: salf is built from a checkout of libsalf or from a source distribution")


def libraries():
    """The shared objects to carry: libsalf.so, built if need be, and the CUDA plugin where it is built."""
    if BUILD == "system":
        return []
    folder = os.path.abspath(BUILD) if BUILD else os.path.join(ROOT, "build")
    if not BUILD:
        subprocess.run(["make", "-C", ROOT, "lib", f"BUILD={folder}", f"-j{os.cpu_count() or 1}"], check=True)
    paths = [os.path.join(folder, "lib", name) for name in ("libsalf.so", "libsalf-cuda.so")]
    if not os.path.isfile(paths[0]):
        sys.exit(f"{paths[0]} is not there")
    return [path for path in paths if os.path.isfile(path)]


class BuildPackage(build_py):
    """Adds the declarations and the library to what is built; an editable install finds both in the checkout."""

    def run(self):
        """Builds the Python files, then what belongs to them."""
        shutil.rmtree(os.path.join(self.build_lib, "salf"), ignore_errors=True)  # of files that are gone
        super().run()
        if getattr(self, "editable_mode", False):
            return
        package = os.path.join(self.build_lib, "salf")
        with open(os.path.join(package, "_declarations.py"), "w", encoding="utf-8") as file:
            file.write(header_module().python_source(HEADER))
        folder = os.path.join(package, "_lib")
        for path in libraries():
            os.makedirs(folder, exist_ok=True)
            shutil.copyfile(path, os.path.join(folder, os.path.basename(path)))


class Package(Distribution):
    """A wheel with a library belongs to a platform."""

    def has_ext_modules(self):
        """Asked by setuptools."""
        return BUILD != "system"


class Wheel(bdist_wheel):
    """Any Python 3, and this platform when a library is carried."""

    def get_tag(self):
        """Python, ABI and platform in the file name."""
        return ("py3", "none", "any" if BUILD == "system" else super().get_tag()[2])


class SourceDistribution(sdist):
    """Takes along what the library is built from."""

    def make_release_tree(self, base_dir, files):
        """Python files first, then the sources of the library."""
        super().make_release_tree(base_dir, files)
        for name in NEEDED:
            source, target = os.path.join(ROOT, name), os.path.join(base_dir, "libsalf", name)
            if os.path.isdir(source):
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy2(source, target)


# Build products of a checkout go where all the others do.
PLACE = os.path.join(ROOT, "build", "python")
OPTIONS = {"build": {"build_base": PLACE}, "egg_info": {"egg_base": PLACE}} if IN_CHECKOUT else {}
if IN_CHECKOUT:
    os.makedirs(PLACE, exist_ok=True)

setup(
    version=header_module().version(HEADER),
    distclass=Package,
    cmdclass={"build_py": BuildPackage, "bdist_wheel": Wheel, "sdist": SourceDistribution},
    options=OPTIONS,
)
