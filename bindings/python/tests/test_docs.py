"""The code in the package's README runs as printed, and what it names is there."""

import re

import numpy as np
import pytest
from small import HIDDEN, LAYERS, ROOT, VOCAB

import salf

README = (ROOT / "bindings" / "python" / "README.md").read_text()


def host(head):
    """What the README's loop takes for granted."""
    rng = np.random.default_rng(0)
    done = []
    return {
        "n_layers": LAYERS, "head": head, "norm": np.ones(HIDDEN, np.float32), "label_tokens": [1, 2, 3],
        "batches": [(rng.integers(0, VOCAB, (2, 7)), [6, 13], [1, 3]) for _ in range(3)],
        "forward": lambda tokens: [rng.standard_normal((*tokens.shape, HIDDEN)).astype("f") for _ in range(LAYERS + 1)],
        "backward": lambda **given: done.append(given), "done": done,
    }  # fmt: skip


def test_the_loop_runs(head):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = host(head)
    exec(code, names)
    assert len(names["done"]) == 3
    assert all(0 <= step["down_to"] < LAYERS and len(step["trainable"]) == LAYERS for step in names["done"])
    assert len([line for line in code.splitlines() if line and "import" not in line]) == 10


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(?:salf\.)?([A-Z]\w+|[a-z]+_[a-z_]+)`", README))))
def test_names_exist(name):
    known = {*salf.__all__, *salf.errors.CLASSES, "KeyboardInterrupt", "ImportError", "ValueError", "MemoryError"}
    options = {"head_rows", "embedding_rows", "ml_dtypes"}
    assert name in known | options or hasattr(__import__("builtins"), name) or name.startswith("SALF_")
