"""Chains of modules in Lightning: schedules, closures, the command line, monitors."""

try:
    import lightning
except ModuleNotFoundError as error:
    if error.name != "lightning":
        raise
    raise ImportError(
        "tz_lightning needs Lightning: install it with `pip install torchzero-core[lightning]`."
    ) from error

from .callbacks import ClosureMonitor, RankAgreement, Report, SkipNonFinite, UpdateNormMonitor
from .chain import ModularChain
from .cli import ModularCLI
from .closure import ClosureModule, ClosureOptimization, closure_step
from .compat import leave_out_missing_rates
from .parts import SplitOptimizer
from .reevaluation import is_reevaluation
from .rng import RNGCheckpoint
from .schedule import LRSchedulerCallback, Ramp, WarmupCosine
from .stop import StopWhen
from .switch import SwitchOptimizer

__all__ = [
    "ClosureModule",
    "ClosureMonitor",
    "ClosureOptimization",
    "LRSchedulerCallback",
    "ModularCLI",
    "ModularChain",
    "RNGCheckpoint",
    "Ramp",
    "RankAgreement",
    "Report",
    "SkipNonFinite",
    "SplitOptimizer",
    "StopWhen",
    "SwitchOptimizer",
    "UpdateNormMonitor",
    "WarmupCosine",
    "closure_step",
    "is_reevaluation",
]
leave_out_missing_rates()
del leave_out_missing_rates, lightning
