"""Entries: optimizers."""

from __future__ import annotations

import torchzero_core as tz
from tests.registry.entry import ALL, KRONECKER, ORTHOGONAL, PRECONDITIONER, RPROP, SOAP, Entry, is_matrix, then_lr

#: Factors that follow signs.
STEP_SIZES = dict(alternatives=dict(nplus=1.1))
#: The diagonal of the Hessian from random products.
SOPHIA = dict(
    closure=True,
    together=True,
    compiles=False,
    syncs=True,
    repeatable=False,
    float32=None,  # other numbers are drawn for another dtype
    ulps=1e8,  # differences of gradients over a short distance
    refused=frozenset({"hvp_method", "fd_h", "n_samples", "seed"}),
    alternatives=dict(seed=1),
    coarse=dict(fd_h=0.1),
)

ENTRIES: list[Entry] = [
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
    Entry("Shampoo", then_lr(0.5), **KRONECKER),
    Entry("Shampoo", then_lr(0.5), dict(update_freq=1), variant="often", rosenbrock=(300, 10), **KRONECKER),
    Entry("Shampoo", then_lr(0.3), dict(merge_small=False, update_freq=3, max_dim=3), variant="dims", **KRONECKER),
    Entry(
        "Shampoo",
        then_lr(0.1),
        lambda: dict(beta=0.9, inner=tz.m.EMA(0.9), precondition_1d=False, stagger=True),
        variant="inner",
        # whose turn it is depends on all parameters
        **{**KRONECKER, "together": True, "refused": frozenset({"decay"})},
    ),
    Entry("SOAP", then_lr(0.1), rosenbrock=(600, 1), **SOAP),
    Entry("SOAP", then_lr(0.1), dict(merge_small=False, precond_freq=2, max_dim=3), variant="dims", **SOAP),
    Entry(
        "SOAP",
        then_lr(0.1),
        dict(precondition_1d=False, shampoo_beta=None, decay=0.9, stagger=True, bias_correction=False),
        variant="stagger",
        **{**SOAP, "together": True},
    ),
    Entry("OrthoGrad", lambda m: [m, tz.m.LR(0.1)], ratio=0.9, together=True),
    Entry("OrthoGrad", lambda m: [m, tz.m.LR(0.1)], dict(renormalize=False), variant="short", ratio=0.9, together=True),
    Entry("DualNormCorrection", lambda m: [tz.m.Orthogonalize(method="svd"), m, tz.m.LR(0.05)], syncs=True),
    Entry("MuonAdjustLR", lambda m: [tz.m.Adam(), m, tz.m.LR(0.1)]),
    Entry("Orthogonalize", **ORTHOGONAL),
    Entry("Orthogonalize", kwargs=dict(method="svd"), variant="svd", syncs=True, **ORTHOGONAL),
    Entry("Muon", lambda m: [tz.m.Split(is_matrix, m, tz.m.Adam()), tz.m.LR(0.05)], compiles=False, **ORTHOGONAL),
    Entry("Adamax", then_lr(0.1), elementwise=True, rosenbrock=(600, 6)),
    Entry("NAdam", then_lr(0.1), elementwise=True, rosenbrock=(600, 1)),
    Entry("RAdam", then_lr(0.1), dict(beta2=0.99), elementwise=True),
    Entry("Adadelta", then_lr(1.0), dict(eps=1e-2), elementwise=True),
    Entry("ASGD", lambda m: [m], dict(lr=0.1, t0=2.0, lambd=0.01), elementwise=True),
    Entry("Adafactor", lambda m: [m], dict(lr=0.5), alternatives=dict(d=2.0)),
    Entry("BacktrackOnSignChange", then_lr(0.1), elementwise=True),
    Entry(
        "BacktrackOnSignChange",
        lambda m: [tz.m.EMA(0.5), m, tz.m.LR(0.1)],
        dict(use_grad=True, backtrack=False),
        variant="grad",
        elementwise=True,
    ),
    Entry("ScaleLRBySignChange", then_lr(0.05), elementwise=True, **STEP_SIZES),
    Entry(
        "ScaleLRBySignChange",
        lambda m: [tz.m.EMA(0.5), m, tz.m.LR(0.05)],
        dict(use_grad=True),
        variant="grad",
        elementwise=True,
        **STEP_SIZES,
    ),
    Entry(
        "SignConsistencyLRs",
        lambda m: [tz.m.Mul(m), tz.m.LR(0.05)],
        elementwise=True,
        **STEP_SIZES,
    ),
    Entry("SignConsistencyMask", lambda m: [tz.m.Mul(m), tz.m.LR(0.1)], elementwise=True),
    Entry("SophiaH", then_lr(0.1), dict(clip=2.0, update_freq=3), **SOPHIA),
    Entry(
        "SophiaH",
        then_lr(0.1),
        lambda: dict(hvp_method="forward", n_samples=2, seed=0, inner=tz.m.HeavyBall(0.5)),
        variant="forward",
        **SOPHIA,
    ),
]
