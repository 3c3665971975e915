"""Probes and losses against NumPy, with every metric, lens and rule."""

import numpy as np
import pytest
from oracle import all_cosines, deviations, probe, pseudo_basis, rms
from small import HIDDEN, LAYERS, VOCAB

import salf
from salf import errors

LABELS = [3, 0, 39, 7, 7]


def test_trace(basis, states, head):
    trace = probe(basis, LABELS, states)
    expected = deviations(states, pseudo_basis(head)[LABELS])
    assert (trace.rows, trace.n_layers, trace.n_nonfinite) == (5, LAYERS, 0)
    assert (trace.deviations.dtype, trace.gains.dtype, trace.eof.dtype) == (np.float64, np.float64, np.int32)
    np.testing.assert_allclose(trace.deviations, expected, atol=2e-6)
    np.testing.assert_array_equal(trace.gains, trace.deviations[:, :-1] - trace.deviations[:, 1:])
    np.testing.assert_array_equal(trace.eof, trace.gains.argmax(1))


@pytest.mark.parametrize("candidates", [None, [0, 3, 7, 39, 12]])
def test_metrics_over_cosines(basis, states, head, candidates):
    scores = all_cosines(states, pseudo_basis(head))
    right = np.stack([scores[:, r, label] for r, label in enumerate(LABELS)], 1)
    among = scores if candidates is None else scores[..., candidates]
    ce = np.log(np.exp(among / 0.3).sum(-1)) - right / 0.3
    found = probe(basis, LABELS, states, metric="ce", temperature=0.3, candidates=candidates)
    np.testing.assert_allclose(found.deviations, ce.T, atol=2e-5)
    rank = (among > right[..., None]).sum(-1)
    found = probe(basis, LABELS, states, metric="rank", candidates=candidates)
    np.testing.assert_array_equal(found.deviations, rank.T)


@pytest.mark.parametrize(
    "settings", [{}, {"logit_scale": 0.5}, {"logit_softcap": 2.0}, {"logit_scale": 3.0, "logit_softcap": 1.5}], ids=str
)
@pytest.mark.parametrize("biased", [False, True])
def test_logits(context, head, states, settings, biased):
    rng = np.random.default_rng(5)
    bias = rng.standard_normal(VOCAB).astype(np.float32)
    weight = np.linspace(0.5, 2, HIDDEN).astype(np.float32)
    model = salf.Model(context, n_layers=LAYERS, head=head, norm_weight=weight, norm_eps=1e-6,
                       logit_bias=bias if biased else None, **settings)  # fmt: skip
    logits = settings.get("logit_scale", 1) * rms(states, 1e-6, weight) @ head.T.astype(np.float64) + bias * biased
    if "logit_softcap" in settings:
        logits = settings["logit_softcap"] * np.tanh(logits / settings["logit_softcap"])
    found = probe(salf.Basis(model), LABELS, states, metric="ce", scores="logits", lens="normed")
    right = np.stack([logits[:, r, label] for r, label in enumerate(LABELS)], 1)
    np.testing.assert_allclose(found.deviations, (np.log(np.exp(logits).sum(-1)) - right).T, atol=2e-5)
    rank = probe(salf.Basis(model), LABELS, states, metric="rank", scores="logits", lens="normed")
    np.testing.assert_array_equal(rank.deviations, (logits > right[..., None]).sum(-1).T)


@pytest.mark.parametrize("lens", ["hf", "normed", "raw"])
def test_lenses(context, head, states, lens):
    weight = np.linspace(-1, 2, HIDDEN).astype(np.float32)
    model = salf.Model(context, n_layers=LAYERS, head=head, norm_weight=weight, norm_eps=1e-5)
    basis = salf.Basis(model, mode="exact")
    seen = states.astype(np.float64)
    normed = rms(states, 1e-5, weight)
    if lens == "normed":
        seen = normed
    if lens == "hf":
        seen[-1] = normed[-1]
    expected = deviations(seen, pseudo_basis(head)[LABELS])
    np.testing.assert_allclose(probe(basis, LABELS, states, lens=lens).deviations, expected, atol=3e-6)
    with salf.Probe(basis, lens=lens) as made:  # the host's own norm, where the lens has it
        made.begin(LABELS)
        for space in range(LAYERS + 1):
            own = lens == "normed" or (lens == "hf" and space == LAYERS)
            made.observe(space, (normed if own else states)[space].astype(np.float32), normed=own)
        np.testing.assert_allclose(made.end().deviations, expected, atol=3e-6)
        made.begin(LABELS)
        if lens != "normed":
            with pytest.raises(errors.ArgumentError, match="raw"):
                made.observe(0, states[0], normed=True)


