"""Adaptive and matrix methods."""

from .adagrad import Adagrad
from .adam import Adam
from .full_matrix_adagrad import FullMatrixAdagrad
from .lion import Lion
from .muon import Muon
from .ortho_grad import OrthoGrad
from .orthogonal_scales import DualNormCorrection, MuonAdjustLR
from .orthogonalize import Orthogonalize
from .rmsprop import RMSprop
from .rprop import Rprop
from .shampoo import Shampoo
from .soap import SOAP

__all__ = [
    "SOAP",
    "Adagrad",
    "Adam",
    "DualNormCorrection",
    "FullMatrixAdagrad",
    "Lion",
    "Muon",
    "MuonAdjustLR",
    "OrthoGrad",
    "Orthogonalize",
    "RMSprop",
    "Rprop",
    "Shampoo",
]
