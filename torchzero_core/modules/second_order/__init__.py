"""Second-order methods."""

from .higher_order import HigherOrderNewton
from .newton import Newton
from .newton_cg import NewtonCG
from .nystrom import NystromPCG, NystromSketchAndSolve

__all__ = ["HigherOrderNewton", "Newton", "NewtonCG", "NystromPCG", "NystromSketchAndSolve"]
