"""Prices of training steps from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence, Union

from salf._arrays import whole_numbers
from salf._ffi import Name, check, lib, new_struct, number_of, record_of, set_fields
from salf.errors import ShapeError


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of a training step; full_total is that of the same step with nothing frozen."""

    forward: float
    activation_gradient: float
    weight_gradient: float
    head: float
    probe: float
    total: float
    full_total: float
    step_saving: float
    depth_saving: float


def _mask(matrices: Union[Name, Sequence[Name]]) -> int:
    if isinstance(matrices, (str, int)):
        return number_of("MATRIX", matrices, "matrices")
    mask = 0
    for item in matrices:
        mask |= number_of("MATRIX", item, "matrices")
    return mask


def estimate_cost(
    *,
    n_layers: int,
    hidden: int,
    ffn_hidden: int,
    vocab: int,
    n_heads: int,
    rows: int,
    row_tokens: int,
    n_kv_heads: int = 0,
    head_dim: int = 0,
    gated_ffn: bool = False,
    lora_rank: int = 0,
    matrices: Union[Name, Sequence[Name]] = 0,
    head_positions: int = 0,
    probe: bool = False,
    metric: Name = "cosine",
    train_embedding: bool = False,
    train_head: bool = False,
    eof: Any = None,
    trainable: Any = None,
    cut: int = 0,
) -> Cost:
    """Prices a step. matrices: which train, such as ("q", "v"); 0 for all. eof: cut of each row, or cut for all.
    trainable: a truth value for each layer; None for all layers from cut up."""
    options, keep = new_struct("salf_cost_options"), []
    set_fields(
        options,
        {
            "n_layers": n_layers,
            "hidden": hidden,
            "ffn_hidden": ffn_hidden,
            "vocab": vocab,
            "n_heads": n_heads,
            "n_kv_heads": n_kv_heads,
            "head_dim": head_dim,
            "gated_ffn": gated_ffn,
            "lora_rank": lora_rank,
            "matrices": _mask(matrices),
            "rows": rows,
            "row_tokens": row_tokens,
            "head_positions": head_positions,
            "probe": probe,
            "metric": metric,
            "train_embedding": train_embedding,
            "train_head": train_head,
            "cut": cut,
        },
    )
    if eof is not None:
        options.eof, count, kept = whole_numbers(eof, "eof")
        keep.append(kept)
        if count != rows:
            raise ShapeError(f"{count} eof for {rows} rows")
    if trainable is not None:
        options.trainable, count, kept = whole_numbers([int(bool(item)) for item in trainable], "trainable", "uint8")
        keep.append(kept)
        if count != n_layers:
            raise ShapeError(f"trainable has {count} values for {n_layers} layers")
    cost = new_struct("salf_cost")
    check(lib.salf_cost_estimate(options, cost))
    return record_of(Cost, cost)
