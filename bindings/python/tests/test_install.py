"""Wheels: what they hold, that they work where there is nothing but cffi, and which library is taken."""

import email
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import zipfile

import pytest
from small import ROOT

import salf
from salf import _library

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
    native = {f"salf/_native/lib/{SONAME}", "salf/_native/bin/salf"}
    if (BUILD / "lib" / "libsalf-cuda.so").exists():
        native.add("salf/_native/lib/libsalf-cuda.so")
    assert own - modules == {"salf/py.typed", "salf/_declarations.py"} | native
    assert modules <= own
    assert f"salf-{version}.dist-info/METADATA" in names
    assert any(name.endswith("LICENSE") for name in names)


def test_what_an_index_shows(wheel):
    """Author, addresses, what to install with it; and no link that leads nowhere outside of a checkout."""
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    told = email.message_from_bytes(archive.read(name))
    assert told["Author"] or told["Author-email"]
    assert any(url.startswith("Paper, https://doi.org/") for url in told.get_all("Project-URL"))
    assert {"numpy", "torch", "transformers", "lightning", "gpu"} == set(told.get_all("Provides-Extra"))
    needs = [need.replace("'", '"').replace(" ", "") for need in told.get_all("Requires-Dist")]
    assert needs[0].startswith("cffi")
    assert any(need.startswith("numpy") and need.endswith('extra=="torch"') for need in needs)
    assert "Typing :: Typed" in told.get_all("Classifier")
    page = told.get_payload()
    assert "# salf for Python" in page
    assert all(link.startswith(("https://", "#")) for link in re.findall(r"\]\(([^)]*)\)", page))


def test_links_lead_to_the_repository_where_it_is_known(tmp_path):
    tree = tmp_path / "tree"
    for name in ("bindings/python/setup.py", "bindings/python/README.md", "bindings/python/src/salf/_header.py",
                 "include/salf.h", "CITATION.cff"):  # fmt: skip
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    with (tree / "CITATION.cff").open("a") as file:
        file.write('repository-code: "https://example.org/libsalf/"\n')
    script = """
import setuptools
setuptools.setup = lambda **given: print(given["project_urls"], given["long_description"])
exec(open("setup.py").read(), {"__file__": "setup.py"})
"""
    told = run(sys.executable, "-c", script, cwd=tree / "bindings" / "python")
    assert "'Repository': 'https://example.org/libsalf'" in told.stdout
    assert "](https://example.org/libsalf/blob/main/docs/abi.md)" in told.stdout
    assert "](https://example.org/libsalf/blob/main/include/salf.h)" in told.stdout


def test_a_wheel_works_elsewhere(venv):
    """Without a compiler, pkg-config, the checkout or pycparser at hand."""
    done = run(venv, "-c", TRY, PATH="/nonexistent")
    library, package = done.stdout.split()
    assert pathlib.Path(library).parent == pathlib.Path(package).parent / "_native" / "lib"
    assert str(ROOT) not in done.stdout


@pytest.mark.parametrize("command", [("bin/python", "-m", "salf"), ("bin/salf",)], ids=["module", "script"])
def test_the_program_of_a_wheel_runs(venv, command):
    first, *rest = command
    words = [venv.parents[1] / first, *rest]
    assert run(*words, "plan", "--layers", 4, "--data", 100, PATH="/nonexistent").stdout.count("\n") > 4
    assert "salf plan: unknown option --lyers" in run(*words, "plan", "--lyers", 4, check=False).stderr
    assert run(*words, "plan", "--lyers", 4, check=False).returncode == 2
    # It is the program itself, with the library that lies beside it.
    named = run(*words, "doctor", LD_DEBUG="libs", check=False).stderr
    assert f"_native/bin/../lib/{SONAME}" in named


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
    assert not [name for name in zipfile.ZipFile(path).namelist() if "_native/" in name]
    site = tmp_path / "site"
    run(venv, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site, path)
    lost = run(venv, "-c", TRY, PYTHONPATH=site, PKG_CONFIG_LIBDIR="/nonexistent", check=False)
    assert "ImportError: libsalf could not be loaded" in lost.stderr
    assert "SALF_LIBRARY" in lost.stderr
    found = run(venv, "-c", TRY, PYTHONPATH=site, LD_LIBRARY_PATH=BUILD / "lib", PKG_CONFIG_LIBDIR="/nonexistent")
    assert found.stdout.split()[0] == SONAME
    # Nor does it carry a program; one on the search path is taken, unless it is the package's own command.
    here = {"PYTHONPATH": site, "LD_LIBRARY_PATH": BUILD / "lib"}
    lost = run(venv, "-m", "salf", "plan", PATH=f"{venv.parent}:relative", **here, check=False)
    assert "salf: the program salf is not there: this installation carries none; SALF_PROGRAM names" in lost.stderr
    assert lost.returncode == 1
    found = run(venv, "-m", "salf", "--version", PATH=f"{venv.parent}:{BUILD / 'bin'}", **here)
    assert salf.version() in found.stdout


