"""Line search by scipy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ...core import Count, Positive, Var
from ...core.packages import required
from .base import LineSearch
from .scalar import NO_DECREASE


class ScipyMinimizeScalar(LineSearch):
    """Line search by ``scipy.optimize.minimize_scalar``, which looks for the minimum along the update exactly.

    Args:
        method: "brent", "bounded" or "golden"; by default "bounded" where there are bounds and "brent" elsewhere.
        maxiter: largest number of iterations.
        bracket: two or three step sizes, between or beyond which "brent" and "golden" look for the minimum.
        bounds: the smallest and the largest step size of "bounded".
        tol: tolerance of the step size.
        options: other options of scipy's method.

    Raises:
        ImportError: scipy is not installed.
        ValueError: a step with settings that differ between parameter groups, or that scipy refuses.

    Reference: R. P. Brent, Algorithms for Minimization Without Derivatives, 1973.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (p**2).sum()
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.ScipyMinimizeScalar())
        >>> _ = optimizer.step(closure)
        >>> round(optimizer.last_step.step_size, 6)
        0.5
    """

    method: Literal["brent", "bounded", "golden"] | None = None
    maxiter: Count | None = None
    bracket: Sequence[float] | None = None
    bounds: Sequence[float] | None = None
    tol: Positive | None = None
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        required("scipy.optimize", "scipy", "ScipyMinimizeScalar")

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        super().check_settings(settings)
        for name, sizes in (("bracket", (2, 3)), ("bounds", (2,))):
            value = settings[name]
            if value is not None and (len(value) not in sizes or list(value) != sorted(set(value))):
                count = " or ".join(map(str, sizes))
                raise ValueError(f"ScipyMinimizeScalar({name}={value!r}) must be {count} numbers in ascending order.")
        if settings["bounds"] is not None and settings["method"] in ("brent", "golden"):
            raise ValueError(
                f"ScipyMinimizeScalar(bounds={settings['bounds']!r}) is for method='bounded'; "
                f"method={settings['method']!r} goes where it likes."
            )
        if settings["bounds"] is None and settings["method"] == "bounded":
            raise ValueError("ScipyMinimizeScalar(method='bounded') needs bounds=(low, high).")

    def search(self, update: list[Tensor], var: Var) -> float:
        """The best step size that scipy has seen; 0 where none is better than staying."""
        optimize = required("scipy.optimize", "scipy", "ScipyMinimizeScalar")
        h, phi = self.common_settings(var), self.make_objective(var)
        options = dict(h["options"] or {})
        if h["maxiter"] is not None:
            options["maxiter"] = h["maxiter"]
        settings = {name: h[name] for name in ("method", "bracket", "bounds", "tol")}
        if h["bounds"] is not None and h["tol"] is not None:
            options["xatol"] = settings.pop("tol")  # what this method makes of it, without a warning
        failed: list[BaseException] = []

        def loss(alpha: float) -> float:
            try:
                return phi(alpha)
            except BaseException as error:
                failed.append(error)
                raise

        try:
            with np.errstate(all="ignore"):  # a loss may be infinite
                optimize.minimize_scalar(loss, options=options, **settings)
        except RuntimeError:  # of scipy: no bracket, because it goes downhill as far as it looks
            if failed:
                raise
        alpha = phi.best.alpha
        return alpha if alpha != 0 else self.fail(NO_DECREASE)
