"""Norms, heads and logits are described by what they compute, and parts are found by what they do."""

import copy
import dataclasses

import numpy
import pytest
import small_models as small
import torch
import transformers
from torch import nn

from salf.torch import FreezeController, find_parts
from salf.torch.measure import fit_head, fit_norm

D, V, M = 24, 61, 3


class Rms(nn.Module):
    """RMSNorm in the ways it is written: plus is added to the weight, outside: eps is added to the root."""

    def __init__(self, eps=1e-6, plus=0.0, bias=False, outside=False, weight=True, size=D):
        super().__init__()
        self.epsilon_of_this = eps
        self.plus, self.outside = plus, outside
        self.gain = nn.Parameter(torch.randn(size) * 0.3 + 1 - plus) if weight else None
        self.shift = nn.Parameter(torch.randn(size) * 0.3) if bias else None

    def forward(self, x):
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        square = wide.pow(2).mean(-1, keepdim=True)
        length = square.sqrt() + self.epsilon_of_this if self.outside else (square + self.epsilon_of_this).sqrt()
        x = (wide / length).to(x.dtype)
        x = x if self.gain is None else x * (self.gain + self.plus)
        return x if self.shift is None else x + self.shift


class Layer1p(nn.LayerNorm):
    """LayerNorm with 1 + weight, under the name of another."""

    def forward(self, x):
        return nn.functional.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class Tanh(nn.Module):
    """A norm that is none of the known."""

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(D))

    def forward(self, x):
        return torch.tanh(0.7 * x) * self.alpha


def noisy(module):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module


