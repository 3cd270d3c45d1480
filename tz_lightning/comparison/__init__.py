"""Several optimizers on one problem with the same seeds and budget: what ``python -m tz_lightning compare`` runs."""

from .outcome import Outcome, Summary, summarise
from .plan import Plan, Rival
from .problems import PROBLEMS
from .run import compare

__all__ = ["PROBLEMS", "Outcome", "Plan", "Rival", "Summary", "compare", "summarise"]
