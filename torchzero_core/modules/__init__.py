"""The catalogue: every module, as ``tz.m``."""

from .clipping import *
from .conjugate_gradient import *
from .grad_approximation import *
from .line_search import *
from .momentum import *
from .ops import *
from .optimizers import *
from .projections import *
from .quasi_newton import *
from .second_order import *
from .smoothing import *
from .step_size import *
from .weight_decay import *
from .wrappers import *