def test_rules_of_eof():
    table = [[5.0, 4.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]]
    gains, eof = salf.eof_from_deviations(table)
    np.testing.assert_array_equal(gains, [[1, 3, -1], [0, 0, 0]])
    assert eof.tolist() == [1, 0]
    assert salf.eof_from_deviations(table, "least_gain")[1].tolist() == [2, 0]
    assert salf.eof_from_deviations(np.array(table), "least_deviation")[1].tolist() == [1, 0]
    assert salf.eof_from_deviations(table, salf.constant("SALF_EOF_MOST_DEVIATION"))[1].tolist() == [0, 0]
    table[1][2] = float("nan")
    with pytest.raises(errors.NonfiniteError, match="1"):
        salf.eof_from_deviations(table)
    assert salf.eof_from_deviations(table, nonfinite="train_fully")[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    "wrong", [[], [1.0, 2.0], [[1.0]], [["a", "b"]], [[1.0, 2.0], [1.0]], None, [[[1.0, 2.0]]], 3], ids=str
)
def test_deviations_that_are_none(wrong):
    with pytest.raises((errors.ShapeError, errors.DtypeError, errors.ArgumentError)):
        salf.eof_from_deviations(wrong)


def test_no_rows(basis):
    trace = probe(basis, [], np.ones((LAYERS + 1, 0, HIDDEN), np.float32))
    assert (trace.rows, trace.deviations.shape, trace.gains.shape, trace.eof.shape) == (0, (0, 4), (0, 3), (0,))


def test_nonfinite_states(basis, states):
    states[2, 3, 1] = np.inf
    with pytest.raises(errors.NonfiniteError, match=r"3.*2|2.*3"):
        probe(basis, LABELS, states)
    trace = probe(basis, LABELS, states, nonfinite="train_fully")
    assert trace.n_nonfinite == 1
    assert trace.eof[3] == 0


def test_calls_out_of_order(basis, states):
    made = salf.Probe(basis)
    for call in (made.end, made.partial, made.flush, made.poll, lambda: made.observe(0, states[0])):
        with pytest.raises(errors.SequenceError):
            call()
    made.begin(LABELS)
    with pytest.raises(errors.SequenceError, match="space"):
        made.end()
    made.begin(LABELS)
    made.observe(1, states[1])
    with pytest.raises(errors.SequenceError):
        made.observe(0, states[0])
    for space in (-1, LAYERS + 1):
        with pytest.raises(salf.Error, match=str(space)):
            made.observe(space, states[0])
    made.begin(LABELS)  # drops what was begun
    for space, values in enumerate(states):
        made.observe(space, values)
    made.flush()
    assert made.poll() is True
    assert made.end().rows == 5
    with pytest.raises(errors.SequenceError):
        made.end()


def test_parts_of_a_pipeline(basis, states):
    """Each stage sees its own spaces; the parts together decide as one."""
    whole = probe(basis, LABELS, states)
    gathered = np.full((5, LAYERS + 1), np.nan)
    for spaces in ((0, 1), (2, 3)):
        with salf.Probe(basis) as made:
            made.begin(LABELS)
            for space in spaces:
                made.observe(space, states[space])
            part = made.partial()
        assert part.gains is None
        assert part.eof is None
        np.testing.assert_array_equal(np.isnan(part.deviations).all(0), [space not in spaces for space in range(4)])
        gathered[:, spaces] = part.deviations[:, spaces]
    trace = salf.Trace.from_deviations(gathered)
    np.testing.assert_array_equal(trace.eof, whole.eof)
    np.testing.assert_array_equal(trace.gains, whole.gains)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "l2"}, errors.ArgumentError, "cosine, ce, rank"),
        ({"lens": "x"}, errors.ArgumentError, "hf, normed, raw"),
        ({"eof_rule": "x"}, errors.ArgumentError, "most_gain"),
        ({"nonfinite": "x"}, errors.ArgumentError, "train_fully"),
        ({"scores": "x"}, errors.ArgumentError, "basis, logits"), ({"n_layers": -1}, errors.ArgumentError, "n_layers"),
        ({"metric": "ce", "temperature": -1.0}, errors.ArgumentError, "temperature"),
        ({"metric": "ce", "candidates": []}, errors.ArgumentError, "candidates is empty"),
        ({"metric": "ce", "candidates": [VOCAB]}, errors.LabelError, str(VOCAB)),
        ({"metric": "ce", "candidates": [1.5]}, errors.DtypeError, "candidates"),
    ],
    ids=str,
)  # fmt: skip
def test_options_of_a_probe(basis, options, error, message):
    with pytest.raises(error, match=message):
        salf.Probe(basis, **options)


