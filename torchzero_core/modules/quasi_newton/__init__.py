"""Quasi-Newton methods: curvature learnt from the differences between steps."""

from .base import HessianUpdateStrategy, HUpdateStrategy, QuasiNewtonB, QuasiNewtonH
from .bfgs import BFGS
from .lbfgs import LBFGS

__all__ = ["BFGS", "LBFGS", "HUpdateStrategy", "HessianUpdateStrategy", "QuasiNewtonB", "QuasiNewtonH"]
