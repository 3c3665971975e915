"""Views: what can be looked into gives the right numbers from where it lies, and what cannot says why."""

import array
import gc

import numpy as np
import pytest
from capsule import Capsule
from oracle import deviations, probe, pseudo_basis
from small import HIDDEN, LAYERS, VOCAB

import salf
from salf import errors, views
from salf._ffi import ffi

torch = pytest.importorskip("torch")
ml_dtypes = pytest.importorskip("ml_dtypes")
LABELS = [3, 0, 39, 7, 7]


@pytest.fixture
def rows(head):
    return pseudo_basis(head)[LABELS]


# Each gives the same numbers in another place: states [spaces, rows, D] as a list of what observe takes.
def strided(states):
    wide = np.full((LAYERS + 1, 5, HIDDEN + 5), np.nan, states.dtype)
    wide[:, :, 2 : HIDDEN + 2] = states
    return wide[:, :, 2 : HIDDEN + 2]


def of_sequences(states):
    """The last of three positions of each sequence."""
    long = np.full((LAYERS + 1, 5, 3, HIDDEN), np.nan, states.dtype)
    long[:, :, -1] = states
    return long[:, :, -1]


NUMPY = {
    "as it is": lambda states: states,
    "rows apart": strided,
    "last positions": of_sequences,
    "backwards": lambda states: np.ascontiguousarray(states[:, ::-1])[:, ::-1],
    "three dimensions": lambda states: states.reshape(LAYERS + 1, 5, 1, HIDDEN),
    "read-only": lambda states: np.frombuffer(states.tobytes(), states.dtype).reshape(states.shape),
    "memoryviews": lambda states: [memoryview(np.ascontiguousarray(space)) for space in states],
}


CASES = [(layout, dtype) for layout in NUMPY for dtype in ("float32", "float16", "bfloat16")]
CASES.remove(("memoryviews", "bfloat16"))  # buffers know no bfloat16


@pytest.mark.parametrize(("layout", "dtype"), CASES)
def test_numpy(basis, states, rows, layout, dtype):
    given = states.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    trace = probe(basis, LABELS, NUMPY[layout](given))
    np.testing.assert_allclose(trace.deviations, deviations(given.astype(np.float64), rows), atol=3e-6)


TORCH = {
    "as it is": lambda states: states,
    "rows apart": lambda states: torch.nn.functional.pad(states, (2, 3), value=float("nan"))[..., 2:-3],
    "last positions": lambda states: torch.nn.functional.pad(states[:, :, None], (0, 0, 2, 0), value=float("nan"))[
        :, :, -1
    ],
    "parameters": lambda states: [torch.nn.Parameter(space) for space in states],
    "DLPack": lambda states: [OnlyDlpack(space) for space in states],
    "DLPack, rows apart": lambda states: [OnlyDlpack(space) for space in TORCH["rows apart"](states)],
}


