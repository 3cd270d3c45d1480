"""Entries: ops."""

from __future__ import annotations

import torch

import torchzero_core as tz
from tests.registry.entry import ALL, Entry, is_matrix, then_lr


def noisy(module: tz.core.Module) -> list[tz.core.Module]:
    """The chain of gradient descent with a little of what the module makes of the gradient."""
    return [tz.m.Add([module, tz.m.Mul(1e-3)]), tz.m.LR(0.3)]


def double(u: torch.Tensor) -> torch.Tensor:
    """A function of a tensor."""
    return u.mul_(2)


def doubles(us: list[torch.Tensor]) -> list[torch.Tensor]:
    """A function of a list of tensors."""
    return [double(u) for u in us]


#: They draw random numbers, one tensor after the other.
RANDOM = dict(together=True, repeatable=False, float32=None, refused=frozenset({"seed"}), alternatives=dict(seed=1))
#: Numbers over all parameters are of those in the groups that ask for them.
GRAFT = dict(refused=frozenset(), alternatives=dict(ord=1, eps=0.1))

ENTRIES: list[Entry] = [
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
        make=lambda **kw: tz.m.Split(is_matrix, tz.m.Adam(), tz.m.HeavyBall(0.5), **kw),
        compiles=False,
    ),
    Entry(
        "GradientAccumulation",
        lambda m: [m],
        lambda: dict(modules=[tz.m.Adam(), tz.m.LR(0.2)], n=2),
        refused=ALL,
        compiles=False,
    ),
    Entry("Abs", noisy, elementwise=True),
    Entry("Negate", lambda m: [m, tz.m.Negate(), tz.m.LR(0.3)], elementwise=True),
    Entry("Exp", lambda m: [tz.m.Clip(-5, 5), *noisy(m)], elementwise=True),
    Entry("Reciprocal", lambda m: [tz.m.Clip(-5, 5), *noisy(m)], dict(eps=10), elementwise=True),
    Entry(
        "NanToNum",
        lambda m: [tz.m.Mul([tz.m.Sign(), tz.m.Div(tz.m.Sign())]), m, tz.m.LR(0.3)],
        elementwise=True,
        alternatives=dict(nan=1.0, posinf=2.0, neginf=-2.0),
    ),
    Entry(
        "CustomUnaryOperation",
        then_lr(0.3),
        make=lambda **kw: tz.m.CustomUnaryOperation("trunc", **kw),
        variant="fused",
        elementwise=True,
        float32=None,
    ),
    Entry(
        "CustomUnaryOperation",
        then_lr(0.3),
        make=lambda **kw: tz.m.CustomUnaryOperation("asinh", **kw),
        elementwise=True,
    ),
    Entry("UnaryLambda", then_lr(0.3), dict(fn=doubles), elementwise=True, compiles=False),
    Entry("UnaryParameterwiseLambda", then_lr(0.3), dict(fn=double), elementwise=True),
    Entry("RSub", lambda m: [m, tz.m.Negate(), tz.m.LR(0.3)], dict(other=1e-3), elementwise=True),
    Entry("RDiv", lambda m: [tz.m.Clip(-5, 5), tz.m.Add(8), *noisy(m)], dict(other=2.0), elementwise=True, ratio=None),
    Entry("RPow", lambda m: [tz.m.Clip(-5, 5), *noisy(m)], dict(other=2.0), elementwise=True),
    Entry("Maximum", then_lr(0.3), dict(other=-0.5), elementwise=True),
    Entry(
        "Maximum",
        then_lr(0.3),
        lambda: dict(other=[tz.m.Abs(), tz.m.Mul(-0.5)]),
        variant="module",
        elementwise=True,
    ),
    Entry("Minimum", then_lr(0.3), dict(other=0.5), elementwise=True),
    Entry("Clip", then_lr(0.3), dict(min=-0.5, max=0.25), elementwise=True),
    Entry(
        "Clip",
        then_lr(0.3),
        lambda: dict(max=tz.m.Abs()),
        variant="module",
        elementwise=True,
        alternatives=dict(min=-0.1),
    ),
    Entry("MirroredClip", then_lr(0.1), dict(min=-9.0, max=8.0), elementwise=True, ratio=None),
    Entry("Lerp", then_lr(0.3), dict(end=0.01, weight=0.4), elementwise=True),
    Entry("Lerp", then_lr(0.3), lambda: dict(end=tz.m.EMA(0.5), weight=0.6), variant="module", elementwise=True),
    Entry("CopySign", then_lr(0.1), lambda: dict(other=tz.m.EMA(0.5)), elementwise=True),
    Entry("RCopySign", then_lr(0.3), dict(other=0.05), elementwise=True, float32=None),
    Entry(
        "Threshold", then_lr(0.3), dict(threshold=-0.5, value=-0.25, update_above=True), elementwise=True, float32=None
    ),
    Entry(
        "Where",
        then_lr(0.3),
        lambda: dict(condition=[tz.m.Sign(), tz.m.Maximum(0)], other=-0.05),
        elementwise=True,
        alternatives=dict(input=0.5),
    ),
    Entry("Rescale", noisy, dict(min=-1.0, max=1.0), alternatives=dict(eps=0.1)),
    Entry("Graft", then_lr(0.3), lambda: dict(magnitude=tz.m.Adam()), **GRAFT),
    Entry("RGraft", then_lr(0.3), lambda: dict(direction=tz.m.Adam()), **GRAFT),
    Entry("GramSchmidt", then_lr(0.3), lambda: dict(other=tz.m.Adam(0.0)), ratio=None, together=True),
    Entry("Fill", lambda m: [tz.m.Add([m, tz.m.LR(0.01)]), tz.m.LR(0.3)], dict(value=2.0), elementwise=True),
    Entry("Zeros", noisy, elementwise=True),
    Entry("Ones", noisy, elementwise=True),
    Entry("Params", noisy, elementwise=True),
    Entry(
        "GradToNone", lambda m: [tz.m.Clone(), m, tz.m.Add(tz.m.Grad()), tz.m.LR(0.1)], elementwise=True, compiles=False
    ),
    Entry("UpdateToNone", lambda m: [tz.m.Sign(), m, tz.m.LR(0.3)], elementwise=True, compiles=False),
    Entry("Randn", noisy, **RANDOM),
    Entry("RandomSample", noisy, dict(distribution="sphere"), **RANDOM),
    Entry("Uniform", noisy, dict(low=-1.0, high=1.0), **RANDOM),
    Entry("AccumulateMean", then_lr(0.1), elementwise=True, ratio=None),
    Entry("AccumulateMinimum", then_lr(0.01), elementwise=True, ratio=None),
    Entry("AccumulateProduct", lambda m: [tz.m.Clip(-0.5, 0.5), m, tz.m.LR(0.1)], elementwise=True, ratio=None),
    Entry("AccumulateSum", then_lr(0.02), dict(decay=0.5), elementwise=True, ratio=None),
    Entry("ClipModules", then_lr(0.3), lambda: dict(input=tz.m.EMA(0.5), min=-0.5, max=0.5), elementwise=True),
    Entry("SubModules", then_lr(0.1), lambda: dict(input=tz.m.Mul(2), other=tz.m.EMA(0.5)), elementwise=True),
    Entry("PowModules", then_lr(0.02), lambda: dict(input=tz.m.ClipValue(2), exponent=3), elementwise=True),
    Entry(
        "LerpModules", then_lr(0.1), lambda: dict(input=tz.m.Adam(), end=tz.m.EMA(0.5), weight=0.3), elementwise=True
    ),
    Entry(
        "Mean",
        then_lr(0.1),
        make=lambda **kw: tz.m.Mean(tz.m.EMA(0.5), tz.m.Identity(), tz.m.Mul(0.5), **kw),
        elementwise=True,
    ),
    Entry(
        "MaximumModules",
        then_lr(0.1),
        make=lambda **kw: tz.m.MaximumModules(tz.m.EMA(0.5), tz.m.Identity(), tz.m.Mul(0.5), **kw),
        elementwise=True,
    ),
    Entry(
        "MinimumModules",
        then_lr(0.1),
        make=lambda **kw: tz.m.MinimumModules(tz.m.EMA(0.5), tz.m.Identity(), tz.m.Mul(0.5), **kw),
        elementwise=True,
    ),
    Entry(
        "MedianModules",
        then_lr(0.1),
        make=lambda **kw: tz.m.MedianModules(tz.m.EMA(0.5), tz.m.Identity(), tz.m.Mul(0.5), **kw),
        elementwise=True,
    ),
    Entry(
        "Prod",
        then_lr(0.1),
        make=lambda **kw: tz.m.Prod(tz.m.Identity(), tz.m.Sign(), tz.m.Sign(), **kw),
        elementwise=True,
    ),
    Entry(
        "WeightedSum",
        then_lr(0.1),
        make=lambda **kw: tz.m.WeightedSum(tz.m.EMA(0.5), tz.m.Identity(), **{"weights": [0.5, 1.5], **kw}),
        elementwise=True,
        alternatives=dict(weights=[1.0, 2.0]),
    ),
    Entry(
        "WeightedMean",
        then_lr(0.1),
        make=lambda **kw: tz.m.WeightedMean(tz.m.EMA(0.5), tz.m.Identity(), **{"weights": [0.5, 1.5], **kw}),
        elementwise=True,
        alternatives=dict(weights=[1.0, 2.0]),
    ),
    Entry(
        "Alternate",
        then_lr(0.1),
        make=lambda **kw: tz.m.Alternate(tz.m.Adam(), tz.m.Identity(), **{"steps": [2, 1], **kw}),
        elementwise=True,
        refused=frozenset({"steps"}),
        alternatives=dict(steps=2),
    ),
    Entry(
        "Switch",
        then_lr(0.1),
        make=lambda **kw: tz.m.Switch(tz.m.Adam(), tz.m.Identity(), **{"steps": 2, **kw}),
        elementwise=True,
        refused=frozenset({"steps"}),
    ),
    Entry(
        "Switch",
        lambda m: [m],
        make=lambda **kw: tz.m.Switch(
            [tz.m.Adam(), tz.m.LR(0.1)], [tz.m.BFGS(), tz.m.StrongWolfe()], **{"steps": 3, **kw}
        ),
        variant="search",
        closure=True,
        together=True,
        compiles=False,
        syncs=True,
        ulps=1e4,
        refused=frozenset({"steps"}),
    ),
    Entry(
        "SwitchWhen",
        then_lr(0.1),
        make=lambda **kw: tz.m.SwitchWhen(
            tz.m.Adam(),
            [tz.m.EMA(0.5), tz.m.Sign()],
            tz.m.Identity(),
            rules=[tz.stopping.MaxSteps(2), [tz.stopping.GradNorm(1e-9), tz.stopping.MaxSteps(2)]],
            **kw,
        ),
        compiles=False,
        together=True,
        syncs=True,
    ),
    Entry(
        "SwitchWhen",
        lambda m: [m],
        make=lambda **kw: tz.m.SwitchWhen(
            [tz.m.Adam(), tz.m.LR(0.1)],
            [tz.m.BFGS(), tz.m.StrongWolfe()],
            rules=tz.stopping.MaxSteps(3) | tz.stopping.LossChange(1e-4, patience=2) | tz.stopping.StepNorm(1e-9),
            **kw,
        ),
        variant="search",
        closure=True,
        together=True,
        compiles=False,
        syncs=True,
        ulps=1e4,
    ),
]
