"""Tensor files: written, read, mapped; every type; what is no tensor file."""

import json

import numpy as np
import pytest

import salf
from salf import errors

ml_dtypes = pytest.importorskip("ml_dtypes")
torch = pytest.importorskip("torch")
TYPES = ["float32", "float16", "float64", "int8", "uint8", "int32", "int64", ml_dtypes.bfloat16]


@pytest.fixture
def context():
    with salf.Context("cpu") as made:
        yield made


@pytest.mark.parametrize(
    "shape", [(), (0,), (5,), (3, 4), (2, 3, 4), (1, 1, 1, 1, 1, 1, 1, 2), (0, 4), (4, 0)], ids=str
)
def test_round_trip(context, tmp_path, shape):
    rng = np.random.default_rng(0)
    given = {np.dtype(kind).name: (rng.standard_normal(shape) * 9).astype(kind) for kind in TYPES}
    salf.save_tensors(context, tmp_path / "t.safetensors", given, {"format": "np", "ключ": "значение"})
    tensors = salf.Tensors.open(context, tmp_path / "t.safetensors")
    assert list(tensors) == sorted(given)
    assert len(tensors) == len(given)
    assert tensors.metadata("ключ") == "значение"
    assert tensors.metadata("other") is None
    for name, values in given.items():
        found = tensors[name]
        assert (found.name, found.dtype, found.shape) == (name, name, shape or (1,))
        assert found.numpy().dtype == values.dtype
        np.testing.assert_array_equal(found.numpy().reshape(shape), values)
        if name == "bfloat16":
            np.testing.assert_array_equal(found.numpy(raw=True).reshape(shape), values.view(np.uint16))


def test_rows_with_gaps_and_torch(context, tmp_path):
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    given = {"gaps": wide[:, :3], "backwards": wide[::-1], "torch": torch.arange(6.0).bfloat16().reshape(2, 3)}
    salf.save_tensors(context, tmp_path / "t.safetensors", given)
    tensors = salf.Tensors.open(context, tmp_path / "t.safetensors")
    np.testing.assert_array_equal(tensors["gaps"].numpy(), wide[:, :3])
    np.testing.assert_array_equal(tensors["backwards"].numpy(), wide[::-1])
    np.testing.assert_array_equal(tensors["torch"].numpy().astype(int), [[0, 1, 2], [3, 4, 5]])
    salf.save_tensors(context, tmp_path / "u.safetensors", {"again": tensors["torch"]})
    assert "bfloat16 [2, 3]" in repr(salf.Tensors.open(context, tmp_path / "u.safetensors")["again"])


def test_nothing_to_write(context, tmp_path):
    salf.save_tensors(context, tmp_path / "t.safetensors", {})
    assert len(salf.Tensors.open(context, tmp_path / "t.safetensors")) == 0


def test_what_is_not_there(context, tmp_path):
    salf.save_tensors(context, tmp_path / "t.safetensors", {"a": np.ones(2, np.float32)})
    tensors = salf.Tensors.open(context, tmp_path / "t.safetensors")
    with pytest.raises(KeyError, match="no such"):
        tensors["no such"]
    assert "no such" not in tensors
    assert tensors.get("no such") is None
    for index in (-1, 1):
        with pytest.raises(errors.NotFoundError):
            tensors.at(index)
    assert tensors.at(0).name == "a"


@pytest.mark.parametrize(
    ("tensors", "metadata", "error"),
    [
        ({"": np.ones(1, np.float32)}, None, errors.ArgumentError), ({"a": np.ones(1, bool)}, None, errors.DtypeError),
        ({"a": np.ones((1,) * 9, np.float32)}, None, errors.ShapeError), ({"a": [1.0]}, None, errors.ArgumentError),
        ({"a": np.ones(1, np.float32)}, {"key": 3}, errors.ArgumentError),
        ({"a": np.array(1 + 2j)}, None, errors.DtypeError),
        ({"a": np.ones((2, 2, 4), np.float32)[:, :, ::2]}, None, errors.ArgumentError),
        ({"a\0": np.ones(1)}, None, errors.ArgumentError),
        ({"__metadata__": np.ones(1)}, None, errors.ArgumentError), ({3: np.ones(1)}, None, errors.ArgumentError),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_written(context, tmp_path, tensors, metadata, error):
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(error):
        salf.save_tensors(context, path, tensors, metadata)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def raw_file(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_a_type_that_is_not_known(context, tmp_path):
    """It is an error only when that tensor is asked for."""
    path = tmp_path / "t.safetensors"
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
              "b": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [4, 8]}}  # fmt: skip
    raw_file(path, header, bytes(8))
    tensors = salf.Tensors.open(context, path)
    assert len(tensors) == 2
    assert tensors["a"].numpy().tolist() == [0]
    assert list(tensors) == ["a", "b"]
    with pytest.raises(errors.DtypeError, match="F8_E4M3"):
        tensors["b"]


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", b"\xff" * 8, bytes(8), (2).to_bytes(8, "little") + b"{]", b"\x08" + bytes(7) + b"{}      rest"],
    ids=repr,
)
def test_what_is_no_tensor_file(context, tmp_path, content):
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises((errors.TruncatedError, errors.CorruptError)):
        salf.Tensors.open(context, path)
