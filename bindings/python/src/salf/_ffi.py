"""The loaded library, and what every call of it shares: status to exception, names to constants, option structs."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from typing import Any, Dict, List, Mapping, Optional, Type, TypeVar, Union

from salf import errors
from salf._library import load

ffi, lib, library_path = load()

NULL = ffi.NULL
Name = Union[str, int]
Record = TypeVar("Record")


# ---- status to exception ----


class _Pending(threading.local):
    """Errors raised inside callbacks while a call of this thread was under way."""

    def __init__(self) -> None:
        self.errors: List[BaseException] = []


pending = _Pending()


def text(pointer: Any) -> str:
    """A C string; bytes that are not UTF-8 are shown, not refused."""
    raw: bytes = ffi.string(pointer)
    return raw.decode("utf-8", "backslashreplace")


def encoded(value: Any, name: str) -> bytes:
    """A path or text for the library."""
    try:
        raw = os.fsencode(value)
    except TypeError as error:
        raise errors.ArgumentError(f"{name} is {value!r}, not a path or text") from error
    if b"\0" in raw:
        raise errors.ArgumentError(f"{name} {value!r} holds a NUL character")
    return raw


@functools.cache
def _class_of(status: int) -> Type[errors.Error]:
    """The exception of a status, which learns its number, name and meaning from the library."""
    name = text(lib.salf_status_name(status))
    kind = errors.CLASSES.get(errors.class_name(name), errors.Error)
    if kind is errors.Error:  # a status that is newer than this package
        kind = type("UnknownError", (errors.Error,), {"__doc__": "A status this package does not know."})
    kind.status, kind.status_name, kind.status_text = status, name, text(lib.salf_status_text(status))
    return kind


for _name in dir(lib):
    if _name.startswith("SALF_E_"):
        _class_of(int(getattr(lib, _name)))


def error_of(status: int) -> errors.Error:
    """The exception for a call that just failed in this thread."""
    return _class_of(status)(text(lib.salf_last_error()))


def check(status: int) -> None:
    """Raises what a call's status says. What a callback raised comes first, with the library's view as its cause."""
    raised = pending.errors
    if raised:
        first = raised[0]
        raised.clear()
        try:
            if status != 0 and first.__cause__ is None:
                raise first from error_of(status)
            raise first
        finally:
            del first  # this frame is in its traceback: no cycle, or handles would wait for the garbage collector
    if status != 0:
        raise error_of(status)


# ---- constants ----


def constant(name: str) -> int:
    """Value of a public constant by its C name, such as "SALF_METRIC_COSINE"."""
    value = ffi.new("int64_t *")
    check(lib.salf_constant(encoded(name, "name"), value))
    return int(value[0])


@functools.cache
def names(group: str) -> Mapping[str, int]:
    """The words of a family of constants with their values, as the library tells them.

    -1 is SALF_PROBE_ALL, 127 the mask SALF_MATRIX_ALL; all other families lie between."""
    family, found = f"SALF_{group}".encode(), {}
    for value in range(-1, 128):
        word = lib.salf_constant_word(family, value)
        if word != NULL:
            found[text(word)] = value
    return found


def number_of(group: str, value: Name, field: str) -> int:
    """The number of a constant that is given by its word or already as a number."""
    if isinstance(value, str):
        known = names(group)
        if value.lower() in known:
            return known[value.lower()]
        raise errors.ArgumentError(f"{field} is {value!r}; known are {', '.join(known)}")
    return integer(value, field)


def name_of(group: str, value: int) -> str:
    """The word of a constant, or the number as text where the library has none for it."""
    word = lib.salf_constant_word(f"SALF_{group}".encode(), value)
    return str(value) if word == NULL else text(word)


# ---- option and result structs ----

# Fields that hold constants, with the group they are of.
GROUPS: Dict[str, str] = {
    "backend": "BACKEND",
    "log_level": "LOG",
    "norm_kind": "NORM",
    "family": "FAMILY",
    "mode": "BASIS",
    "side": "SIDE",
    "prepare": "PREPARE",
    "method": "METHOD",
    "metric": "METRIC",
    "lens": "LENS",
    "scores": "SCORE",
    "eof_rule": "EOF",
    "nonfinite": "NONFINITE",
    "growth": "GROWTH",
    "infill": "INFILL",
    "matching": "MATCH",
    "reduction": "REDUCE",
    "order": "ORDER",
    "vocab_from": "VOCAB",
    "activation": "ACTIVATION",
    "block": "BLOCK",
    "qk_norm": "QK_NORM",
    "rope": "ROPE",
    "assignment": "ASSIGN",
    "stream_order": "STREAM",
    "rates": "RATES",
}


def integer(value: Any, field: str) -> int:
    """A whole number, from anything that is one."""
    try:
        return int(value.__index__())
    except (AttributeError, TypeError):
        if type(value).__name__ == "bool_":  # NumPy's, which is no index
            return int(bool(value))
        raise errors.ArgumentError(f"{field} is {value!r}, not a whole number") from None


def new_struct(name: str) -> Any:
    """A zeroed struct that begins with struct_size."""
    struct = ffi.new(f"{name} *")
    lib.salf_options_init(struct, ffi.sizeof(name))
    return struct


def _field_types(struct: Any) -> Dict[str, str]:
    return _fields_of(ffi.typeof(struct).item.cname)


@functools.cache
def _fields_of(name: str) -> Dict[str, str]:
    return {field: item.type.cname for field, item in ffi.typeof(name).fields}


def set_fields(struct: Any, values: Mapping[str, Any]) -> None:
    """Sets numeric fields of an options struct; names of constants become their numbers, None is left at 0."""
    types = _field_types(struct)
    for field, value in values.items():
        if value is None:
            continue
        if field not in types:
            raise errors.ArgumentError(f"{ffi.typeof(struct).item.cname} has no option {field!r}")
        try:
            if field in GROUPS:
                setattr(struct, field, number_of(GROUPS[field], value, field))
            else:
                setattr(struct, field, float(value) if types[field] == "double" else integer(value, field))
        except errors.ArgumentError:
            raise  # names the field already
        except (TypeError, ValueError) as error:
            raise errors.ArgumentError(f"{field} is {value!r}: {error}") from error
        except OverflowError as error:
            raise errors.OverflowError(f"{field} is {value!r}, which its type {types[field]} cannot hold") from error


def _value_of(struct: Any, field: str) -> Any:
    value = getattr(struct, field)
    if field in GROUPS and isinstance(value, int):
        return name_of(GROUPS[field], value)
    if isinstance(value, (int, float)):
        return value
    return None if value == NULL else text(value)


def record_of(kind: Type[Record], struct: Any, **given: Any) -> Record:
    """A dataclass filled with the fields of the same names of a result struct; what is given goes before."""
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = given[field.name] if field.name in given else _value_of(struct, field.name)
        values[field.name] = bool(value) if field.type == "bool" else value
    return kind(**values)


def optional_text(pointer: Any) -> Optional[str]:
    """A C string, or None for NULL."""
    return None if pointer == NULL else text(pointer)