NORMS = {
    "rms": (lambda: Rms(), "rms", 1e-6),
    "rms without weight": (lambda: Rms(weight=False), "rms", 1e-6),
    "rms of a large eps": (lambda: Rms(eps=0.01), "rms", 0.01),
    "rms of a small eps": (lambda: Rms(eps=1e-12), "rms", 1e-12),
    "rms without eps": (lambda: Rms(eps=0.0), "rms", 0.0),
    "1 + weight": (lambda: Rms(plus=1.0), "rms1p", 1e-6),
    "layer": (lambda: noisy(nn.LayerNorm(D)), "layer", 1e-5),
    "layer of an odd eps": (lambda: noisy(nn.LayerNorm(D, eps=3.7e-4)), "layer", 3.7e-4),
    "layer without weight": (lambda: nn.LayerNorm(D, elementwise_affine=False), "layer", 1e-5),
    "layer as it is made": (lambda: nn.LayerNorm(D), "layer", 1e-5),
    "layer with 1 + weight": (lambda: noisy(Layer1p(D)), "layer", 1e-5),
    "rms that is one in two": (lambda: nn.Sequential(Rms(), nn.Identity()), "rms", 1e-6),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_what_it_computes(name, dtype):
    torch.manual_seed(3)
    make, kind, eps = NORMS[name]
    module = make().to(dtype)
    fit = fit_norm(module, D)
    assert (fit.kind, fit.error <= 1e-5) == (kind, True)
    assert fit.eps == pytest.approx(eps, rel=1e-4, abs=1e-14)
    x = torch.randn(40, D, dtype=torch.float64) * torch.logspace(-5, 3, 40, dtype=torch.float64).unsqueeze(1)
    precise = copy.deepcopy(module).double()
    wanted = precise(x).detach()
    error = (fit.apply(x) - wanted).abs().amax(1) / wanted.abs().amax(1)
    # What is printed as three digits of eps is exact where the module's own eps is.
    assert float(error.max()) < 1e-5


def test_a_fresh_norm_of_zeros_has_one_added():
    module = Rms(plus=1.0)
    nn.init.zeros_(module.gain)
    assert fit_norm(module, D).kind == "rms1p"
    module = Rms()
    nn.init.ones_(module.gain)
    assert fit_norm(module, D).kind == "rms"


@pytest.mark.parametrize("make", [lambda: Rms(bias=True), lambda: Rms(eps=0.1, outside=True), Tanh])
def test_what_no_formula_reproduces_has_no_kind(make):
    torch.manual_seed(4)
    assert fit_norm(make(), D).kind == ""


# ---- heads ----


class Turned(nn.Module):
    """A head that stores its matrix the other way round."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(D, V))
        self.bias = nn.Parameter(torch.randn(V))

    def forward(self, x):
        return x @ self.weight + self.bias


class Adapted(nn.Linear):
    """A head with a small adapter beside its matrix."""

    def __init__(self, scale):
        super().__init__(D, V, bias=False)
        self.a, self.b = nn.Parameter(torch.randn(2, D)), nn.Parameter(scale * torch.randn(V, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.a.t() @ self.b.t()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_head_is_the_matrix_that_reproduces_it(dtype):
    torch.manual_seed(5)
    plain, turned = nn.Linear(D, V).to(dtype), Turned().to(dtype)
    fit = fit_head(plain, plain.weight, D)
    assert fit.matrix is plain.weight
    assert fit.bias is plain.bias
    fit = fit_head(turned, turned.weight, D)
    assert (fit.matrix is turned.weight, fit.transposed, fit.bias is turned.bias) == (True, True, True)
    for scale, says in ((1.0, "something else"), (1e-3, "something else"), (0.0, "")):
        adapted = Adapted(scale).to(dtype)
        assert says in fit_head(adapted, adapted.weight, D).problem
        assert bool(fit_head(adapted, adapted.weight, D).problem) == bool(says)


# ---- a model of no known build ----


class Cell(nn.Module):
    def __init__(self, mixes=True, causal=True):
        super().__init__()
        self.mixes, self.causal = mixes, causal
        self.inside = nn.Linear(D, D)

    def forward(self, x):
        if self.mixes:
            count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype).unsqueeze(1)
            x = x + (x.cumsum(1) / count if self.causal else x.mean(1, keepdim=True))
        return x + torch.tanh(self.inside(x))


class Reader(nn.Module):
    """A decoder whose names say nothing. post: from the head's product to the logits; before: ahead of the norm."""

    def __init__(self, norm=None, head=None, post=None, before=None, keyword=False, **cell):
        super().__init__()
        self.words = nn.Embedding(V, D)
        self.tower = nn.Module()
        self.tower.cells = nn.ModuleList(Cell(**cell) for _ in range(M))
        self.last_thing = Rms() if norm is None else norm
        self.out = nn.Linear(D, V, bias=False) if head is None else head
        self.post, self.before, self.keyword = post, before, keyword
        self.count = 0

    def forward(self, ids):
        self.count += 1
        x = self.words(ids)
        for cell in self.tower.cells:
            x = cell(x=x) if self.keyword else cell(x)
        if self.before is not None:
            x = self.before(x)
        x = self.out(self.last_thing(x))
        return x if self.post is None else self.post(x)


def reader(**options):
    torch.manual_seed(6)
    return Reader(**options)


def batch():
    torch.manual_seed(7)
    ids = torch.randint(0, V, (5, 8))
    labels = torch.full_like(ids, -100)
    labels[torch.arange(5), torch.arange(5) + 2] = ids[torch.arange(5), torch.arange(5) + 2]
    return {"ids": ids, "labels": labels}


def expected_last(model, given, normed):
    """1 - cos of the normed state with the pseudo-inverse's row, in NumPy."""
    rows, positions = torch.nonzero(given["labels"][:, 1:] != -100, as_tuple=True)
    tokens = given["labels"][rows, positions + 1]
    basis = numpy.linalg.pinv(model.out.weight.detach().double().numpy()).T[tokens]
    states = normed[rows, positions].detach().double().numpy()
    return 1 - (basis * states).sum(1) / numpy.linalg.norm(basis, axis=1) / numpy.linalg.norm(states, axis=1)


def deviations(model, given, **options):
    with FreezeController(model, "salf", **options) as controller:
        return controller.measure(given["labels"], lambda: model(given["ids"])).deviations


@pytest.mark.parametrize("keyword", [False, True])
def test_parts_are_found_by_what_they_do(keyword):
    if keyword and int(torch.__version__.split(".")[0]) < 2:
        pytest.skip("hooks of this PyTorch do not see keywords")
    model = reader(keyword=keyword)
    parts = find_parts(model)
    assert parts.layers == tuple(model.tower.cells)
    assert (parts.norm, parts.head) == (model.last_thing, model.out)
    assert (parts.norm_kind, parts.norm_eps, parts.problem, parts.logits_problem) == ("rms", 1e-6, "", "")
    seen = []
    model.last_thing.register_forward_hook(lambda _m, _i, output: seen.append(output))
    given = batch()
    found = deviations(model, given, parts=parts)
    numpy.testing.assert_allclose(found[:, -1], expected_last(model, given, seen[-1]), atol=1e-6)


@pytest.mark.parametrize("norm", [Tanh, lambda: Rms(bias=True), lambda: Rms(eps=0.1, outside=True)])
def test_a_norm_without_a_formula_is_observed(norm):
    torch.manual_seed(8)
    model = reader(norm=norm())
    assert find_parts(model).norm_kind == "observed"
    seen = []
    model.last_thing.register_forward_hook(lambda _m, _i, output: seen.append(output))
    given = batch()
    found = deviations(model, given)
    numpy.testing.assert_allclose(found[:, -1], expected_last(model, given, seen[-1]), atol=1e-6)
    with pytest.raises(ValueError, match="lens 'normed' needs a formula"):
        FreezeController(model, "salf", probe={"lens": "normed"})
    assert deviations(model, given, probe={"lens": "raw"}).shape == (5, M + 1)


def test_a_norm_that_reads_another_state_is_observed():
    model = reader(before=lambda x: 0.5 * x)
    assert find_parts(model).norm_kind == "observed"
    with FreezeController(model, "salf") as controller:
        controller.verify({"ids": batch()["ids"]}, rows=rows_of(batch())).check()


def rows_of(given):
    from salf.torch import Rows

    return Rows.from_labels(given["labels"])


def test_no_norm_is_no_norm():
    model = reader(norm=nn.Identity())
    parts = find_parts(model)
    assert (parts.norm, parts.norm_kind, parts.problem) == (None, "none", "")
    given = batch()
    for lens in ("hf", "normed", "raw"):
        with FreezeController(model, "salf", probe={"lens": lens}) as controller:
            controller.verify({"ids": given["ids"]}, rows=rows_of(given)).check()


CAPS = {
    "nothing": (None, 0.0, 0.0, 0),
    "scale": (lambda x: x * 0.0625, 0.0625, 0.0, 0),
    "divisor": (lambda x: x / 12, 1 / 12, 0.0, 0),
    "cap": (lambda x: 30 * torch.tanh(x / 30), 0.0, 30.0, 0),
    "cap and scale": (lambda x: 15 * torch.tanh(x * 0.25 / 15), 0.25, 15.0, 0),
    "masked": (lambda x: x.index_fill(2, torch.tensor([3, 4]), -1e9), 0.0, 0.0, 2),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", CAPS)
def test_logits_are_described(name, bias):
    post, scale, cap, masked = CAPS[name]
    model = reader(post=post, head=nn.Linear(D, V, bias=bias))
    parts = find_parts(model)
    assert parts.logits_problem == ""
    assert (parts.logit_scale, parts.logit_softcap) == (pytest.approx(scale, rel=1e-6), cap)
    assert parts.logit_fit.masked == masked
    assert (parts.head_fit.bias is model.out.bias) or not bias
    if not masked:
        options = {"metric": "ce", "scores": "logits"}
        with FreezeController(model, "salf", probe=options) as controller:
            controller.verify({"ids": batch()["ids"]}, rows=rows_of(batch())).check()


def test_logits_of_another_form_are_refused_where_they_count():
    model = reader(post=lambda x: x**3)
    with pytest.raises(ValueError, match="scores 'logits' cannot be had.*scale and a soft cap"):
        FreezeController(model, "salf", probe={"scores": "logits", "metric": "ce"})
    with FreezeController(model, "salf") as controller:
        controller.verify({"ids": batch()["ids"]}, rows=rows_of(batch())).check()


def test_states_that_are_not_contiguous_are_read():
    class Turning(Cell):
        def forward(self, x):
            return super().forward(x).transpose(0, 1).contiguous().transpose(0, 1)

    model = reader()
    model.tower.cells[1] = Turning()
    with FreezeController(model, "salf") as controller:
        controller.verify({"ids": batch()["ids"]}, rows=rows_of(batch())).check()


def test_a_turned_head_is_taken_by_its_rows():
    model = reader(head=Turned())
    with FreezeController(model, "salf") as controller:
        assert controller.parts.head_weight.shape == (V, D)
        controller.verify({"ids": batch()["ids"]}, rows=rows_of(batch())).check()


# ---- what is refused, and how it is called ----


class Looped(Reader):
    def forward(self, ids):
        x = self.words(ids)
        for _ in range(2):
            for cell in self.tower.cells:
                x = cell(x)
        return self.out(self.last_thing(x))


class Streams(Reader):
    def forward(self, ids):
        x = torch.stack([self.words(ids)] * 2)
        for cell in self.tower.cells:
            x = torch.stack([cell.inside(part) for part in cell_of(cell, x)])
        return self.out(self.last_thing(x.mean(0)))


def cell_of(cell, x):
    return cell(x.flatten(0, 1)).view(x.shape)


class Projected(Reader):
    def __init__(self):
        super().__init__(head=nn.Linear(8, V))
        self.down = nn.Linear(D, 8)

    def forward(self, ids):
        x = self.words(ids)
        for cell in self.tower.cells:
            x = cell(x)
        return self.out(self.down(self.last_thing(x)))


class Transformed(Reader):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(D, D)

    def forward(self, ids):
        x = self.words(ids)
        for cell in self.tower.cells:
            x = cell(x)
        return self.out(torch.relu(self.dense(self.last_thing(x))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reader(causal=False), "is an encoder: its states depend on tokens that are still to come"),
        (Projected, "projected head: it reads 8 columns where the layers' states have 24"),
        (Transformed, "transformed head"),
        (lambda: Reader(head=Adapted(1.0)), "something else than a product with the matrix"),
    ],
)
def test_a_probe_is_refused_in_one_sentence(make, message):
    torch.manual_seed(9)
    model = make()
    with pytest.raises(ValueError, match=message):
        FreezeController(model, "salf")
    with FreezeController(model, "lift", others="train", policy={"total_steps": 4}) as controller:
        assert controller.n_layers == M  # turns need no head


def test_a_transformed_head_is_taken_once_its_norm_is_named():
    torch.manual_seed(9)
    model = Transformed()
    with pytest.raises(ValueError, match="name norm='last_thing' to compare the states before it"):
        FreezeController(model, "salf", others="train")
    parts = find_parts(model, norm="last_thing")
    assert (parts.norm_kind, parts.problem) == ("rms", "")
    seen = []
    model.last_thing.register_forward_hook(lambda _m, _i, output: seen.append(output))
    given = batch()
    found = deviations(model, given, parts=parts, others="train")
    numpy.testing.assert_allclose(found[:, -1], expected_last(model, given, seen[-1]), atol=1e-6)
    with pytest.raises(ValueError, match="scores 'logits' cannot be had of this model: a dense layer"):
        FreezeController(model, "salf", parts=parts, others="train", probe={"scores": "logits", "metric": "ce"})


def test_layers_that_run_twice_are_refused():
    with pytest.raises(ValueError, match="run 2 times in a forward"):
        find_parts(Looped())


def test_layers_that_share_a_parameter_are_refused():
    model = reader()
    model.tower.cells[2].inside.weight = model.tower.cells[0].inside.weight
    with pytest.raises(ValueError, match=r"layers 0 and 2 share the parameter 'inside.weight'"):
        find_parts(model)


def _small(config, **extra):
    return config(
        hidden_size=D, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=V, pad_token_id=0,
        **extra,
    )  # fmt: skip


def test_encoder_decoders_encoders_and_class_heads_are_refused_as_such():
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=D, d_ff=32, num_layers=2, num_heads=4, d_kv=6, vocab_size=V)
    )
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
        find_parts(t5)
    with pytest.raises(ValueError, match="BertLMHeadModel is an encoder"):
        FreezeController(transformers.BertLMHeadModel(_small(transformers.BertConfig)), "salf", others="train")
    classes = transformers.LlamaForSequenceClassification(_small(transformers.LlamaConfig, num_labels=3))
    with pytest.raises(ValueError, match="no head over a vocabulary: a classification head"):
        FreezeController(classes, "salf", others="train")
    opt = transformers.OPTForCausalLM(
        transformers.OPTConfig(
            hidden_size=D, word_embed_proj_dim=8, ffn_dim=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=V,
            max_position_embeddings=32, do_layer_norm_before=False,
        )
    )  # fmt: skip
    with pytest.raises(ValueError, match="projected head: it reads 8 columns"):
        FreezeController(opt, "salf", others="train")


