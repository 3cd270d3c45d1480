"""What is timed: the sets of parameters, and the optimizers with their peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

Build = Callable[[list[Tensor]], Any]
REFERENCE = "torch Adam fused"


def tiny() -> list[tuple[int, ...]]:
    """Shapes of a perceptron for handwritten digits: 6 tensors, 9 thousand parameters."""
    sizes = [64, 96, 24, 10]
    return [shape for n, m in pairwise(sizes) for shape in [(m, n), (m,)]]


def small() -> list[tuple[int, ...]]:
    """Shapes of a ResNet-50, five eighths as wide: 161 tensors, 9 million parameters."""
    shapes: list[tuple[int, ...]] = []

    def conv(m: int, n: int, k: int) -> None:
        shapes.extend([(m, n, k, k), (m,), (m,)])  # the weight, and the scale and shift of its normalisation

    width = 40
    conv(width, 3, 7)
    inside = width
    for stage, blocks in enumerate([3, 4, 6, 3]):
        w = width * 2**stage
        for block in range(blocks):
            conv(w, inside, 1)
            conv(w, w, 3)
            conv(4 * w, w, 1)
            if block == 0:
                conv(4 * w, inside, 1)
            inside = 4 * w
    return [*shapes, (10, inside), (10,)]


def transformer() -> list[tuple[int, ...]]:
    """Shapes of a GPT-2 with 512 channels: 148 tensors, 64 million parameters."""
    d = 512
    layer: list[tuple[int, ...]] = [(d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,)]
    layer += [(d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    return [(50257, d), (1024, d), *(layer * 12), (d,), (d,)]


SETS: dict[str, Callable[[], list[tuple[int, ...]]]] = {"tiny": tiny, "small": small, "transformer": transformer}


def parameters(shapes: list[tuple[int, ...]], device: torch.device) -> list[Tensor]:
    """Parameters with gradients, which the subjects of a set share."""
    generator = torch.Generator(device).manual_seed(0)
    params = [torch.randn(s, device=device, generator=generator).requires_grad_() for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, device=device, generator=generator)
    return params


@dataclass(frozen=True)
class Subject:
    """One optimizer to be timed.

    Attributes:
        name: what the tables call it.
        build: makes it for a list of parameters.
        traffic: bytes for each float32 parameter that the algorithm has to read and write at least.
        peer: the subject that it is measured against, besides the reference.
        goals: the largest ratio to the peer that is accepted, by set; "*" for the sets not named.
        gradients: what its step does with the gradients. "kept": nothing; "taken": they are gone and must be put
            back; "changed": it writes to them, so it gets its own.
        without: sets that it is timed on only when asked for by name.
    """

    name: str
    build: Build
    traffic: int
    peer: str = REFERENCE
    goals: Mapping[str, float] = field(default_factory=dict)
    gradients: Literal["kept", "taken", "changed"] = "kept"
    without: tuple[str, ...] = ()

    def goal(self, where: str) -> float | None:
        """The accepted ratio in the set ``where``, if there is one."""
        return self.goals.get(where, self.goals.get("*"))


def peers(compile_peers: bool) -> list[Subject]:
    """The optimizers of others, as far as they are installed."""
    o = torch.optim
    found = [
        Subject(REFERENCE, lambda p: o.Adam(p, fused=True), 28),
        Subject("torch Adam foreach", lambda p: o.Adam(p, foreach=True), 28),
        Subject("torch AdamW fused", lambda p: o.AdamW(p, fused=True), 28),
        Subject("torch NAG foreach", _nag, 20, gradients="changed"),  # it adds the momentum to the gradient itself
        Subject("torch RMSprop foreach", lambda p: o.RMSprop(p, 1e-3, foreach=True), 20),
    ]
    if find_spec("pytorch_optimizer"):
        import pytorch_optimizer  # noqa: F401 - here, so that importing it is not part of a first step

        found.append(Subject("pytorch-optimizer Lion foreach", _lion, 20))
    if find_spec("heavyball"):
        import heavyball  # noqa: F401

        slow = () if compile_peers else ("transformer",)  # seconds a step, which the others would have to wait for
        name = f"heavyball AdamW {'compiled' if compile_peers else 'eager'}"
        found.append(Subject(name, lambda p: _heavyball(p, compile_peers), 28, gradients="taken", without=slow))
    return found


def _nag(params: list[Tensor]) -> Any:
    return torch.optim.SGD(params, 1e-3, 0.9, nesterov=True, foreach=True)


def _lion(params: list[Tensor]) -> Any:
    import pytorch_optimizer

    return pytorch_optimizer.Lion(params, foreach=True)


def _heavyball(params: list[Tensor], compiled: bool) -> Any:
    import heavyball

    if not compiled:
        heavyball.utils.compile_mode = None
    return heavyball.AdamW(params, lr=1e-3)


def chain(names: str, compiled: bool) -> Build:
    """A builder of the chain that stands in CHAINS under this name."""

    def build(params: list[Tensor]) -> Any:
        import torchzero_core as tz

        return tz.Modular(params, *CHAINS[names](tz.m), compile=compiled)

    return build


CHAINS: dict[str, Callable[[Any], list[Any]]] = {
    "Adam + LR": lambda m: [m.Adam(), m.LR(1e-3)],
    "Adam + WeightDecay + LR": lambda m: [m.Adam(), m.WeightDecay(1e-2), m.LR(1e-3)],
    "five modules": lambda m: [
        m.ClipValue(10),
        m.Adam(),
        m.NormalizeByEMA(max_ema_growth=1.1),
        m.WeightDecay(1e-4),
        m.LR(1e-1),
    ],
    "NAG + LR": lambda m: [m.NAG(0.9), m.LR(1e-3)],
    "RMSprop + LR": lambda m: [m.RMSprop(), m.LR(1e-3)],
    "Lion + LR": lambda m: [m.Lion(), m.LR(1e-4)],
}


@dataclass(frozen=True)
class Plan:
    """What is expected of a chain.

    Attributes:
        traffic: bytes for each float32 parameter that the algorithm has to read and write at least.
        peer: the subject that it is measured against.
        eager: largest ratios to the peer, by set; "*" for the sets not named.
        compiled: the same for ``compile=True``.
        temporary: most bytes for each parameter that an eager step may allocate.
        workspace: most bytes for each parameter that a compiled chain may keep besides its state.
    """

    traffic: int
    peer: str
    eager: Mapping[str, float]
    compiled: Mapping[str, float]
    temporary: float = 4.0
    workspace: float = 4.0


FUSED = 0.0  # bytes of temporaries where torch has a fused kernel for the whole chain

PLANS: dict[str, Plan] = {
    "Adam + LR": Plan(28, REFERENCE, {"*": 1.05, "tiny": 1.2}, {"*": 0.9, "tiny": 0.5}, FUSED),
    "Adam + WeightDecay + LR": Plan(28, REFERENCE, {"*": 1.05}, {"*": 0.9}, FUSED),
    "five modules": Plan(44, REFERENCE, {"*": 5, "tiny": 3}, {"tiny": 0.7, "small": 1.6, "transformer": 1.9}),
    "NAG + LR": Plan(20, "torch NAG foreach", {"*": 1.0}, {"*": 0.6}, FUSED),
    "RMSprop + LR": Plan(20, "torch RMSprop foreach", {"*": 1.0}, {"*": 0.6}),
    "Lion + LR": Plan(20, "pytorch-optimizer Lion foreach", {"*": 1.0}, {"*": 0.6}),
}


def ours(names: str, compiled: bool) -> str:
    """The subject's name of a chain of PLANS."""
    return f"tz {names} compiled" if compiled else f"tz {names}"


def subjects(compile_peers: bool = False) -> list[Subject]:
    """Every chain, eager and compiled, and every peer that is installed."""
    chains = [
        Subject(
            ours(names, compiled),
            chain(names, compiled),
            plan.traffic,
            plan.peer,
            plan.compiled if compiled else plan.eager,
        )
        for names, plan in PLANS.items()
        for compiled in (False, True)
    ]
    return [*peers(compile_peers), *chains]


def absent() -> list[str]:
    """A sentence for each optional peer that is not installed."""
    packages = {"pytorch_optimizer": "pytorch-optimizer", "heavyball": "heavyball"}
    return [
        f"{name} is not installed, so it is not in the tables."
        for module, name in packages.items()
        if not find_spec(module)
    ]
