"""Wheels: what they hold, that they work where there is nothing but cffi, and which library is taken."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import zipfile

import pytest
from small import ROOT

import salf

PROJECT = ROOT / "bindings" / "python"
BUILD = pathlib.Path(os.environ.get("SALF_BUILD", ROOT / "build"))
ABI = salf.constant("SALF_SOVERSION")
SONAME = f"libsalf.so.{ABI}"
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("SALF_", "PYTHON", "PKG_CONFIG"))}
TRY = """
import salf, sys
context = salf.Context("cpu")
model = salf.Model(context, n_layers=2, hidden=4, vocab=4, head_rows=lambda f, n, out: out.__setitem__(..., 0.0) or
                   [out.__setitem__((i, (f + i) % 4), 1.0) for i in range(n)])
assert salf.Basis(model, [1]).info.rank == 4
assert "pycparser" not in sys.modules
print(salf.library_path, salf.__file__)
"""


def run(*command, check=True, cwd="/", **environment):
    done = subprocess.run(
        [str(part) for part in command], env={**CLEAN, **{name: str(value) for name, value in environment.items()}},
        cwd=cwd, capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
    if check and done.returncode:
        pytest.fail(f"{command}: {done.stdout}\n{done.stderr}")
    return done


def build_wheel(folder, source=PROJECT, build=BUILD):
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder,
        source,
        SALF_BUILD=build)  # fmt: skip
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def venv(tmp_path_factory, wheel):
    """A fresh environment with the wheel; cffi comes from the distribution."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--system-site-packages", folder)
    run(folder / "bin" / "pip", "install", "-q", "--no-index", "--no-deps", wheel)
    return folder / "bin" / "python"


def test_what_a_wheel_holds(wheel):
    version = salf.version()
    assert wheel.name == f"salf-{version}-py3-none-linux_{os.uname().machine}.whl"
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(PROJECT / "src")) for path in (PROJECT / "src").rglob("*.py")}
    own = {name for name in names if name.startswith("salf/")}
    assert own - modules == {"salf/py.typed", "salf/_declarations.py", "salf/_lib/libsalf.so"} | (
        {"salf/_lib/libsalf-cuda.so"} if (BUILD / "lib" / "libsalf-cuda.so").exists() else set()
    )
    assert modules <= own
    assert f"salf-{version}.dist-info/METADATA" in names
    assert any(name.endswith("LICENSE") for name in names)


def test_a_wheel_works_elsewhere(venv):
    """Without a compiler, pkg-config, the checkout or pycparser at hand."""
    done = run(venv, "-c", TRY, PATH="/nonexistent")
    library, package = done.stdout.split()
    assert pathlib.Path(library).parent == pathlib.Path(package).parent / "_lib"
    assert str(ROOT) not in done.stdout


def test_another_library_can_be_named(venv, tmp_path):
    copy = shutil.copy(BUILD / "lib" / "libsalf.so", tmp_path / "other.so")
    assert run(venv, "-c", TRY, SALF_LIBRARY=copy).stdout.split()[0] == str(copy)


def test_pkg_config_tells_where(venv, tmp_path):
    if shutil.which("pkg-config") is None:
        pytest.skip("there is no pkg-config")
    shutil.copy(BUILD / "lib" / "libsalf.so", tmp_path / SONAME)
    (tmp_path / "salf.pc").write_text(f"libdir={tmp_path}\nName: salf\nDescription: x\nVersion: 1\n")
    found = run(venv, "-c", TRY, SALF_LIBRARY="pkg-config", PKG_CONFIG_PATH=tmp_path)
    assert found.stdout.split()[0] == str(tmp_path / SONAME)
    lost = run(venv, "-c", TRY, SALF_LIBRARY="pkg-config", PKG_CONFIG_LIBDIR="/nonexistent", check=False)
    assert "ImportError: SALF_LIBRARY is pkg-config, but pkg-config does not know salf" in lost.stderr


STUB = """
#include <stdint.h>
#include <string.h>
int32_t salf_constant(const char *name, int64_t *value) { *value = SOVERSION; return strcmp(name, "SALF_SOVERSION"); }
int32_t salf_version_number(void) { return NUMBER; }
const char *salf_version_string(void) { return "stub"; }
const char *salf_status_name(int32_t status) { return status ? "SALF_E_INTERNAL" : "SALF_OK"; }
const char *salf_status_text(int32_t status) { return status ? "stub" : "success"; }
"""


def stub(folder, soversion, number, text=STUB):
    source, library = folder / "stub.c", folder / "stub.so"
    source.write_text(text)
    flags = ["-shared", "-fPIC", f"-DSOVERSION={soversion}", f"-DNUMBER={number}"]
    run(*shlex.split(os.environ.get("CC", "cc")), *flags, source, "-o", library, PATH=os.environ["PATH"])
    return library