def test_a_model_without_values_says_so():
    with torch.device("meta") if hasattr(torch, "get_default_device") else pytest.skip("an older PyTorch"):
        model = small.make_model("llama")
    parts = find_parts(model)
    assert len(parts.layers) == 4
    with pytest.raises(ValueError, match="has no values here .meta device"):
        FreezeController(model, "salf", parts=parts)


def test_a_kind_that_is_not_so_is_refused():
    with pytest.raises(ValueError, match="norm_kind is 'rms', but the norm of class Gemma2RMSNorm computes 'rms1p'"):
        find_parts(small.make_model("gemma2"), norm_kind="rms")
    parts = find_parts(small.make_model("gemma2"))
    with pytest.raises(ValueError, match="norm_kind is 'rms', but Gemma2RMSNorm computes 'rms1p'"):
        FreezeController(parts.base, "salf", parts=dataclasses.replace(parts, norm_kind="rms"))


def test_a_forward_that_cannot_be_run_is_told_with_its_reason():
    class Two(Reader):
        def forward(self, ids, pictures):
            return super().forward(ids) + pictures

    model = Two()
    with pytest.raises(ValueError, match=r"forward was not run: TypeError.*pictures"):
        find_parts(model)
    ids = torch.randint(0, V, (2, 6))
    parts = find_parts(model, example={"ids": ids, "pictures": torch.zeros(1)})
    assert (parts.norm_kind, parts.problem) == ("rms", "")


