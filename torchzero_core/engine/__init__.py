"""What runs rules fast: graphs into passes over memory, passes by a backend."""

from .segment import Segment
from .surroundings import Home, Step
from .transaction import Transaction

__all__ = ["Home", "Segment", "Step", "Transaction"]
