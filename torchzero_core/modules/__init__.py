"""The catalogue: every module, as ``tz.m``."""

from .clipping import *
from .conjugate_gradient import *
from .grad_approximation import *
from .line_search import *
from .optimizers import *
from .quasi_newton import *
from .step_size import *
from .weight_decay import *
