"""Recipes: the chains of well-known optimizers, as lists of modules to print, to change and to put into ``tz.Modular``.

``tz.Modular(model, *tz.recipes.adamw(lr=3e-4))`` is an optimizer. A recipe is nothing but its list: insert a module,
replace one, or take what you need. The names are also those of optimizers in YAML (``optimizer: adamw``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal, TypeAlias

from . import modules as m
from .core import Module
from .core.near import did_you_mean, same

Recipe: TypeAlias = Callable[..., list[Module]]
#: How products with the Hessian are computed.
Products: TypeAlias = Literal["autograd", "forward", "central"]


# -- gradient descent --------------------------------------------------------------------------------------------------
def sgd(lr: float = 1e-2, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> list[Module]:
    """Gradient descent with momentum. It equals ``torch.optim.SGD``.

    Args:
        lr: the learning rate.
        momentum: of the average of gradients; 0 for none.
        nesterov: look ahead.
        weight_decay: of an L2 penalty.

    Example:
        >>> import torchzero_core as tz
        >>> tz.recipes.sgd(lr=0.1, momentum=0.9)
        [HeavyBall(momentum=0.9, dampening=0, debiased=False, lerp=False, ema_init='update'), LR(lr=0.1)]
    """
    if nesterov and not momentum:
        raise ValueError("sgd(nesterov=True) needs a momentum, for example momentum=0.9.")
    kind = m.NAG if nesterov else m.HeavyBall
    return [*_l2(weight_decay), *([kind(momentum)] if momentum else []), m.LR(lr)]


def sgdw(lr: float = 1e-2, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 1e-2) -> list[Module]:
    """Gradient descent with momentum and decoupled weight decay (Loshchilov & Hutter 2019).

    Args:
        lr: the learning rate.
        momentum: of the average of gradients.
        nesterov: look ahead.
        weight_decay: how much of the parameters a step takes off, times lr.
    """
    *chain, rate = sgd(lr, momentum, nesterov)
    return [*chain, m.WeightDecay(weight_decay), rate]


def signum(lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0) -> list[Module]:
    """The sign of an average of gradients (Bernstein et al. 2018).

    Args:
        lr: how far each element moves.
        momentum: decay of the average.
        weight_decay: decoupled, times lr.
    """
    return [m.HeavyBall(momentum), m.Sign(), *_decoupled(weight_decay), m.LR(lr)]


def asgd(lr: float = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6) -> list[Module]:
    """Gradient descent with a decaying step size and averaged parameters. It equals ``torch.optim.ASGD``.

    Args:
        lr: the learning rate.
        lambd: decay of the parameters and of the step size.
        alpha: the power of the step size's decay.
        t0: the step from which on parameters are averaged.
    """
    return [m.ASGD(lr, lambd, alpha, t0)]


# -- adaptive methods --------------------------------------------------------------------------------------------------
def adam(
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
) -> list[Module]:
    """Adam (Kingma & Ba 2015). It equals ``torch.optim.Adam``.

    Args:
        lr: the learning rate.
        beta1: decay of the average of gradients.
        beta2: decay of the average of squares.
        eps: added to the root.
        weight_decay: of an L2 penalty; decoupled it is in :func:`adamw`.
        amsgrad: divide by the root of the largest average so far.
    """
    return [*_l2(weight_decay), m.Adam(beta1, beta2, eps, amsgrad), m.LR(lr)]


def adamw(
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
) -> list[Module]:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019). It equals ``torch.optim.AdamW``.

    Args:
        lr: the learning rate.
        beta1: decay of the average of gradients.
        beta2: decay of the average of squares.
        eps: added to the root.
        weight_decay: how much of the parameters a step takes off, times lr.
        amsgrad: divide by the root of the largest average so far.

    Example:
        >>> import torch, torchzero_core as tz
        >>> chain = tz.recipes.adamw(lr=3e-4)
        >>> [type(module).__name__ for module in chain]
        ['Adam', 'WeightDecay', 'LR']
        >>> chain.insert(0, tz.m.ClipNorm(1.0))
        >>> optimizer = tz.Modular(torch.nn.Linear(2, 2), *chain)
    """
    return [m.Adam(beta1, beta2, eps, amsgrad), m.WeightDecay(weight_decay), m.LR(lr)]


def cautious_adamw(
    lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-2
) -> list[Module]:
    """AdamW that leaves elements alone where step and gradient disagree (Liang et al. 2024).

    Args:
        lr: the learning rate.
        beta1: decay of the average of gradients.
        beta2: decay of the average of squares.
        eps: added to the root.
        weight_decay: decoupled, times lr.
    """
    return [m.Adam(beta1, beta2, eps), m.Cautious(), m.WeightDecay(weight_decay), m.LR(lr)]


