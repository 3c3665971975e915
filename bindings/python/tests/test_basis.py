"""Models and bases against NumPy; files, builders, what does not fit together."""

import numpy as np
import pytest
from oracle import pseudo_basis
from small import HIDDEN, LAYERS, VOCAB

import salf
from salf import errors


def test_rows_in_every_mode(context, model, head):
    exact = pseudo_basis(head)
    gram = head.astype(np.float64).T @ head
    np.testing.assert_allclose(salf.Basis(model, mode="exact").rows(range(VOCAB)), exact, rtol=1e-8, atol=1e-12)
    ridge = head @ np.linalg.inv(gram + 0.5 * np.eye(HIDDEN))
    np.testing.assert_allclose(salf.Basis(model, mode="ridge", ridge=0.5).rows([7, 7, 1]), ridge[[7, 7, 1]], rtol=1e-8)
    values = np.linalg.svd(head, compute_uv=False)
    cut = (values[3] + values[4]) / 2 / values[0]
    basis = salf.Basis(model, rtol=cut)
    assert basis.info.rank == 4
    np.testing.assert_allclose(
        basis.rows([2]), np.linalg.pinv(head.astype(np.float64), cut).T[[2]], rtol=1e-7, atol=1e-10
    )
    table = salf.Basis(model, prepare="table")
    assert table.info.has_table
    assert table.labels is None
    assert salf.Basis(model, []).labels.shape == (0,)
    assert table.rows([3], dtype="float32").dtype == np.float32


def test_labels_are_sorted_and_told_once(model):
    basis = salf.Basis(model, [9, 1, 9, 4])
    assert basis.labels.tolist() == [1, 4, 9]
    assert basis.info.n_labels == 3


def test_info(basis, head):
    info = basis.info
    values = np.linalg.svd(head.astype(np.float64), compute_uv=False)
    assert (info.mode, info.side, info.method) == ("exact", "output", "cholesky")
    assert (info.hidden, info.vocab, info.rank) == (HIDDEN, VOCAB, HIDDEN)
    assert info.sigma_max == pytest.approx(values[0], rel=1e-9)
    assert info.condition == pytest.approx(values[0] / values[-1], rel=1e-2)
    with pytest.raises(AttributeError):
        info.rank = 3


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [([VOCAB], errors.LabelError, "40"), ([-1], errors.LabelError, "-1"), ([0, 38], errors.PaddingError, "38"),
    ([5], errors.ZeroRowError, "5")],
)  # fmt: skip
def test_labels_without_a_row(context, head, labels, error, message):
    head[5] = 0
    model = salf.Model(context, n_layers=1, head=head, valid_vocab=38)
    with pytest.raises(error, match=message):
        salf.Basis(model, labels)


def test_a_head_that_is_not_finite(context, head):
    head[11, 3] = np.nan
    with pytest.raises(errors.NonfiniteError, match="11"):
        salf.Basis(salf.Model(context, n_layers=1, head=head), [1])


def test_save_and_load(context, model, basis, tmp_path):
    basis.save(tmp_path / "b.safetensors")
    alone, again = (salf.Basis.load(context, tmp_path / "b.safetensors", given) for given in (None, model))
    for other in (alone, again):
        np.testing.assert_array_equal(other.rows([4, 2]), basis.rows([4, 2]))
        assert other.info.fingerprint == basis.info.fingerprint == model.fingerprint()
    assert alone.model is None
    with pytest.raises(errors.ArgumentError, match="told which"):
        alone.refresh()
    other = salf.Model(context, n_layers=1, head=np.ones((VOCAB, HIDDEN), np.float32))
    with pytest.raises(errors.StaleError):
        salf.Basis.load(context, tmp_path / "b.safetensors", other)
    assert basis.is_stale(other)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "missing", "a folder", "another file"])
def test_damaged_files(context, basis, tmp_path, damage):
    path = tmp_path / "b.safetensors"
    basis.save(path)
    whole = path.read_bytes()
    if damage in ("missing", "a folder"):
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    if damage in ("truncated", "garbage", "empty"):
        path.write_bytes({"truncated": whole[:-9], "garbage": b"\xff" * 100, "empty": b""}[damage])
    if damage == "another file":
        salf.save_tensors(context, path, {"a": np.ones(2, np.float32)})
    with pytest.raises(salf.Error) as caught:
        salf.Basis.load(context, path)
    assert type(caught.value) in (
        errors.TruncatedError,
        errors.CorruptError,
        errors.NotFoundError,
        errors.IoError,
        errors.MismatchError,
    )


@pytest.mark.parametrize("path", [None, 3, "nul\0nul", object()], ids=repr)
def test_paths_that_are_none(context, path):
    for call in (salf.Basis.load, salf.Model.open, salf.Tensors.open):
        with pytest.raises((errors.ArgumentError, errors.NotFoundError)):
            call(context, path)


def test_paths_of_any_kind(context, basis, tmp_path):
    strange = tmp_path / "naïve \udcff 语"
    for path in (strange, str(strange), str(strange).encode("utf-8", "surrogateescape")):
        basis.save(path)
        assert salf.Basis.load(context, path).info.rank == HIDDEN


