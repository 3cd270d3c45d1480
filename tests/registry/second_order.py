"""Entries: second order."""

from __future__ import annotations

import torch

from tests.registry.entry import QUASI_NEWTON, SEARCH, Entry, backtracking

#: Other values of settings that are None by default.
NEWTON = dict(
    H_tfm=lambda matrix, u: (matrix, False),
    eigval_tfm=torch.abs,
    maxiter=7,
    seed=1,
    trust_init=0.5,
    de_iters=3,
)
#: The sketch is drawn anew in each step.
RANDOM = dict(SEARCH, repeatable=False, float32=None)

ENTRIES: list[Entry] = [
    Entry("NewtonCG", lambda m: [m], alternatives=QUASI_NEWTON, coarse=dict(h=0.5), **SEARCH),
    Entry(
        "NewtonCG",
        backtracking,
        variant="search",
        rosenbrock=(60, 1e-8),
        alternatives=QUASI_NEWTON,
        coarse=dict(h=0.5),
        **SEARCH,
    ),
    Entry("Newton", lambda m: [m], rosenbrock=None, alternatives=NEWTON, **SEARCH),
    Entry(
        "Newton",
        backtracking,
        dict(eig_reg=True),
        variant="eig_reg",
        rosenbrock=(60, 1e-8),
        alternatives=NEWTON,
        **SEARCH,
    ),
    Entry("Newton", backtracking, dict(search_negative=True), variant="negative", alternatives=NEWTON, **SEARCH),
    Entry("Newton", backtracking, dict(hessian_method="func"), variant="func", alternatives=NEWTON, **SEARCH),
    Entry("NystromSketchAndSolve", backtracking, dict(rank=3, reg=0.1), alternatives=NEWTON, **RANDOM),
    Entry("NystromPCG", backtracking, dict(sketch_size=2), rosenbrock=(60, 1e-8), alternatives=NEWTON, **RANDOM),
    Entry(
        "NystromPCG",
        lambda m: [m],
        dict(sketch_size=3, hvp_method="central"),
        variant="central",
        alternatives=NEWTON,
        coarse=dict(h=0.5),
        **RANDOM,
    ),
    Entry("HigherOrderNewton", lambda m: [m], dict(order=2), alternatives=NEWTON, **SEARCH),
    Entry(
        "HigherOrderNewton",
        lambda m: [m],
        dict(order=3, trust_method="proximal"),
        variant="proximal",
        alternatives=NEWTON,
        **SEARCH,
    ),
]
