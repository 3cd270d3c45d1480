"""Quasi-Newton methods: curvature learnt from the differences between steps."""

from .base import HessianUpdateStrategy, HUpdateStrategy, QuasiNewtonB, QuasiNewtonH
from .bfgs import BFGS
from .gradient_correction import GradientCorrection
from .lbfgs import LBFGS
from .lsr1 import LSR1
from .online_lbfgs import OnlineLBFGS
from .pearson import ProjectedGradientMethod, ProjectedNewtonRaphson
from .psb import PSB
from .rank_one import (
    SR1,
    BroydenBad,
    BroydenGood,
    ColumnUpdatingMethod,
    Greenstadt1,
    Greenstadt2,
    McCormick,
    Pearson,
)
from .rank_two import DFP, FletcherVMM, Horisho, Hoshino
from .ssvm import SSVM
from .thomas import ThomasOptimalMethod

__all__ = [
    "BFGS",
    "DFP",
    "LBFGS",
    "LSR1",
    "PSB",
    "SR1",
    "SSVM",
    "BroydenBad",
    "BroydenGood",
    "ColumnUpdatingMethod",
    "FletcherVMM",
    "GradientCorrection",
    "Greenstadt1",
    "Greenstadt2",
    "HUpdateStrategy",
    "HessianUpdateStrategy",
    "Horisho",
    "Hoshino",
    "McCormick",
    "OnlineLBFGS",
    "Pearson",
    "ProjectedGradientMethod",
    "ProjectedNewtonRaphson",
    "QuasiNewtonB",
    "QuasiNewtonH",
    "ThomasOptimalMethod",
]
