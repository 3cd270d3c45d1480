"""Makes `tests/data/states_29132e5.pt`: runs of commit 29132e5, saved in the middle and continued by that commit.

It was run once, from a checkout of 29132e5, and is kept to say what the file holds:

    cd CHECKOUT && PYTHONPATH=. python OTHER_CHECKOUT/tests/make_states.py OTHER_CHECKOUT/tests/data/states_29132e5.pt

The script takes the library and the registry of the checkout it runs in. `tests/test_old_states.py` loads every state
into the present code and continues it. The file is a dict of the cases by name, each a dict of

* ``spec``: what is needed to build it again, the arguments of :func:`build`;
* ``saved``: the parameters and the state dict after :data:`BEFORE` steps;
* ``eager``, ``compiled``: the parameters after :data:`AFTER` more steps of the old code (``compiled`` is None where
  it is the same to the last bit);
* ``state``: what the state dict then holds: the shapes of tensors, and the values of everything else;
* ``noise``: for each parameter, how far off the eager run ends when every parameter starts one unit of rounding
  beside where it was, or how far the compiled run does.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import torchzero_core as tz
from tests.problems import bits, make_params, run
from tests.registry import ENTRIES

BEFORE, AFTER = 3, 3
#: Shapes, dtypes, and the factor of the learning rate in the group of the last parameter.
LAYOUTS: dict[str, dict[str, Any]] = {
    "float32": dict(shapes=[[3, 2], [4], [1]], dtypes=["float32"] * 3, scale=0.5),
    "mixed": dict(shapes=[[3], [2, 2], [1]], dtypes=["bfloat16", "float32", "float64"], scale=1.0),
}

m = tz.m


def _is_matrix(p: torch.Tensor) -> bool:
    return p.ndim >= 2


#: Chains of several modules, beside the entries of the registry.
CHAINS: dict[str, Callable[[], list[Any]]] = {
    "five modules": lambda: [
        m.ClipValue(10),
        m.Adam(),
        m.NormalizeByEMA(max_ema_growth=1.1),
        m.WeightDecay(1e-4),
        m.LR(1e-1),
    ],
    "muon and adam": lambda: [m.Split(_is_matrix, m.Muon(), m.Adam()), m.WeightDecay(0.1), m.LR(0.05)],
    "muon by svd": lambda: [m.Split(_is_matrix, m.Muon(method="svd"), [m.HeavyBall(0.5), m.Sign()]), m.LR(0.05)],
    "projection": lambda: [m.ClipValue(5), m.VectorProjection([m.HeavyBall(0.8), m.Normalize()]), m.LR(0.3)],
    "accumulation": lambda: [m.ClipNorm(2.0), m.GradientAccumulation([m.Adam(), m.EMA(0.5)], 2), m.LR(0.1)],
    "spsa and lbfgs": lambda: [m.SPSA(h=1e-2, n_samples=3), m.LBFGS(), m.Backtracking()],
    "wrapped": lambda: [m.ClipNorm(1.0), m.Wrap(torch.optim.SGD, lr=0.1, momentum=0.9), m.EMA(0.5)],
    "kernel of momentum": lambda: [m.ClipValue(3), m.HeavyBall(0.9, dampening=0.1), m.LR(0.05)],
    "kernel of nesterov": lambda: [m.ClipValue(3), m.NAG(0.9), m.LR(0.05)],
    "kernel of decayed momentum": lambda: [m.WeightDecay(0.1), m.HeavyBall(0.9), m.LR(0.05)],
    "kernel of adagrad": lambda: [m.ClipValue(3), m.Adagrad(), m.LR(0.3)],
    "kernel of adamw": lambda: [m.ClipValue(3), m.Adam(amsgrad=True), m.WeightDecay(0.1), m.LR(0.1)],
    "adam in the middle": lambda: [m.Adam(), m.Centralize(), m.Cautious(), m.Adam(0.5, 0.9), m.LR(0.1)],
    "warmup and lion": lambda: [m.ClipNorm(1.0, dim="global"), m.Lion(), m.Warmup(start_lr=0.1, steps=5), m.LR(0.1)],
    "operands": lambda: [
        m.Sum(m.Adam(), [m.EMA(0.5), m.Sign()], 0.1),
        m.Mul(m.RMSprop(0.9, inner=m.EMA(0.5))),
        m.LR(0.05),
    ],
    "twice the same": lambda: [m.EMA(0.5), m.EMA(0.9, debiased=True), m.EMA(0.5), m.LR(0.3)],
    "nested": lambda: [m.RMSprop(0.9, inner=[m.EMA(0.5), m.LBFGS(inner=m.Normalize())]), m.LR(0.1)],
    "accumulated projection": lambda: [
        m.GradientAccumulation([m.VectorProjection([m.LBFGS(), m.ClipNorm(1.0)]), m.LR(0.5)], 2)
    ],
    "targets": lambda: [
        m.ClipNorm(1.0, target="closure"),
        m.EMA(0.5, target="grad"),
        m.BFGS(),
        m.ClipValue(2.0, target="update_difference"),
        m.ClipNorm(3.0, target="params_difference"),
        m.Backtracking(),
        m.ClipValue(3.0, target="params_direct"),
    ],
    "conjugate gradients": lambda: [m.PolakRibiere(reset_interval=4, inner=m.EMA(0.5)), m.StrongWolfe()],
    "newton": lambda: [m.NewtonCG(), m.HeavyBall(0.1), m.AdaptiveBacktracking()],
    "evaluations and momentum": lambda: [m.GaussianSmoothing(n_samples=4, seed=5), m.Adam(), m.LR(0.05)],
}


def build(
    params: list[torch.Tensor], *, entry: str = "", chain: str = "", scale: float = 1.0, compile: bool = False
) -> tz.Modular:
    """The optimizer of a case.

    Args:
        params: its parameters.
        entry: an entry of the registry, or else
        chain: one of :data:`CHAINS`.
        scale: of the learning rate in the group of the last parameter.
        compile: whether it is compiled.
    """
    modules = next(e for e in ENTRIES if e.id == entry).build() if entry else CHAINS[chain]()
    groups: list[Any] = [{"params": params[:-1]}, {"params": params[-1:]}]
    lr = next((x for x in modules if isinstance(x, tz.m.LR)), None)
    if lr is not None and scale != 1.0:
        groups[1]["lr"] = lr.defaults["lr"] * scale
    return tz.Modular(groups, *modules, compile=compile)


def mapped(fn: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """The same structure of dicts and lists with ``fn`` of each tensor in its place."""
    if isinstance(tree, torch.Tensor):
        return fn(tree)
    if isinstance(tree, dict):
        return {key: mapped(fn, child) for key, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [mapped(fn, child) for child in tree]
    return tree


def outline(tree: Any) -> Any:
    """The same structure with the shape of each tensor in its place."""
    return mapped(lambda t: list(t.shape), tree)


def starting(spec: dict[str, Any]) -> list[torch.Tensor]:
    """The parameters that a case starts from."""
    exact = make_params([tuple(s) for s in spec["shapes"]])
    return [
        p.detach().to(getattr(torch, dtype)).requires_grad_() for p, dtype in zip(exact, spec["dtypes"], strict=True)
    ]


def loaded(case: dict[str, Any], params: list[torch.Tensor], *, compile: bool = False) -> tz.Modular:
    """An optimizer on ``params`` that has read the saved state."""
    spec = case["spec"]
    optimizer = build(params, entry=spec["entry"], chain=spec["chain"], scale=spec["scale"], compile=compile)
    optimizer.load_state_dict(mapped(torch.clone, case["saved"]["state"]))
    return optimizer


def continued(case: dict[str, Any], *, compile: bool = False, nudge: bool = False) -> tuple[list[torch.Tensor], Any]:
    """Parameters and optimizer after :data:`AFTER` more steps from the saved state."""
    params = [p.clone() for p in case["saved"]["params"]]
    if nudge:
        params = [p * (1 + torch.finfo(p.dtype).eps) for p in params]
    params = [p.requires_grad_() for p in params]
    optimizer = loaded(case, params, compile=compile)
    torch.manual_seed(1)
    run(optimizer, params, AFTER)
    return params, optimizer


def distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> list[float]:
    """The largest difference of each pair."""
    return [float((x.detach().double() - y.detach().double()).abs().max()) for x, y in zip(a, b, strict=True)]


def make(spec: dict[str, Any]) -> dict[str, Any]:
    """Run one case with the code at hand."""
    torch.manual_seed(0)
    params = starting(spec)
    optimizer = build(params, entry=spec["entry"], chain=spec["chain"], scale=spec["scale"])
    run(optimizer, params, BEFORE)
    case: dict[str, Any] = dict(spec=spec, saved=dict(params=bits(params), state=copy.deepcopy(optimizer.state_dict())))
    torch.manual_seed(1)
    run(optimizer, params, AFTER)
    case["eager"], case["state"] = bits(params), outline(optimizer.state_dict()["state"])
    again, _ = continued(case)
    if distance(again, params) != [0.0] * len(params):
        raise AssertionError(f"{spec} does not resume exactly with the code that saved it")
    compiled, _ = continued(case, compile=True)
    noise = [distance(continued(case, compile=c, nudge=True)[0], end) for c, end in ((False, params), (True, compiled))]
    case["noise"] = [max(pair) for pair in zip(*noise, strict=True)]
    case["compiled"] = None if distance(compiled, params) == [0.0] * len(params) else bits(compiled)
    return case


def specs() -> dict[str, dict[str, Any]]:
    """Every case by its name."""
    names = [(e.id, "") for e in ENTRIES] + [("", name) for name in CHAINS]
    return {
        f"{entry or chain} ({layout})": dict(entry=entry, chain=chain, **copy.deepcopy(LAYOUTS[layout]))
        for entry, chain in names
        for layout in LAYOUTS
    }


def packed(tree: Any) -> Any:
    """The same structure with all tensors of a dtype in one block of memory, which makes a file a tenth as large."""
    found: dict[torch.dtype, list[torch.Tensor]] = {}
    mapped(lambda t: found.setdefault(t.dtype, []).append(t), tree)
    blocks = {
        dtype: torch.cat([t.detach().reshape(-1) for t in ts]).split([t.numel() for t in ts])
        for dtype, ts in found.items()
    }
    parts = {dtype: iter(block) for dtype, block in blocks.items()}
    return mapped(lambda t: next(parts[t.dtype]).view(t.shape), tree)


def main(file: Path) -> None:
    """Write the file."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what cannot be compiled says so
    cases = {name: make(spec) for name, spec in specs().items()}
    torch.save(packed(cases), file)
    print(f"{len(cases)} cases, {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
