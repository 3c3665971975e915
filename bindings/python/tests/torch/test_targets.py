"""Which tokens are probed: rows by policy, data of several rows, documents of packed batches, preferences."""

import numpy
import pytest
import small_models as small
import torch
from test_trainer import make_trainer

import salf
from salf.torch import FreezeController, RowPolicy, Rows

MASKED = -100


def labels_of(*rows):
    width = max(map(len, rows))
    return torch.tensor([[*row, *[MASKED] * (width - len(row))] for row in rows])


#: Two turns of an assistant, and a datum of one target.
TURNS = labels_of([MASKED, MASKED, 5, 6, MASKED, MASKED, 7, 8, 9], [MASKED, MASKED, MASKED, 4])


def found(rows):
    return list(zip(rows.units.tolist(), rows.data.tolist(), rows.positions.tolist(), rows.tokens.tolist()))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("first_target", [(0, 0, 1, 5), (1, 1, 2, 4)]),
        ("last", [(0, 0, 7, 9), (1, 1, 2, 4)]),
        ("per_turn", [(0, 0, 1, 5), (0, 0, 5, 7), (1, 1, 2, 4)]),
        ("all", [(0, 0, 1, 5), (0, 0, 2, 6), (0, 0, 5, 7), (0, 0, 6, 8), (0, 0, 7, 9), (1, 1, 2, 4)]),
    ],
)
def test_rows_of_a_policy(word, expected):
    assert found(RowPolicy(word).rows(TURNS)) == expected


