"""Dropout of updates and of weights."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor

from ...core import Beta, Context, Finite, Module, Seed, Target, Transform, Var
from ...core.closure import detached
from ...core.evaluate import uniform_settings
from ...lang import Distribution, Operand, Value


class Dropout(Transform):
    r"""Drops elements of the update at random, and makes the others larger so that the mean stays.

    .. math:: u ← \frac{u·m}{1 - p}, \quad m_i ∼ Bernoulli(1 - p)

    Args:
        p: with which probability an element becomes 0, in [0, 1).
        graft: give what is left the norm of the whole, tensor by tensor, instead of dividing by 1 − p.
        target: what elements are dropped of.
        seed: for the random numbers; None draws one from torch's generator.

    Reference:
        Lin et al., "Learning Rate Dropout", 2019, arXiv:1912.00144.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1000, requires_grad=True)
        >>> p.grad = torch.ones(1000)
        >>> tz.Modular([p], tz.m.Dropout(0.75, seed=0)).step()
        >>> p.unique()
        tensor([-4.,  0.], grad_fn=<Unique2Backward0>)
    """

    p: Beta = 0.5
    graft: bool = False
    target: Target = "update"
    _: KW_ONLY
    seed: Seed | None = None

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        kept = u * ctx.random("bernoulli", 1 - h.p)
        if not h.graft:
            return kept / (1 - h.p)
        norm = kept.norm()
        return kept * norm.ne(0.0).where(u.norm() / norm, 0.0)


class NoiseSign(Transform):
    """Random sizes with the signs of the update: u ← ``alpha·|noise|·sign(u)``.

    Args:
        distribution: of the noise, whose variance is 1: "normal" (or "gaussian"), "uniform", "rademacher" (±1) or
            "sphere" (uniformly on the sphere of radius √n of a tensor's n elements).
        alpha: a factor.
        seed: for the random numbers; None draws one from torch's generator.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(3, requires_grad=True)
        >>> p.grad = torch.tensor([5.0, -5.0, 0.0])
        >>> tz.Modular([p], tz.m.NoiseSign("rademacher", alpha=0.1)).step()
        >>> p.detach()
        tensor([-0.1000,  0.1000,  0.0000])
    """

    distribution: Distribution = "normal"
    alpha: Finite = 1
    seed: Seed | None = None

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        if h.distribution == "rademacher":
            return h.alpha * u.sign()
        if h.distribution == "uniform":
            return h.alpha * ctx.random("uniform", 0.0, 3**0.5) * u.sign()
        return h.alpha * ctx.noise(h.distribution).abs() * u.sign()


class WeightDropout(Module):
    """Lets the modules after it see the loss, and its gradient, with some of the weights at 0.

    Each weight is 0 with probability p while the closure is evaluated; the weights themselves stay. Which they are is
    drawn anew at each step, and is the same for all evaluations of a step, so that line searches see one function. A
    gradient that was evaluated before stays what it is, so put it first. The gradient of a loss that is not finite
    without some of the weights counts as zero.

    Args:
        p: with which probability a weight becomes 0, in [0, 1).
        graft: give the other weights of each tensor the norm that all had.
        seed: for the random numbers; None draws one from torch's generator.

    Reference:
        Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.full((4,), 2.0, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.WeightDropout(0.5, graft=False, seed=0), tz.m.LR(0.25))
        >>> def closure(backward=True):
        ...     loss = p.square().sum()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
        >>> loss.item(), p.sum().item()  # one weight was left, and is half as large now
        (4.0, 7.0)
    """

    p: Beta = 0.5
    graft: bool = True
    seed: Seed | None = None
    requires_closure = True
    one_piece = True
    needs_gradient = False

    def step(self, var: Var) -> Var:
        """Wrap the closure."""
        exact, params, home = var.closure, var.params, var.modular
        if exact is None:
            raise RuntimeError(f"{self.path} has to evaluate the loss: call optimizer.step(closure).")
        assert home is not None
        uniform_settings(self, params, ("seed",)) if params else None
        for device in {p.device for p in params}:
            self.generator(device)  # it is state, also where nobody evaluates
        factors: list[Tensor] = []

        @torch.no_grad()
        def closure(backward: bool = True) -> Any:
            if not factors:
                factors.extend(map(self._factors, params))
            home.return_grads()
            start = [p.detach().clone() for p in params]
            if var.modular is not None:
                var.modular.transaction.lend(params, start)
            try:
                for p, factor in zip(params, factors, strict=True):
                    norm = p.norm()
                    p.mul_(factor)
                    if self.settings[p]["graft"]:
                        left = p.norm()
                        p.mul_(torch.where(left > 0, norm / left, 1.0))
                loss = exact(backward)
                if isinstance(loss, Tensor):
                    loss = loss.detach()  # its graph is that of weights which are put back now
            finally:
                torch._foreach_copy_(params, start)
            if backward:
                finite = detached(loss).isfinite()
                grads = [None if p.grad is None else torch.where(finite.to(p.device), p.grad, 0.0) for p in params]
                home.replace_grads(params, grads)
            return loss

        var.closure = closure
        return var

    def _factors(self, param: Tensor) -> Tensor:
        """0 for the weights that are dropped, 1 for the others."""
        keep = torch.empty_like(param, requires_grad=False)
        return keep.bernoulli_(1 - self.settings[param]["p"], generator=self.generator(param.device))
