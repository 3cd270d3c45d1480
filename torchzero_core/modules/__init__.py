"""The catalogue: every module, as ``tz.m``."""

from typing import Any as _Any

from ..core.near import did_you_mean as _did_you_mean
from ..core.near import same as _same
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

#: Optimizers that are chains here, and the recipe of each where there is one.
CHAINS = {
    "AdamW": ("Adam(), {m}.WeightDecay(1e-2), {m}.LR(1e-3)", "adamw()"),
    "SGD": ("HeavyBall(0.9), {m}.LR(1e-2), or {m}.LR alone without momentum", "sgd(momentum=0.9)"),
    "Momentum": ("HeavyBall(0.9), {m}.LR(1e-2)", "sgd(momentum=0.9)"),
    "Nesterov": ("NAG(0.9), {m}.LR(1e-2)", "sgd(momentum=0.9, nesterov=True)"),
    "SGDW": ("HeavyBall(0.9), {m}.WeightDecay(1e-2), {m}.LR(1e-2)", "sgdw()"),
    "Signum": ("HeavyBall(0.9), {m}.Sign(), {m}.LR(1e-3)", "signum()"),
    "CautiousAdamW": ("Adam(), {m}.Cautious(), {m}.WeightDecay(1e-2), {m}.LR(1e-3)", "cautious_adamw()"),
    "Grams": ("Adam(), {m}.GradSign(), {m}.WeightDecay(1e-2), {m}.LR(1e-3)", "grams()"),
    "LaProp": (
        'RMSprop(0.999, 1e-15, debiased=True, init="zeros"), {m}.EMA(0.9, debiased=True), {m}.LR(4e-4)', "laprop()",
    ),
    "MuonAdam": (
        'Split("hidden_matrices", {m}.Muon(adjust_lr=True), {m}.Adam()), {m}.WeightDecay(0.1), {m}.LR(1e-3)',
        "muon_adam()",
    ),
    "SparseAdam": ("Wrap(torch.optim.SparseAdam, lr=1e-3)", ""),
    "LearningRate": ("LR(1e-3)", ""),
    "GradientDescent": ("LR(1e-2)", "sgd()"),
    "ClipGradNorm": ("ClipNorm(1)", ""),
    "GradClip": ("ClipNorm(1)", ""),
    "GradientClipping": ("ClipNorm(1)", ""),
    "NesterovMomentum": ("NAG(0.9), {m}.LR(1e-2)", "sgd(momentum=0.9, nesterov=True)"),
    "Armijo": ("Backtracking()", ""),
    "Wolfe": ("StrongWolfe()", ""),
    "ClipGradValue": ("ClipValue(1)", ""),
    "CG": ("PolakRibiere(), {m}.StrongWolfe(c2=0.1)", "cg()"),
    "TrustNewton": ("TrustCG()", "trust_newton()"),
}  # fmt: skip


def _modules() -> list[str]:
    return [n for n, value in globals().items() if isinstance(value, type) and not n.startswith("_")]


def __getattr__(name: str) -> _Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    m = "tz.m"
    known = _modules()
    if (found := _same(name, known)) is not None:
        raise AttributeError(f"{m} has no {name!r}; it is called {m}.{found}.")
    if (found := _same(name, CHAINS)) is not None:
        chain, recipe = CHAINS[found]
        way = f" The recipe tz.recipes.{recipe} has its modules in a list." if recipe else ""
        raise AttributeError(f"{m} has no {name!r}; it is a chain here: {m}.{chain.format(m=m)}.{way}")
    hint = _did_you_mean(name, known, 3, 0.7, f"{m}.") or f" dir({m}) has the names of all."
    raise AttributeError(f"{m} has no module {name!r}.{hint}")


def __dir__() -> list[str]:
    return sorted(_modules())
