"""Full-matrix quasi-Newton methods: everything but the formula."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...core import Beta, Child, Count, NonNegative, Positive, StateKind
from ...core.vector_method import Unit, VectorMethod, told
from ...linalg import DenseOperator, InverseOperator, SymmetricOperator


class _FullMatrix(VectorMethod):
    """What the methods on H (the inverse Hessian) and on B (the Hessian) share.

    Args:
        tol: tolerance of the formula, and of max|y| below which nothing is learnt.
        tol_reset: start anew when max|y| ≤ tol. False: keep the matrix as it is.
        reset_interval: start anew every so many steps; "auto": after one step more than there are parameters.
        beta: keep an exponential moving average of the matrix with this factor instead of the matrix itself.
        update_freq: update the matrix every so many steps.
        scale_first: multiply the first direction, and that after a reset, by 1/max(1, ‖u‖₁).
        scale_second: multiply the second direction by 1/max(1, ‖u‖₁).
        concat_params: treat all parameters as one vector; it starts anew when another set of parameters has
            gradients. False: one matrix for each parameter.
        inner: a module that gives what the matrix is multiplied with; the matrix learns from the plain update.
    """

    kept = {"fresh": StateKind.MASK}

    learns_scale = True
    gathers = True
    #: The name of the matrix in the state.
    matrix: ClassVar[str] = "H"
    vectors = ("H", "B", "R", "prev_params", "prev_update")

    init_scale: Positive | Literal["auto"] = "auto"
    tol: NonNegative = 1e-10
    tol_reset: bool = True
    reset_interval: Count | Literal["auto"] | None = None
    beta: Beta | None = None
    update_freq: Count = 1
    scale_first: bool = True
    scale_second: bool = False
    concat_params: bool = True
    inner: Child | None = None

    # -- what the two bases define -----------------------------------------------------------------------------------
    def _formula(self, matrix: Tensor, *args: Any) -> Tensor:
        raise NotImplementedError

    def _auto_scale(self, sy: Tensor, ss: Tensor, yy: Tensor) -> Tensor:
        raise NotImplementedError

    def _multiple(self, init_scale: float) -> float:
        """The multiple of I that the matrix starts as."""
        raise NotImplementedError

    # -- what a method may change ------------------------------------------------------------------------------------
    def _scale(self, matrix: Tensor, s: Tensor, y: Tensor, fresh: Tensor, unit: Unit) -> Tensor:
        """Bring the initial matrix to the size of what is learnt, in place.

        Args:
            matrix: the matrix, not yet updated.
            s: the difference of the parameters.
            y: the difference of the updates.
            fresh: whether the matrix is the initial one.
            unit: the vector, with its state and settings.

        Returns:
            Whether it still waits for a pair with curvature.
        """
        if told(fresh) is False:
            return fresh
        sy, ss, yy = torch.dot(s, y), torch.dot(s, s), torch.dot(y, y)
        usable = fresh & (sy > unit.settings["tol"] * ss.sqrt() * yy.sqrt())
        factor = torch.where(usable, self._auto_scale(sy, ss, yy), 1.0)
        matrix.mul_(torch.where(factor.isfinite(), factor, 1.0))
        return fresh & ~usable

    #: Whether a reset forgets what was learnt; the next step is then like the first.
    forgets: ClassVar[bool] = True

    def reset_every(self, n: int, settings: Mapping[str, Any]) -> int | None:
        """After how many steps to start anew.

        Args:
            n: the number of elements of the vector.
            settings: the settings.
        """
        interval = settings["reset_interval"]
        return n + 1 if interval == "auto" else interval

    def initial_matrix(self, n: int, like: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """The matrix of the first step and after a reset: the identity, or ``init_scale`` times it.

        Args:
            n: its size.
            like: a vector whose dtype and device to take.
            settings: the settings.
        """
        scale = settings["init_scale"]
        matrix = torch.eye(n, dtype=like.dtype, device=like.device)
        return matrix if isinstance(scale, str) else matrix.mul_(self._multiple(scale))

    def on_reset(self, matrix: Tensor, state: MutableMapping[str, Any], settings: Mapping[str, Any]) -> Tensor:
        """The matrix to go on with at a reset of ``reset_interval``; the initial one unless overridden.

        Args:
            matrix: the matrix so far.
            state: the state of this vector.
            settings: the settings.
        """
        return self.initial_matrix(len(matrix), matrix, settings)

    # -- learning ----------------------------------------------------------------------------------------------------
    def learn(self, unit: Unit, u: Tensor) -> Tensor | bool:
        """Let the formula learn from the differences to the last step."""
        state, h, name = unit.state, unit.settings, self.matrix
        t = state["step"] = state.get("step", 0) + 1
        if not all(key in state for key in (name, "fresh", "prev_params", "prev_update")):
            state.update({name: self.initial_matrix(u.numel(), u, h), "fresh": _true(u)})
            state.update(prev_params=unit.point(torch.empty_like(u)), prev_update=u.clone())
            return bool(h["scale_first"])
        interval = self.reset_every(u.numel(), h)
        reset: Tensor | bool = False
        p = unit.point(torch.empty_like(u))
        if interval is not None and (t - 1) % interval == 0:
            state[name] = self.on_reset(state[name], state, h)
            if self.forgets:
                state["fresh"] = reset = _true(u)
        elif (t - 1) % h["update_freq"] == 0:
            reset = self._update(unit, u, p)
        # What was there stays as it is, for a step that fails.
        state["prev_params"], state["prev_update"] = p, u.clone()
        if t == 2 and h["scale_second"]:
            return True
        return reset if h["scale_first"] else False

    def _update(self, unit: Unit, u: Tensor, p: Tensor) -> Tensor | bool:
        """Apply the formula, and scale, reset or skip, all without waiting for the value of a tensor.

        Returns whether the matrix was reset, as a truth value on the device where asking would make somebody wait.
        """
        state, h = unit.state, unit.settings
        matrix, fresh = state[self.matrix], state.examined("fresh")
        p_prev, g_prev = state.examined("prev_params"), state.examined("prev_update")
        s, y = p - p_prev, u - g_prev
        flat = y.abs().amax() <= h["tol"]
        differs = told(flat) is False
        if not differs:
            s.masked_fill_(flat, 0.0)  # so that no formula learns from them, whatever else it keeps
            y.masked_fill_(flat, 0.0)
        if h["init_scale"] == "auto":
            fresh = state["fresh"] = self._scale(matrix, s, y, fresh, unit)
        old = matrix.clone() if h["beta"] is not None or not (differs or h["tol_reset"]) else matrix
        new = self._formula(matrix, s, y, p, u, p_prev, g_prev, state, h)
        if h["beta"] is not None:
            new = old.lerp(new, 1 - h["beta"])
        if differs:
            state[self.matrix] = new
            return False
        if h["tol_reset"]:
            _identity_where(flat, new, 1.0 if isinstance(h["init_scale"], str) else self._multiple(h["init_scale"]))
            if self.forgets and "R" in state:
                _identity_where(flat, state["R"], 1.0)
            state["fresh"] = fresh | flat
            state[self.matrix] = new
            return flat
        state[self.matrix] = torch.where(flat, old, new)
        return torch.zeros_like(flat)


class QuasiNewtonH(_FullMatrix):
    """Base class of methods that update H, an approximation of the inverse Hessian: the direction is H·u.

    A subclass defines :meth:`update_H`; this class takes the differences s of the parameters and y of the updates
    between steps, scales and resets H, and forms the product.

    Args:
        init_scale: H starts as ``init_scale``·I. "auto": as I, scaled by s'y/y'y before its first update.

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
            p: the parameters.
            g: the update.
            p_prev: the parameters before.
            g_prev: the update before.
            state: for what else the method remembers.
            settings: the settings.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update_H(H, s, y, ...).")

    def _formula(self, matrix: Tensor, *args: Any) -> Tensor:
        return self.update_H(matrix, *args)

    def _auto_scale(self, sy: Tensor, ss: Tensor, yy: Tensor) -> Tensor:
        return sy / yy

    def _multiple(self, init_scale: float) -> float:
        return init_scale

    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """H·x."""
        return unit.state["H"] @ x

    def curvature(self, unit: Unit) -> SymmetricOperator:
        """The inverse of H."""
        return InverseOperator(unit.state["H"])


