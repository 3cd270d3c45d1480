"""Entries: operations with gradients, losses and past updates, and modules that run others."""

from __future__ import annotations

import math

import torchzero_core as tz
from tests.registry.entry import Entry, after_adam, then_lr

#: What a norm over all parameters is computed with.
GRAFT = dict(together=True, refused=frozenset({"ord"}))
#: A number that divides others, or ratios of what may be anything.
ANY = dict(ratio=None, float32=None)
#: Random numbers from its own generator.
RANDOM = dict(together=True, repeatable=False, float32=None, refused=frozenset({"seed"}), alternatives=dict(seed=1))
#: The loss of all parameters decides.
LOSS = dict(closure=True, together=True)
#: Modules that move the parameters on a way that is one for all.
STEPS = dict(closure=True, together=True, compiles=False, syncs=True, refused=frozenset({"steps"}))


def silent(text: str) -> None:
    """Prints nothing."""


ENTRIES: list[Entry] = [
    Entry("GradSign", after_adam(), elementwise=True),
    Entry("UpdateSign", lambda m: [tz.m.EMA(0.5), m, tz.m.LR(0.2)], elementwise=True, float32=None),
    Entry("GraftToGrad", after_adam(0.3), **GRAFT),
    Entry("GraftToGrad", after_adam(0.3), dict(tensorwise=True, ord=1), variant="tensorwise"),
    Entry("GraftGradToUpdate", after_adam(0.1), **GRAFT),
    Entry("GraftGradToUpdate", after_adam(0.1), dict(tensorwise=True, ord=math.inf), variant="tensorwise"),
    Entry("GraftToParams", after_adam(0.1), **GRAFT),
    Entry("GraftToParams", after_adam(0.1), dict(tensorwise=True, ord=1), variant="tensorwise"),
    Entry("Relative", then_lr(0.3), dict(min_value=0.1), elementwise=True),
    Entry("LastGradDifference", then_lr(0.01), elementwise=True, ratio=None),
    Entry("LastDifference", then_lr(0.01), elementwise=True, ratio=None),
    Entry("LastProduct", lambda m: [tz.m.ClipValue(1), m, tz.m.LR(0.01)], elementwise=True, ratio=None),
    Entry("LastRatio", lambda m: [tz.m.Add(3.0), m, tz.m.LR(0.01)], elementwise=True, **ANY),
    Entry("LastAbsoluteRatio", lambda m: [m, tz.m.ClipValue(1), tz.m.LR(0.01)], elementwise=True, **ANY),
    Entry("Previous", then_lr(0.1), elementwise=True),
    Entry("Previous", then_lr(0.1), dict(n=3), variant="three", elementwise=True),
    Entry("Dropout", then_lr(0.1), **RANDOM),
    Entry("Dropout", then_lr(0.1), dict(graft=True, p=0.3), variant="graft", **RANDOM),
    Entry("NoiseSign", then_lr(0.05), **RANDOM),
    Entry("NoiseSign", then_lr(0.05), dict(distribution="uniform"), variant="uniform", **RANDOM),
    Entry("FillLoss", then_lr(0.001), ratio=None, **LOSS),
    Entry("MulByLoss", then_lr(0.01), **LOSS),
    Entry("DivByLoss", then_lr(0.1), **LOSS),
    Entry(
        "NegateOnLossIncrease",
        lambda m: [tz.m.LR(0.3), m],
        compiles=False,
        syncs=True,
        refused=frozenset({"backtrack"}),
        **LOSS,
    ),
    Entry("WeightDropout", then_lr(0.1), closure=True, compiles=False, **RANDOM),
    Entry(
        "Multistep",
        lambda m: [m, tz.m.LR(0.5)],
        lambda: dict(module=[tz.m.Adam(), tz.m.LR(0.1)], steps=3),
        **STEPS,
    ),
    Entry(
        "Multistep",
        lambda m: [m],
        lambda: dict(module=[tz.m.LBFGS(), tz.m.StrongWolfe()], steps=2),
        variant="search",
        rosenbrock=(30, 1e-8),
        **STEPS,
    ),
    Entry(
        "Sequential",
        lambda m: [m],
        lambda: dict(modules=[[tz.m.Adam(), tz.m.LR(0.1)], [tz.m.HeavyBall(0.5), tz.m.LR(0.05)]], steps=2),
        **STEPS,
    ),
    Entry("PrintShape", then_lr(0.3), dict(print_fn=silent), elementwise=True, compiles=False),
    Entry("PrintUpdate", then_lr(0.3), dict(print_fn=silent), elementwise=True, compiles=False, syncs=True),
]
