"""SemanticLoss: values and gradients are those of the formula in float64."""

import numpy
import pytest
import torch

import salf
from salf.torch import SemanticLoss

VOCABULARY, HIDDEN, ROWS = 23, 8, 5


@pytest.fixture
def basis():
    head = numpy.random.default_rng(4).standard_normal((VOCABULARY, HIDDEN)).astype(numpy.float32)
    with salf.Context("cpu") as context:
        yield salf.Basis(salf.Model(context, head=head, n_layers=2), list(range(VOCABULARY)))


def expected(basis, kind, states, tokens):
    rows = torch.from_numpy(numpy.asarray(basis.rows(list(range(VOCABULARY))), dtype=numpy.float64))
    cosines = torch.nn.functional.normalize(states, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T
    if kind == "cosine":
        return (1 - cosines[torch.arange(ROWS), tokens]).mean()
    return torch.nn.functional.cross_entropy(cosines / 0.5, tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "options"), [("cosine", {}), ("ce", {"temperature": 0.5})])
def test_loss_and_gradient_are_those_of_the_formula(basis, kind, options, dtype):
    generator = torch.Generator().manual_seed(3)
    given = torch.randn(ROWS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    tokens = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    exact = given.detach().double().requires_grad_()
    wanted = expected(basis, kind, exact, tokens)
    wanted.backward()
    loss = SemanticLoss(basis, kind, **options)(given, tokens)
    (3 * loss).backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6, check_dtype=False)
    near = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-3}
    torch.testing.assert_close(given.grad.double(), 3 * exact.grad, **near)


def test_states_of_another_shape_are_refused(basis):
    with pytest.raises(ValueError, match=r"\(2, 5, 8\)"):
        SemanticLoss(basis)(torch.zeros(2, ROWS, HIDDEN), torch.zeros(ROWS, dtype=torch.long))