def nadam(
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
) -> list[Module]:
    """Adam with Nesterov's momentum (Dozat 2016). It equals ``torch.optim.NAdam``.

    Args:
        lr: the learning rate.
        beta1: decay of the average of gradients.
        beta2: decay of the average of squares.
        eps: added to the root.
        weight_decay: of an L2 penalty.
        momentum_decay: how fast the momentum rises to beta1.
    """
    return [*_l2(weight_decay), m.NAdam(beta1, beta2, eps, momentum_decay), m.LR(lr)]


def radam(
    lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> list[Module]:
    """Adam that rectifies the variance of its first steps (Liu et al. 2020). It equals ``torch.optim.RAdam``.

    Args:
        lr: the learning rate.
        beta1: decay of the average of gradients.
        beta2: decay of the average of squares.
        eps: added to the root.
        weight_decay: of an L2 penalty.
    """
    return [*_l2(weight_decay), m.RAdam(beta1, beta2, eps), m.LR(lr)]


def adamax(
    lr: float = 2e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> list[Module]:
    """Adam with a maximum in the place of the root (Kingma & Ba 2015). It equals ``torch.optim.Adamax``.

    Args:
        lr: the learning rate.
        beta1: decay of the average of gradients.
        beta2: decay of the maximum.
        eps: added to each magnitude.
        weight_decay: of an L2 penalty.
    """
    return [*_l2(weight_decay), m.Adamax(beta1, beta2, eps), m.LR(lr)]


def adagrad(lr: float = 1e-2, lr_decay: float = 0.0, eps: float = 1e-10, weight_decay: float = 0.0) -> list[Module]:
    """Divides by the root of the sum of squares (Duchi et al. 2011). It equals ``torch.optim.Adagrad``.

    Args:
        lr: the learning rate.
        lr_decay: how fast the step shrinks.
        eps: added to the root.
        weight_decay: of an L2 penalty.
    """
    return [*_l2(weight_decay), m.Adagrad(lr_decay, eps=eps), m.LR(lr)]


def adadelta(lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0) -> list[Module]:
    """Scales by averages of past steps over past gradients (Zeiler 2012). It equals ``torch.optim.Adadelta``.

    Args:
        lr: the learning rate.
        rho: decay of the averages.
        eps: added to the squares.
        weight_decay: of an L2 penalty.
    """
    return [*_l2(weight_decay), m.Adadelta(rho, eps), m.LR(lr)]


def rmsprop(
    lr: float = 1e-2,
    smoothing: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
) -> list[Module]:
    """Divides by the root of an average of squares. It equals ``torch.optim.RMSprop``.

    Args:
        lr: the learning rate.
        smoothing: decay of the average; torch calls it alpha.
        eps: added to the root.
        momentum: of what comes out; 0 for none.
        centered: divide by the root of the variance.
        weight_decay: of an L2 penalty.
    """
    heavy = [m.HeavyBall(momentum)] if momentum else []
    return [*_l2(weight_decay), m.RMSprop(smoothing, eps, centered, init="zeros"), *heavy, m.LR(lr)]


def rprop(
    lr: float = 1e-2, nplus: float = 1.2, nminus: float = 0.5, lb: float = 1e-6, ub: float = 50.0
) -> list[Module]:
    """Resilient propagation, for gradients without noise. It equals ``torch.optim.Rprop``.

    Args:
        lr: the step sizes at first.
        nplus: what a step size grows by.
        nminus: what it shrinks by.
        lb: the least step size.
        ub: the largest.
    """
    return [m.Rprop(nplus, nminus, lb, ub, backtrack=False, alpha=lr)]


def adafactor(lr: float = 1e-2, weight_decay: float = 0.0, beta2_decay: float = -0.8, d: float = 1.0) -> list[Module]:
    """Adam in little memory: squares by rows and columns (Shazeer & Stern 2018). It equals ``torch.optim.Adafactor``.

    Args:
        lr: the largest relative step.
        weight_decay: decoupled, times lr.
        beta2_decay: the power with which averages grow longer.
        d: the largest root mean square of a step that is not clipped.
    """
    decay = [m.DirectWeightDecay(weight_decay)] if weight_decay else []  # behind: the scale is of the weights before
    return [m.Adafactor(lr, beta2_decay, d=d), *decay]


def lion(lr: float = 1e-4, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.1) -> list[Module]:
    """The sign of an average of gradients, found by search (Chen et al. 2023).

    Args:
        lr: how far each element moves; a third to a tenth of Adam's.
        beta1: decay of the average that gives the sign.
        beta2: decay of the average that is kept.
        weight_decay: decoupled, times lr; three to ten times Adam's.
    """
    return [m.Lion(beta1, beta2), m.WeightDecay(weight_decay), m.LR(lr)]


def grams(
    lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-2
) -> list[Module]:
    """Adam's magnitudes with the gradient's signs (Cao et al. 2024).

    Args:
        lr: the learning rate.
        beta1: decay of the average of gradients.
        beta2: decay of the average of squares.
        eps: added to the root.
        weight_decay: decoupled, times lr.
    """
    return [m.Adam(beta1, beta2, eps), m.GradSign(), m.WeightDecay(weight_decay), m.LR(lr)]


def laprop(
    lr: float = 4e-4, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-15, weight_decay: float = 0.0
) -> list[Module]:
    """Momentum of normalised gradients (Ziyin et al. 2020).

    Args:
        lr: the learning rate.
        beta1: decay of the average of normalised gradients.
        beta2: decay of the average of squares.
        eps: added to the root.
        weight_decay: decoupled, times lr.
    """
    normalised = m.RMSprop(beta2, eps, debiased=True, init="zeros")
    return [normalised, m.EMA(beta1, debiased=True), *_decoupled(weight_decay), m.LR(lr)]


# -- methods for matrices ----------------------------------------------------------------------------------------------
def muon(lr: float = 0.02, momentum: float = 0.95, nesterov: bool = True, weight_decay: float = 0.1) -> list[Module]:
    """Momentum made orthogonal, for matrices alone (Jordan et al. 2024); a whole model takes :func:`muon_adam`.

    Args:
        lr: the learning rate.
        momentum: decay of the average.
        nesterov: look ahead.
        weight_decay: decoupled, times lr.
    """
    return [m.Muon(momentum, nesterov), m.WeightDecay(weight_decay), m.LR(lr)]


def muon_adam(
    lr: float = 1e-3,
    momentum: float = 0.95,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> list[Module]:
    """Muon for the hidden matrices, AdamW for all else, both with Adam's learning rate (Liu et al. 2025).

    It needs the model: ``tz.Modular(model, ...)``. ``optimizer.modules[0].choice()`` says what goes where.

    Args:
        lr: the learning rate of both.
        momentum: Muon's.
        beta1: Adam's.
        beta2: Adam's.
        eps: Adam's.
        weight_decay: decoupled, times lr.
    """
    split = m.Split("hidden_matrices", m.Muon(momentum, adjust_lr=True), m.Adam(beta1, beta2, eps))
    return [split, m.WeightDecay(weight_decay), m.LR(lr)]


def shampoo(lr: float = 1e-3, update_freq: int = 10, beta: float = 0.95, weight_decay: float = 1e-2) -> list[Module]:
    """Preconditions each dimension of a tensor (Gupta et al. 2018), with the step lengths of Adam (Anil et al. 2020).

    Args:
        lr: the learning rate, as for Adam.
        update_freq: how often roots of matrices are computed anew, in steps.
        beta: decay of the matrices.
        weight_decay: decoupled, times lr.
    """
    graft = m.GraftModules(m.Shampoo(beta=beta, update_freq=update_freq), m.Adam())
    return [graft, m.WeightDecay(weight_decay), m.LR(lr)]


def soap(
    lr: float = 3e-3, beta1: float = 0.95, beta2: float = 0.95, precond_freq: int = 10, weight_decay: float = 1e-2
) -> list[Module]:
    """Adam in the eigenbasis of Shampoo's matrices (Vyas et al. 2024).

    Args:
        lr: the learning rate.
        beta1: decay of the average of gradients.
        beta2: decay of the average of squares.
        precond_freq: how often bases are turned, in steps.
        weight_decay: decoupled, times lr.
    """
    return [m.SOAP(beta1, beta2, precond_freq=precond_freq), m.WeightDecay(weight_decay), m.LR(lr)]


# -- methods that evaluate the loss themselves -------------------------------------------------------------------------
def gradient_descent() -> list[Module]:
    """Gradient descent that finds its step size by backtracking (Armijo 1966). It needs a closure."""
    return [m.AdaptiveBacktracking()]


def cg() -> list[Module]:
    """Nonlinear conjugate gradients of Polak and Ribière with an accurate line search. It needs a closure."""
    return [m.PolakRibiere(), m.StrongWolfe(c2=0.1)]


def bfgs() -> list[Module]:
    """BFGS with a line search, for up to some thousand parameters. It needs a closure."""
    return [m.BFGS(), m.StrongWolfe()]


def lbfgs(history_size: int = 10) -> list[Module]:
    """L-BFGS with a line search (Liu & Nocedal 1989), for losses without noise. It needs a closure.

    With ``deterministic=True`` beside it an iteration costs little more than one evaluation.

    Args:
        history_size: how many steps it remembers.
    """
    return [m.LBFGS(history_size), m.StrongWolfe()]


def newton_cg(hvp_method: Products = "autograd", maxiter: int | None = None) -> list[Module]:
    """Newton's method by conjugate gradients with a line search, for any number of parameters. It needs a closure.

    Args:
        hvp_method: how products with the Hessian are computed: "autograd", "forward" or "central".
        maxiter: the most products in a step.
    """
    return [m.NewtonCG(maxiter, hvp_method=hvp_method), m.Backtracking()]


def trust_newton(hvp_method: Products = "autograd", init: float = 1.0) -> list[Module]:
    """Newton's method in a trust region (Steihaug 1983), which also minimises where curvature is negative.

    It needs a closure.

    Args:
        hvp_method: how products with the Hessian are computed: "autograd", "forward" or "central".
        init: the first radius.
    """
    return [m.TrustCG(hvp_method=hvp_method, init=init)]


def spsa(lr: float = 1e-2, h: float = 1e-2, n_samples: int = 1, seed: int | None = None) -> list[Module]:
    """Gradients from two evaluations along a random direction of ±1 (Spall 1992). It needs a closure, no gradients.

    Args:
        lr: the learning rate.
        h: how far from the parameters the loss is evaluated.
        n_samples: how many directions a step averages over.
        seed: of the directions.
    """
    return [m.SPSA(h, n_samples, seed=seed), m.LR(lr)]


def mezo(lr: float = 1e-6, h: float = 1e-3, n_samples: int = 1, seed: int | None = None) -> list[Module]:
    """Fine-tuning by values of the loss alone (Malladi et al. 2023). It needs a closure, no gradients.

    It takes the memory of inference and of one copy of the parameters: the closure is evaluated without a graph.

    Args:
        lr: the learning rate.
        h: how far from the parameters the loss is evaluated.
        n_samples: how many directions a step averages over.
        seed: of the directions.
    """
    return [m.MeZO(h, n_samples, distribution="gaussian", seed=seed), m.LR(lr)]


def adam_then_lbfgs(lr: float = 1e-3, steps: int = 1000, history_size: int = 10) -> list[Module]:
    """Adam for some steps, then L-BFGS with a line search until the end. It needs a closure.

    Args:
        lr: Adam's learning rate.
        steps: how many steps Adam makes.
        history_size: how many steps L-BFGS remembers.
    """
    return [m.Switch([m.Adam(), m.LR(lr)], lbfgs(history_size), steps=steps)]


# -- all of them -------------------------------------------------------------------------------------------------------
def _l2(weight_decay: float) -> list[Module]:
    return [m.WeightDecay(weight_decay)] if weight_decay else []


_decoupled = _l2


def names() -> list[str]:
    """The names of all recipes, in the order of this page."""
    return list(RECIPES)


def get(name: str) -> Recipe:
    """The recipe of a name, whatever its capitals and underscores.

    Raises:
        ValueError: there is none of this name; the sentence names the nearest.

    Example:
        >>> import torchzero_core as tz
        >>> tz.recipes.get("AdamW") is tz.recipes.adamw
        True
    """
    found = same(name, RECIPES)
    if found is None:
        hint = did_you_mean(name, RECIPES) or f" There are {', '.join(RECIPES)}."
        raise ValueError(f"no recipe is called {name!r}.{hint}")
    return RECIPES[found]


#: The recipes by name.
RECIPES: dict[str, Recipe] = {
    name: value
    for name, value in list(globals().items())
    if inspect.isfunction(value) and value.__module__ == __name__ and not name.startswith("_")
    and name not in ("names", "get")
}  # fmt: skip
__all__ = [*RECIPES, "RECIPES", "get", "names"]


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> Recipe:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = same(name, RECIPES)
    hint = f" It is called tz.recipes.{found}." if found else did_you_mean(name, RECIPES, prefix="tz.recipes.")
    raise AttributeError(f"tz.recipes has no {name!r}.{hint or f' It has {chr(44).join(RECIPES)}.'}")
