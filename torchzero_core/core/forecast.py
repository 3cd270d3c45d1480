"""What state a chain will hold, known before its first step.

A copy of the optimizer makes two steps on tensors that have a shape and no memory (torch's device ``meta``), with
gradients of zero. So every rule says itself what it keeps, and nothing is written down twice.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from ..distributed import Reductions
from .blank import blank_closure
from .module import Module
from .transform import Transform
from .var import Var

#: In the second step there are previous values to keep.
STEPS = 2


@dataclass
class Forecast:
    """What will be held.

    Attributes:
        state: the names and values of each parameter; tensors have a shape and no memory.
        unknown: the paths of modules whose state nobody can know before they run.
        at_least: whether the values of tensors decide whether there will be more.
    """

    state: list[Mapping[str, Any]] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    at_least: bool = False


class _Answers(TorchDispatchMode):
    """Answers where somebody asks for the values of tensors that have none, and remembers it.

    A number is zero. A truth is true: most that are asked for say that all is well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func)
        x = args[0] if args else None
        if not isinstance(x, Tensor) or not x.is_meta:
            return func(*args, **kwargs)
        if name == "aten._local_scalar_dense.default":
            answer: Any = torch.full((), x.dtype is torch.bool, dtype=x.dtype).item()
        elif name == "aten._to_copy.default" and torch.device(kwargs.get("device") or "meta").type != "meta":
            answer = torch.full(x.shape, x.dtype is torch.bool, dtype=kwargs.get("dtype") or x.dtype)
        elif name == "aten.equal.default":
            answer = False
        elif name == "aten.nonzero.default":
            answer = x.new_empty((0, x.ndim), dtype=torch.long)
        else:
            return func(*args, **kwargs)
        self.asked = True
        return answer


def forecast(optimizer: Any) -> Forecast | None:
    """What the state of an optimizer will be; None where nobody can know before its first step.

    The optimizer is left as it is. Somebody else's code does not run: modules with a ``step`` of their own are passed
    over, and their state is unknown.

    Args:
        optimizer: one without state.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if any(is_lazy(p) or type(p) not in (Tensor, nn.Parameter) for p in params):
        return None
    found, answers = Forecast(), _Answers()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng([]):
            warnings.simplefilter("ignore")  # they come with the first step
            metas = [torch.empty_like(p, device="meta", requires_grad=p.requires_grad) for p in params]
            twin = _twin(optimizer, dict(zip(map(id, params), metas, strict=True)))
            for module in twin.unrolled_modules:
                if module.only_shows:
                    module.__dict__["step"] = _pass_over
                elif module.foreign and not isinstance(module, Transform):
                    found.unknown.update([module.path, *(m.path for m in _below(module))])
                    module.__dict__["step"] = _pass_over
                found.at_least |= module.state_comes_later
            with answers:
                for _ in range(STEPS):
                    for p in metas:
                        p.grad = torch.zeros_like(p) if p.requires_grad else None
                    twin.step(blank_closure(metas) if twin.requires_closure else None)
    except Exception:  # of whatever kind: it is a trial, and the step itself will say what is wrong
        return None
    found.state = [
        {name: _at_home(name, value, p) for name, value in twin.state.get(meta, {}).items()}
        for p, meta in zip(params, metas, strict=True)
    ]
    found.at_least |= answers.asked or bool(found.unknown)
    return found


def _twin(optimizer: Any, stand_ins: dict[int, Any]) -> Any:
    """A copy without state, whose parameters are others."""
    model = optimizer.model
    left_out = {id(optimizer.state): type(optimizer.state)(dict), id(optimizer.last_step): optimizer.last_step}
    if model is not None:
        left_out[id(model)] = _model_of(model, stand_ins)
    twin = copy.deepcopy(optimizer, {**stand_ins, **left_out})
    twin.compile = twin.advice = False
    twin.closure_guards = []
    twin.distributed = Reductions()  # nobody else may be asking
    return twin


def _model_of(model: nn.Module, stand_ins: dict[int, Any]) -> nn.Module:
    """A model with the same names and other parameters, for modules that go by its layers."""
    twin = object.__new__(type(model))
    inside = vars(model)
    twin.__dict__ = {
        **inside,
        "_parameters": {k: stand_ins.get(id(p), p) for k, p in inside["_parameters"].items()},
        "_modules": {k: m and _model_of(m, stand_ins) for k, m in inside["_modules"].items()},
    }
    return twin


def _below(module: Module) -> list[Module]:
    return [m for child in module.children.values() for m in (child, *_below(child))]


def _pass_over(var: Var) -> Var:
    return var


def _at_home(name: str, value: Any, param: Tensor) -> Any:
    """A value as it will be: the position of a random generator has 16 bytes on an accelerator."""
    generator = isinstance(value, Tensor) and ".generator:" in name and param.device.type != "cpu"
    return value[:16] if generator else value


__all__ = ["Forecast", "forecast"]
