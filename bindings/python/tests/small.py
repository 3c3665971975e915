"""Where the repository is, and the sizes of the model that the fixtures make."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]
VOCAB, HIDDEN, LAYERS = 40, 12, 3
