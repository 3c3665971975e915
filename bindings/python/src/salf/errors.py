"""One exception for each status of libsalf; `str(error)` is the library's message, which names the offending value."""

from __future__ import annotations

import builtins
from typing import Dict, Type


class Error(Exception):
    """A call of libsalf failed, or would have. `status` is the number, `status_name` its name, such as "SALF_E_SHAPE",
    `status_text` what it means."""

    status = 0
    status_name = ""
    status_text = ""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)


class ArgumentError(Error, ValueError):
    """Invalid argument."""


class NullError(Error, ValueError):
    """Something required was not given."""


class ShapeError(Error, ValueError):
    """Shapes disagree."""


class DtypeError(Error, TypeError):
    """Data type not usable here."""


class SequenceError(Error, RuntimeError):
    """Call out of order, or on a closed handle."""


class OverflowError(Error, builtins.OverflowError):
    """Number too large."""


class BufferError(Error, builtins.BufferError):
    """Buffer too small."""


class StructError(Error):
    """Options struct of an unknown size or with unknown fields set."""


class UnsupportedError(Error, NotImplementedError):
    """Not supported."""


class LabelError(Error, ValueError):
    """Label outside the vocabulary or without a basis row."""


class PaddingError(Error, ValueError):
    """Label on a padding row of the vocabulary."""


class ZeroRowError(Error, ValueError):
    """Basis row is zero."""


class NonfiniteError(Error, ArithmeticError):
    """NaN or infinity in the data."""


class NumericError(Error, ArithmeticError):
    """Numerical method failed."""


class StaleError(Error):
    """Basis belongs to another head."""


class IoError(Error, OSError):
    """File could not be read or written."""


class NotFoundError(Error, LookupError):
    """Not found."""


class TruncatedError(Error, ValueError):
    """Data ends early."""


class CorruptError(Error, ValueError):
    """Data is damaged or hostile."""


class VersionError(Error, ValueError):
    """Written by another version."""


class MismatchError(Error, ValueError):
    """Parts that belong together disagree."""


class NoSpaceError(Error, OSError):
    """No space left on the device."""


class BusyError(Error, OSError):
    """In use by another process."""


class NoMemoryError(Error, MemoryError):
    """Out of memory."""


class WorkspaceError(Error):
    """Workspace limit too small."""


class BackendError(Error):
    """Backend not available."""


class PluginError(Error):
    """Backend plugin not usable."""


class DeviceError(Error, RuntimeError):
    """Device reported an error."""


class CallbackError(Error, RuntimeError):
    """Callback of the host reported an error."""


class CancelledError(Error):
    """Cancelled by the host."""


class InternalError(Error):
    """Internal error."""


def class_name(status_name: str) -> str:
    """The name of the exception for a status: SALF_E_ZERO_ROW gives ZeroRowError."""
    return "".join(part.capitalize() for part in status_name[len("SALF_E_") :].split("_")) + "Error"


def _classes() -> Dict[str, Type[Error]]:
    return {name: item for name, item in globals().items() if isinstance(item, type) and issubclass(item, Error)}


CLASSES: Dict[str, Type[Error]] = _classes()
