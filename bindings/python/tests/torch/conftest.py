"""Tests of salf.torch, salf.transformers and salf.distributed; skipped, aloud, where PyTorch and transformers are
missing."""

import importlib.util
import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[3]
NEEDED = ("torch", "transformers", "peft", "accelerate", "numpy")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(ROOT / "examples" / "python"))

collect_ignore = [path.name for path in HERE.glob("test_*.py") if path.name != "test_installed.py"] if MISSING else []


@pytest.fixture(autouse=True)
def _quiet():
    import torch
    import transformers

    torch.set_num_threads(1)  # the models are so small that threads only wait for each other
    transformers.logging.set_verbosity_error()


@pytest.fixture
def shared():
    """The folder of larger models and data."""
    folder = pathlib.Path(os.environ.get("SALF_SHARED", ROOT.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no models in {folder}; SALF_SHARED names the folder")
    return folder