def test_a_program_can_be_named(venv, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho here: $@\nexit 7\n")
    wrong = run(venv, "-m", "salf", "plan", SALF_PROGRAM=program, check=False)
    assert (wrong.returncode, "which is no program" in wrong.stderr) == (1, True)
    program.chmod(0o755)
    named = run(venv, "-m", "salf", "plan", "--x", SALF_PROGRAM=program, check=False)
    assert (named.returncode, named.stdout) == (7, "here: plan --x\n")


def test_packages_of_libraries_that_the_loader_misses_are_named(tmp_path, monkeypatch):
    compiler = shlex.split(os.environ.get("CC", "cc"))
    for name, *needs in (("libnone.so.7", "-Wl,-soname,libnone.so.7"), ("x.so", "-Wl,--no-as-needed", "libnone.so.7")):
        run(*compiler, "-shared", "-x", "c", "/dev/null", "-x", "none", *needs, "-o", name, cwd=tmp_path,
            PATH=os.environ["PATH"])  # fmt: skip
    monkeypatch.setattr(_library, "_PACKAGES", {**_library._PACKAGES, "libnone.so.7": ("libnone7", "none")})
    with pytest.raises(ImportError, match="SALF_LIBRARY.*x.so.* What is missing: apt install libnone7, or dnf install"):
        _library._open(salf.ffi, [str(tmp_path / "x.so")])
    text = "x: libopenblas.so.0: cannot open shared object file; y: libjansson.so.4: cannot open shared object file"
    assert "apt install libopenblas0 libjansson4, or dnf install openblas jansson" in _library._remedy([text])
    assert _library._remedy(["/x/libsalf.so: cannot open shared object file"]) == ""


@pytest.mark.parametrize(("module", "need"), [("torch", "torch"), ("transformers", "transformers")])
def test_a_host_that_is_missing_is_named(venv, module, need):
    script = f"import sys; sys.modules[{need!r}] = None; import salf.{module}"
    done = run(venv, "-c", script, check=False)
    assert f"ImportError: salf.{module} needs {need}: pip install 'salf[{module}]'" in done.stderr


def test_a_plugin_that_is_built_comes_along(tmp_path):
    (tmp_path / "lib").mkdir()
    for name in ("libsalf.so", "libsalf-cuda.so"):
        (tmp_path / "lib" / name).write_bytes(name.encode())
    path = build_wheel(tmp_path, build=tmp_path)
    assert zipfile.ZipFile(path).read("salf/_native/lib/libsalf-cuda.so") == b"libsalf-cuda.so"


def test_a_source_distribution_builds(tmp_path):
    command = "import setuptools.build_meta as b, sys; b.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", command, tmp_path, cwd=PROJECT)
    (path,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(path, tmp_path)
    (tree,) = (item for item in tmp_path.iterdir() if item.is_dir())
    wanted = ("Makefile", "CITATION.cff", "include/salf.h", "libsalf/core/context.c", "pkgconfig/salf.pc.in")
    for name in (*wanted, "examples/salf/main.c"):
        assert (tree / "libsalf" / name).read_bytes() == (ROOT / name).read_bytes()
    assert (
        run("make", "-n", "lib", "build/bin/salf", cwd=tree / "libsalf", PATH=os.environ["PATH"]).stdout.count(" -c ")
        > 30
    )
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
