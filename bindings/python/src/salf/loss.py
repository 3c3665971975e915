"""Semantic losses: the loss of each row and its gradient with respect to the state."""

from __future__ import annotations

from typing import Any, Tuple

from salf import _arrays, views
from salf._arrays import whole_numbers
from salf._ffi import NULL, Name, check, lib, new_struct, number_of, set_fields
from salf._handles import Handle, create
from salf.basis import Basis
from salf.errors import ShapeError
from salf.probe import set_candidates


class Loss(Handle):
    """kind "cosine": 1 - cos(h, b_l); "ce": cross-entropy over softmax(cos(h, b_i) / temperature), over the whole
    vocabulary or candidates."""

    def __init__(self, basis: Basis, kind: Name = "cosine", temperature: float = 0.0, candidates: Any = None) -> None:
        options = new_struct("salf_loss_options")
        set_fields(options, {"kind": number_of("LOSS", kind, "kind"), "temperature": temperature})
        keep = set_candidates(options, candidates)
        with Basis._of(basis, "basis") as pointer:
            self._owner = create(
                "loss", (basis._owner,), lambda out: lib.salf_loss_create(out, pointer, options), exclusive=True
            )
        del keep
        self.context = basis.context
        self._kept: Tuple[Any, ...] = ()

    def compute(
        self,
        labels: Any,
        states: Any,
        scale: float = 1.0,
        gradient: Any = None,
        losses: Any = None,
        rows: Any = None,
        gradient_rows: Any = None,
    ) -> Any:
        """The loss of each row, float32. states: [..., D] after the final norm; gradient: float32 [..., D], which gets
        scale times the gradient. rows and gradient_rows choose rows of either by number. losses: float32 [rows] to
        write to; a new array otherwise. With states, losses and gradient on a device the work is only enqueued."""
        device = self.context._device
        numbers, count, keep = whole_numbers(labels, "labels")
        given, keep_states = views.view(states, "states", device, rows)
        if given.rows != count:
            raise ShapeError(f"states: {given.rows} rows for {count} labels")
        target: Any = NULL
        keep_gradient: Tuple[Any, ...] = ()
        if gradient is not None:
            target, keep_gradient = views.view(gradient, "gradient", device, gradient_rows, views.F32, writable=True)
        if losses is None:
            losses = _arrays.empty([count], "float32")[0]
        place, keep_losses = views.view_column(losses, "losses", device)
        with self._use() as pointer:
            if self.context._on_device:  # the work is only enqueued; the next call is behind it in the stream
                self._kept = views.outlasting((*keep_states, *keep_gradient, keep_losses))
            check(lib.salf_loss_compute(pointer, numbers, given, scale, place, target))
        del keep, keep_states, keep_gradient, keep_losses
        return losses
