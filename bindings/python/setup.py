"""Builds the wheel: the Python files, the declarations made from salf.h, the shared library and the program that make
builds.

SALF_BUILD=FOLDER  take library, program and licence texts from FOLDER, as they are there
SALF_BUILD=system  carry none of them: the package finds an installed libsalf when it is imported
"""

import importlib.util
import os
import re
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
PAPER = "https://doi.org/10.18653/v1/2025.findings-acl.420"
# To build library and program.
NEEDED = ["Makefile", "LICENSE", "CITATION.cff", "README.md", "include", "libsalf", "pkgconfig", "examples/salf"]


def header_module():
    """_header.py of the package, without importing the package, which needs what is made here."""
    spec = importlib.util.spec_from_file_location("header", os.path.join(HERE, "src", "salf", "_header.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HEADER = os.path.join(ROOT, "include", "salf.h")
if not os.path.isfile(HEADER):
    sys.exit(f"{HEADER} is not there: salf is built from a checkout of libsalf or from a source distribution")


def repository():
    """Where the project lives, which CITATION.cff says; None where it says nothing."""
    with open(os.path.join(ROOT, "CITATION.cff"), encoding="utf-8") as file:
        found = re.search(r"^repository-code: *[\"']?(https://[^\s\"']+)", file.read(), re.MULTILINE)
    return found.group(1).rstrip("/") if found else None


def description():
    """README.md for the page of an index, where links of a tree lead nowhere: they lead to the repository, and where
    that is not known they are left out, their words kept."""
    home = repository()

    def link(found):
        words, path = found.group(1), os.path.normpath(os.path.join("bindings/python", found.group(2)))
        return f"[{words}]({home}/blob/main/{path}{found.group(3) or ''})" if home else words

    with open(os.path.join(HERE, "README.md"), encoding="utf-8") as file:
        return re.sub(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)#]+)(#[^)]*)?\)", link, file.read())


def carried():
    """What goes into the package's folder _native, as {place there: file}, built if need be: the library by its soname,
    which the program asks the loader for; the program; the CUDA plugin and the texts of licences where there are some.
    """
    if BUILD == "system":
        return {}
    folder = os.path.abspath(BUILD) if BUILD else os.path.join(ROOT, "build")
    if not BUILD:
        targets = ["lib", os.path.join(folder, "bin", "salf")]
        subprocess.run(["make", "-C", ROOT, *targets, f"BUILD={folder}", f"-j{os.cpu_count() or 1}"], check=True)
    library = os.path.join(folder, "lib", "libsalf.so")
    if not os.path.isfile(library):
        sys.exit(f"{library} is not there")
    found = {f"lib/libsalf.so.{header_module().numbers(HEADER)['SALF_SOVERSION']}": library}
    names = ["lib/libsalf-cuda.so", "bin/salf"]
    if os.path.isdir(os.path.join(folder, "licenses")):
        names += [f"licenses/{name}" for name in sorted(os.listdir(os.path.join(folder, "licenses")))]
    found.update({name: os.path.join(folder, name) for name in names if os.path.isfile(os.path.join(folder, name))})
    return found


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
        for name, path in carried().items():
            target = os.path.join(package, "_native", name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(path, target)  # with its mode: the program can be run


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
    long_description=description(),
    long_description_content_type="text/markdown",
    project_urls={"Paper": PAPER, **({} if repository() is None else {"Repository": repository()})},
    distclass=Package,
    cmdclass={"build_py": BuildPackage, "bdist_wheel": Wheel, "sdist": SourceDistribution},
    options=OPTIONS,
)
