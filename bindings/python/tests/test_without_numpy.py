"""The core without NumPy: lists, arrays of the standard library and memoryviews in, memoryviews out. And the example
that needs no package at all."""

import subprocess
import sys

import pytest
from small import ROOT

import salf

SCRIPT = """
import array, json, sys
sys.modules["numpy"] = None
import salf
from salf import _arrays, errors
assert _arrays.numpy is None

def matrix(rows):
    return memoryview(array.array("f", sum(rows, []))).cast("B").cast("f", [len(rows), len(rows[0])])

head = [[float((7 * i + 3 * j * j) % 11 - 5) for j in range(4)] for i in range(9)]
context = salf.Context("cpu")
model = salf.Model(context, n_layers=2, head=matrix(head))
basis = salf.Basis(model, [1, 5], mode="exact")
print(json.dumps(basis.labels.tolist()))
rows = basis.rows(array.array("i", [5, 1]))
print(json.dumps(rows.tolist()))
probe = salf.Probe(basis)
probe.begin((5, 1))
for space in range(3):
    probe.observe(space, matrix(head[space:]), rows=[2, 0])
trace = probe.end()
print(json.dumps([trace.deviations.tolist(), trace.gains.tolist(), trace.eof.tolist()]))
again = salf.Trace.from_deviations(trace.deviations)
assert again.eof.tolist() == trace.eof.tolist()
decision = salf.Policy(context, "salf", 2).decide(0, again)
print(json.dumps([decision.cut, decision.order.tolist(), decision.active_rows.tolist()]))
planner = salf.Planner(context, 2, 5, growth="custom", weights=[1, 4])
task = planner.next(3)
print(json.dumps([planner.counts.tolist(), task.data.tolist(), planner.report([0] * len(task.data)).tolist()]))
gradient = matrix([[0.0] * 4] * 2)
losses = salf.Loss(basis).compute([5, 1], matrix(head[2:4]), gradient=gradient)
print(json.dumps([losses.tolist(), gradient.tolist()]))
salf.save_tensors(context, sys.argv[1], {"head": matrix(head), "n": array.array("q", [3, 4])})
tensors = salf.Tensors.open(context, sys.argv[1])
print(json.dumps([tensors["n"].numpy().tolist(), tensors["head"].shape, tensors["head"].numpy()[5]]))
builder = salf.BasisBuilder(context, 9, 4, [5], mode="exact")
builder.add(0, matrix(head))
print(json.dumps([len(builder.partial), builder.finish().rows([5]).tolist()]))

rows = salf.Model(context, n_layers=1, hidden=4, vocab=2, head_rows=lambda f, n, out: [
    out.__setitem__((i, j), float(i + f == j)) for i in range(n) for j in range(4)])
assert salf.Basis(rows, [1]).rows([1]).tolist() == [[0.0, 1.0, 0.0, 0.0]]
empty = salf.Probe(basis)
empty.begin([])
for space in range(3):
    empty.observe(space, matrix(head), rows=[])
print(json.dumps(empty.end().eof.tolist()))
for wrong, error in (([1.5], errors.DtypeError), ([True], errors.DtypeError), ([2**31], errors.OverflowError),
(3, (errors.DtypeError, errors.ShapeError))):
    try:
        probe.begin(wrong)
    except error:
        continue
    raise SystemExit(f"{wrong} was taken")
for wrong in ([[1.0, 2.0], [1.0]], [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]], [["a", "b"]], 3):
    try:
        salf.eof_from_deviations(wrong)
    except (errors.ShapeError, errors.DtypeError):
        continue
    raise SystemExit(f"{wrong} was taken")
"""


def numbers(script, path):
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, timeout=3600, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_without_numpy_and_with_it(tmp_path):
    """The same script gives the same numbers either way."""
    plain = numbers(SCRIPT, tmp_path / "t.safetensors")
    assert len(plain) == 9
    with_numpy = SCRIPT.replace('sys.modules["numpy"] = None', "").replace("_arrays.numpy is None", "_arrays.numpy")
    flat = with_numpy.replace('tensors["head"].numpy()[5]', 'float(tensors["head"].numpy()[1, 1])')
    assert numbers(flat, tmp_path / "t.safetensors") == plain


def test_ctypes_example():
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "python" / "ctypes_minimal.py", salf.library_path],
        capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    plan, error = done.stdout.splitlines()
    with salf.Context() as context:
        planner = salf.Planner(context, 12, 2000, growth="arithmetic")
        assert plan == f"data per layer {planner.counts.tolist()}, saving {planner.saving:.3f}"
        with pytest.raises(salf.Error, match="n_layers is 0") as caught:
            salf.Planner(context, 0, 2000)
    assert error == f"no layers: {caught.value}"
