"""A differential equation solved by a network: Adam, and then a method that sees curvature.

The network is to satisfy the nonlinear oscillator u″ + u + u³ = f(t) at 256 points of [0, 2π], where f is chosen so that the solution
is sin(t)·exp(cos(t)); u(0) = 0 and u′(0) = e are built in. Every method has the same 25 seconds on one core, starts
from the same weights, in float64. Adam alone has its best learning rate of three, with a cosine schedule to the end.
The others begin as Adam for 500 steps; then ``SwitchWhen`` hands over.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

import torchzero_core as tz
from examples.showing import Shown, best, show

m = tz.m
SECONDS = 25.0
AFTER_ADAM = {
    "Adam, then L-BFGS": [m.LBFGS(history_size=50), m.StrongWolfe()],
    "Adam, then NystromPCG": [m.NystromPCG(rank=40, seed=0), m.StrongWolfe()],
    "Adam, then Newton-CG": [m.NewtonCG(maxiter=200), m.StrongWolfe()],
}


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """The network, the points and the right-hand side."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)).double()
    t = torch.linspace(0, 2 * math.pi, 256, dtype=torch.float64).unsqueeze(1).requires_grad_()
    f = second_derivative(exact(t), t).detach() + exact(t).detach() + exact(t).detach() ** 3
    return net, t, f


def exact(t: Tensor) -> Tensor:
    """The solution."""
    return t.sin() * t.cos().exp()


def second_derivative(u: Tensor, t: Tensor) -> Tensor:
    """u″."""
    (du,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    return torch.autograd.grad(du.sum(), t, create_graph=True)[0]
