"""Callbacks that watch the training, each in a file of its own."""

from .closure_monitor import ClosureMonitor
from .rank_agreement import RankAgreement
from .report import Report
from .skip_non_finite import SkipNonFinite
from .update_norms import UpdateNormMonitor

__all__ = ["ClosureMonitor", "RankAgreement", "Report", "SkipNonFinite", "UpdateNormMonitor"]
