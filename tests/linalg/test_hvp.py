"""Hessian-vector products against the Hessian."""

import pytest
import torch

from torchzero_core.linalg import hvp_autograd, hvp_central, hvp_forward


def loss(params):
    x, y = params
    return (x**4).sum() + (x.sum() * y).exp().sum() * 0.1 + (x[0, 0] * x[1, 1] * y.prod()).sin()


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(2, 2, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    vector = [torch.randn(2, 2, generator=generator, dtype=torch.float64) for _ in range(2)]
    flat = torch.cat([p.detach().reshape(-1) for p in params])
    hessian = torch.autograd.functional.hessian(lambda z: loss([z[:4].view(2, 2), z[4:].view(2, 2)]), flat)
    exact = hessian @ torch.cat([v.reshape(-1) for v in vector])

    def gradient():
        with torch.enable_grad():
            return list(torch.autograd.grad(loss(params), params))

    return params, vector, exact, gradient


def joined(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


def test_autograd_is_exact_and_repeatable(problem):
    params, vector, exact, _ = problem
    grads = torch.autograd.grad(loss(params), params, create_graph=True)
    for _ in range(2):
        assert torch.allclose(joined(hvp_autograd(grads, params, vector)), exact, rtol=1e-12)


def test_forward_and_central_differences_have_their_order(problem):
    params, vector, exact, gradient = problem
    at = gradient()
    forward = [(joined(hvp_forward(gradient, params, vector, at, h)) - exact).norm() for h in (1e-3, 1e-4)]
    central = [(joined(hvp_central(gradient, params, vector, h)) - exact).norm() for h in (1e-2, 1e-3)]
    assert forward[0] / forward[1] == pytest.approx(10, rel=0.05)
    assert central[0] / central[1] == pytest.approx(100, rel=0.05)
    assert central[1] / exact.norm() < 1e-5


def test_the_length_of_the_vector_does_not_matter(problem):
    params, vector, exact, gradient = problem
    tiny = [1e-12 * v for v in vector]
    out = joined(hvp_central(gradient, params, tiny)) * 1e12
    assert torch.allclose(out, exact, rtol=1e-4)


def test_parameters_are_put_back_exactly_also_after_an_error(problem):
    params, vector, _, gradient = problem
    before = [p.detach().clone() for p in params]
    hvp_central(gradient, params, vector)

    def broken():
        raise KeyError("no")

    for call in (lambda: hvp_forward(broken, params, vector, vector), lambda: hvp_central(broken, params, vector)):
        with pytest.raises(KeyError):
            call()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


def test_zero_vectors_linear_functions_and_unused_parameters():
    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    zero = [torch.zeros(2), torch.zeros(3)]

    def never():
        raise AssertionError

    assert all(t.abs().sum() == 0 for t in hvp_forward(never, [x, y], zero, zero))
    assert all(t.abs().sum() == 0 for t in hvp_central(never, [x, y], zero))
    linear = torch.autograd.grad(3 * x.sum(), [x], create_graph=True)
    assert torch.equal(hvp_autograd(linear, [x], [torch.ones(2)])[0], torch.zeros(2))
    grads = torch.autograd.grad((x**2).sum() + 3 * y.sum(), [x, y], create_graph=True)
    out = hvp_autograd(grads, [x, y], [torch.ones(2), torch.ones(3)])
    assert torch.equal(out[0], torch.full((2,), 2.0)) and torch.equal(out[1], torch.zeros(3))
