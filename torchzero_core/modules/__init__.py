"""The catalogue: every module, as ``tz.m``."""

import difflib
from typing import Any

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
from .trust_region import *
from .weight_decay import *
from .wrappers import *

#: Optimizers that are chains here.
CHAINS = {
    "AdamW": "Adam(), {m}.WeightDecay(1e-2), {m}.LR(1e-3)",
    "SGD": "HeavyBall(0.9), {m}.LR(1e-2), or {m}.LR alone without momentum",
    "Momentum": "HeavyBall(0.9), {m}.LR(1e-2)",
    "Nesterov": "NAG(0.9), {m}.LR(1e-2)",
    "SGDW": "HeavyBall(0.9), {m}.WeightDecay(1e-2), {m}.LR(1e-2)",
    "NAdam": "Wrap(torch.optim.NAdam, lr=1e-3)",
    "RAdam": "Wrap(torch.optim.RAdam, lr=1e-3)",
    "Adamax": "Wrap(torch.optim.Adamax, lr=1e-3)",
    "Adadelta": "Wrap(torch.optim.Adadelta, lr=1.0)",
    "Adafactor": "Wrap(torch.optim.Adafactor, lr=1e-2)",
    "ASGD": "Wrap(torch.optim.ASGD, lr=1e-2)",
    "SparseAdam": "Wrap(torch.optim.SparseAdam, lr=1e-3)",
    "LearningRate": "LR(1e-3)",
    "GradientDescent": "LR(1e-2)",
    "ClipGradNorm": "ClipNorm(1)",
    "ClipGradValue": "ClipValue(1)",
    "CG": "PolakRibiere(), {m}.StrongWolfe()",
    "Newton": "NewtonCG(), {m}.StrongWolfe()",
}


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    m = "tz.m"
    plain = {key.lower().replace("_", ""): key for key in CHAINS}
    known = [n for n in globals() if n[0].isupper() and n != "CHAINS"]
    same = {n.lower().replace("_", ""): n for n in known}
    asked = name.lower().replace("_", "")
    if asked in same:
        raise AttributeError(f"{m} has no {name!r}; it is called {m}.{same[asked]}.")
    if asked in plain:
        raise AttributeError(f"{m} has no {name!r}; it is a chain here: {m}.{CHAINS[plain[asked]].format(m=m)}.")
    near = difflib.get_close_matches(asked, same, 3, 0.7)
    hint = f" Did you mean {' or '.join(f'{m}.{same[n]}' for n in near)}?" if near else ""
    raise AttributeError(f"{m} has no module {name!r}.{hint}")
