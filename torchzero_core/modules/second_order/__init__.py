"""Second-order methods."""

from .newton_cg import NewtonCG

__all__ = ["NewtonCG"]
