"""Entries: trust regions."""

from __future__ import annotations

import torchzero_core as tz
from tests.registry.entry import SEARCH, Entry, backtracking
from torchzero_core.core import Module

#: Other values of settings that are None by default.
TRUST = dict(maxiter=7)


class AsResiduals(Module):
    """Makes of a closure that returns a loss, which is not negative, one that returns its root as the only residual."""

    requires_closure = True
    needs_gradient = False

    def step(self, var):
        closure = var.closure
        if closure is None:
            raise RuntimeError(f"{self.path}: call optimizer.step(closure).")
        var.closure = lambda backward=True: (closure(False) + 1e-30).sqrt().reshape(1)
        return var


def residuals(module: Module) -> list[Module]:
    return [AsResiduals(), module]


def residuals_and_search(module: Module) -> list[Module]:
    return [AsResiduals(), *backtracking(module)]


ENTRIES: list[Entry] = [
    Entry("TrustCG", lambda m: [m], rosenbrock=(60, 1e-8), alternatives=TRUST, **SEARCH),
    Entry(
        "TrustCG",
        lambda m: [m],
        lambda: dict(hess=tz.m.LBFGS()),
        variant="lbfgs",
        rosenbrock=(100, 1e-6),
        alternatives=TRUST,
        **SEARCH,
    ),
    Entry("TrustCG", lambda m: [m], lambda: dict(hess=tz.m.SR1()), variant="sr1", alternatives=TRUST, **SEARCH),
    Entry(
        "TrustCG",
        lambda m: [m],
        dict(hvp_method="forward"),
        variant="forward",
        rosenbrock=(60, 1e-6),
        alternatives=TRUST,
        coarse=dict(h=0.5),
        float32=1e-3,
        **SEARCH,
    ),
    Entry("Dogleg", lambda m: [m], rosenbrock=(60, 1e-8), **SEARCH),
    Entry("Dogleg", lambda m: [m], lambda: dict(hess=tz.m.BFGS()), variant="bfgs", rosenbrock=(100, 1e-6), **SEARCH),
    Entry("TrustExact", lambda m: [m], rosenbrock=(60, 1e-8), **SEARCH),
    Entry(
        "TrustExact", lambda m: [m], lambda: dict(hess=tz.m.LSR1()), variant="lsr1", rosenbrock=(100, 1e-6), **SEARCH
    ),
    Entry("CubicRegularization", lambda m: [m], rosenbrock=(60, 1e-8), **SEARCH),
    # Its B is of rank one here, so that rounding is divided by λ, and in bfloat16 by columns that are small.
    Entry("LevenbergMarquardt", residuals, float32=1e-3, coarse=dict(scaling="none"), **SEARCH),
    Entry("LevenbergMarquardt", residuals, dict(scaling="none"), variant="plain", **SEARCH),
    Entry(
        "LevenbergMarquardt",
        lambda m: [m],
        lambda: dict(hess=tz.m.Newton()),
        variant="newton",
        rosenbrock=(60, 1e-8),
        **SEARCH,
    ),
    Entry("GaussNewton", residuals_and_search, **SEARCH),
]
