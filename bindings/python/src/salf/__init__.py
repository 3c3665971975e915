"""libsalf: decide where to fine-tune (Semantic-Aware Layer-Freezing).

A model's head gives a semantic basis; a probe compares the states of the training forward with it and says for each
datum at which layer back-propagation may stop; a policy turns that into what trains at a step, a planner spreads the
data over the depths under a budget. `salf.torch` and `salf.transformers` bring this into training loops.
"""

from . import errors
from ._ffi import constant, ffi, lib, library_path, text
from .basis import Basis, BasisBuilder, BasisInfo
from .context import Context, ContextInfo
from .cost import Cost, estimate_cost
from .errors import (
    ArgumentError,
    BackendError,
    BufferError,
    CallbackError,
    CorruptError,
    DeviceError,
    DtypeError,
    Error,
    InternalError,
    IoError,
    LabelError,
    MismatchError,
    NoMemoryError,
    NonfiniteError,
    NoSpaceError,
    NotFoundError,
    NullError,
    NumericError,
    OverflowError,
    PaddingError,
    PluginError,
    SequenceError,
    ShapeError,
    StaleError,
    StructError,
    TruncatedError,
    UnsupportedError,
    VersionError,
    WorkspaceError,
    ZeroRowError,
)
from .loss import Loss
from .model import Model, ModelInfo
from .planner import Planner, Stage, Task
from .policy import Decision, Policy
from .probe import Probe, Trace, eof_from_deviations
from .tensors import Tensor, Tensors, save_tensors
from .views import RowIndex


def version() -> str:
    """Version of the library in use."""
    return text(lib.salf_version_string())


__version__ = version()

__all__ = [
    "ArgumentError",
    "BackendError",
    "Basis",
    "BasisBuilder",
    "BasisInfo",
    "BufferError",
    "CallbackError",
    "Context",
    "ContextInfo",
    "CorruptError",
    "Cost",
    "Decision",
    "DeviceError",
    "DtypeError",
    "Error",
    "InternalError",
    "IoError",
    "LabelError",
    "Loss",
    "MismatchError",
    "Model",
    "ModelInfo",
    "NoMemoryError",
    "NoSpaceError",
    "NonfiniteError",
    "NotFoundError",
    "NullError",
    "NumericError",
    "OverflowError",
    "PaddingError",
    "Planner",
    "PluginError",
    "Policy",
    "Probe",
    "RowIndex",
    "SequenceError",
    "ShapeError",
    "Stage",
    "StaleError",
    "StructError",
    "Task",
    "Tensor",
    "Tensors",
    "Trace",
    "TruncatedError",
    "UnsupportedError",
    "VersionError",
    "WorkspaceError",
    "ZeroRowError",
    "constant",
    "eof_from_deviations",
    "errors",
    "estimate_cost",
    "ffi",
    "lib",
    "library_path",
    "save_tensors",
    "version",
]