def test_the_model_comes_out_as_it_went_in():
    model = reader()
    model.train()
    model.tower.cells[1].eval()
    model.tower.cells[0].inside.weight.requires_grad_(False)
    called = []
    handles = [model.out.register_forward_hook(lambda *_: called.append(1))]
    modes = [m.training for m in model.modules()]
    before = torch.get_rng_state()
    values = {n: p.detach().clone() for n, p in model.named_parameters()}
    find_parts(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in model.modules()] == modes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == [
        int(m is model.out) for m in model.modules()
    ]
    assert all(p.grad is None and torch.equal(p, values[n]) for n, p in model.named_parameters())
    assert not model.tower.cells[0].inside.weight.requires_grad
    assert (model.count, len(called)) == (2, 2)  # one forward to see, one for the logits
    handles[0].remove()


# ---- norms that train ----


@pytest.mark.parametrize("lens", ["hf", "normed"])
def test_a_norm_that_trains_is_followed(lens):
    model = reader()
    given = batch()
    options = {"policy": {"train_head": True}, "probe": {"lens": lens}}
    with FreezeController(model, "salf", **options) as controller:
        with torch.no_grad():
            model.last_thing.gain.mul_(torch.linspace(0.2, 3, D))
        if lens == "normed":
            controller.refresh()
        controller.verify({"ids": given["ids"]}, rows=rows_of(given)).check()


