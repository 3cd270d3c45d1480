"""Trust-region methods."""

from .base import TrustMethod
from .dogleg import Dogleg
from .exact import CubicRegularization, TrustExact
from .gauss_newton import GaussNewton, LevenbergMarquardt
from .trust_cg import TrustCG

__all__ = ["CubicRegularization", "Dogleg", "GaussNewton", "LevenbergMarquardt", "TrustCG", "TrustExact", "TrustMethod"]
