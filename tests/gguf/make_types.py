#!/usr/bin/env python3
"""Writes types.gguf beside this script: for each quantised type that the library widens, a tensor NAME of random blocks
and a tensor NAME.f32 with what the package gguf makes of them; and one of a type that is refused. Needs numpy and gguf
(0.19.0 wrote the committed file). tests/unit/test_gguf.c compares the two bit for bit."""

import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

TYPES = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS, Type.MXFP4]
ROWS, COLS = 3, 512


def draw_block(rng, kind, size):
    """Random bytes; drawn again while a scale is infinite or not a number, whose bits say little."""
    while True:
        block = rng.integers(0, 256, size, dtype=np.uint8)
        with np.errstate(all="ignore"):
            if np.isfinite(gguf.quants.dequantize(block[None, :], kind)).all():
                return block


def main():
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(pathlib.Path(__file__).with_name("types.gguf"), "none")
    for kind in TYPES:
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        rows = np.stack([np.concatenate([draw_block(rng, kind, size) for _ in range(COLS // elements)]) for _ in range(ROWS)])
        if kind in (Type.Q4_0, Type.Q8_0):
            rows[0, :2] = 1, 0  # the smallest subnormal scale
        writer.add_tensor(kind.name, rows, raw_dtype=kind)
        writer.add_tensor(kind.name + ".f32", gguf.quants.dequantize(rows, kind))
    writer.add_tensor("TQ1_0", np.zeros((1, 54), np.uint8), raw_dtype=Type.TQ1_0)
    writer.add_tensor("F64", np.arange(6.0).reshape(2, 3) / 7, raw_dtype=Type.F64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
