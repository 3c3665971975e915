"""libsalf: decide where to fine-tune (Semantic-Aware Layer-Freezing).

A model's head gives a semantic basis; a probe compares the states of the training forward with it and says for each
datum at which layer back-propagation may stop; a policy turns that into what trains at a step, a planner spreads the
data over the depths under a budget. `salf.torch` and `salf.transformers` bring this into training loops.
"""

from salf import errors
from salf._advise import Advice, AdviceRow, advise
from salf._doctor import Diagnosis, doctor
from salf._ffi import constant, ffi, lib, library_path, text
from salf._program import ProgramError, program_path
from salf._report import Report, RunLog, log_scalars, report
from salf.basis import Basis, BasisBuilder, BasisInfo
from salf.checkpoint import Checkpoint, Content, content_of, hash_bytes
from salf.context import Context, ContextInfo
from salf.cost import Cost, estimate_cost
from salf.errors import Error
from salf.loss import Loss
from salf.model import DecoderInfo, Model, ModelInfo
from salf.planner import Planner, Stage, Task
from salf.policy import Decision, Policy
from salf.probe import Probe, Trace, eof_from_deviations
from salf.signal import Signal, SignalInfo
from salf.tensors import Tensor, Tensors, save_file, save_tensors
from salf.views import RowIndex


def version() -> str:
    """Version of the library in use."""
    return text(lib.salf_version_string())


__version__ = version()

__all__ = [
    "Advice",
    "AdviceRow",
    "Basis",
    "BasisBuilder",
    "BasisInfo",
    "Checkpoint",
    "Content",
    "Context",
    "ContextInfo",
    "Cost",
    "Decision",
    "DecoderInfo",
    "Diagnosis",
    "Error",
    "Loss",
    "Model",
    "ModelInfo",
    "Planner",
    "Policy",
    "Probe",
    "ProgramError",
    "Report",
    "RowIndex",
    "RunLog",
    "Signal",
    "SignalInfo",
    "Stage",
    "Task",
    "Tensor",
    "Tensors",
    "Trace",
    "advise",
    "constant",
    "content_of",
    "doctor",
    "eof_from_deviations",
    "errors",
    "estimate_cost",
    "ffi",
    "hash_bytes",
    "lib",
    "library_path",
    "log_scalars",
    "program_path",
    "report",
    "save_file",
    "save_tensors",
    "version",
]