def test_builder_in_pieces(context, model, head, basis):
    builders = [salf.BasisBuilder(context, VOCAB, HIDDEN, [8, 39], mode="exact") for _ in range(2)]
    order = np.random.default_rng(0).permutation(VOCAB)
    for n, row in enumerate(order):
        builders[n % 2].add(int(row), head[row])
    with pytest.raises(errors.SequenceError, match="20"):
        builders[0].finish()
    whole = builders[0]
    other = salf.BasisBuilder(context, VOCAB, HIDDEN, [8, 39], mode="exact")
    other.partial[:] = whole.partial + builders[1].partial
    whole.merge(builders[1])
    for made in (whole.finish(), other.finish(model)):
        np.testing.assert_allclose(made.rows([8, 39]), basis.rows([8, 39]), rtol=1e-9)
        assert made.info.fingerprint == basis.info.fingerprint
    with pytest.raises(errors.SequenceError, match="in use"):
        whole.merge(whole)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "best"}, errors.ArgumentError, "rtol, exact, ridge"), ({"mode": 77}, errors.ArgumentError, "77"),
        ({"side": "left"}, errors.ArgumentError, "output, input"), ({"prepare": None}, None, ""),
        ({"mode": "ridge"}, errors.ArgumentError, "ridge"), ({"rtol": "x"}, errors.ArgumentError, "rtol is 'x'"),
        ({"rtol": float("nan")}, errors.ArgumentError, "rtol"), ({"mode": 1.5}, errors.ArgumentError, "mode is 1.5"),
        ({"mode": 2**40}, errors.OverflowError, "mode"), ({"rtol": 10**400}, errors.OverflowError, "rtol"),
        ({"mode": True}, None, ""),
    ],
    ids=str,
)  # fmt: skip
def test_options_of_a_basis(model, options, error, message):
    if error is None:
        assert salf.Basis(model, **options).info.rank == HIDDEN
        return
    with pytest.raises(error, match=message):
        salf.Basis(model, **options)


MODELS = {
    "no layers": ({"n_layers": 0}, errors.ArgumentError, "n_layers is 0"),
    "negative layers": ({"n_layers": -5}, errors.ArgumentError, "-5"),
    "another width": ({"hidden": 5}, errors.ShapeError, "columns"),
    "another vocabulary": ({"vocab": 5}, errors.ShapeError, "rows"),
    "too much padding": ({"valid_vocab": VOCAB + 1}, errors.ArgumentError, "valid_vocab is 41"),
    "norm of another size": ({"norm_weight": np.ones(3, np.float32)}, errors.ShapeError, "norm_weight"),
    "norm in float64": ({"norm_weight": np.ones(HIDDEN)}, errors.DtypeError, "norm_weight is float64"),
    "bias without LayerNorm": ({"norm_bias": np.ones(HIDDEN, np.float32)}, errors.ArgumentError, "norm_bias"),
    "norm that is none": ({"norm_kind": "batch"}, errors.ArgumentError, "none, layer, rms, rms1p"),
    "norm with NaN": ({"norm_weight": np.full(HIDDEN, np.nan, np.float32)}, errors.NonfiniteError, "norm_weight"),
    "head twice": ({"head_rows": print}, errors.ArgumentError, "as a view and as a callback"),
    "rows that are none": ({"embedding_rows": 3}, errors.ArgumentError, "embedding_rows is 3"),
    "softcap": ({"logit_softcap": -1.0}, errors.ArgumentError, "logit_softcap"),
    "layers as text": ({"n_layers": "3"}, errors.ArgumentError, "n_layers is '3'"),
    "layers beyond int32": ({"n_layers": 2**31}, errors.OverflowError, "n_layers"),
}


@pytest.mark.parametrize("case", MODELS)
def test_models_that_are_none(context, head, case):
    options, error, message = MODELS[case]
    with pytest.raises(error, match=message):
        salf.Model(context, **{"n_layers": LAYERS, "head": head, **options})


def test_a_model_without_a_head(context):
    with pytest.raises(salf.Error):
        salf.Model(context, n_layers=1)
    with pytest.raises(errors.NullError, match="neither head nor embedding"):
        salf.Model(context, n_layers=1, hidden=4, vocab=4)


def test_a_tied_embedding_is_the_head(context, head, basis):
    model = salf.Model(context, n_layers=1, embedding=head, tied=True)
    assert model.info.tied is True
    np.testing.assert_allclose(salf.Basis(model, mode="exact").rows([3]), basis.rows([3]), rtol=1e-12)


def test_info_of_a_checkpoint(context, shared):
    model = salf.Model.open(context, shared / "models" / "stories260k", norm_eps=1e-3, valid_vocab=500)
    info = model.info
    assert (info.family, info.n_layers, info.hidden, info.vocab) == ("llama", 5, 64, 512)
    assert (info.norm_kind, info.head_dtype, info.norm_eps, info.valid_vocab) == ("rms", "float32", 1e-3, 500)
    tensors = model.tensors
    assert tensors["model.norm.weight"].shape == (64,)
    model.close()
    assert tensors["model.norm.weight"].numpy().shape == (64,)  # kept by what was made of it


def test_a_model_of_a_files_tensors(context, shared):
    """The head of a checkpoint as a mapped tensor, without reading it into an array."""
    model = salf.Model.open(context, shared / "models" / "stories260k")
    head = model.tensors["model.embed_tokens.weight"]
    other = salf.Model(context, n_layers=5, head=head)
    assert other.fingerprint() == model.fingerprint()
