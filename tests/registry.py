"""One entry for every public module: how to build it into a chain, what it needs, what it refuses.

`tests/test_conformance.py` sends each entry through the whole suite, and fails for a public module without an entry.
A new module gets a line here; what a line does not say is the strict default.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import torchzero_core as tz
from torchzero_core.core import Module

#: Public classes that are bases of modules and cannot stand in a chain themselves.
BASES = {
    "BinaryOperation",
    "ConguateGradientBase",
    "ConjugateGradientBase",
    "GradApproximator",
    "HUpdateStrategy",
    "HessianUpdateStrategy",
    "LineSearch",
    "MultiOperation",
    "Projection",
    "QuasiNewtonB",
    "QuasiNewtonH",
    "ReduceOperation",
}
#: Spellings of the reference for modules that have an entry under their own name.
ALIASES = {"MedianAveraging": ["Medianveraging"], "GramSchmidt": ["GramSchimdt"], "Identity": ["NoOp"]}
#: ``refused`` of a module that takes one value of every setting.
ALL: frozenset[str] = frozenset({"every setting"})


def then_lr(value: float = 0.1) -> Callable[[Module], list[Module]]:
    """The chain of the module and a learning rate."""
    return lambda module: [module, tz.m.LR(value)]


@dataclass(frozen=True)
class Entry:
    """How a module is built and what is expected of it.

    Attributes:
        name: of the public module.
        chain: makes the chain around an instance of the module.
        kwargs: constructor arguments, or a function that makes them anew (children belong to one chain).
        variant: tells several entries of a module apart.
        make: builds the module from keyword arguments where the class itself cannot (operands given by position).
        closure: the chain needs a closure.
        steps: of the quadratic.
        ratio: of the quadratic's last and first loss, at most; None for a module that does not minimise.
        rosenbrock: steps on Rosenbrock's function and the loss to reach.
        elementwise: what an element gets does not depend on the others.
        together: it decides for all parameters at once, so groups are not independent optimizers.
        compiles: all modules of the chain are rules, so ``compile=True`` says nothing.
        ulps: largest difference of eager and compiled trajectories, in units of float64 rounding at 1.
        bfloat16: it works in bfloat16; a text is what the refusal says.
        float32: largest relative difference between float32 and float64 after a few steps; None where rounding
            decides (a sign of a difference).
        alternatives: other values of settings than the ones tried by default.
        refused: settings that must not differ between groups; the error names them.
        skipped: settings that the test of groups leaves out, with the reason in a comment.
        coarse: settings for bfloat16 (a finite difference must be longer than its rounding).
        derivative_free: it cannot know whether a parameter has a gradient.
        syncs: it looks at tensors from the host, which a module that takes only gradients otherwise does not.
        repeatable: evaluating twice, or in another order, gives the same (no random numbers).
    """

    name: str
    chain: Callable[[Module], list[Module]] = field(default_factory=then_lr)
    kwargs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = field(default_factory=dict)
    variant: str = ""
    make: Callable[..., Module] | None = None
    closure: bool = False
    steps: int = 60
    ratio: float | None = 0.5
    rosenbrock: tuple[int, float] | None = None
    elementwise: bool = False
    together: bool = False
    compiles: bool = True
    ulps: float = 64
    bfloat16: bool | str = True
    float32: float | None = 1e-4
    alternatives: Mapping[str, Any] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()
    coarse: Mapping[str, Any] = field(default_factory=dict)
    derivative_free: bool = False
    syncs: bool = False
    repeatable: bool = True

    @property
    def id(self) -> str:
        """The name in the test's report."""
        return f"{self.name}-{self.variant}" if self.variant else self.name

    def module(self, **settings: Any) -> Module:
        """A fresh instance of the module."""
        kwargs = self.kwargs() if callable(self.kwargs) else self.kwargs
        make = self.make or getattr(tz.m, self.name)
        return make(**{**kwargs, **settings})

    def build(self, **settings: Any) -> list[Module]:
        """A fresh chain; ``settings`` go to the module."""
        return self.chain(self.module(**settings))

    def optimizer(self, params: Any, *, compile: bool = False, **settings: Any) -> tz.Modular:
        """A fresh optimizer; ``settings`` go to the module."""
        return tz.Modular(params, *self.build(**settings), compile=compile)

    def alternative(self, setting: str) -> Any:
        """Another value for a setting, for tests of settings that differ between groups."""
        if setting in self.alternatives:
            return self.alternatives[setting]
        module = self.module()
        value = module.defaults[setting]
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return value + 1
        if isinstance(value, float):
            return value * 0.5 if value else 0.1
        choices = [c for c in _choices(type(module), setting) if c != value]
        if choices:
            return choices[0]
        raise LookupError(f"The entry {self.id} needs an alternative for the setting {setting}={value!r}.")