# ---- verify ----


def test_verify_finds_what_is_wrong():
    model = reader()
    parts = find_parts(model)
    fit = dataclasses.replace(parts.norm_fit, weight=parts.norm_fit.weight.detach().flip(0))
    given = batch()
    with FreezeController(model, "salf", parts=dataclasses.replace(parts, norm_fit=fit)) as controller:
        found = controller.verify({"ids": given["ids"]}, rows=rows_of(given))
        assert not found.ok
        assert max(found.differences[:-1]) < 1e-6 < found.differences[-1] == found.worst
        with pytest.raises(RuntimeError, match=rf"spaces {M}: "):
            found.check()
        assert found.to_dict()["ok"] is False
        with pytest.raises(ValueError, match="no labels"):
            controller.verify({"ids": given["ids"]})
        controller.begin(given["labels"])
        with pytest.raises(RuntimeError, match="a batch is announced"):
            controller.verify({"ids": given["ids"]}, rows=rows_of(given))
    with (
        FreezeController(model, "lift", policy={"total_steps": 4}) as controller,
        pytest.raises(ValueError, match="no probe"),
    ):
        controller.verify({"ids": given["ids"]})


@pytest.mark.parametrize("family", small.FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lens": "normed"},
        {"metric": "rank"},
        {"metric": "ce", "temperature": 0.1},
        {"metric": "ce", "scores": "logits"},
        {"metric": "rank", "scores": "logits", "candidates": list(range(1, small.VOCABULARY, 2)), "odd": True},
    ],
    ids=str,
)
def test_deviations_are_those_of_the_models_own_states(family, options):
    ids, labels = small.make_batch()
    options = dict(options)
    if options.pop("odd", False):
        labels = torch.where(labels > 0, labels | 1, labels)
    for dtype in (torch.float32, torch.bfloat16):
        with FreezeController(small.make_model(family).to(dtype), "salf", probe=options) as controller:
            found = controller.verify({"input_ids": ids, "labels": labels})
            found.check()
            assert found.rows == 6
            assert dtype is not torch.float32 or options.get("lens") or found.states == "hidden_states"


@pytest.mark.parametrize("basis", [{}, {"mode": "exact"}, {"mode": "ridge", "ridge": 0.5}], ids=str)
def test_every_basis_is_verified(basis):
    ids, labels = small.make_batch()
    with FreezeController(small.make_model("llama"), "salf", basis=basis) as controller:
        controller.verify({"input_ids": ids, "labels": labels}).check()
