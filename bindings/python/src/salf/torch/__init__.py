# ruff: noqa: E402 - what is missing is told before it is looked for
"""libsalf for training loops of PyTorch.

    controller = FreezeController(model, "salf", optimizer=optimizer)
    ...
    controller.begin(batch["labels"])
    loss = model(**batch).loss
    controller.backward(loss)
    optimizer.step(); optimizer.zero_grad()

find_parts() says what a model consists of, EofCache spares probes of data seen before, SemanticLoss is the paper's
loss. Automatic begins batches for hosts that only call the model and loss.backward().
"""

from salf._extras import need

need("torch", "torch", "numpy")

from salf.torch.anatomy import Parts, find_parts, unwrap
from salf.torch.automatic import Automatic
from salf.torch.boundary import Boundary, BoundaryCache
from salf.torch.cache import EofCache
from salf.torch.controller import FreezeController
from salf.torch.feed import ProbeFeed
from salf.torch.flags import Active
from salf.torch.loss import SemanticLoss
from salf.torch.optimizer import OptimizerGuard
from salf.torch.recompute import RowCheckpoint
from salf.torch.rows import RowCuts
from salf.torch.targets import RowPolicy, Rows

__all__ = [
    "Active", "Automatic", "Boundary", "BoundaryCache", "EofCache", "FreezeController", "OptimizerGuard", "Parts",
    "ProbeFeed", "RowCheckpoint", "RowCuts", "RowPolicy", "Rows", "SemanticLoss", "find_parts", "unwrap",
]  # fmt: skip