def _choices(cls: type, setting: str) -> list[Any]:
    """The values that a Literal annotation of a constructor parameter allows."""
    if setting not in inspect.signature(cls).parameters:
        return []
    hint = typing.get_type_hints(cls.__init__).get(setting)
    hints = [hint, *typing.get_args(hint)]
    return [c for h in hints if typing.get_origin(h) is typing.Literal for c in typing.get_args(h)]


def _wolfe(module: Module) -> list[Module]:
    return [module, tz.m.StrongWolfe()]


def _backtracking(module: Module) -> list[Module]:
    return [module, tz.m.Backtracking()]


def _after_adam(value: float = 0.1) -> Callable[[Module], list[Module]]:
    return lambda module: [tz.m.Adam(), module, tz.m.LR(value)]


QUASI_NEWTON = dict(init_scale=0.5, reset_interval=7, beta=0.5, eigval_bounds=(0.1, 20), maxiter=5) | dict.fromkeys(
    ("params_beta", "grads_beta", "z_beta"), 0.5
)
#: A method on one matrix for all parameters, run from Python.
MATRIX = dict(together=True, refused=ALL, compiles=False, syncs=True, ulps=1e4, alternatives=QUASI_NEWTON)
#: What a norm over all parameters is computed with.
WHOLE_NORM = dict(refused=frozenset({"ord", "eps", "max_ema_growth"}))
SEARCH = dict(closure=True, together=True, refused=ALL, compiles=False, syncs=True)
#: A method on matrices that are decomposed, which accelerators wait for.
PRECONDITIONER = dict(
    compiles=False,
    syncs=True,
    ulps=1e4,
    alternatives=dict(beta=0.9, decay=0.9),
    refused=frozenset({"concat_params"}),
)
ORTHOGONAL = dict(
    float32=None,
    alternatives=dict(ns_dtype=torch.float64),
    skipped=frozenset({"orthogonalize"}),  # no parameter of the constructor; it has a test of its own
)
APPROXIMATION = dict(
    compiles=False,
    closure=True,
    together=True,
    syncs=True,
    repeatable=False,
    float32=None,
    derivative_free=True,
    coarse=dict(h=0.1),
    refused=frozenset({"n_samples", "formula", "pre_generate", "seed"}),
    alternatives=dict(seed=1, beta=0.5),
)

#: Only signs count, and they turn at the minimum.
RPROP = dict(elementwise=True, float32=None, alternatives=dict(nplus=1.1))
#: Limits that are None by default.
GROWTH = dict(add=0.1, mul=1.2)

