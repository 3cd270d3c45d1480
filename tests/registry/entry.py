"""What an entry of the registry says, and what several entries say alike."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import torchzero_core as tz
from torchzero_core.core import Module

#: ``refused`` of a module that takes one value of every setting.
ALL: frozenset[str] = frozenset({"every setting"})


def then_lr(value: float = 0.1) -> Callable[[Module], list[Module]]:
    """The chain of the module and a learning rate."""
    return lambda module: [module, tz.m.LR(value)]


@dataclass(frozen=True)
class Entry:
    """How a module is built and what is expected of it.

    Attributes:
        name: of the public module.
        chain: makes the chain around an instance of the module.
        kwargs: constructor arguments, or a function that makes them anew (children belong to one chain).
        variant: tells several entries of a module apart.
        make: builds the module from keyword arguments where the class itself cannot (operands given by position).
        closure: the chain needs a closure.
        steps: of the quadratic.
        ratio: of the quadratic's last and first loss, at most; None for a module that does not minimise.
        rosenbrock: steps on Rosenbrock's function and the loss to reach.
        elementwise: what an element gets does not depend on the others.
        together: it decides for all parameters at once, so groups are not independent optimizers.
        compiles: all modules of the chain are rules, so ``compile=True`` says nothing.
        ulps: largest difference of eager and compiled trajectories, in units of float64 rounding at 1.
        bfloat16: it works in bfloat16; a text is what the refusal says.
        float32: largest relative difference between float32 and float64 after a few steps; None where rounding
            decides (a sign of a difference).
        alternatives: other values of settings than the ones tried by default.
        refused: settings that must not differ between groups; the error names them.
        skipped: settings that the test of groups leaves out, with the reason in a comment.
        coarse: settings for bfloat16 (a finite difference must be longer than its rounding).
        derivative_free: it cannot know whether a parameter has a gradient.
        syncs: it looks at tensors from the host, which a module that takes only gradients otherwise does not.
        repeatable: evaluating twice, or in another order, gives the same (no random numbers).
    """

    name: str
    chain: Callable[[Module], list[Module]] = field(default_factory=then_lr)
    kwargs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = field(default_factory=dict)
    variant: str = ""
    make: Callable[..., Module] | None = None
    closure: bool = False
    steps: int = 60
    ratio: float | None = 0.5
    rosenbrock: tuple[int, float] | None = None
    elementwise: bool = False
    together: bool = False
    compiles: bool = True
    ulps: float = 64
    bfloat16: bool | str = True
    float32: float | None = 1e-4
    alternatives: Mapping[str, Any] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()
    coarse: Mapping[str, Any] = field(default_factory=dict)
    derivative_free: bool = False
    syncs: bool = False
    repeatable: bool = True

    @property
    def id(self) -> str:
        """The name in the test's report."""
        return f"{self.name}-{self.variant}" if self.variant else self.name

    def module(self, **settings: Any) -> Module:
        """A fresh instance of the module."""
        kwargs = self.kwargs() if callable(self.kwargs) else self.kwargs
        make = self.make or getattr(tz.m, self.name)
        return make(**{**kwargs, **settings})

    def build(self, **settings: Any) -> list[Module]:
        """A fresh chain; ``settings`` go to the module."""
        return self.chain(self.module(**settings))

    def optimizer(self, params: Any, *, compile: bool = False, **settings: Any) -> tz.Modular:
        """A fresh optimizer; ``settings`` go to the module."""
        return tz.Modular(params, *self.build(**settings), compile=compile)

    def alternative(self, setting: str) -> Any:
        """Another value for a setting, for tests of settings that differ between groups."""
        if setting in self.alternatives:
            return self.alternatives[setting]
        module = self.module()
        value = module.defaults[setting]
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return value + 1
        if isinstance(value, float):
            return value * 0.5 if value else 0.1
        choices = [c for c in _choices(type(module), setting) if c != value]
        if choices:
            return choices[0]
        raise LookupError(f"The entry {self.id} needs an alternative for the setting {setting}={value!r}.")


def _choices(cls: type, setting: str) -> list[Any]:
    """The values that a Literal annotation of a constructor parameter allows."""
    if setting not in inspect.signature(cls).parameters:
        return []
    hint = typing.get_type_hints(cls.__init__).get(setting)
    hints = [hint, *typing.get_args(hint)]
    return [c for h in hints if typing.get_origin(h) is typing.Literal for c in typing.get_args(h)]


def wolfe(module: Module) -> list[Module]:
    return [module, tz.m.StrongWolfe()]


def backtracking(module: Module) -> list[Module]:
    return [module, tz.m.Backtracking()]


def after_adam(value: float = 0.1) -> Callable[[Module], list[Module]]:
    return lambda module: [tz.m.Adam(), module, tz.m.LR(value)]


QUASI_NEWTON = dict(init_scale=0.5, reset_interval=7, beta=0.5, eigval_bounds=(0.1, 20), maxiter=5) | dict.fromkeys(
    ("params_beta", "grads_beta", "z_beta"), 0.5
)
#: A method on one matrix for all parameters, run from Python.
MATRIX = dict(together=True, refused=ALL, compiles=False, syncs=True, ulps=1e4, alternatives=QUASI_NEWTON)
#: What a norm over all parameters is computed with.
WHOLE_NORM = dict(refused=frozenset({"ord", "eps", "max_ema_growth"}))
SEARCH = dict(closure=True, together=True, refused=ALL, compiles=False, syncs=True)
#: A method on matrices that are decomposed, which accelerators wait for.
PRECONDITIONER = dict(
    compiles=False,
    syncs=True,
    ulps=1e4,
    alternatives=dict(beta=0.9, decay=0.9),
    refused=frozenset({"concat_params"}),
)
#: Shampoo and SOAP: a matrix for each dimension.
KRONECKER = dict(
    compiles=False,
    syncs=True,
    ulps=1e4,
    alternatives=dict(beta=0.9, decay=0.8, exp_override=3.0, max_dim=2, shampoo_beta=0.5),
)
#: Rounding decides which basis the null space of a matrix gets.
SOAP = {**KRONECKER, "float32": None}
ORTHOGONAL = dict(
    float32=None,
    alternatives=dict(ns_dtype=torch.float64),
    skipped=frozenset({"orthogonalize"}),  # no parameter of the constructor; it has a test of its own
)
APPROXIMATION = dict(
    compiles=False,
    closure=True,
    together=True,
    syncs=True,
    repeatable=False,
    float32=None,
    derivative_free=True,
    coarse=dict(h=0.1),
    refused=frozenset({"n_samples", "formula", "pre_generate", "seed"}),
    alternatives=dict(seed=1, beta=0.5),
)

#: Only signs count, and they turn at the minimum.
RPROP = dict(elementwise=True, float32=None, alternatives=dict(nplus=1.1))
#: Limits that are None by default.
GROWTH = dict(add=0.1, mul=1.2)


def is_matrix(p: torch.Tensor) -> bool:
    """A filter of Split."""
    return p.ndim >= 2
