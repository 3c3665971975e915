"""Basis rows and deviations of three trained models against reference values that a program of its own computed."""

import re

import numpy as np
import pytest
from llama import last_states
from oracle import probe

import salf

MODELS = ["stories260k", "stories656k", "stories3m"]


@pytest.fixture(params=MODELS)
def trained(request, context, shared):
    return request.param, salf.Model.open(context, shared / "models" / request.param)


@pytest.mark.parametrize("rtol", ["0", "0.1"])
def test_basis_rows(trained, shared, rtol):
    name, model = trained
    path = shared / "reference" / f"basis_{name}_rtol{rtol}.tsv"
    lines = path.read_text().splitlines()
    told = re.search(r"rank (\d+); largest (\S+) smallest (\S+)", lines[0])
    expected = np.array([[float(value) for value in line.split("\t")] for line in lines if line[0] != "#"])
    basis = salf.Basis(model, mode="exact" if rtol == "0" else "rtol", rtol=float(rtol))
    rows = basis.rows(expected[:, 0].astype(int))
    error = np.linalg.norm(rows - expected[:, 1:], axis=1) / np.linalg.norm(expected[:, 1:], axis=1)
    assert len(expected) == 10
    assert error.max() < 1e-9
    assert basis.info.rank == int(told[1])
    assert basis.info.sigma_max == pytest.approx(float(told[2]), rel=1e-6)
    assert basis.info.sigma_min == pytest.approx(float(told[3]), rel=1e-2)


def read_lines(path):
    """(line number, label, tokens, lens, metric, deviations, eof) of each line."""
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            continue
        number, label, tokens, lens, metric, *values = line.split("\t")
        yield (int(number), int(label), [int(token) for token in tokens.split(",")], lens, metric,
               np.array([float(value) for value in values[:-1]]), int(values[-1]))  # fmt: skip


def test_deviations_and_eof(trained, shared):
    name, model = trained
    basis = salf.Basis(model, mode="exact")
    states, compared = {}, 0
    for number, label, tokens, lens, metric, expected, eof in read_lines(
        shared / "reference" / f"deviations_{name}_trec.tsv"
    ):
        if number not in states:
            states[number] = last_states(model, tokens)
        trace = probe(basis, [label], states[number][:, None], lens=lens, metric=metric)
        tolerance = 3 if metric == "rank" else 1e-5  # ranks may move where similarities are closer than rounding
        np.testing.assert_allclose(trace.deviations[0], expected, rtol=0, atol=tolerance)
        found = int(trace.eof[0])
        if found != eof:  # another layer only where its gain is as good to rounding
            assert trace.gains[0, found] - trace.gains[0, eof] <= 2 * tolerance
        compared += 1
    assert compared == 12 * 6