ENTRIES: list[Entry] = [
    # -- clipping and normalisation ----------------------------------------------------------------------------------
    Entry("ClipValue", then_lr(0.3), dict(value=0.3), elementwise=True),
    Entry("ClipNorm", then_lr(0.3), dict(max_norm=0.5)),
    Entry(
        "ClipNorm",
        then_lr(0.3),
        dict(max_norm=0.5, dim="global"),
        variant="global",
        together=True,
        alternatives=dict(dim=0),
    ),
    Entry("ClipNorm", then_lr(0.3), dict(max_norm=0.3, dim=0), variant="dim"),
    Entry("Normalize", then_lr(0.1), rosenbrock=(300, 10)),
    Entry("Normalize", then_lr(0.1), dict(dim="global"), variant="global", together=True, alternatives=dict(dim=0)),
    Entry("Normalize", then_lr(0.1), dict(dim=0, inverse_dims=True), variant="dim"),
    Entry("Centralize", then_lr(0.1), ratio=0.99, alternatives=dict(dim=0)),
    Entry("Centralize", then_lr(0.1), dict(dim=0), variant="dim", ratio=0.99),
    Entry("ClipNormByEMA", then_lr(0.1), dict(beta=0.9)),
    Entry(
        "ClipNormByEMA", then_lr(0.1), dict(beta=0.9, tensorwise=False), variant="global", together=True, **WHOLE_NORM
    ),
    Entry("NormalizeByEMA", then_lr(0.1), dict(beta=0.9)),
    Entry(
        "NormalizeByEMA", then_lr(0.1), dict(beta=0.9, tensorwise=False), variant="global", together=True, **WHOLE_NORM
    ),
    Entry("ClipValueGrowth", then_lr(0.3), elementwise=True, alternatives=GROWTH),
    Entry(
        "ClipValueGrowth", then_lr(0.3), dict(add=0.1, mul=None), variant="add", elementwise=True, alternatives=GROWTH
    ),
    Entry("ClipNormGrowth", then_lr(0.3), alternatives=GROWTH),
    Entry(
        "ClipNormGrowth",
        then_lr(0.3),
        dict(add=0.1, max_decay=1.1, parameterwise=False),
        variant="global",
        together=True,
        refused=frozenset({"add", "mul", "min_value", "max_decay", "ord"}),
    ),
    # -- momentum ----------------------------------------------------------------------------------------------------
    Entry("HeavyBall", then_lr(0.05), elementwise=True, rosenbrock=None),
    Entry("HeavyBall", then_lr(0.05), dict(lerp=True, dampening=0.1), variant="lerp", elementwise=True),
    Entry("NAG", then_lr(0.05), elementwise=True),
    Entry("NAG", then_lr(0.05), dict(lerp=True), variant="lerp", elementwise=True),
    Entry("EMA", then_lr(0.3), elementwise=True),
    Entry("EMA", then_lr(0.3), dict(debiased=True), variant="debiased", elementwise=True),
    Entry("EMA", then_lr(0.3), dict(ema_init="update"), variant="update", elementwise=True),
    Entry(
        "EMASquared",
        lambda m: [tz.m.DivModules(tz.m.Identity(), [m, tz.m.Sqrt(), tz.m.Add(1e-3)]), tz.m.LR(0.05)],
        dict(beta=0.9),
        elementwise=True,
    ),
    Entry(
        "SqrtEMASquared",
        lambda m: [tz.m.DivModules(tz.m.Identity(), [m, tz.m.Add(1e-3)]), tz.m.LR(0.05)],
        dict(beta=0.9, debiased=True),
        elementwise=True,
    ),
    Entry(
        "SqrtEMASquared",
        lambda m: [tz.m.DivModules(tz.m.Identity(), [m, tz.m.Add(1e-3)]), tz.m.LR(0.05)],
        dict(beta=0.9, amsgrad=True),
        variant="amsgrad",
        elementwise=True,
    ),
    Entry(
        "Debias",
        lambda m: [tz.m.EMA(0.9), m, tz.m.LR(0.1)],
        dict(beta1=0.9),
        elementwise=True,
        alternatives=dict(beta2=0.9),
    ),
    Entry("Debias2", lambda m: [tz.m.EMASquared(0.9), m, tz.m.Sqrt(), tz.m.LR(0.1)], ratio=None, elementwise=True),
    Entry("Cautious", lambda m: [tz.m.HeavyBall(0.5), m, tz.m.LR(0.1)], elementwise=True),
    Entry("Cautious", lambda m: [tz.m.HeavyBall(0.5), m, tz.m.LR(0.1)], dict(normalize=True), variant="normalize"),
    Entry(
        "Cautious",
        lambda m: [tz.m.HeavyBall(0.5), m, tz.m.LR(0.1)],
        dict(mode="grad"),
        variant="grad",
        elementwise=True,
    ),
    Entry("Averaging", then_lr(0.1), dict(history_size=4), elementwise=True),
    Entry("MedianAveraging", then_lr(0.1), dict(history_size=3), elementwise=True),
    Entry("MedianAveraging", then_lr(0.1), dict(history_size=4), variant="even", elementwise=True),
    Entry("MedianAveraging", then_lr(0.03), dict(history_size=17), variant="long", elementwise=True),
    Entry(
        "CoordinateMomentum",
        then_lr(0.1),
        dict(p=0.5, seed=0),
        together=True,
        repeatable=False,
        float32=None,  # other numbers are drawn for another dtype
        refused=frozenset({"seed"}),
    ),
    # -- optimizers --------------------------------------------------------------------------------------------------
    Entry("Adam", then_lr(0.1), elementwise=True, rosenbrock=(600, 1)),
    Entry("Adam", then_lr(0.1), dict(amsgrad=True, pow=3), variant="amsgrad", elementwise=True),
    Entry("Adam", lambda m: [m, tz.m.WeightDecay(1e-2), tz.m.LR(0.1)], variant="decay", elementwise=True),
    Entry("Adam", lambda m: [tz.m.ClipValue(0.5), m], dict(debiased=False, alpha=0.1), variant="alone"),
    Entry("Adagrad", then_lr(0.5), elementwise=True, rosenbrock=(300, 10)),
    Entry(
        "Adagrad",
        then_lr(0.3),
        lambda: dict(inner=tz.m.EMA(0.5), lr_decay=0.01),
        variant="inner",
        elementwise=True,
    ),
    Entry("RMSprop", then_lr(0.05), elementwise=True, rosenbrock=(300, 10)),
    Entry("RMSprop", then_lr(0.05), dict(centered=True, init="zeros"), variant="centered", elementwise=True),
    Entry(
        "RMSprop",
        then_lr(0.1),
        lambda: dict(smoothing=0.999, debiased=True, init="zeros", inner=tz.m.EMA(0.9, debiased=True)),
        variant="inner",
        elementwise=True,
    ),
    Entry("Lion", then_lr(0.05), elementwise=True, float32=None),
    Entry("Rprop", lambda m: [m], dict(alpha=0.1), **RPROP),
    Entry("Rprop", lambda m: [m], dict(alpha=0.1, backtrack=False), variant="stay", rosenbrock=(300, 1), **RPROP),
    Entry("FullMatrixAdagrad", then_lr(0.5), rosenbrock=(300, 10), **PRECONDITIONER),
    Entry(
        "FullMatrixAdagrad",
        then_lr(0.1),
        lambda: dict(beta=0.99, inner=tz.m.EMA(0.9), update_freq=3, stagger=True),
        variant="Adam",
        # whose turn it is depends on all parameters
        **{**PRECONDITIONER, "together": True, "refused": frozenset({"concat_params", "decay"})},
    ),
    Entry(
        "FullMatrixAdagrad",
        then_lr(0.3),
        dict(decay=0.9),
        variant="decay",
        **{**PRECONDITIONER, "refused": frozenset({"concat_params", "beta"})},
    ),
    Entry("FullMatrixAdagrad", then_lr(3.0), dict(sqrt=False), variant="solve", **PRECONDITIONER),
    Entry(
        "FullMatrixAdagrad",
        then_lr(0.5),
        dict(concat_params=True),
        variant="concat",
        **{**PRECONDITIONER, "together": True, "refused": ALL},
    ),
    Entry("Orthogonalize", **ORTHOGONAL),
    Entry("Orthogonalize", kwargs=dict(method="svd"), variant="svd", syncs=True, **ORTHOGONAL),
    Entry("Muon", lambda m: [tz.m.Split(_is_matrix, m, tz.m.Adam()), tz.m.LR(0.05)], compiles=False, **ORTHOGONAL),
    # -- learning rate, weight decay, wrappers -----------------------------------------------------------------------
    Entry("LR", lambda m: [m], dict(lr=0.3), elementwise=True, rosenbrock=None),
    Entry("StepSize", lambda m: [m], dict(step_size=0.3), elementwise=True, skipped=frozenset({"key"})),
    Entry(
        "PolyakStepSize",
        lambda m: [m],
        closure=True,
        together=True,
        refused=frozenset({"use_grad"}),
        alternatives=dict(max=0.1),
    ),
    Entry(
        "PolyakStepSize",
        lambda m: [tz.m.EMA(0.5), m, tz.m.LR(0.5)],
        dict(parameterwise=True, use_grad=False, max=0.5),
        variant="parameterwise",
        closure=True,
        together=True,  # the loss is that of all
    ),
    Entry("Warmup", then_lr(0.3), dict(steps=10), elementwise=True),
    Entry("WeightDecay", then_lr(0.3), dict(weight_decay=1e-2), elementwise=True),
    Entry("WeightDecay", then_lr(0.3), dict(weight_decay=1e-2, ord=1), variant="l1", elementwise=True),
    Entry("WeightDecay", then_lr(0.3), dict(weight_decay=1e-2, ord=3), variant="l3", elementwise=True),
    Entry(
        "Wrap",
        lambda m: [m],
        make=lambda **kw: tz.m.Wrap(torch.optim.Adam, **{"lr": 0.1, **kw}),
        elementwise=True,
        compiles=False,
        syncs=True,  # torch's Adam reads its step count
        alternatives=dict(betas=(0.8, 0.9)),
        skipped=frozenset({"foreach", "fused", "capturable", "differentiable"}),  # ways to run it, not what it does
    ),
    # -- smoothing --------------------------------------------------------------------------------------------------
    Entry("LaplacianSmoothing", then_lr(0.3), ulps=1e3, refused=frozenset({"layerwise"})),
    Entry(
        "LaplacianSmoothing",
        then_lr(0.3),
        dict(layerwise=False),
        variant="vector",
        together=True,
        compiles=False,
        ulps=1e3,
        refused=ALL,
    ),
    # -- line searches -----------------------------------------------------------------------------------------------
    Entry("Backtracking", lambda m: [m], rosenbrock=(300, 5), alternatives=dict(min_alpha=1e-6), **SEARCH),
    Entry("AdaptiveBacktracking", lambda m: [m], rosenbrock=(300, 6), alternatives=dict(min_alpha=1e-6), **SEARCH),
    Entry("StrongWolfe", lambda m: [m], rosenbrock=(300, 5), **SEARCH),
    Entry("GridLineSearch", lambda m: [m], dict(start=0, end=1, num=5), **SEARCH),
    # -- quasi-Newton ------------------------------------------------------------------------------------------------
    Entry("BFGS", then_lr(0.5), **MATRIX),
    Entry("BFGS", _backtracking, variant="search", rosenbrock=(60, 1e-8), alternatives=QUASI_NEWTON, **SEARCH),
    Entry("LBFGS", then_lr(0.5), **MATRIX),
    Entry("LBFGS", _wolfe, variant="search", rosenbrock=(60, 1e-8), alternatives=QUASI_NEWTON, **SEARCH),
    # -- conjugate gradients -----------------------------------------------------------------------------------------
    Entry("PolakRibiere", then_lr(0.1), together=True, ulps=1e4),
    Entry(
        "PolakRibiere", _wolfe, variant="search", rosenbrock=(100, 1e-6), **{**SEARCH, "refused": frozenset()}
    ),  # its settings may differ: only the dot products are shared
    # -- gradient approximation --------------------------------------------------------------------------------------
    Entry("MeZO", then_lr(0.05), dict(n_samples=4), ratio=0.7, **APPROXIMATION),
    Entry("SPSA", then_lr(0.05), dict(n_samples=4), ratio=0.7, **APPROXIMATION),
    Entry("RDSA", then_lr(0.05), dict(n_samples=4), ratio=0.7, **APPROXIMATION),
    Entry("RandomizedFDM", then_lr(0.05), dict(n_samples=4, beta=0.1), ratio=0.7, **APPROXIMATION),
    Entry("GaussianSmoothing", then_lr(0.05), dict(n_samples=8), ratio=0.7, **APPROXIMATION),
    # -- second order ------------------------------------------------------------------------------------------------
    Entry("NewtonCG", lambda m: [m], alternatives=QUASI_NEWTON, coarse=dict(h=0.5), **SEARCH),
    Entry(
        "NewtonCG",
        _backtracking,
        variant="search",
        rosenbrock=(60, 1e-8),
        alternatives=QUASI_NEWTON,
        coarse=dict(h=0.5),
        **SEARCH,
    ),
    # -- projections -------------------------------------------------------------------------------------------------
    Entry("VectorProjection", then_lr(0.1), lambda: dict(modules=tz.m.Adam()), together=True, compiles=False),
    Entry(
        "VectorProjection",
        lambda m: [m],
        lambda: dict(modules=[tz.m.LBFGS(), tz.m.Backtracking()], project_params=True),
        variant="params",
        **SEARCH,
    ),
    # -- ops ---------------------------------------------------------------------------------------------------------
    Entry("Add", then_lr(0.3), dict(other=1e-3), elementwise=True),
    Entry("Add", then_lr(0.3), lambda: dict(other=tz.m.EMA(0.5), alpha=0.5), variant="module", elementwise=True),
    Entry("Sub", then_lr(0.3), dict(other=1e-3), elementwise=True),
    Entry("Sub", then_lr(0.3), lambda: dict(other=tz.m.EMA(0.5), alpha=0.5), variant="module", elementwise=True),
    Entry("Mul", then_lr(0.3), dict(other=0.5), elementwise=True),
    Entry(
        "Mul",
        lambda m: [tz.m.Clone(), m, tz.m.LR(0.02)],
        lambda: dict(other=tz.m.Sign()),
        variant="module",
        elementwise=True,
        ratio=None,
    ),
    Entry("Div", then_lr(0.3), dict(other=2.0), elementwise=True),
    Entry("Pow", lambda m: [tz.m.ClipValue(2), m, tz.m.LR(0.02)], dict(exponent=3), elementwise=True),
    Entry("Sqrt", lambda m: [tz.m.Pow(2), m, tz.m.LR(0.1)], elementwise=True, ratio=None),
    Entry("Sign", then_lr(0.05), elementwise=True, float32=None),
    Entry("Clone", then_lr(0.3), elementwise=True),
    Entry("Identity", then_lr(0.3), elementwise=True),
    Entry("Grad", lambda m: [tz.m.Adam(), m, tz.m.LR(0.3)], elementwise=True),
    Entry("AccumulateMaximum", then_lr(0.01), elementwise=True, ratio=None),
    Entry(
        "DivModules",
        then_lr(0.1),
        make=lambda **kw: tz.m.DivModules(
            tz.m.EMA(0.9, debiased=True), [tz.m.SqrtEMASquared(0.999, debiased=True), tz.m.Add(1e-8)], **kw
        ),
        elementwise=True,
    ),
    Entry("GraftModules", then_lr(0.3), make=lambda **kw: tz.m.GraftModules(tz.m.Adam(), tz.m.Identity(), **kw)),
    Entry(
        "Sum",
        then_lr(0.1),
        make=lambda **kw: tz.m.Sum(tz.m.EMA(0.5), tz.m.Identity(), kw.get("2", 1e-3)),
        elementwise=True,
    ),
    Entry(
        "Split",
        then_lr(0.1),
        make=lambda **kw: tz.m.Split(_is_matrix, tz.m.Adam(), tz.m.HeavyBall(0.5), **kw),
        compiles=False,
    ),
    Entry(
        "GradientAccumulation",
        lambda m: [m],
        lambda: dict(modules=[tz.m.Adam(), tz.m.LR(0.2)], n=2),
        refused=ALL,
        compiles=False,
    ),
]


def _is_matrix(p: torch.Tensor) -> bool:
    return p.ndim >= 2


def public_modules() -> dict[str, type[Module]]:
    """Every module that ``tz.m`` offers, by name."""
    return {
        name: value
        for name, value in vars(tz.m).items()
        if isinstance(value, type) and issubclass(value, Module) and not name.startswith("_")
    }
