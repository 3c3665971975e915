"""The file that a checkpoint folder of the Trainer holds for layer-freezing."""

from __future__ import annotations

import io
import os
from typing import Any, Dict

import torch

from salf.tensors import save_file

#: Name of the file in a checkpoint folder.
STATE_NAME = "salf.pt"


def save_state(folder: str, state: Dict[str, Any]) -> None:
    """Writes the file whole or not at all; on the disk, as the run that it belongs to can be gone on with from here."""
    content = io.BytesIO()
    torch.save(state, content)
    save_file(os.path.join(folder, STATE_NAME), content.getbuffer())


def load_state(folder: str) -> Dict[str, Any]:
    """Reads the file; an error where a checkpoint has none."""
    path = os.path.join(folder, STATE_NAME)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path}: the checkpoint was not written by a run with salf, or not to its end; resume from one before it"
        )
    state: Dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
