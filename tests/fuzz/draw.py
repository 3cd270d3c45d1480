"""What a seed stands for: a chain, a problem, and what is done between the steps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

import torchzero_core as tz
from tests.problems import values
from tests.registry import ENTRIES
from tests.registry.entry import is_matrix
from torchzero_core.core import Module

m = tz.m
Build = Callable[[], list[Module]]

#: Modules that stand for one number or for tensors of any size: a step of theirs may be as large as it likes.
LEAVES = [e for e in ENTRIES if e.name not in ("PrintShape", "PrintUpdate")]
SEARCHES = ["Backtracking", "AdaptiveBacktracking", "StrongWolfe", "TrustRegion", "GridLineSearch"]
DIRECTIONS = [
    "Identity", "Adam", "BFGS", "SR1", "DFP", "LBFGS", "LSR1", "OnlineLBFGS", "PolakRibiere", "HagerZhang", "NewtonCG",
    "Newton", "NystromPCG", "HigherOrderNewton", "SOAP", "Shampoo", "Muon", "HeavyBall", "FullMatrixAdagrad",
]  # fmt: skip
APPROXIMATIONS = [e.name for e in ENTRIES if e.derivative_free]
#: Nodes: a name, how many children, and how it is built of them.
NODES: list[tuple[str, int, Callable[..., Module]]] = [
    ("Split(is_matrix)", 2, lambda a, b: m.Split(is_matrix, a, b)),
    ("Split(is_matrix, a)", 1, lambda a: m.Split(is_matrix, a)),
    ("Alternate", 2, lambda a, b: m.Alternate(a, b)),
    ("Alternate(2, 1)", 2, lambda a, b: m.Alternate(a, b, steps=[2, 1])),
    ("Switch(2)", 2, lambda a, b: m.Switch(a, b, steps=2)),
    ("GradientAccumulation(2)", 1, lambda a: m.GradientAccumulation(a, 2)),
    ("GradientAccumulation(3, mean, stop off)", 1, lambda a: m.GradientAccumulation(a, 3, mean=False, stop=False)),
    ("Multistep(2)", 1, lambda a: m.Multistep(a, 2)),
    ("Sequential(2)", 2, lambda a, b: m.Sequential([a, b], 2)),
    ("Sum", 2, lambda a, b: m.Sum(a, b)),
    ("Sum(number)", 2, lambda a, b: m.Sum(a, b, 1e-3)),
    ("Mean", 2, lambda a, b: m.Mean(a, b)),
    ("GraftModules", 2, lambda a, b: m.GraftModules(a, b)),
    ("LerpModules", 2, lambda a, b: m.LerpModules(a, b, 0.3)),
    ("SubModules", 2, lambda a, b: m.SubModules(a, b)),
    ("MaximumModules", 2, lambda a, b: m.MaximumModules(a, b)),
    ("MedianModules", 2, lambda a, b: m.MedianModules(a, b, 0.1)),
    ("Add", 1, lambda a: m.Add(a, alpha=0.5)),
    ("Mul", 1, lambda a: m.Mul(a)),
    ("Maximum", 1, lambda a: m.Maximum(a)),
    ("Clip(max)", 1, lambda a: m.Clip(max=a)),
    ("Graft", 1, lambda a: m.Graft(a)),
    ("CopySign", 1, lambda a: m.CopySign(a)),
    ("RMSprop(inner)", 1, lambda a: m.RMSprop(0.9, inner=a)),
    ("Adagrad(inner)", 1, lambda a: m.Adagrad(inner=a)),
    ("Shampoo(inner)", 1, lambda a: m.Shampoo(inner=a)),
    ("FullMatrixAdagrad(inner)", 1, lambda a: m.FullMatrixAdagrad(inner=a)),
    ("LBFGS(inner)", 1, lambda a: m.LBFGS(inner=a)),
    ("BFGS(inner)", 1, lambda a: m.BFGS(inner=a)),
    ("PolakRibiere(inner)", 1, lambda a: m.PolakRibiere(inner=a)),
    ("NewtonCG(inner)", 1, lambda a: m.NewtonCG(inner=a)),
    ("VectorProjection", 1, lambda a: m.VectorProjection(a)),
    ("VectorProjection(params)", 1, lambda a: m.VectorProjection(a, project_params=True)),
    ("VectorProjection(grad)", 1, lambda a: m.VectorProjection(a, project_params=True, project_grad=True)),
    ("BlockPartition(4)", 1, lambda a: m.BlockPartition(a, 4)),
    ("BlockPartition(4, params)", 1, lambda a: m.BlockPartition(a, 4, project_params=True)),
    ("BlockPartition(4, batched)", 1, lambda a: m.BlockPartition(a, 4, batched=True)),
    ("FFTProjection", 1, lambda a: m.FFTProjection(a)),
    ("FFTProjection(one_d, params)", 1, lambda a: m.FFTProjection(a, one_d=True, project_params=True)),
    ("DCTProjection", 1, lambda a: m.DCTProjection(a)),
    ("DCTProjection(params)", 1, lambda a: m.DCTProjection(a, project_params=True)),
    ("TensorizeProjection(4)", 1, lambda a: m.TensorizeProjection(a, 4)),
    ("TensorizeProjection(4, params)", 1, lambda a: m.TensorizeProjection(a, 4, project_params=True)),
    ("TensorNormsProjection", 1, lambda a: m.TensorNormsProjection(a)),
    ("TensorNormsProjection(params)", 1, lambda a: m.TensorNormsProjection(a, project_params=True)),
    ("GaLore(2)", 1, lambda a: m.GaLore(a, 2, 3, 1.0)),
]
#: They divide by what may be zero, take roots of what may be negative, or grow with each step: NaN and infinities are
#: theirs by definition.
PARTIAL = {
    "Sqrt", "Pow", "RPow", "RDiv", "Div", "DivModules", "PowModules", "Exp", "Reciprocal", "CustomUnaryOperation",
    "LastRatio", "LastAbsoluteRatio", "LastProduct", "AccumulateProduct", "Prod", "UnaryLambda", "DivByLoss",
    "UnaryParameterwiseLambda", "WeightedMean",
}  # fmt: skip
SHAPES = [(3, 4), (5,), (), (1,), (4, 1), (1, 3), (2, 3, 2, 2), (2, 1, 3, 1, 2), (0,), (2, 0), (6, 2), (1, 1, 1)]
#: More elements than a piece of memory that is worked on at once.
LARGE = (128, 256, 3, 3)


def _leaf(rnd: random.Random, pool: Sequence[Any]) -> tuple[str, Build]:
    """A module of the registry, with other settings now and then."""
    entry = rnd.choice(pool)
    settings = {}
    if rnd.random() < 0.4:
        names = [n for n in entry.module().defaults if n not in entry.skipped]
        for name in rnd.sample(names, min(len(names), rnd.randint(1, 2))):
            settings[name] = entry.alternative(name)
    shown = ", ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in settings.items())
    if rnd.random() < 0.15:
        return f"chain of {entry.id}({shown})", lambda: entry.build(**settings)
    return f"{entry.id}({shown})", lambda: [entry.module(**settings)]


def _named(rnd: random.Random, names: Sequence[str]) -> tuple[str, Build]:
    name = rnd.choice(names)
    return _leaf(rnd, [e for e in LEAVES if e.name == name])


def _tree(rnd: random.Random, depth: int) -> tuple[str, Build]:
    if depth == 0 or rnd.random() < 0.5:
        if rnd.random() < 0.25:
            return _named(rnd, DIRECTIONS)
        return _leaf(rnd, LEAVES)
    name, count, make = rnd.choice(NODES)
    texts, builds = [], []
    for _ in range(count):
        parts = [_tree(rnd, depth - 1) for _ in range(rnd.choice([1, 1, 2]))]
        if rnd.random() < 0.2:
            parts.append(_named(rnd, SEARCHES))
        texts.append("[" + ", ".join(t for t, _ in parts) + "]")
        builds.append([b for _, b in parts])
    text = f"{name}({', '.join(texts)})"
    return text, lambda: [make(*([module for b in child for module in b()] for child in builds))]


def _tail(rnd: random.Random) -> list[tuple[str, Build]]:
    roll = rnd.random()
    if roll < 0.5:
        return [("LR(0.01)", lambda: [m.LR(0.01)])]
    if roll < 0.8:
        return [_named(rnd, SEARCHES)]
    if roll < 0.9:
        return [_named(rnd, SEARCHES), ("LR(0.5)", lambda: [m.LR(0.5)])]
    return []


HANDS = [
    "deepcopy", "round trip", "clear state", "clear one state", "copy state", "cast state", "lr", "numpy lr",
    "replace parameter", "add group", "freeze", "move memory", "reset", "drop parameter", "regroup settings",
    "cast parameters",
]  # fmt: skip


class Case:
    """All that a seed decides.

    Attributes:
        seed: the seed.
        text: the chain, to read.
        dtype: of the parameters.
        compile: whether the compiled chain is compared with the eager one.
        closure: whether steps are made with a closure where the chain needs none.
        missing: the step at which the last parameter has no gradient, and every third after it.
        hand: what somebody does after the third step, or None.
        fails: the evaluation of a step at which the closure raises, or None.
    """

    STEPS = 6

    def __init__(self, seed: int) -> None:
        rnd = random.Random(seed)
        self.seed = seed
        self.large = rnd.random() < 0.01
        parts = [self._part(rnd) for _ in range(rnd.choice([1, 1, 2, 2, 3]))]
        if rnd.random() < 0.08 and not self.large:
            parts.insert(0, _named(rnd, APPROXIMATIONS))
        parts += [("LR(0.01)", lambda: [m.LR(0.01)])] if self.large else _tail(rnd)
        self.parts = parts
        self.text = ", ".join(text for text, _ in parts)
        self.dtype = rnd.choices([torch.float64, torch.float32, torch.bfloat16], [6, 3, 1])[0]
        self.shapes = [rnd.choice(SHAPES) for _ in range(rnd.randint(1, 4))]
        if rnd.random() < 0.3:
            self.shapes = [(3, 4), (5,), ()]
        self.layouts = [rnd.choice(["plain"] * 5 + ["transposed", "strided", "channels_last"]) for _ in self.shapes]
        if self.large:
            self.shapes, self.layouts = [LARGE, (5,)], [rnd.choice(["plain", "channels_last"]), "plain"]
        self.grouped = len(self.shapes) > 1 and rnd.random() < 0.35
        self.group_setting = rnd.random()
        self.missing = rnd.choice([None, None, None, 0, 1, 2]) if len(self.shapes) > 1 else None
        self.compile = rnd.random() < 0.25
        self.closure = rnd.random() < 0.5
        self.deterministic = self.missing is None and rnd.random() < 0.15
        self.hand = rnd.choice(HANDS) if rnd.random() < 0.5 else None
        self.fails = rnd.choice([1, 2, 3, 5]) if rnd.random() < 0.25 else None
        self.loss = rnd.choice(["quartic", "quartic", "coupled", "logistic"])

    def __str__(self) -> str:
        more = ["compiled"] * self.compile + ["deterministic"] * self.deterministic + ["groups"] * self.grouped
        more += [f"missing {self.missing}"] * (self.missing is not None) + [f"hand: {self.hand}"] * bool(self.hand)
        more += [f"fails at {self.fails}"] * bool(self.fails) + ["closure"] * self.closure
        shapes = ", ".join(
            f"{s} {y}" if y != "plain" else f"{s}" for s, y in zip(self.shapes, self.layouts, strict=True)
        )
        return f"[{self.text}] on {shapes} {self.dtype} {self.loss}; {', '.join(more)}"

    def _part(self, rnd: random.Random) -> tuple[str, Build]:
        if not self.large:
            return _tree(rnd, rnd.choice([0, 1, 1, 2]))
        if rnd.random() < 0.4:
            return _named(rnd, ["LBFGS", "LSR1", "NewtonCG", "VectorProjection", "PolakRibiere", "Split"])
        return _leaf(rnd, [e for e in LEAVES if e.elementwise])  # no matrix of the square of its size

    # -- building ------------------------------------------------------------------------------------------------------
    def modules(self) -> list[Module]:
        """A fresh chain."""
        return [module for _, build in self.parts for module in build()]

    def params(self) -> list[torch.Tensor]:
        """Fresh parameters."""
        return [
            _laid_out(values(s, self.seed % 97 + i).to(self.dtype), layout).requires_grad_()
            for i, (s, layout) in enumerate(zip(self.shapes, self.layouts, strict=True))
        ]

    def groups(self, params: list[torch.Tensor], modules: Sequence[Module]) -> Any:
        """The parameters, in groups with different settings where the case has groups."""
        if not self.grouped:
            return params
        second: dict[str, Any] = {"params": params[1:], "lr": 0.02}
        settings = _group_settings(modules)
        if settings:
            name, value = settings[int(self.group_setting * len(settings))]
            second[name] = value
        return [{"params": params[:1]}, second]

    def build(self, **options: Any) -> tuple[list[torch.Tensor], tz.Modular]:
        """Fresh parameters and a fresh optimizer of them."""
        params, modules = self.params(), self.modules()
        groups = self.groups(params, modules)
        return params, tz.Modular(groups, *modules, deterministic=self.deterministic, **options)

    # -- the problem ---------------------------------------------------------------------------------------------------
    def value(self, used: Sequence[torch.Tensor]) -> torch.Tensor:
        """The loss; bounded below and smooth."""
        total: torch.Tensor = torch.zeros((), dtype=used[0].dtype)
        for i, p in enumerate(used):
            a = torch.linspace(0.5, 2.0, p.numel(), dtype=p.dtype).view(p.shape)
            if self.loss == "logistic":
                total = total + torch.nn.functional.softplus(a * (p - 1)).sum() + 0.05 * (p**2).sum()
            else:
                total = total + (a * (p - 0.3 * i) ** 2).sum() + 0.1 * (p**4).sum()
        if self.loss == "coupled":
            total = total + 0.1 * sum((p.sum() for p in used), start=torch.zeros((), dtype=used[0].dtype)) ** 2
        return total

    def used(self, params: list[torch.Tensor], i: int) -> list[torch.Tensor]:
        """The parameters that the loss of a step depends on."""
        if self.missing is not None and i % 3 == self.missing and len(params) > 1:
            return params[:-1]
        return params


def _laid_out(t: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "channels_last" and t.ndim == 4:
        return t.contiguous(memory_format=torch.channels_last)
    if layout == "transposed" and t.ndim >= 2:
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided" and t.ndim >= 1:
        return torch.zeros([2 * n for n in t.shape], dtype=t.dtype)[tuple(slice(None, None, 2) for _ in t.shape)].copy_(
            t
        )
    return t


def _group_settings(modules: Sequence[Module]) -> list[tuple[str, Any]]:
    """Keys of a group, with values, that the chain of modules may take."""
    out: list[tuple[str, Any]] = []
    for module in modules:
        for name, value in module.defaults.items():
            if name == "lr" or isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
                continue
            out.append((name, value + 1 if isinstance(value, int) else value * 0.5))
    return [(n, v) for n, v in out if not (isinstance(v, float) and not math.isfinite(v))]
