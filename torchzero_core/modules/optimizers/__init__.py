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
from .orthogonalize import Orthogonalize
from .radam import RAdam
from .rmsprop import RMSprop
from .rprop import Rprop
from .sign_change import BacktrackOnSignChange, ScaleLRBySignChange, SignConsistencyLRs, SignConsistencyMask
from .sophia import SophiaH

__all__ = [
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adamax",
    "BacktrackOnSignChange",
    "FullMatrixAdagrad",
    "Lion",
    "Muon",
    "NAdam",
    "Orthogonalize",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScaleLRBySignChange",
    "SignConsistencyLRs",
    "SignConsistencyMask",
    "SophiaH",
]