class QuasiNewtonB(_FullMatrix):
    """Base class of methods that update B, an approximation of the Hessian: the direction d solves B·d = u.

    A subclass defines :meth:`update_B`; the rest is as for :class:`QuasiNewtonH`. Where B is singular or the solution
    is not finite the direction is u itself.

    Args:
        init_scale: B starts as I/``init_scale``. "auto": as I, scaled by y'y/s'y before its first update.

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

    def _auto_scale(self, sy: Tensor, ss: Tensor, yy: Tensor) -> Tensor:
        return yy / sy

    def _multiple(self, init_scale: float) -> float:
        return 1 / init_scale

    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """The solution d of B·d = x."""
        solution, _ = torch.linalg.solve_ex(unit.state["B"], x)
        return torch.where(solution.isfinite().all(), solution, x)

    def curvature(self, unit: Unit) -> SymmetricOperator:
        """B; what is not symmetric in it is left out."""
        B = unit.state["B"]
        return DenseOperator((B + B.mT) / 2)


def _identity_where(flag: Tensor, matrix: Tensor, multiple: float) -> None:
    """Make a matrix a multiple of I where a truth value on the device says so."""
    matrix.masked_fill_(flag, 0.0)
    matrix.diagonal().add_(flag * multiple)


def _true(like: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.bool, device=like.device)


#: The reference's names of the two bases.
HUpdateStrategy = QuasiNewtonH
HessianUpdateStrategy = QuasiNewtonB
