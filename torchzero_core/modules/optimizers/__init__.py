"""Adaptive and matrix methods."""

from .adadelta import Adadelta
from .adafactor import Adafactor
from .adagrad import Adagrad
from .adam import Adam
from .adamax import Adamax
from .asgd import ASGD
from .full_matrix_adagrad import FullMatrixAdagrad
from .lion import Lion
from .muon import Muon
from .nadam import NAdam
from .ortho_grad import OrthoGrad
from .orthogonal_scales import DualNormCorrection, MuonAdjustLR
from .orthogonalize import Orthogonalize
from .radam import RAdam
from .rmsprop import RMSprop
from .rprop import Rprop
from .shampoo import Shampoo
from .sign_change import BacktrackOnSignChange, ScaleLRBySignChange, SignConsistencyLRs, SignConsistencyMask
from .soap import SOAP
from .sophia import SophiaH

__all__ = [
    "ASGD",
    "SOAP",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adamax",
    "BacktrackOnSignChange",
    "DualNormCorrection",
    "FullMatrixAdagrad",
    "Lion",
    "Muon",
    "MuonAdjustLR",
    "NAdam",
    "OrthoGrad",
    "Orthogonalize",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScaleLRBySignChange",
    "Shampoo",
    "SignConsistencyLRs",
    "SignConsistencyMask",
    "SophiaH",
]