def test_a_basis_without_a_model(context, basis, states, tmp_path):
    basis.save(tmp_path / "b.safetensors")
    alone = salf.Basis.load(context, tmp_path / "b.safetensors")
    with pytest.raises(errors.ArgumentError, match="n_layers"):
        salf.Probe(alone)
    trace = probe(alone, LABELS, states, n_layers=LAYERS, lens="raw")
    np.testing.assert_allclose(trace.deviations, probe(basis, LABELS, states, lens="raw").deviations, atol=1e-7)


# ---- losses ----


def numeric_gradient(function, at):
    gradient, step = np.zeros_like(at), 1e-6
    for index in np.ndindex(at.shape):
        moved = at.copy()
        moved[index] += step
        gradient[index] = (function(moved) - function(at)) / step
    return gradient


@pytest.mark.parametrize("kind", ["cosine", "ce"])
@pytest.mark.parametrize("candidates", [None, [0, 3, 7, 39]])
def test_losses_and_gradients(basis, states, head, kind, candidates):
    table = pseudo_basis(head)
    where = range(VOCAB) if candidates is None else candidates

    def losses(at):
        scores = all_cosines(at, table)
        right = scores[np.arange(5), LABELS]
        return 1 - right if kind == "cosine" else np.log(np.exp(scores[:, where] / 0.5).sum(1)) - right / 0.5

    if kind == "cosine" and candidates:
        candidates = None
    gradient = np.empty((5, HIDDEN), np.float32)
    loss = salf.Loss(basis, kind, temperature=0.5 if kind == "ce" else 0.0, candidates=candidates)
    found = loss.compute(LABELS, states[1], scale=3.0, gradient=gradient)
    at = states[1].astype(np.float64)
    np.testing.assert_allclose(found, losses(at), atol=1e-5)
    np.testing.assert_allclose(gradient, 3 * numeric_gradient(lambda x: losses(x).sum(), at), atol=1e-4)
    np.testing.assert_array_equal(loss.compute(LABELS, states[1]), found)


def test_losses_that_have_no_answer(basis, states):
    loss = salf.Loss(basis)
    with pytest.raises(errors.LabelError, match="99"):
        loss.compute([99], states[0, :1])
    with pytest.raises(errors.ShapeError, match="5 rows for 2 labels"):
        loss.compute([1, 2], states[0])
    states[0, 1] = 0
    with pytest.raises(errors.NumericError, match="1"):
        loss.compute(LABELS, states[0])
    with pytest.raises(errors.ArgumentError, match="cosine, ce"):
        salf.Loss(basis, "mse")
    assert loss.compute([], states[0, :0]).shape == (0,)


def test_a_probe_follows_a_norm_that_is_trained(context, head, states):
    weight, trained = np.linspace(0.5, 2, HIDDEN).astype(np.float32), np.linspace(2, 0.25, HIDDEN).astype(np.float32)
    model = salf.Model(context, n_layers=LAYERS, head=head, norm_weight=weight)
    basis = salf.Basis(model, LABELS)
    before = probe(basis, LABELS, states, lens="normed").deviations.copy()
    model.update(norm_weight=trained)
    basis.check(model)  # of the head alone
    anew = salf.Basis(salf.Model(context, n_layers=LAYERS, head=head, norm_weight=trained), LABELS)
    after = probe(basis, LABELS, states, lens="normed").deviations
    np.testing.assert_array_equal(after, probe(anew, LABELS, states, lens="normed").deviations)
    assert np.abs(after - before).max() > 1e-3
    with pytest.raises(salf.Error, match="made without one"):
        model.update(norm_bias=weight)


def test_a_transposed_head(context, head, states):
    turned = salf.Model(context, n_layers=LAYERS, head=np.ascontiguousarray(head.T), head_transposed=True)
    plain = salf.Model(context, n_layers=LAYERS, head=head)
    assert (turned.info.vocab, turned.info.hidden) == head.shape
    assert turned.fingerprint() == plain.fingerprint()
    found = [probe(salf.Basis(m, LABELS), LABELS, states, metric="ce").deviations for m in (turned, plain)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