def test_random_rows_are_of_the_datum():
    """The same ones wherever it stands and however it is padded, others by another seed, all of few."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(1, 90, (40,), generator=generator).tolist()
    alone = labels_of([MASKED, MASKED, *text])
    among = labels_of([MASKED] * 4 + [3, 4], [MASKED] * 9 + text + [MASKED] * 3)
    policy = RowPolicy("random:5", seed=1)
    here, there = found(policy.rows(alone)), found(policy.rows(among))
    assert len(here) == 5
    assert [(p + 7, t) for _, _, p, t in here] == [(p, t) for _, datum, p, t in there if datum == 1]
    assert [(p, t) for _, datum, p, t in there if datum == 0] == [(3, 3), (4, 4)]
    assert found(RowPolicy("random:5", seed=2).rows(alone)) != here
    # Every target has its chance: 200 seeds of 5 of 40.
    counts = numpy.zeros(42)
    for seed in range(200):
        counts[RowPolicy("random:5", seed=seed).rows(alone).positions] += 1
    assert counts.sum() == 1000
    assert counts[1:41].min() > 8
    assert counts[1:41].max() < 50


def test_by_itself_one_target_is_taken_and_of_many_a_sample():
    one = labels_of([MASKED, 3], [MASKED, MASKED, 4])
    assert found(RowPolicy().rows(one)) == [(0, 0, 0, 3), (1, 1, 1, 4)]
    assert RowPolicy().rows(TURNS).n_units == 2
    text = torch.arange(1, 31).expand(2, 30)
    rows = RowPolicy().rows(text)
    assert len(rows) == 16
    assert rows.n_units == 2


#: What tells that a row holds documents of 3, 4 and 2 tokens.
PACKED = {
    "positions": {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1]])},
    "axes": {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1]]).expand(3, 1, 9)},
    "offsets": {"cu_seq_lens_q": torch.tensor([0, 3, 7, 9], dtype=torch.int32)},
    "numbers": {"attention_mask": torch.tensor([[1, 1, 1, 2, 2, 2, 2, 3, 3]])},
}


@pytest.mark.parametrize("told", PACKED)
def test_documents_are_data(told):
    text = torch.arange(11, 20)[None]
    rows = RowPolicy("all").rows(text, PACKED[told])
    # The first token of a document is not looked for in the one before.
    assert found(rows) == [(0, 0, 0, 12), (0, 0, 1, 13), *[(1, 0, p, p + 12) for p in (3, 4, 5)], (2, 0, 7, 19)]
    first = RowPolicy("per_document").rows(text, PACKED[told])
    assert found(first) == [(0, 0, 0, 12), (1, 0, 3, 15), (2, 0, 7, 19)]
    assert list(first.by_row().units) == [0, 0, 0]


def test_padding_is_no_document():
    text = torch.tensor([[0, 0, 5, 6, 7], [5, 6, 7, 0, 0]])
    mask = (text != 0).long()
    labels = torch.where(mask.bool(), text, MASKED)
    for positions in ((mask.cumsum(1) - 1).masked_fill(mask == 0, 1), (mask.cumsum(1) - 1) * mask, None):
        inputs = {"attention_mask": mask}
        if positions is not None:
            inputs["position_ids"] = positions
        rows = RowPolicy("all").rows(labels, inputs)
        assert rows.n_units == 2
        assert set(rows.positions.tolist()) == {1, 2, 3, 0}  # 1: the padding before the first token of the first row


def test_preferences_are_pairs():
    """Chosen answers, then the rejected ones, of the same prompts: a pair is one datum, probed at the chosen."""
    ids = torch.tensor([[1, 2, 5, 6], [3, 4, 7, 0], [1, 2, 8, 9], [3, 4, 9, 9]])
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    inputs = {"input_ids": ids, "completion_mask": mask}
    expected = [(0, 0, 1, 5), (0, 0, 2, 6), (1, 1, 1, 7)]
    assert found(RowPolicy().rows(None, inputs)) == expected
    assert found(RowPolicy("pairs").rows(None, inputs)) == expected
    other = {**inputs, "input_ids": torch.cat([ids[:2], ids[2:] + 1])}  # other prompts: four data
    assert RowPolicy().rows(None, other).n_units == 4
    with pytest.raises(ValueError, match="the batch has 3 rows"):
        RowPolicy("pairs").rows(None, {name: value[:3] for name, value in inputs.items()})


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("middle", "rows is 'middle'; known are 'auto', 'first_target'"),
        ("random", "how many targets"),
        ("random:0", "how many targets"),
        ("random:x", "how many targets"),
        ("last:3", "rows is 'last:3'; known"),
    ],
)
def test_a_policy_that_is_none(word, message):
    with pytest.raises(ValueError, match=message):
        RowPolicy(word)


def test_what_has_no_rows():
    with pytest.raises(ValueError, match="shows no documents"):
        RowPolicy("per_document").rows(TURNS, {"position_ids": torch.arange(9).expand(2, 9)})
    with pytest.raises(ValueError, match="neither labels nor input_ids"):
        RowPolicy().rows(None, {"input_ids": TURNS})
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \[batch, tokens\]"):
        RowPolicy().rows(torch.tensor([0, 1, 2]))
    assert len(RowPolicy().rows(torch.full((2, 5), MASKED))) == 0


# ---- the mean of a datum ----


@pytest.mark.parametrize("method", ["salf", "salf[ce]"])
def test_the_trace_of_a_datum_is_the_mean_of_its_rows(method):
    model = small.make_model("llama")
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(1, small.VOCABULARY, (3, 12), generator=generator)
    labels = ids.clone()
    labels[:, :5] = MASKED
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, method, rows="all", optimizer=optimizer) as controller:
        controller.begin(labels)
        controller.backward(model(input_ids=ids, labels=labels).loss)
        mean = controller.trace
        rows = controller.row_policy.rows(labels)
        single = Rows(rows.positions, rows.tokens, rows.data, range(len(rows)))
        controller.begin(rows=single)
        controller.backward(model(input_ids=ids, labels=labels).loss)
        each = controller.trace.deviations
    expected = numpy.stack([each[rows.data == datum].mean(axis=0) for datum in range(3)])
    assert mean.rows == 3
    assert each.shape == (21, 5)
    assert numpy.allclose(mean.deviations, expected, rtol=1e-14)
    gains, eof = salf.probe.eof_from_deviations(expected)
    assert numpy.allclose(mean.gains, gains)
    assert list(mean.eof) == list(eof)


def test_a_packed_batch_gives_the_traces_of_its_documents():
    """Documents in a row of their own, and in one row with a mask between them, have the same deviations."""
    model = small.make_model("llama").eval()
    lengths = (4, 7, 5)
    texts = [torch.arange(3 + 10 * k, 3 + 10 * k + n) for k, n in enumerate(lengths)]
    packed = torch.cat(texts)[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    document = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    seen = (document[:, None] == document[None]) & (torch.arange(16)[:, None] >= torch.arange(16)[None])
    mask = torch.zeros(16, 16).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    with FreezeController(model, "salf", rows="all") as controller:
        inputs = {"input_ids": packed, "position_ids": positions}
        together = controller.measure(packed, lambda: model(**inputs, attention_mask=mask), inputs)
        apart = [controller.measure(text[None], lambda text=text: model(input_ids=text[None])) for text in texts]
    assert together.rows == 3
    expected = numpy.concatenate([trace.deviations for trace in apart])
    assert numpy.allclose(together.deviations, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["salf[half][stream]", "salf prefix"])
def test_rows_with_cuts_of_their_own_are_data(method):
    """A row of documents has one cut, by the mean of all its rows."""
    model = small.make_model("llama")
    ids, _ = small.make_batch(rows=4, tokens=10)
    positions = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4]).expand(4, 10)
    options = {"planner": {"n_data": 8}} if "stream" in method else {"policy": {"reduction": "prefix"}}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, method.split(" ")[0], optimizer=optimizer, **options) as controller:
        controller.begin(ids, inputs={"position_ids": positions})
        controller.backward(model(input_ids=ids, labels=ids).loss)
        assert controller.trace.rows == 4
        assert len(controller.decision.eof) == 4


def test_pairs_take_one_cut():
    model = small.make_model("llama")
    ids, _ = small.make_batch(rows=4, tokens=10)
    mask = torch.zeros_like(ids)
    mask[:, 6:] = 1
    ids[2:, :6] = ids[:2, :6]
    inputs = {"input_ids": ids, "completion_mask": mask}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, "salf", optimizer=optimizer) as controller:
        controller.begin(inputs=inputs)
        controller.backward(model(input_ids=ids, labels=ids).loss)
        assert controller.trace.rows == 2
    options = {"policy": {"reduction": "prefix"}}
    with FreezeController(model, "salf", **options) as controller, pytest.raises(ValueError, match="pair.*one cut"):
        controller.begin(inputs=inputs)


# ---- rows that tell nothing ----


def test_the_first_token_of_all_data_is_refused(tmp_path):
    """labels = input_ids, and the first target is asked for: the state is that of the first token."""
    model = small.make_model("llama")
    ids, _ = small.make_batch(rows=8)
    message = r"all of the first 8 data .* first token.*'random:k'.*'per_turn'"
    with FreezeController(model, "salf", rows="first_target") as one, pytest.raises(ValueError, match=message):
        one.begin(ids)
    mask = torch.cat([torch.zeros(8, 2, dtype=torch.long), torch.ones_like(ids)], 1)
    padded = torch.cat([torch.full((8, 3), MASKED), ids[:, 1:]], 1)
    with FreezeController(model, "salf", rows="first_target") as two, pytest.raises(ValueError, match=message):
        two.begin(padded, inputs={"attention_mask": mask})

    class Texts(small.Items):
        def __getitem__(self, index):
            return {"input_ids": self.ids[index], "labels": self.ids[index]}

    trainer = make_trainer(tmp_path, "salf", data=Texts())
    trainer.train()  # by itself a sample of the targets is looked at
    assert len({tuple(row) for row in trainer.controller.trace.deviations}) == 4


def test_one_target_for_all_data_is_refused(caplog):
    model = small.make_model("llama")
    ids, labels = small.make_batch(rows=20)
    labels[labels != MASKED] = 9
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, "salf", optimizer=optimizer) as controller:
        controller.begin(labels)
        controller.drop()
        with pytest.raises(ValueError, match=r"first 40 data .* one and the same next token, 9.*rows='first_target'"):
            controller.begin(labels)
    with FreezeController(model, "salf", rows="first_target", optimizer=optimizer) as controller:
        for _ in range(4):
            controller.begin(labels)
            controller.drop()
    assert caplog.text.count("one and the same next token, 9") == 1
    with FreezeController(model, "salf", optimizer=optimizer) as controller:
        for last in (9, 9, 9, 4):
            other = labels.clone()
            other[0][labels[0] != MASKED] = last
            controller.begin(other if last == 4 else labels[:8])
            controller.drop()
