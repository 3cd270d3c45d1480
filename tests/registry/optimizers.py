"""Entries: optimizers."""

from __future__ import annotations

import torchzero_core as tz
from tests.registry.entry import ALL, KRONECKER, ORTHOGONAL, PRECONDITIONER, RPROP, SOAP, Entry, is_matrix, then_lr

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
]
