"""Entries: projections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torchzero_core as tz
from tests.registry.entry import SEARCH, Entry, then_lr


def adam() -> Mapping[str, Any]:
    """What runs in most of them."""
    return dict(modules=tz.m.Adam())


def search(**settings: Any) -> Callable[[], Mapping[str, Any]]:
    """A quasi-Newton method with a line search in the projected space."""
    return lambda: dict(modules=[tz.m.LBFGS(), tz.m.Backtracking()], project_params=True, **settings)


ENTRIES: list[Entry] = [
    Entry("VectorProjection", then_lr(0.1), adam, together=True, compiles=False),
    Entry("VectorProjection", lambda m: [m], search(), variant="params", **SEARCH),
    Entry("FFTProjection", then_lr(0.1), adam, compiles=False, refused=frozenset({"one_d"}), ulps=1e4),
    Entry(
        "FFTProjection",
        then_lr(0.1),
        lambda: dict(modules=tz.m.Adam(), one_d=True, norm="ortho"),
        variant="one_d",
        together=True,
        compiles=False,
        refused=frozenset({"one_d", "norm"}),
        ulps=1e4,
    ),
    Entry("FFTProjection", lambda m: [m], search(), variant="params", **{**SEARCH, "refused": frozenset({"one_d"})}),
    Entry("DCTProjection", then_lr(0.1), adam, compiles=False, ulps=1e4),
    Entry(
        "DCTProjection", lambda m: [m], search(norm="backward"), variant="params", **{**SEARCH, "refused": frozenset()}
    ),
    Entry(
        "BlockPartition",
        then_lr(0.1),
        lambda: dict(modules=tz.m.Adam(), max_size=4),
        elementwise=True,
        compiles=False,
        refused=frozenset({"batched"}),
    ),
    Entry(
        "BlockPartition",
        then_lr(0.1),
        lambda: dict(modules=tz.m.Adam(), max_size=4, batched=True),
        variant="batched",
        together=True,
        compiles=False,
        refused=frozenset({"batched"}),
    ),
    Entry(
        "BlockPartition",
        lambda m: [m, tz.m.Backtracking()],
        lambda: dict(modules=tz.m.BFGS(concat_params=False), max_size=4),
        variant="bfgs",
        **{**SEARCH, "refused": frozenset({"batched"})},
    ),
    Entry("TensorNormsProjection", then_lr(0.1), adam, together=True, compiles=False),
    Entry(
        "TensorNormsProjection",
        lambda m: [m],
        search(),
        variant="params",
        **{**SEARCH, "refused": frozenset()},
        ratio=0.9,
    ),
    Entry(
        "TensorizeProjection",
        then_lr(0.1),
        lambda: dict(modules=tz.m.Adam(), max_side=4),
        together=True,
        compiles=False,
        refused=frozenset({"max_side"}),
    ),
    Entry("TensorizeProjection", lambda m: [m], search(max_side=4), variant="params", **SEARCH),
    Entry(
        "GaLore",
        then_lr(0.1),
        lambda: dict(modules=tz.m.Adam(), rank=2, update_freq=3, scale=1.0),
        compiles=False,
        syncs=True,
        ulps=1e5,
        ratio=0.9,
    ),
]