class OnlyDlpack:
    """A tensor of a library this package has never heard of."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, stream=None):
        return self.tensor.__dlpack__()

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


@pytest.mark.parametrize("layout", TORCH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_torch_and_dlpack(basis, states, rows, layout, dtype):
    given = torch.from_numpy(states).to(dtype)
    trace = probe(basis, LABELS, TORCH[layout](given))
    np.testing.assert_allclose(trace.deviations, deviations(given.double().numpy(), rows), atol=3e-6)


def test_array_of_the_standard_library(basis, states, rows):
    with salf.Probe(basis) as one:
        one.begin(array.array("i", LABELS[:1]))
        for space, values in enumerate(states):
            one.observe(space, array.array("f", values[0]))
        np.testing.assert_allclose(one.end().deviations, deviations(states[:, :1], rows[:1]), atol=3e-6)


@pytest.mark.parametrize("kind", ["list", "int64", "int32", "torch", "array"])
def test_rows_are_chosen_by_number(basis, states, rows, kind):
    """The states of a batch lie among others, in any order."""
    rng = np.random.default_rng(3)
    place = rng.permutation(30)[:5]
    every = np.full((LAYERS + 1, 3, 10, HIDDEN), np.nan, np.float32)
    every.reshape(LAYERS + 1, 30, HIDDEN)[:, place] = states
    index = {"list": place.tolist(), "int64": place, "int32": place.astype(np.int32), "torch": torch.from_numpy(place),
             "array": array.array("q", place.tolist())}[kind]  # fmt: skip
    with salf.Probe(basis) as made:
        made.begin(torch.tensor(LABELS))
        for space, values in enumerate(every):
            made.observe(space, torch.from_numpy(values), rows=index)
        np.testing.assert_allclose(made.end().deviations, deviations(states, rows), atol=3e-6)


@pytest.mark.parametrize("wrong", [[0, 1, 2, 3, 30], [0, 1, -1, 2, 3]])
def test_a_row_that_is_not_there(basis, states, wrong):
    every = np.ones((30, HIDDEN), np.float32)
    made = salf.Probe(basis)
    made.begin(LABELS)
    bad = next(value for value in wrong if not 0 <= value < 30)
    with pytest.raises(errors.ArgumentError, match=rf"names row {bad}, but there are 30"):
        made.observe(0, every, rows=wrong)
    made.observe(0, every, rows=[0, 1, 2, 3, 29])


def good():
    return np.ones((5, HIDDEN), np.float32)


class Nothing:
    pass


REFUSED = {
    "float64": (lambda: good().astype(np.float64), errors.DtypeError, "float64"),
    "int32": (lambda: good().astype(np.int32), errors.DtypeError, "int32"),
    "bool": (lambda: good() > 0, errors.DtypeError, "bool"),
    "complex": (lambda: good().astype(np.complex64), errors.DtypeError, "complex64"),
    "objects": (lambda: good().astype(object), errors.DtypeError, "object"),
    "other byte order": (lambda: good().astype(">f4"), errors.DtypeError, "byte order"),
    "uint16 of a bfloat16": (lambda: good().astype(np.uint16), errors.DtypeError, "uint16"),
    "transposed": (lambda: np.ones((HIDDEN, 5), np.float32).T, errors.ArgumentError, "stride 5, not 1; a copy is"),
    "every second column": (lambda: np.ones((5, 2 * HIDDEN), np.float32)[:, ::2], errors.ArgumentError, "stride 2"),
    "columns backwards": (lambda: good()[:, ::-1], errors.ArgumentError, "stride -1"),
    "one row for all": (lambda: np.broadcast_to(np.ones(HIDDEN, np.float32),
    (5, HIDDEN)), errors.ArgumentError, "stride 0"),
    "uneven rows": (lambda: np.ones((5, 2, HIDDEN), np.float32)[:, :1].repeat(2, 1)[:, :, :],
        errors.ShapeError, "10 rows"),
    "uneven distances": (lambda: np.ones((3, 3, HIDDEN), np.float32)[:, :2], errors.ArgumentError, "not evenly spaced"),
    "packed records": (
        lambda: np.ones(5, np.dtype([("tag", "u1"),
        ("state", "f4", HIDDEN)]))["state"], errors.ArgumentError, "aligned|apart"),
    "a scalar": (lambda: np.float32(1).reshape(()), errors.ShapeError, "single number"),
    "too few rows": (lambda: good()[:4], errors.ShapeError, "4 rows where 5"),
    "too few columns": (lambda: np.ones((5, HIDDEN - 1), np.float32), errors.ShapeError, "11 columns where 12"),
    "no columns": (lambda: np.ones((5, 0), np.float32), errors.ShapeError, "0 columns"),
    "a list": (lambda: good().tolist(), errors.ArgumentError, "list is no tensor"),
    "None": (lambda: None, errors.ArgumentError, "NoneType is no tensor"),
    "anything": (Nothing, errors.ArgumentError, "Nothing is no tensor"),
    "bytes": (lambda: good().tobytes(), errors.DtypeError, "uint8"),
    "masked": (
        lambda: np.ma.masked_array(good(), mask=np.eye(5, HIDDEN)), errors.ArgumentError, "masked elements"),
    "torch float64": (lambda: torch.ones(5, HIDDEN, dtype=torch.float64), errors.DtypeError, "float64"),
    "torch transposed": (lambda: torch.ones(HIDDEN, 5).T, errors.ArgumentError, "a copy is needed"),
    "torch expanded": (lambda: torch.ones(HIDDEN).expand(5, HIDDEN), errors.ArgumentError, "stride 0"),
    "torch meta": (lambda: torch.ones(5, HIDDEN, device="meta"), errors.ArgumentError, "on meta"),
    "torch sparse": (lambda: torch.ones(5, HIDDEN).to_sparse(), errors.ArgumentError, "layout torch.sparse_coo"),
    "torch quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(5, HIDDEN), 0.1, 0, torch.qint8), errors.DtypeError, "qint8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_seen_as_it_is(basis, case):
    make, error, message = REFUSED[case]
    made = salf.Probe(basis)
    made.begin(LABELS)
    with pytest.raises(error, match=message) as caught:
        made.observe(0, make())
    assert "\n" not in str(caught.value)
    for space in range(LAYERS + 1):  # the batch goes on as if nothing had been
        made.observe(space, good())
    assert made.end().rows == 5


@pytest.mark.parametrize(
    "wrong", [[1.5], [True], ["1"], [None], 3, [[1, 2]], "12", np.ones(2), torch.ones(2), {1: 2}, Nothing(),
     np.ma.masked_array([1, 2], mask=[0, 1]), torch.ones(2).bfloat16(), torch.tensor([1, 2]).to_sparse()],
)  # fmt: skip
def test_labels_that_are_no_whole_numbers(basis, wrong):
    with pytest.raises((errors.DtypeError, errors.ArgumentError, errors.ShapeError)):
        salf.Probe(basis).begin(wrong)


@pytest.mark.parametrize("wrong", [2**31, -(2**31) - 1, 2**40, 2**63 - 1])
def test_labels_that_do_not_fit(basis, wrong):
    with pytest.raises(errors.OverflowError, match=str(wrong)):
        salf.Probe(basis).begin([0, wrong])
    with pytest.raises(OverflowError):
        salf.Probe(basis).begin([2**70])


def test_labels_of_any_kind_of_integers(basis):
    for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        salf.Probe(basis).begin(np.array(LABELS, kind)[::-1])
        salf.Probe(basis).begin(np.array(LABELS, np.dtype(kind).newbyteorder()))
    for made in (range(3), (1, 2), torch.tensor([1]), torch.tensor([1], dtype=torch.int32), memoryview(b"\1\2"), []):
        salf.Probe(basis).begin(made)


# ---- the memory is the caller's, not a copy ----


@pytest.mark.parametrize("kind", ["numpy", "torch", "dlpack", "bfloat16"])
def test_a_borrowed_head_is_seen_to_change(context, head, kind):
    base = torch.from_numpy(head.copy()).to(torch.bfloat16 if kind == "bfloat16" else torch.float32)
    given = {"numpy": lambda: base.numpy(), "dlpack": lambda: OnlyDlpack(base)}.get(kind, lambda: base)()
    model = salf.Model(context, n_layers=1, head=given)
    basis = salf.Basis(model, [1])
    assert not basis.is_stale()
    base[5, 3] += 1
    assert basis.is_stale()
    with pytest.raises(errors.StaleError):
        basis.check(model)
    assert not basis.refresh().is_stale(model)


def test_a_gradient_is_written_in_place(basis, states, rows):
    """Into a matrix with gaps, by row number, and nowhere else."""
    place = np.full((20, HIDDEN + 3), 7, np.float32)
    index = [19, 3, 0, 8, 11]
    losses = salf.Loss(basis).compute(LABELS, states[0], scale=2.0, gradient=place[:, :HIDDEN], gradient_rows=index)
    h, b = states[0].astype(np.float64), rows
    length, other = np.linalg.norm(h, axis=1)[:, None], np.linalg.norm(b, axis=1)[:, None]
    cosine = (h * b).sum(1)[:, None] / length / other
    np.testing.assert_allclose(losses, 1 - cosine[:, 0], atol=1e-6)
    np.testing.assert_allclose(place[index, :HIDDEN], -2 * (b / other - cosine * h / length) / length, atol=1e-5)
    untouched = np.ones(20, bool)
    untouched[index] = False
    assert (place[untouched] == 7).all()
    assert (place[:, HIDDEN:] == 7).all()


def test_losses_are_written_where_asked(basis, states):
    expected = salf.Loss(basis).compute(LABELS, states[0])
    for place in (np.full(5, 7, np.float32), np.full((5, 2), 7, np.float32)[:, :1], torch.full((5,), 7.0)):
        assert salf.Loss(basis).compute(LABELS, states[0], losses=place) is place
        np.testing.assert_array_equal(np.asarray(place).reshape(5), expected)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (np.ones(5), errors.DtypeError), (np.ones((5, 2), np.float32), errors.ShapeError),
        (np.ones(4, np.float32), errors.ShapeError), (np.broadcast_to(np.float32(1), (5,)), errors.ArgumentError),
        (np.frombuffer(bytes(20), np.float32), errors.ArgumentError), (np.float32(1), errors.ArgumentError),
    ],
)  # fmt: skip
def test_losses_that_cannot_be_written(basis, states, wrong, error):
    with pytest.raises(error, match="losses"):
        salf.Loss(basis).compute(LABELS, states[0], losses=wrong)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (np.frombuffer(bytes(5 * HIDDEN * 4), np.float32).reshape(5, HIDDEN), errors.ArgumentError),
        (np.ones((5, HIDDEN), np.float16), errors.DtypeError), (np.ones((4, HIDDEN), np.float32), errors.ShapeError),
        (torch.ones(5, HIDDEN).bfloat16(), errors.DtypeError),
    ],
)  # fmt: skip
def test_gradients_that_cannot_be_written(basis, states, wrong, error):
    with pytest.raises(error, match="gradient"):
        salf.Loss(basis).compute(LABELS, states[0], gradient=wrong)


# ---- DLPack, to the letter ----


@pytest.mark.parametrize(
    "options",
    [
        {}, {"version": (1, 0)}, {"version": (1, 3)}, {"strides": False}, {"offset": 64}, {"device": (3, 0)},
        {"version": (1, 0), "flags": 1},
    ],
    ids=str,
)  # fmt: skip
def test_capsules(context, states, options):
    values = np.ascontiguousarray(states[0])
    capsule = Capsule(values, **options)
    target, keep = views.view(capsule, "states", context._device)
    assert (target.rows, target.cols, target.row_stride) == (5, HIDDEN, HIDDEN)
    assert int(ffi.cast("uintptr_t", target.data)) == values.ctypes.data
    assert target.memory == salf.constant("SALF_MEMORY_HOST")
    assert capsule.given_back == 0
    if capsule.version:
        assert capsule.arguments == {"max_version": (1, 0), "copy": False}
    del keep
    assert capsule.given_back == 1


def test_capsule_of_bfloat16(context):
    values = np.ones((5, HIDDEN), ml_dtypes.bfloat16)
    target, _ = views.view(Capsule(values, code=4, bits=16), "states", context._device)
    assert target.dtype == salf.constant("SALF_BF16")


def test_device_capsule_reaches_the_library(context, model, basis):
    """Device memory is passed on as such, on the stream asked for; a backend of the host says that it cannot."""
    capsule = Capsule(good(), device=(2, 0))
    target, _ = views.view(capsule, "states", (0, 1))
    assert target.memory == salf.constant("SALF_MEMORY_DEVICE")
    assert capsule.arguments == {"stream": 1}
    made = salf.Probe(basis)
    made.begin(LABELS)
    with pytest.raises(errors.ArgumentError, match="device memory given to a backend that computes in host memory"):
        made.observe(0, capsule)
    with pytest.raises(errors.ArgumentError, match="on device 3, the context on device 0"):
        views.view(Capsule(good(), device=(2, 3)), "states", (0, 1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"version": (2, 0)}, errors.VersionError, "DLPack 2.0"), ({"lanes": 4}, errors.DtypeError, "vectors of 4"),
        ({"version": (1, 0), "flags": 2}, errors.ArgumentError, "had to copy"),
        ({"bits": 64}, errors.DtypeError, "float64"),
        ({"code": 5}, errors.DtypeError, "complex32"), ({"code": 9}, errors.DtypeError, "code 9 32"),
        ({"device": (10, 0)}, errors.ArgumentError, "on rocm"), ({"device": (77, 0)}, errors.ArgumentError, "type 77"),
        ({"bits": 8}, errors.DtypeError, "float8"),
    ],
)  # fmt: skip
def test_capsules_that_are_refused(context, options, error, message):
    capsule = Capsule(good(), **options)
    with pytest.raises(error, match=message) as caught:
        views.view(capsule, "states", context._device)
    del caught
    gc.collect()
    assert capsule.given_back == capsule.given_out == (0 if "device" in options else 1)


def test_read_only_capsule_is_not_written(basis, states):
    gradient = Capsule(np.zeros((5, HIDDEN), np.float32), version=(1, 0), flags=1)
    with pytest.raises(errors.ArgumentError, match="gradient is read-only"):
        salf.Loss(basis).compute(LABELS, states[0], gradient=gradient)


class Lying:
    def __init__(self, answer):
        self.answer = answer

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **_):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer", [None, 3, "capsule", BufferError("would have to copy"), ValueError("closed")], ids=repr
)
def test_what_gives_no_capsule(context, answer):
    with pytest.raises(errors.ArgumentError, match=str(answer)):
        views.view(Lying(answer), "states", context._device)


def test_tensors_of_every_library_describe_the_same(context, head):
    expected = None
    for given in (head, torch.from_numpy(head), OnlyDlpack(torch.from_numpy(head)), memoryview(head), Capsule(head)):
        target, _ = views.view(given, "head", context._device)
        told = (int(ffi.cast("uintptr_t", target.data)), target.rows, target.cols, target.row_stride, target.dtype)
        expected = expected or told
        assert told == expected == (head.ctypes.data, VOCAB, HIDDEN, HIDDEN, 1)


@pytest.mark.parametrize("count", [0, 5, 200])
def test_row_index(basis, context, count):
    """Read once, checked against every tensor, and of no effect from later changes."""
    rng = np.random.default_rng(count)
    numbers = rng.permutation(300)[:count]
    index = salf.RowIndex(numbers)
    assert (len(index), index.low, index.high) == (count, min(numbers, default=0), max(numbers, default=-1))
    every = rng.standard_normal((300, HIDDEN)).astype(np.float32)
    expected = every[numbers]
    numbers[:] = 10**9
    with salf.Probe(basis) as made:
        made.begin([1] * count)
        for space in range(LAYERS + 1):
            made.observe(space, every, rows=index)
        trace = made.end()
        np.testing.assert_array_equal(trace.deviations, probe(basis, [1] * count, [expected] * (LAYERS + 1)).deviations)
        made.begin([1] * count)
        if count:
            with pytest.raises(errors.ArgumentError, match=f"names row {index.high}, but there are {index.high}"):
                made.observe(0, every[: index.high], rows=index)
    for wrong in ([1.5], "x", [[1]], None):
        with pytest.raises(salf.Error, match="rows"):
            salf.RowIndex(wrong)
