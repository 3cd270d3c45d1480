"""A module that changes the gradients of the closure, and methods that take theirs from the graph of the loss."""

import pytest
import torch

import torchzero_core as tz

m = tz.m
SCALES, LINEAR = (
    torch.tensor([1.0, 4.0, 10.0], dtype=torch.float64),
    torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64),
)
METHODS = {
    "Newton": lambda: m.Newton(reg=0.0),
    "NewtonCG": lambda: m.NewtonCG(hvp_method="autograd", reg=0.0),
    "NystromPCG": lambda: m.NystromPCG(3, reg=1e-12, tol=1e-12),
    "TrustExact": m.TrustExact,
}


def problem(*chain):
    p = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], *chain)

    def closure(backward=True):
        loss = (SCALES * p**2).sum() / 2 - LINEAR @ p
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    return p, optimizer, closure


@pytest.mark.parametrize("wrap", [lambda modules: modules, lambda modules: [m.Multistep(modules, 1)]])
@pytest.mark.parametrize("name", ["Newton", "NewtonCG", "NystromPCG"])
def test_weight_decay_in_the_closure_is_not_lost(name, wrap):
    decay = 0.3
    p, optimizer, closure = problem(m.WeightDecay(decay, target="closure"), *wrap([METHODS[name]()]))
    start = p.detach().clone()
    optimizer.step(closure)
    # the gradient has the decay, the Hessian of the loss has not
    expected = start - (SCALES * start - LINEAR + decay * start) / SCALES
    torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-5)
    for _ in range(60):
        optimizer.step(closure)
    torch.testing.assert_close(p.detach(), LINEAR / (SCALES + decay), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_clipped_gradients_of_the_closure_are_clipped(name):
    p, optimizer, closure = problem(m.ClipNorm(0.1, target="closure"), METHODS[name]())
    start = p.detach().clone()
    optimizer.step(closure)
    gradient = SCALES * start - LINEAR
    expected = start - 0.1 * gradient / gradient.norm() / SCALES
    torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-5)


def test_without_it_one_evaluation_is_enough():
    _, optimizer, closure = problem(m.Newton())
    optimizer.step(closure)
    assert optimizer.last_step.evaluations == 1
    _, optimizer, closure = problem(m.ClipNorm(1e9, target="closure"), m.Newton())
    optimizer.step(closure)
    assert optimizer.last_step.evaluations == 2
