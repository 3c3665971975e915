"""GGUF files that the package gguf writes: head, embedding and basis are those of what it makes of the rows.

Files of real models are checked as well where SALF_GGUF names a folder of them.
"""

import os
import pathlib

import numpy as np
import pytest

import salf
from salf import errors

gguf = pytest.importorskip("gguf")
Type = gguf.GGMLQuantizationType
# The package quantises to these; of the others it makes numbers of any bytes.
QUANTISED = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]
RANDOM = [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS]
PLAIN = [Type.F32, Type.F16, Type.F64]
VOCAB, HIDDEN, LAYERS = 300, 256, 3
REAL = sorted(pathlib.Path(os.environ["SALF_GGUF"]).glob("*.gguf")) if os.environ.get("SALF_GGUF") else []


def head_of(kind, rng):
    """(what is stored, what it stands for): rows of VOCAB tokens."""
    values = rng.standard_normal((VOCAB, HIDDEN)).astype(np.float32)
    if kind in PLAIN:
        stored = values.astype({Type.F32: np.float32, Type.F16: np.float16, Type.F64: np.float64}[kind])
        return stored, stored.astype(np.float32)
    if kind in QUANTISED:
        stored = gguf.quants.quantize(values, kind)
        return stored, gguf.quants.dequantize(stored, kind)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    stored = rng.integers(0, 256, (VOCAB, HIDDEN // elements * size), dtype=np.uint8)
    for block in stored.reshape(-1, size):
        while not np.isfinite(gguf.quants.dequantize(block[None], kind)).all():
            block[:] = rng.integers(0, 256, size, dtype=np.uint8)
    return stored, gguf.quants.dequantize(stored, kind)


def write(path, arch, head, kind, norm, embedding=None):
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(HIDDEN)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_token_list([f"t{i}" for i in range(VOCAB - 2)] + [f"[PAD{i}]" for i in (VOCAB - 2, VOCAB - 1)])
    writer.add_token_types([1] * (VOCAB - 2) + [5, 5])
    writer.add_tensor("token_embd.weight", head if embedding is None else embedding, raw_dtype=kind)
    if embedding is not None:
        writer.add_tensor("output.weight", head, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", norm)
    for layer in range(LAYERS):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def basis_of(head):
    """Rows P w of the pseudo-inverse, singular values below max(V, D) 2^-23 of the largest dropped."""
    rows = head.astype(np.float64)
    return np.linalg.pinv(rows, rcond=max(rows.shape) * 2.0**-23).T


def check_rows(model, head, labels):
    """Rows of embedding and basis; those of the embedding bit for bit."""
    with salf.Basis(model, labels, side="input") as basis:
        np.testing.assert_array_equal(basis.rows(labels, "float32"), head[labels])
    expected = basis_of(head)[labels]
    with salf.Basis(model, labels) as basis:
        found = basis.rows(labels)
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", [*PLAIN, *QUANTISED, *RANDOM], ids=lambda kind: kind.name)
def test_rows_are_those_of_the_package(context, tmp_path, kind):
    rng = np.random.default_rng(int(kind))
    stored, head = head_of(kind, rng)
    norm = rng.uniform(0.5, 1.5, HIDDEN).astype(np.float32)
    write(tmp_path / "m.gguf", "llama", stored, kind, norm)
    with salf.Model.open(context, tmp_path / "m.gguf") as model:
        assert (model.info.vocab, model.info.valid_vocab, model.info.tied) == (VOCAB, VOCAB - 2, True)
        assert model.tensors is not None
        assert model.tensors.metadata("general.architecture") == "llama"
        check_rows(model, head[: VOCAB - 2], [0, 1, 77, VOCAB - 3])
        with pytest.raises(errors.PaddingError):
            salf.Basis(model, [VOCAB - 1])


def test_a_head_of_its_own(context, tmp_path):
    rng = np.random.default_rng(3)
    stored, head = head_of(Type.Q6_K, rng)
    embedding, values = head_of(Type.Q6_K, rng)
    write(tmp_path / "m.gguf", "qwen3", stored, Type.Q6_K, np.ones(HIDDEN, np.float32), embedding)
    with salf.Model.open(context, tmp_path / "m.gguf") as model:
        assert not model.info.tied
        with salf.Basis(model, [5], side="input") as basis:
            np.testing.assert_array_equal(basis.rows([5], "float32"), values[[5]])
        expected = basis_of(head[: VOCAB - 2])[[5]]
        with salf.Basis(model, [5]) as basis:
            assert np.linalg.norm(basis.rows([5]) - expected) <= 1e-6 * np.linalg.norm(expected)


def test_a_type_that_is_not_read_is_named(context, tmp_path):
    write(tmp_path / "m.gguf", "llama", np.zeros((VOCAB, 54), np.uint8), Type.TQ1_0, np.ones(HIDDEN, np.float32))
    with pytest.raises(errors.DtypeError, match="'token_embd.weight' is of type TQ1_0"):
        salf.Model.open(context, tmp_path / "m.gguf")


@pytest.mark.skipif(not REAL, reason="SALF_GGUF names no folder with .gguf files")
@pytest.mark.parametrize("path", REAL, ids=[path.stem for path in REAL])
def test_real_models(path):
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    stored = tensors.get("output.weight", tensors["token_embd.weight"])
    head = gguf.quants.dequantize(stored.data, stored.tensor_type)
    gram = head.astype(np.float64).T @ head.astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    kept = np.sqrt(np.maximum(values, 0)) > np.sqrt(values[-1]) * max(head.shape) * 2.0**-23
    labels = [0, 5, 1000, len(head) - 1]
    expected = head[labels] @ (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    with salf.Context("cpu") as context, salf.Model.open(context, path) as model:
        assert model.info.vocab == model.info.valid_vocab == len(head)
        with salf.Basis(model, labels) as basis:
            assert basis.info.rank == kept.sum()
            assert np.linalg.norm(basis.rows(labels) - expected) <= 1e-6 * np.linalg.norm(expected)
