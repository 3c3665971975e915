"""The deviation probe: takes the states of a training forward, space by space, and says where each datum may stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

from salf import _arrays, views
from salf._arrays import doubles, whole_numbers
from salf._ffi import NULL, Name, check, ffi, lib, new_struct, number_of, set_fields
from salf._handles import Handle, create
from salf.basis import Basis
from salf.errors import ArgumentError, ShapeError


@dataclass(frozen=True)
class Trace:
    """What a probe found: deviations [rows, n_layers + 1], gains [rows, n_layers], eof [rows]; gains and eof are None
    for a part of the spaces. n_nonfinite counts rows that fell back to full training."""

    rows: int
    n_layers: int
    n_nonfinite: int
    deviations: Any
    gains: Any
    eof: Any

    @classmethod
    def from_deviations(cls, deviations: Any, rule: Name = "most_gain", nonfinite: Name = "error") -> Trace:
        """A trace from deviations that were gathered from several places."""
        _, shape, kept = doubles(deviations, "deviations")
        gains, eof = eof_from_deviations(deviations, rule, nonfinite)
        return cls(shape[0], shape[1] - 1, 0, kept if _arrays.numpy is not None else deviations, gains, eof)

    def as_struct(self) -> Tuple[Any, Tuple[Any, ...]]:
        """A salf_trace over these arrays, and what keeps it alive."""
        deviations, shape, kept = doubles(self.deviations, "deviations")
        if tuple(shape) != (self.rows, self.n_layers + 1):
            raise ShapeError(
                f"deviations of a trace of {self.rows} rows and {self.n_layers} layers have the shape {shape}"
            )
        struct = ffi.new(
            "salf_trace *",
            {"rows": self.rows, "n_layers": self.n_layers, "n_nonfinite": self.n_nonfinite, "deviations": deviations},
        )
        keep: List[Any] = [kept]
        if self.gains is not None:
            struct.gains, shape, kept = doubles(self.gains, "gains")
            if tuple(shape) != (self.rows, self.n_layers):
                raise ShapeError(
                    f"gains of a trace of {self.rows} rows and {self.n_layers} layers have the shape {shape}"
                )
            keep.append(kept)
        if self.eof is not None:
            struct.eof, count, kept = whole_numbers(self.eof, "eof")
            if count != self.rows:
                raise ShapeError(f"a trace of {self.rows} rows has {count} eof")
            keep.append(kept)
        return struct, (struct, *keep)  # a pointer stored in another struct does not keep what it points to


def trace_of(struct: Any) -> Trace:
    """A salf_trace as arrays of its own."""
    rows, n = struct.rows, struct.n_layers
    deviations = _arrays.copied(struct.deviations, [rows, n + 1], "float64")
    gains, eof = _arrays.copied(struct.gains, [rows, n], "float64"), _arrays.copied(struct.eof, [rows], "int32")
    return Trace(rows, n, struct.n_nonfinite, deviations, gains, eof)


def eof_from_deviations(deviations: Any, rule: Name = "most_gain", nonfinite: Name = "error") -> Tuple[Any, Any]:
    """(gains [rows, n_layers], eof [rows]) from deviations [rows, n_layers + 1]."""
    pointer, shape, keep = doubles(deviations, "deviations")
    if len(shape) != 2 or shape[1] < 2:
        raise ShapeError(f"deviations have the shape {shape}; [rows, n_layers + 1] is needed")
    rows, n = shape[0], shape[1] - 1
    gains, gains_at = _arrays.empty([rows, n], "float64")
    eof, eof_at = _arrays.empty([rows], "int32")
    check(
        lib.salf_eof_from_deviations(
            n,
            rows,
            pointer,
            number_of("EOF", rule, "rule"),
            number_of("NONFINITE", nonfinite, "nonfinite"),
            gains_at,
            eof_at,
        )
    )
    del keep
    return gains, eof


class Probe(Handle):
    """A probe for a basis, for any number of batches: begin, observe each space, end.

    metric: "cosine", "ce" or "rank". lens: "hf", "normed" or "raw". scores: "basis" or "logits". eof_rule: "most_gain"
    is the paper's. nonfinite: "error" or "train_fully". n_layers: 0 for the model's. candidates: tokens that ce and
    rank compare with; None for the whole vocabulary. rows_per_datum: neighbouring rows that are one datum of the trace,
    by their mean deviation. A label of -100 leaves its row out; a datum without any has NaN and eof n_layers.
    """

    def __init__(
        self,
        basis: Basis,
        metric: Name = "cosine",
        lens: Name = "hf",
        scores: Name = "basis",
        eof_rule: Name = "most_gain",
        nonfinite: Name = "error",
        n_layers: int = 0,
        temperature: float = 0.0,
        candidates: Any = None,
        rows_per_datum: int = 0,
    ) -> None:
        options = new_struct("salf_probe_options")
        set_fields(
            options,
            {
                "metric": metric,
                "lens": lens,
                "scores": scores,
                "eof_rule": eof_rule,
                "nonfinite": nonfinite,
                "n_layers": n_layers,
                "rows_per_datum": rows_per_datum,
                "temperature": temperature,
            },
        )
        keep = set_candidates(options, candidates)
        self._kept: List[Any] = []
        self._view = ffi.new("salf_tensor *")
        with Basis._of(basis, "basis") as pointer:
            self._owner = create(
                "probe", (basis._owner,), lambda out: lib.salf_probe_create(out, pointer, options), exclusive=True
            )
        del keep
        self.context = basis.context
        self._device, self._on_device = basis.context._device, basis.context._on_device

    def begin(self, labels: Any) -> None:
        """Starts a batch: the right next token of each row. Labels are read in host memory."""
        numbers, count, keep = whole_numbers(labels, "labels")
        with self._use() as pointer:
            self._kept.clear()
            check(lib.salf_probe_begin(pointer, numbers, count))
        del keep

    def observe(self, space: int, states: Any, rows: Any = None, normed: bool = False) -> None:
        """States of one space, [..., D]: 0 is the embedding's output, k + 1 that of layer k. rows chooses those of the
        batch by number, in order of the labels; a RowIndex is read once for all spaces. normed says that they are
        behind the final norm.

        On a device the work is only enqueued. Tensors of PyTorch are then not kept alive: their memory is reused in
        stream order; others are kept until the batch ends."""
        with self._use() as pointer:
            keep = views.fill(self._view, states, f"states of space {space}", self._device, rows)
            if self._on_device:
                self._kept.append(views.outlasting(keep))
            check(lib.salf_probe_observe(pointer, space, self._view, 1 if normed else 0))

    def end(self) -> Trace:
        """Ends the batch and waits for its result."""
        return self._result(lib.salf_probe_end)

    def partial(self) -> Trace:
        """Ends the batch with the spaces seen so far: deviations only, NaN for spaces that were not."""
        return self._result(lib.salf_probe_partial)

    def _result(self, call: Any) -> Trace:
        trace = ffi.new("salf_trace *")
        with self._use() as pointer:
            check(call(pointer, trace))
            self._kept.clear()
            return trace_of(trace)

    def flush(self) -> None:
        """On a device: enqueues the end of the batch and returns."""
        with self._use() as pointer:
            check(lib.salf_probe_flush(pointer))

    def replay(self) -> None:
        """For CUDA graphs: after begin and the launch of a graph that holds observe ... flush of a batch of as many
        rows, takes the place of these calls; end() follows."""
        with self._use() as pointer:
            check(lib.salf_probe_replay(pointer))

    def poll(self) -> bool:
        """Whether end() would not wait."""
        ready = ffi.new("int32_t *")
        with self._use() as pointer:
            check(lib.salf_probe_poll(pointer, ready))
        return bool(ready[0])


def set_candidates(options: Any, candidates: Any) -> Any:
    """Sets the list of tokens in options of a probe or a loss; returns what keeps it alive."""
    if candidates is None:
        return None
    options.candidates, options.n_candidates, keep = whole_numbers(candidates, "candidates")
    if options.n_candidates == 0:
        raise ArgumentError("candidates is empty; None stands for the whole vocabulary")
    return keep


def trace_struct(trace: Optional[Trace]) -> Tuple[Any, Any]:
    """The C struct of a trace that may be None."""
    if trace is None:
        return NULL, None
    if not isinstance(trace, Trace):
        raise ArgumentError(f"trace is {trace!r}, not a salf.Trace")
    return trace.as_struct()
