"""The chains that have a name in ``minimize``."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import modules as m
from ..core import Module, Modules, Var
from ..core.naming import unrolled

#: Up to so many unknowns a function without gradients gets finite differences along each.
FEW = 1000
#: Directions that "nystrom-pcg" looks at the Hessian along.
SKETCH = 20


@dataclass(frozen=True)
class Problem:
    """What a chain by name is built for.

    Attributes:
        number: of unknowns.
        eps: their rounding.
        lr: the learning rate, where one was given.
    """

    number: int
    eps: float
    lr: float | None = None


class SeenGradient(Module):
    """Keeps the gradient that the modules behind it work on, where fun itself has none."""

    def __init__(self) -> None:
        super().__init__()
        #: At the start of the last step.
        self.grads: list[Tensor] | None = None

    def step(self, var: Var) -> Var:
        """Look at it."""
        self.grads = var.get_grad()
        return var


Builder = Callable[[Problem], list[Module]]


def _searched(build: Callable[[Problem], list[Module]]) -> Builder:
    return lambda problem: [*build(problem), m.StrongWolfe()]


def _stepped(build: Callable[[Problem], list[Module]], default: float) -> Builder:
    return lambda problem: [*build(problem), m.LR(default if problem.lr is None else problem.lr)]


#: Chains by name. Those with a line search take no learning rate.
SEARCHED: dict[str, Builder] = {
    "lbfgs": _searched(lambda problem: [m.LBFGS()]),
    "bfgs": _searched(lambda problem: [m.BFGS()]),
    "dfp": _searched(lambda problem: [m.DFP()]),
    "sr1": lambda problem: [m.SR1(), m.StrongWolfe(plus_minus=True)],
    "cg": _searched(lambda problem: [m.PolakRibiere()]),
    "newton": _searched(lambda problem: [m.Newton(eigval_tfm=torch.abs)]),
    "newton-cg": _searched(lambda problem: [m.NewtonCG()]),
    "nystrom-pcg": _searched(lambda problem: [m.NystromPCG(min(problem.number, SKETCH))]),
    "trust-cg": lambda problem: [m.TrustCG()],
    "dogleg": lambda problem: [m.Dogleg()],
    "gd": _searched(lambda problem: []),
    "fdm": _searched(lambda problem: [m.FDM(h=problem.eps ** (1 / 3)), SeenGradient(), m.LBFGS()]),
}
STEPPED: dict[str, Builder] = {
    "adam": _stepped(lambda problem: [m.Adam()], 1e-2),
    "sgd": _stepped(lambda problem: [m.HeavyBall(0.9)], 1e-3),
    "lion": _stepped(lambda problem: [m.Lion()], 1e-3),
    "spsa": _stepped(lambda problem: [m.SPSA(), m.Adam()], 1e-2),
}
METHODS = {**SEARCHED, **STEPPED}
#: Other spellings, as scipy and others have them.
SAME = {
    "l-bfgs": "lbfgs",
    "l-bfgs-b": "lbfgs",
    "newtoncg": "newton-cg",
    "trust-ncg": "trust-cg",
    "nystrompcg": "nystrom-pcg",
    "momentum": "sgd",
}


def chain_of(method: str | Modules, problem: Problem) -> list[Module]:
    """The modules of a method.

    Args:
        method: a name, a module, or a list of modules.
        problem: what it is for; with a learning rate only for a name whose chain has one.

    Raises:
        ValueError: an unknown name, or a learning rate where the chain has none or states its own.
    """
    lr = problem.lr
    if not isinstance(method, str):
        if lr is not None:
            raise ValueError(f"lr={lr!r} is for methods by name; a chain says it itself: [..., tz.m.LR({lr!r})].")
        return [method] if isinstance(method, Module) else list(method)
    name = method.lower().replace("_", "-").replace(" ", "-")
    name = SAME.get(name, name)
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"minimize has no method {method!r}; it has {', '.join(METHODS)}, or takes a chain.{hint}")
    if lr is not None and name in SEARCHED:
        raise ValueError(f"The method {method!r} finds its step sizes itself, so it takes no lr.")
    return METHODS[name](problem)


def without_gradient(number: int) -> str:
    """The method for a function that has no gradient.

    Args:
        number: of unknowns.
    """
    return "fdm" if number <= FEW else "spsa"


def approximates(chain: Modules) -> bool:
    """Whether a chain makes gradients itself from values of the function.

    Args:
        chain: a module, or a list of modules.
    """
    first = next(iter(_flat(chain)), None)
    return isinstance(first, m.GradApproximator)


def searches(chain: Modules) -> bool:
    """Whether each step of a chain ends at a point that a line search or trust region has chosen.

    Args:
        chain: a module, or a list of modules.
    """
    return any(one.size_effect == "search" for one in ([chain] if isinstance(chain, Module) else chain))


def _flat(chain: Modules) -> list[Module]:
    """All modules of a chain, depth first, lists and chains themselves left out."""
    tops = [chain] if isinstance(chain, Module) else list(chain)
    return [one for top in tops for one in unrolled(top) if not one.is_chain]


__all__ = ["METHODS", "Problem", "SeenGradient", "approximates", "chain_of", "searches", "without_gradient"]
