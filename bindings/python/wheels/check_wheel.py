"""What a wheel that carries everything has to do, where there is nothing but Python and cffi. The script says what is
wrong, and in its last line what it ran on."""

import json
import pathlib
import platform
import subprocess
import sys

import salf


def check(holds, what):
    """Ends the script where something does not hold."""
    if not holds:
        sys.exit(f"wrong: {what}")


package = pathlib.Path(salf.__file__).parent
check(pathlib.Path(salf.library_path).parent == package / "_native" / "lib", salf.library_path)

# OpenBLAS's own work: a symmetric eigenproblem, a triangular solve, products.
context = salf.Context("cpu")
rows = [[float((7 * i + 3 * j * j) % 11 - 5) for j in range(4)] for i in range(9)]


def fill(first, count, out):
    """Rows of the head, into the library's memory."""
    for i in range(count):
        for j in range(4):
            out[i, j] = rows[first + i][j]


model = salf.Model(context, n_layers=2, hidden=4, vocab=9, head_rows=fill)
basis = salf.Basis(model, [1, 5])
check(basis.info.rank == 4, f"rank {basis.info.rank}")
# A row of the pseudo-inverse times the head: for a head of full rank its own place in the projection, P[1][1].
row = basis.rows([1]).tolist()[0]
share = sum(a * b for a, b in zip(row, rows[1]))
check(0 < share < 1, f"projection {share}")

# The libraries in use are those of the wheel.
with open("/proc/self/maps", encoding="utf-8") as maps:
    files = {line.split()[-1] for line in maps if "blas" in line or "jansson" in line}
check(any("blas" in file for file in files), f"libraries {sorted(files)}")
check(all(pathlib.Path(file).parent == package.parent / "salf.libs" for file in files), f"libraries {sorted(files)}")
found = salf.doctor(show=False).sections
check("OpenBLAS" in found["BLAS"].get("config", ""), f"doctor: {found['BLAS']}")
for name, words in (("OpenBLAS", "The OpenBLAS Project"), ("Jansson", "Petri Lehtinen")):
    text = (package / "_native" / "licenses" / f"{name}.txt").read_text(encoding="utf-8")
    check(words in text, f"licence of {name}")

# The program, as a command and as a module.
folder = pathlib.Path(sys.executable).parent
for words in ([folder / "salf"], [sys.executable, "-m", "salf"]):
    plan = subprocess.run(
        [*words, "plan", "--layers", "4", "--data", "100"], capture_output=True, text=True, check=False
    )
    check(plan.returncode == 0 and "saving" in plan.stdout, plan.stderr)
told = subprocess.run([folder / "salf", "doctor", "--json"], capture_output=True, text=True, check=False)
told = json.loads(told.stdout)
check(told["blas"]["name"] == "OpenBLAS", f"doctor --json: {told['blas']}")
kernels = {context.info.kernels, told["backend"]["kernels"]}
check(len(kernels) == 1, f"kernels {kernels}")
with open("/proc/cpuinfo", encoding="utf-8") as file:
    check("avx2" not in file.read() or kernels != {"c"}, "the processor's features are not seen")
print(f"{platform.libc_ver()[0]} {platform.libc_ver()[1]}, Python {platform.python_version()}, kernels {kernels.pop()}")
