"""Full-matrix quasi-Newton methods: everything but the formula."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ...core import Module, Var
from ...core.evaluate import uniform_settings
from ...core.module import Modules
from ...core.same_params import same_params
from ...linalg import flatten, unflatten, unflatten_as


class _FullMatrix(Module):
    """What the methods on H (the inverse Hessian) and on B (the Hessian) share."""

    bounds = {
        "beta": (0, 1, "[)"),
        "tol": (0, math.inf, "[)"),
        "update_freq": (1, math.inf, "[)"),
    }
    matrix: str = "H"

    def __init__(
        self,
        init_scale: float | Literal["auto"] = "auto",
        tol: float = 1e-10,
        tol_reset: bool = True,
        reset_interval: int | Literal["auto"] | None = None,
        beta: float | None = None,
        update_freq: int = 1,
        scale_first: bool = True,
        scale_second: bool = False,
        concat_params: bool = True,
        inner: Modules | None = None,
        *,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            dict(
                init_scale=init_scale,
                tol=tol,
                tol_reset=tol_reset,
                reset_interval=reset_interval,
                beta=beta,
                update_freq=update_freq,
                scale_first=scale_first,
                scale_second=scale_second,
                concat_params=concat_params,
                **(defaults or {}),
            )
        )
        if inner is not None:
            self.set_child("inner", inner)

    # -- what a method defines ---------------------------------------------------------------------------------------
    def _formula(self, matrix: Tensor, *args: Any) -> Tensor:
        raise NotImplementedError

    def _scale(self, sy: Tensor, ss: Tensor, yy: Tensor) -> Tensor:
        raise NotImplementedError

    def _product(self, matrix: Tensor, vector: Tensor) -> Tensor:
        raise NotImplementedError

    def initial_matrix(self, n: int, like: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """The matrix of the first step and after a reset: the identity, or ``init_scale`` times it.

        Args:
            n: its size.
            like: a vector whose dtype and device to take.
            settings: the settings.
        """
        scale = settings["init_scale"]
        matrix = torch.eye(n, dtype=like.dtype, device=like.device)
        return matrix if isinstance(scale, str) else matrix.mul_(scale if self.matrix == "H" else 1 / scale)

    def on_reset(self, matrix: Tensor, state: MutableMapping[str, Any], settings: Mapping[str, Any]) -> Tensor:
        """The matrix to go on with at a reset of ``reset_interval``; the initial one unless overridden.

        Args:
            matrix: the matrix so far.
            state: the state of this vector.
            settings: the settings.
        """
        return self.initial_matrix(len(matrix), matrix, settings)

    # -- learning from a step and applying what was learnt -----------------------------------------------------------
    def learn(
        self, params: Sequence[Tensor], u: Tensor, state: MutableMapping[str, Any], settings: Mapping[str, Any]
    ) -> Tensor | None:
        """Take in the present parameters and update.

        Args:
            params: the parameters of one vector.
            u: their update, as a vector; it is copied.
            state: where matrix and previous point are kept.
            settings: the settings.

        Returns:
            Whether the matrix was reset in this step, as a truth value on the device; None at the first step.
        """
        t = state["step"] = state.get("step", 0) + 1
        name = self.matrix
        if name not in state:
            p = u.new_empty(u.numel())
            state.update({name: self.initial_matrix(u.numel(), u, settings), "fresh": _true(u)})
            state.update(prev_params=flatten(params, p), prev_update=u.clone())
            return None
        s, y = state["prev_params"], state["prev_update"]  # differences are taken in the memory of the old values
        interval = u.numel() + 1 if settings["reset_interval"] == "auto" else settings["reset_interval"]
        due = interval is not None and (t - 1) % interval == 0
        reset = torch.zeros_like(state["fresh"])
        if due:
            state[name], state["fresh"] = self.on_reset(state[name], state, settings), _true(u)
            reset = _true(u)
        elif (t - 1) % settings["update_freq"] == 0:
            p_prev, g_prev = (s.clone(), y.clone()) if self.needs_previous else (s, y)
            torch._foreach_sub_(unflatten(s, params), list(params))
            s.neg_()
            y.neg_().add_(u)
            reset = self._update(state, s, y, params, u, p_prev, g_prev, settings)
        flatten(params, s)
        y.copy_(u)
        return reset

    #: Whether the formula asks for the previous parameters or update (which are otherwise overwritten).
    needs_previous: bool = False

    def _update(
        self,
        state: MutableMapping[str, Any],
        s: Tensor,
        y: Tensor,
        params: Sequence[Tensor],
        u: Tensor,
        p_prev: Tensor,
        g_prev: Tensor,
        h: Mapping[str, Any],
    ) -> Tensor:
        """Apply the formula, and scale, reset or skip, all without asking for the value of a tensor."""
        matrix, fresh = state[self.matrix], state["fresh"]
        flat = y.abs().amax() <= h["tol"]
        if h["init_scale"] == "auto":
            sy, ss, yy = torch.dot(s, y), torch.dot(s, s), torch.dot(y, y)
            usable = fresh & ~flat & (sy > h["tol"] * (ss * yy).sqrt())
            factor = torch.where(usable, self._scale(sy, ss, yy), 1.0)
            matrix.mul_(torch.where(factor.isfinite(), factor, 1.0))
            fresh.logical_and_(~usable)
        keep = h["beta"] is not None or not h["tol_reset"]
        old = matrix.clone() if keep else matrix
        p = flatten(params, torch.empty_like(u)) if self.needs_previous else s
        new = self._formula(matrix, s, y, p, u, p_prev, g_prev, state, h)
        if h["beta"] is not None:
            new = old.lerp(new, 1 - h["beta"])
        reset = flat if h["tol_reset"] else torch.zeros_like(flat)
        if h["tol_reset"]:
            new.masked_fill_(reset, 0.0)
            scale = 1.0 if isinstance(h["init_scale"], str) else h["init_scale"]
            new.diagonal().add_(reset * (scale if self.matrix == "H" else 1 / scale))
            fresh.logical_or_(reset)
        else:
            new = torch.where(flat, old, new)
        state[self.matrix] = new
        return reset

    def apply(self, vector: Tensor, state: Mapping[str, Any]) -> Tensor:
        """The direction for a vector: H·x, or the solution of B·d = x.

        Args:
            vector: x.
            state: where the matrix is kept.
        """
        return self._product(state[self.matrix], vector)

    # -- the step ----------------------------------------------------------------------------------------------------
    def step(self, var: Var) -> Var:
        """Learn from the update and replace it by the direction."""
        update, params = var.get_update(), var.params
        if not params:
            return var
        concat = uniform_settings(self, params, ["concat_params"])["concat_params"]
        units: list[tuple[list[Tensor], list[Tensor], MutableMapping[str, Any], Mapping[str, Any]]]
        if concat:
            settings = uniform_settings(self, params)
            shared = self.global_state
            if not same_params(self, params):
                for key in [k for k in shared if k not in ("epoch", "members")]:
                    del shared[key]
            units = [(params, update, shared, settings)]
        else:
            units = [
                ([p], [u], self.state[p], self.settings[p]) for p, u in zip(params, update, strict=True) if p.numel()
            ]
        vectors = [self._vector(us) for _, us, _, _ in units]
        resets = [self.learn(ps, u, state, h) for (ps, _, state, h), u in zip(units, vectors, strict=True)]
        scales = [
            self._first_scale(u, reset, state["step"], h)
            for u, reset, (_, _, state, h) in zip(vectors, resets, units, strict=True)
        ]
        if "inner" in self.children:
            inner = var.run_inner(self.children["inner"])
            replaced = {id(p): u for p, u in zip(params, inner, strict=True)}
            vectors = [self._vector([replaced[id(p)] for p in ps]) for ps, _, _, _ in units]
        out = {id(p): u for p, u in zip(params, update, strict=True)}
        for (ps, _, state, _), x, scale in zip(units, vectors, scales, strict=True):
            direction = self.apply(x, state)
            if scale is not None:
                direction.mul_(scale)
            out.update({id(p): d for p, d in zip(ps, unflatten_as(direction, ps), strict=True)})
        var.update = [out[id(p)] for p in params]
        return var

    def _vector(self, tensors: list[Tensor]) -> Tensor:
        vector = flatten(tensors)
        return vector.float() if vector.dtype in (torch.bfloat16, torch.float16) else vector

    def _first_scale(self, u: Tensor, reset: Tensor | None, t: int, h: Mapping[str, Any]) -> Tensor | None:
        """1/max(1, ‖u‖₁) at the steps that have no curvature to go by."""
        if (reset is None and h["scale_first"]) or (t == 2 and h["scale_second"]):
            return 1 / u.abs().sum().clamp(min=1.0)
        if reset is not None and h["scale_first"]:
            return torch.where(reset, 1 / u.abs().sum().clamp(min=1.0), 1.0)
        return None


class QuasiNewtonH(_FullMatrix):
    """Base class of methods that update H, an approximation of the inverse Hessian: the direction is H·u.

    A subclass defines :meth:`update_H`; this class takes the differences s of the parameters and y of the updates
    between steps, scales and resets H, and forms the product.

    Args:
        init_scale: H starts as ``init_scale``·I. "auto": as I, scaled by s'y/y'y before its first update.
        tol: tolerance of the formula, and of max|y| below which nothing is learnt.
        tol_reset: start anew when max|y| ≤ tol. False: keep H as it is.
        reset_interval: start anew every so many steps; "auto": after one step more than there are parameters.
        beta: keep an exponential moving average of H with this factor instead of H itself.
        update_freq: update H every so many steps.
        scale_first: multiply the first direction, and that after a reset, by 1/max(1, ‖u‖₁).
        scale_second: multiply the second direction by 1/max(1, ‖u‖₁).
        concat_params: treat all parameters as one vector; it starts anew when another set of parameters has
            gradients. False: one matrix for each parameter.
        inner: a module that gives what H is multiplied with; H learns from the plain update.
        defaults: further settings of a subclass.

    Raises:
        ValueError: settings that differ between parameter groups although ``concat_params`` makes them one vector.

    Example:
        >>> import torch, torchzero_core as tz
        >>> class SymmetricRankOne(tz.m.QuasiNewtonH):
        ...     def update_H(self, H, s, y, p, g, p_prev, g_prev, state, settings):
        ...         z = s - H @ y
        ...         zy = z @ y
        ...         ok = zy.abs() > settings["tol"] * z.norm() * y.norm()
        ...         return H + torch.where(ok, z.outer(z) / zy, 0.0)
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], SymmetricRankOne())
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-4)
        True
    """

    matrix = "H"

    def update_H(
        self,
        H: Tensor,
        s: Tensor,
        y: Tensor,
        p: Tensor,
        g: Tensor,
        p_prev: Tensor,
        g_prev: Tensor,
        state: MutableMapping[str, Any],
        settings: Mapping[str, Any],
    ) -> Tensor:
        """The new H. It may be written in place; when the formula breaks down it must be returned as it was.

        Decide with ``torch.where``: asking for the value of a tensor makes an accelerator wait.

        Args:
            H: the approximation of the inverse Hessian.
            s: the difference of the parameters.
            y: the difference of the updates.
            p: the parameters; only valid if the class sets ``needs_previous``.
            g: the update.
            p_prev: the parameters before; only valid if the class sets ``needs_previous``.
            g_prev: the update before; only valid if the class sets ``needs_previous``.
            state: for what else the method remembers.
            settings: the settings.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update_H(H, s, y, ...).")

    def _formula(self, matrix: Tensor, *args: Any) -> Tensor:
        return self.update_H(matrix, *args)

    def _scale(self, sy: Tensor, ss: Tensor, yy: Tensor) -> Tensor:
        return sy / yy

    def _product(self, matrix: Tensor, vector: Tensor) -> Tensor:
        return matrix @ vector


