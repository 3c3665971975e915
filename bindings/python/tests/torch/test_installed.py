"""Says aloud what is missing for the other tests of this folder."""

import pytest
from conftest import MISSING


def test_pytorch_and_transformers_are_installed():
    if MISSING:
        pytest.skip(f"salf.torch and salf.transformers are not tested: {', '.join(MISSING)} not installed")
