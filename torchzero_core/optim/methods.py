"""The chains that have a name in ``minimize``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import modules as m
from ..core import Module, Modules, Var
from ..core.closure import Evaluations
from ..core.evaluate import remembering
from ..core.naming import unrolled
from .elsewhere import METHODS as SCIPYS

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
        deterministic: whether the function gives the same value at the same point every time.
    """

    number: int
    eps: float
    lr: float | None = None
    deterministic: bool = True


class SeenGradient(Module):
    """Keeps the gradient that the modules behind it work on, where fun itself has none.

    Where a search has ended the next step starts, and the gradient there, which costs an evaluation or two for each
    unknown, is not evaluated again.

    Args:
        deterministic: whether it is the same at the same point every time.
    """

    needs_gradient = False

    def __init__(self, *, deterministic: bool) -> None:
        super().__init__()
        #: At the start of the last step.
        self.grads: list[Tensor] | None = None
        self._known = Evaluations(word=True) if deterministic else None

    def step(self, var: Var) -> Var:
        """Look at it."""
        if self._known is not None and var.closure is not None:
            var.wrap_closure(remembering(var.closure, self._known, var.params))
        self.grads = var.get_grad()
        return var

    def here(self, params: Sequence[Tensor]) -> Sequence[Tensor | None] | None:
        """The gradient where the parameters are, if a search has evaluated it; else that of the last step's start.

        Args:
            params: the parameters.
        """
        kept = None if self._known is None else self._known.find(params, lambda backward=True: None)
        return self.grads if kept is None else kept.grads


Builder = Callable[[Problem], list[Module]]


def _searched(build: Callable[[Problem], list[Module]]) -> Builder:
    return lambda problem: [*build(problem), m.StrongWolfe()]


def _stepped(build: Callable[[Problem], list[Module]], default: float) -> Builder:
    return lambda problem: [*build(problem), m.LR(default if problem.lr is None else problem.lr)]


def _differences(problem: Problem) -> Module:
    """Differences as long as scipy's."""
    return m.FDM(h=problem.eps ** (1 / 3), relative=True)


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
    "fdm": _searched(lambda p: [_differences(p), SeenGradient(deterministic=p.deterministic), m.LBFGS()]),
}
STEPPED: dict[str, Builder] = {
    "adam": _stepped(lambda problem: [m.Adam()], 1e-2),
    "sgd": _stepped(lambda problem: [m.HeavyBall(0.9)], 1e-3),
    "lion": _stepped(lambda problem: [m.Lion()], 1e-3),
    "spsa": _stepped(lambda problem: [m.SPSA(), m.Adam()], 1e-2),
}
#: These take the residuals of a fit.
FITTED: dict[str, Builder] = {
    "lm": lambda problem: [m.LevenbergMarquardt()],
    "gauss-newton": lambda problem: [m.GaussNewton(), m.Backtracking()],
}
#: These keep to bounds: the number of pairs that :class:`ProjectedLBFGS` remembers.
BOUNDED = {"lbfgs": 10, "gd": 0}
METHODS = {**SEARCHED, **FITTED, **STEPPED}
IN_TURN = (
    "One method after another is tz.m.SwitchWhen([tz.m.Adam(), tz.m.LR(1e-2)], [tz.m.LBFGS(), tz.m.StrongWolfe()], "
    "rules=tz.stopping.MaxSteps(200))."
)
#: Other spellings, as scipy and others have them.
SAME = {
    "l-bfgs": "lbfgs",
    "l-bfgs-b": "lbfgs",
    "newtoncg": "newton-cg",
    "trust-ncg": "trust-cg",
    "nystrompcg": "nystrom-pcg",
    "momentum": "sgd",
    "levenberg-marquardt": "lm",
}


