"""Entries: momentum."""

from __future__ import annotations

import torchzero_core as tz
from tests.registry.entry import Entry, then_lr

#: Lists have no value of their own to try for another group.
WEIGHTS = dict(alternatives=dict(weights=[1.0, 1.0]))
#: Products with the Hessian of all parameters.
MATRIX_MOMENTUM = dict(
    closure=True,
    together=True,
    compiles=False,
    syncs=True,
    refused=frozenset({"hvp_method", "h"}),
    ulps=1e8,  # differences of gradients over a short distance
    float32=1e-2,
    coarse=dict(h=0.1),
)

ENTRIES: list[Entry] = [
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
    Entry(
        "CenteredEMASquared",
        lambda m: [tz.m.DivModules(tz.m.Identity(), [m, tz.m.Sqrt(), tz.m.Add(1)]), tz.m.LR(0.05)],
        dict(beta=0.9),
        elementwise=True,
    ),
    Entry(
        "CenteredEMASquared",
        lambda m: [tz.m.DivModules(tz.m.Identity(), [m, tz.m.Sqrt(), tz.m.Add(1)]), tz.m.LR(0.05)],
        dict(beta=0.9, amsgrad=True, pow=3),
        variant="amsgrad",
        elementwise=True,
    ),
    Entry(
        "CenteredSqrtEMASquared",
        lambda m: [tz.m.DivModules(tz.m.Identity(), [m, tz.m.Add(1)]), tz.m.LR(0.05)],
        dict(beta=0.9, debiased=True),
        elementwise=True,
    ),
    Entry("WeightedAveraging", then_lr(0.1), dict(weights=[1.0, 2.0, 4.0]), elementwise=True, **WEIGHTS),
    Entry("WeightedAveraging", then_lr(0.1), dict(weights=[3.0, 1.0, 0.0]), variant="old", elementwise=True, **WEIGHTS),
    Entry(
        "IntermoduleCautious",
        then_lr(0.1),
        lambda: dict(main=tz.m.HeavyBall(0.5), compare=tz.m.Sign()),
        elementwise=True,
    ),
    Entry(
        "IntermoduleCautious",
        then_lr(0.1),
        lambda: dict(main=tz.m.HeavyBall(0.5), compare=tz.m.EMA(0.5), normalize=True),
        variant="normalize",
    ),
    Entry("ScaleByGradCosineSimilarity", lambda m: [tz.m.HeavyBall(0.5), m, tz.m.LR(0.1)], together=True),
    Entry(
        "ScaleModulesByCosineSimilarity",
        then_lr(0.1),
        lambda: dict(main=tz.m.HeavyBall(0.5), compare=tz.m.Sign()),
        together=True,
    ),
    Entry(
        "UpdateGradientSignConsistency",
        lambda m: [tz.m.Mul([tz.m.HeavyBall(0.5), m]), tz.m.LR(0.1)],
        ratio=None,
        elementwise=True,
    ),
    Entry(
        "UpdateGradientSignConsistency",
        lambda m: [tz.m.Mul([tz.m.HeavyBall(0.5), m]), tz.m.LR(0.1)],
        dict(normalize=True),
        variant="normalize",
        ratio=None,
    ),
    Entry("MatrixMomentum", then_lr(0.05), dict(mu=0.3), **MATRIX_MOMENTUM),
    Entry(
        "MatrixMomentum",
        then_lr(0.05),
        lambda: dict(mu=0.3, hvp_method="autograd", hvp_tfm=tz.m.Identity()),
        variant="autograd",
        **MATRIX_MOMENTUM,
    ),
    Entry("MatrixMomentum", then_lr(0.05), dict(mu=0.3, hvp_method="central"), variant="central", **MATRIX_MOMENTUM),
    Entry("AdaptiveMatrixMomentum", then_lr(0.05), **MATRIX_MOMENTUM),
]