class QuasiNewtonB(_FullMatrix):
    """Base class of methods that update B, an approximation of the Hessian: the direction d solves B·d = u.

    A subclass defines :meth:`update_B`. Parameters as for :class:`QuasiNewtonH`; B starts as I/``init_scale`` and
    "auto" scales it by y'y/s'y. Where B is singular or the solution is not finite the direction is u itself.

    Args:
        init_scale: see :class:`QuasiNewtonH`.
        tol: see :class:`QuasiNewtonH`.
        tol_reset: see :class:`QuasiNewtonH`.
        reset_interval: see :class:`QuasiNewtonH`.
        beta: see :class:`QuasiNewtonH`.
        update_freq: see :class:`QuasiNewtonH`.
        scale_first: see :class:`QuasiNewtonH`.
        scale_second: see :class:`QuasiNewtonH`.
        concat_params: see :class:`QuasiNewtonH`.
        inner: see :class:`QuasiNewtonH`.
        defaults: further settings of a subclass.

    Raises:
        ValueError: settings that differ between parameter groups although ``concat_params`` makes them one vector.
    """

    matrix = "B"

    def update_B(
        self,
        B: Tensor,
        s: Tensor,
        y: Tensor,
        p: Tensor,
        g: Tensor,
        p_prev: Tensor,
        g_prev: Tensor,
        state: MutableMapping[str, Any],
        settings: Mapping[str, Any],
    ) -> Tensor:
        """The new B; arguments as for :meth:`QuasiNewtonH.update_H`.

        Args:
            B: the approximation of the Hessian.
            s: the difference of the parameters.
            y: the difference of the updates.
            p: the parameters.
            g: the update.
            p_prev: the parameters before.
            g_prev: the update before.
            state: for what else the method remembers.
            settings: the settings.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update_B(B, s, y, ...).")

    def _formula(self, matrix: Tensor, *args: Any) -> Tensor:
        return self.update_B(matrix, *args)

    def _scale(self, sy: Tensor, ss: Tensor, yy: Tensor) -> Tensor:
        return yy / sy

    def _product(self, matrix: Tensor, vector: Tensor) -> Tensor:
        solution, _ = torch.linalg.solve_ex(matrix, vector)
        return torch.where(solution.isfinite().all(), solution, vector)


def _true(like: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.bool, device=like.device)


#: The reference's names of the two bases.
HUpdateStrategy = QuasiNewtonH
HessianUpdateStrategy = QuasiNewtonB