def chain_of(method: str | Modules, problem: Problem) -> list[Module]:
    """The modules of a method.

    Args:
        method: a name, a module, or a list of modules.
        problem: what it is for; with a learning rate only for a name whose chain has one.

    Raises:
        ValueError: an unknown name, or a learning rate where the chain has none or states its own.
        TypeError: something else.
    """
    lr = problem.lr
    if not isinstance(method, str):
        modules: list[Any] = list(method) if isinstance(method, (list, tuple)) else [method]
        if any(isinstance(one, str) for one in modules) or (len(modules) > 1 and _are_chains(modules)):
            raise TypeError(f"A method that is a list is one chain of modules; a name stands alone. {IN_TURN}")
        for module in modules:
            if not isinstance(module, (Module, list, tuple)):
                what = repr(module) if len(repr(module)) < 80 else type(module).__name__
                raise TypeError(f"minimize has no method {what}.{_hint(module)}")
        if lr is not None:
            raise ValueError(f"lr={lr!r} is for methods by name; a chain says it itself: [..., tz.m.LR({lr!r})].")
        return modules
    name = name_of(method)
    if lr is not None and name not in STEPPED:
        raise ValueError(f"The method {method!r} finds its step sizes itself, so it takes no lr.")
    return METHODS[name](problem)


def name_of(method: str) -> str:
    """The name of a method as it stands in the list.

    Args:
        method: as it was written.

    Raises:
        ValueError: an unknown name.
    """
    name = method.lower().replace("_", "-").replace(" ", "-")
    name = SAME.get(name, name)
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        if name in SCIPYS:
            hint = f" scipy's runs as tz.optim.wrappers.ScipyMinimize([x], {name!r})."
        raise ValueError(f"minimize has no method {method!r}; it has {', '.join(METHODS)}, or takes a chain.{hint}")
    return name


def pairs_within_bounds(method: str | Modules | None) -> int:
    """How many pairs the method remembers that keeps to bounds.

    Args:
        method: as it was given.

    Raises:
        ValueError: it does not keep to bounds.
    """
    name = "lbfgs" if method is None else name_of(method) if isinstance(method, str) else None
    if name is None or name not in BOUNDED:
        what = "a chain" if name is None else f"the method {method!r}"
        raise ValueError(
            f"bounds are kept by the methods {' and '.join(map(repr, BOUNDED))} alone, not by {what}. Choose one of "
            "these, or write x as a function of free unknowns, such as lo + (hi - lo)·sigmoid(z), or exp(z) for x > 0."
        )
    return BOUNDED[name]


def _are_chains(modules: Sequence[Any]) -> bool:
    return all(isinstance(one, (list, tuple)) for one in modules)


def _hint(what: Any) -> str:
    """What to write in the place of what is no module."""
    if isinstance(what, type) and issubclass(what, Module):
        return f" Give an object: tz.m.{what.__name__}()."
    if isinstance(what, torch.optim.Optimizer) or (isinstance(what, type) and issubclass(what, torch.optim.Optimizer)):
        return " An optimizer has parameters of its own; give its modules, such as [tz.m.Adam(), tz.m.LR(1e-2)]."
    return (
        " A method is a name such as 'lbfgs', a module, or a list of modules such as [tz.m.BFGS(), tz.m.StrongWolfe()]."
    )


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


def sees_gradient(chain: Modules) -> bool:
    """Whether a chain shows the gradient that it makes itself.

    Args:
        chain: a module, or a list of modules.
    """
    return any(isinstance(one, SeenGradient) for one in _flat(chain))


def takes_residuals(chain: Modules) -> bool:
    """Whether a chain makes loss and gradient of residuals.

    Args:
        chain: a module, or a list of modules.
    """
    return any(isinstance(one, m.GaussNewton) for one in _flat(chain))


def searches(chain: Modules) -> bool:
    """Whether each step of a chain ends at a point that a line search or trust region has chosen.

    Args:
        chain: a module, or a list of modules.
    """
    return any(one.size_effect == "search" for one in _tops(chain))


def _tops(chain: Modules) -> list[Module]:
    """The modules that a chain runs in turn."""
    return [chain] if isinstance(chain, Module) else [one for part in chain for one in _tops(part)]


def _flat(chain: Modules) -> list[Module]:
    """All modules of a chain, depth first, lists and chains themselves left out."""
    return [one for top in _tops(chain) for one in unrolled(top) if not one.is_chain]


__all__ = [
    "METHODS",
    "Problem",
    "SeenGradient",
    "approximates",
    "chain_of",
    "pairs_within_bounds",
    "searches",
    "sees_gradient",
    "takes_residuals",
    "without_gradient",
]
