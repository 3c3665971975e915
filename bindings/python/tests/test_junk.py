"""Any argument may be anything: a call works, or raises an exception of this package or of Python, and the next one
works."""

import random

import numpy as np
import pytest
from small import HIDDEN, LAYERS, VOCAB

import salf

JUNK = [
    None,
    True,
    -1,
    0,
    1,
    2,
    7,
    2**31 - 1,
    2**31,
    -(2**31),
    2**63,
    2**64,
    -(2**70),
    0.5,
    -1.0,
    float("nan"),
    float("inf"),
    1e300,
    "",
    "salf",
    "cosine",
    "cpu",
    "\0",
    b"",
    b"\xff" * 9,
    [],
    [1],
    [1, 2, 3],
    [-1],
    [2**40],
    [1.5],
    ["x"],
    [[1, 2]],
    (),
    {},
    set(),
    object(),
    int,
    print,
    lambda *_: None,
    lambda *_: 1,
    range(3),
    memoryview(b"1234"),
    bytearray(8),
    1j,
    np.zeros((0, 0), np.float32),
    np.ones(HIDDEN, np.float32),
    np.ones((5, HIDDEN), np.float32),
    np.ones((5, HIDDEN)),
    np.ones((VOCAB, HIDDEN), np.float32),
    np.full((5, HIDDEN), np.nan, np.float32),
    np.ones((5, HIDDEN), np.float32).T,
    np.arange(5),
    np.arange(5, dtype=np.int32),
    np.arange(5, dtype=np.uint64),
    np.ones((3, 4, 5, 6)),
    np.array("x"),
    np.array(None),
    np.float32(3),
    np.bool_(True),
    np.int64(2),
    np.zeros(5, "M8[s]"),
    np.ones((5, LAYERS + 1)),
    np.zeros((5, 3), np.float16),
]
ALLOWED = (salf.Error, TypeError, ValueError, OverflowError, AttributeError, KeyError, MemoryError)


def targets(context, head, folder):
    """(what to call, good arguments), afresh each time."""
    states = np.ones((5, HIDDEN), np.float32)
    model = salf.Model(context, n_layers=LAYERS, head=head)
    basis = salf.Basis(model, [1, 2])
    probe, loss, planner = salf.Probe(basis), salf.Loss(basis), salf.Planner(context, LAYERS, 20)
    probe.begin([1] * 5)
    planner.next(5)
    builder = salf.BasisBuilder(context, VOCAB, HIDDEN, [1])
    trace = salf.Trace.from_deviations(np.random.default_rng(0).standard_normal((5, LAYERS + 1)))
    policy = salf.Policy(context, "salf", LAYERS)
    return [
        (
            salf.Context,
            {"backend": "cpu", "device": 0, "threads": 1, "stream": None, "workspace_limit": 0, "log_level": 2},
        ),
        (
            salf.Model,
            {
                "context": context,
                "n_layers": LAYERS,
                "head": head,
                "hidden": HIDDEN,
                "vocab": VOCAB,
                "valid_vocab": 0,
                "tied": False,
                "norm_kind": "rms",
                "norm_eps": 0.0,
                "norm_weight": None,
                "norm_bias": None,
                "logit_bias": None,
                "logit_scale": 0.0,
                "logit_softcap": 0.0,
                "head_rows": None,
            },
        ),
        (
            salf.Basis,
            {
                "model": model,
                "labels": [1],
                "mode": "exact",
                "rtol": 0.0,
                "ridge": 0.0,
                "side": "output",
                "prepare": "labels",
            },
        ),
        (
            salf.BasisBuilder,
            {"context": context, "vocab": VOCAB, "hidden": HIDDEN, "labels": [1], "mode": 0, "rtol": 0.0},
        ),
        (
            salf.Probe,
            {
                "basis": basis,
                "metric": "ce",
                "lens": "hf",
                "scores": "basis",
                "eof_rule": 0,
                "nonfinite": 0,
                "n_layers": 0,
                "temperature": 0.0,
                "candidates": None,
            },
        ),
        (salf.Loss, {"basis": basis, "kind": "ce", "temperature": 0.0, "candidates": None}),
        (
            salf.Policy,
            {
                "context": context,
                "kind": "lisa",
                "n_layers": LAYERS,
                "reduction": 0,
                "planner": None,
                "callback": None,
                "script": None,
                "first_layer": 0,
                "order": 0,
                "interval": 2,
                "total_steps": 9,
                "seed": 1,
                "n_active": 1,
                "start": 0.0,
                "level": 0.0,
                "percentile": 0.0,
            },
        ),
        (
            salf.estimate_cost,
            {
                "n_layers": 2,
                "hidden": 8,
                "ffn_hidden": 8,
                "vocab": 9,
                "n_heads": 2,
                "rows": 5,
                "row_tokens": 3,
                "matrices": 0,
                "eof": None,
                "trainable": None,
                "cut": 0,
                "metric": 0,
            },
        ),
        (basis.rows, {"labels": [1], "dtype": "float64"}),
        (basis.save, {"path": folder / "b"}),
        (basis.check, {"model": model}),
        (probe.begin, {"labels": [1] * 5}),
        (probe.observe, {"space": 0, "states": states, "rows": None, "normed": False}),
        (
            loss.compute,
            {"labels": [1] * 5, "states": states, "scale": 1.0, "gradient": None, "losses": None, "rows": None},
        ),
        (planner.next, {"max_data": 3}),
        (planner.report, {"eof": [0] * 5}),
        (planner.set_eof, {"first": 0, "eof": [0]}),
        (planner.stage, {"layer": 0}),
        (planner.load, {"state": planner.save()}),
        (policy.load, {"state": policy.save()}),
        (
            policy.decide,
            {"step": 0, "trace": trace, "gradient_l1": None, "gradient_norm": None, "parameter_norm": None},
        ),
        (builder.add, {"first": 0, "rows": head}),
        (builder.merge, {"other": builder}),
        (builder.finish, {"model": model}),
        (salf.eof_from_deviations, {"deviations": trace.deviations, "rule": 0, "nonfinite": 0}),
        (
            salf.Trace,
            {
                "rows": 5,
                "n_layers": LAYERS,
                "n_nonfinite": 0,
                "deviations": trace.deviations,
                "gains": trace.gains,
                "eof": trace.eof,
            },
        ),
        (
            salf.save_tensors,
            {"context": context, "path": folder / "t", "tensors": {"a": states}, "metadata": {"k": "v"}},
        ),
        (salf.Tensors.open, {"context": context, "path": folder / "t"}),
        (salf.RowIndex, {"rows": [1]}),
        (salf.constant, {"name": "SALF_OK"}),
    ]


def use(made, context):
    """What came out of a call that took the junk is used once."""
    if isinstance(made, salf.Trace):
        salf.Policy(context, "salf", LAYERS).decide(0, made)
    elif isinstance(made, salf.Policy):
        made.decide(0)
    elif isinstance(made, salf.Model):
        salf.Basis(made, [0])


@pytest.mark.parametrize("seed", range(30))
def test_junk(head, tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)  # some junk is a file name
    rng = random.Random(seed)
    failed = 0
    with salf.Context("cpu") as context:
        for call, good in targets(context, head, tmp_path):
            for _ in range(6):
                given = dict(good)
                for name in rng.sample(sorted(given), k=min(len(given), rng.choice([1, 1, 2]))):
                    given[name] = rng.choice(JUNK)
                try:
                    use(call(**given), context)
                except ALLOWED:
                    failed += 1
        assert salf.Basis(salf.Model(context, n_layers=1, head=head), [3]).info.n_labels == 1
    assert failed > 40
