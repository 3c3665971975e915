"""Fixtures: contexts of the CPU backends, a small model with a head that is known, the shared material."""

import os
import pathlib
import sys

import pytest
from small import HIDDEN, LAYERS, ROOT, VOCAB

import salf

np = pytest.importorskip("numpy")
sys.path.insert(0, str(ROOT / "tests" / "abi"))  # header.py: what the ABI checks know of salf.h


@pytest.fixture(params=["reference", "cpu"])
def context(request):
    with salf.Context(request.param) as made:
        yield made


@pytest.fixture
def head():
    return np.random.default_rng(7).standard_normal((VOCAB, HIDDEN)).astype(np.float32)


@pytest.fixture
def model(context, head):
    return salf.Model(context, n_layers=LAYERS, head=head, norm_eps=1e-6)


@pytest.fixture
def basis(model):
    return salf.Basis(model, range(VOCAB), mode="exact")


@pytest.fixture
def states():
    """[spaces, rows, D]."""
    return np.random.default_rng(11).standard_normal((LAYERS + 1, 5, HIDDEN)).astype(np.float32)


@pytest.fixture(scope="session")
def shared():
    folder = pathlib.Path(os.environ.get("SALF_SHARED", ROOT.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"{folder} is not there")
    return folder