@pytest.mark.parametrize(
    ("soversion", "number", "message"),
    [
        (ABI, 0, f"is libsalf 0.0.0 with ABI {ABI}"), (ABI, 199, f"is libsalf 0.1.99 with ABI {ABI}"),
        (ABI - 1, 100, f"is libsalf 0.1.0 with ABI {ABI - 1}"), (7, 20304, "is libsalf 2.3.4 with ABI 7"),
    ],
)  # fmt: skip
def test_a_library_of_another_version(venv, tmp_path, soversion, number, message):
    done = run(venv, "-c", TRY, SALF_LIBRARY=stub(tmp_path, soversion, number), check=False)
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert message in done.stderr
    assert f"this package was made for libsalf {salf.version()} or newer with ABI {ABI}" in done.stderr
    assert "stub.so" in done.stderr


def test_a_newer_library_of_the_same_abi_is_taken(venv, tmp_path):
    library = stub(tmp_path, ABI, 99999)
    assert run(venv, "-c", "import salf; print(salf.version())", SALF_LIBRARY=library).stdout == "stub\n"


@pytest.mark.parametrize("kind", ["missing", "text", "another library"])
def test_what_is_no_library(venv, tmp_path, kind):
    path = tmp_path / "x.so"
    if kind == "text":
        path.write_text("no library")
    if kind == "another library":
        path = stub(tmp_path, 0, 0, "int nothing;")
    done = run(venv, "-c", TRY, SALF_LIBRARY=path, check=False)
    assert "ImportError: " in done.stderr
    assert str(path) in done.stderr.splitlines()[-1]


def test_a_wheel_without_a_library(tmp_path, venv):
    """It takes the one that the loader or pkg-config finds, or says what to do."""
    path = build_wheel(tmp_path, build="system")
    assert path.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(path).namelist() if "_lib/" in name]
    site = tmp_path / "site"
    run(venv, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site, path)
    lost = run(venv, "-c", TRY, PYTHONPATH=site, PKG_CONFIG_LIBDIR="/nonexistent", check=False)
    assert "ImportError: libsalf could not be loaded" in lost.stderr
    assert "SALF_LIBRARY" in lost.stderr
    found = run(venv, "-c", TRY, PYTHONPATH=site, LD_LIBRARY_PATH=BUILD / "lib", PKG_CONFIG_LIBDIR="/nonexistent")
    assert found.stdout.split()[0] == SONAME


def test_a_plugin_that_is_built_comes_along(tmp_path):
    (tmp_path / "lib").mkdir()
    for name in ("libsalf.so", "libsalf-cuda.so"):
        (tmp_path / "lib" / name).write_bytes(name.encode())
    path = build_wheel(tmp_path, build=tmp_path)
    assert zipfile.ZipFile(path).read("salf/_lib/libsalf-cuda.so") == b"libsalf-cuda.so"


def test_a_source_distribution_builds(tmp_path):
    command = "import setuptools.build_meta as b, sys; b.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", command, tmp_path, cwd=PROJECT)
    (path,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(path, tmp_path)
    (tree,) = (item for item in tmp_path.iterdir() if item.is_dir())
    for name in ("Makefile", "include/salf.h", "libsalf/core/context.c", "pkgconfig/salf.pc.in"):
        assert (tree / "libsalf" / name).read_bytes() == (ROOT / name).read_bytes()
    assert run("make", "-n", "lib", cwd=tree / "libsalf", PATH=os.environ["PATH"]).stdout.count(" -c ") > 30
    (tmp_path / "out").mkdir()
    assert build_wheel(tmp_path / "out", tree).name.startswith(f"salf-{salf.version()}-py3-none-linux_")


def test_in_place(venv, tmp_path):
    """An editable install takes declarations from the header of the checkout."""
    site = tmp_path / "site"
    run(venv, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "--target", site,
        "-e", PROJECT,
        SALF_BUILD=BUILD)  # fmt: skip
    (path,) = site.glob("*.pth")
    assert str(PROJECT / "src") in path.read_text()
    script = "import salf; print(salf.__file__)"
    found = run(venv, "-c", script, PYTHONPATH=PROJECT / "src", SALF_LIBRARY=BUILD / "lib" / "libsalf.so")
    assert found.stdout.strip() == str(PROJECT / "src" / "salf" / "__init__.py")
    lost = run(venv, "-c", script, PYTHONPATH=PROJECT / "src", CC="no-such-compiler", check=False)
    assert "ImportError" in lost.stderr
    assert "no-such-compiler is needed to read" in lost.stderr
