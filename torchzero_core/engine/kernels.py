"""What torch has a fused kernel for runs that kernel: the end of a chain, and Adam wherever it stands.

A module says with ``kernel`` what it is to a kernel, and with ``kernel_needs`` which settings that needs. A kernel is
an operation of the graph like any other, so it runs on the same buckets with the same state, and a chain can change
between the kernel and the rule at any step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..lang.graph import PARAM, Kind, Trace, Value
from ..lang.ops import ADAM, CALL, WRITTEN
from ..lang.rule import Call, Context

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PATTERNS = (
    ("adam", "weight_decay", "lr"),
    ("weight_decay", "adam", "lr"),
    ("adam", "lr"),
    ("heavyball", "lr"),
    ("nag", "lr"),
    ("adagrad", "lr"),
)


def supports(param: Tensor, tail: Sequence[str], *, dense: bool) -> bool:
    """Whether torch's kernels can run on a parameter.

    Args:
        param: the parameter.
        tail: the pattern that the modules end with.
        dense: whether it fills one block of memory.
    """
    momentum = "heavyball" in tail or "nag" in tail
    if momentum and param.is_cpu and param.dtype in (torch.bfloat16, torch.float16):
        return False  # that of torch 2.13 leaves the parameters where they are
    return dense and param.dtype in DTYPES and param.device.type in ("cpu", "cuda")


def kind(module: Any) -> str | None:
    """What a module is to a kernel: None with children, or in a subclass with a rule of its own."""
    for cls in type(module).__mro__ if not module.children else ():
        if "kernel" in vars(cls):
            return vars(cls)["kernel"]
        if "rule" in vars(cls):
            break
    return None


def find_tail(modules: Sequence[Any]) -> tuple[str, ...]:
    """The pattern that the modules end with, if any."""
    kinds = tuple(map(kind, modules))
    return next((pattern for pattern in PATTERNS if kinds[-len(pattern) :] == pattern), ())


def _able(ctx: Context) -> bool:
    return all(getattr(ctx.settings, name) == value for name, value in ctx.module.kernel_needs.items())


def _states(ctx: Context, *names: str) -> list[Value]:
    return [getattr(ctx.state, name) for name in names]


def _adam_states(ctx: Context) -> list[str]:
    return ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if ctx.settings.amsgrad else [])]


def adam_value(u: Value, ctx: Context) -> Value | None:
    """Adam anywhere in a chain as one call of torch's kernel; None for other rules and where the settings forbid it.

    Args:
        u: the update.
        ctx: the rule's context.
    """
    if kind(ctx.module) != "adam" or not _able(ctx):
        return None
    h, names = ctx.settings, _adam_states(ctx)
    states = _states(ctx, *names)
    out = Value(ctx.trace, ADAM, (u.float(), *states, h.beta1, h.beta2, h.eps, ctx.step), Kind.ELEMENT)
    _leave(ctx, names, states, out)
    return out


def _leave(ctx: Context, names: Sequence[str], states: Sequence[Value], by: Value) -> None:
    """Let what follows see the states as a kernel leaves them."""
    for name, old in zip(names, states, strict=True):
        setattr(ctx.state, name, Value(ctx.trace, WRITTEN, (old, by), Kind.ELEMENT))


def trace_tail(trace: Trace, u: Value, contexts: dict[str, Context], scale: Any) -> bool:
    """Put the end of a chain into the graph as one call that moves the parameters, if the settings allow it.

    Args:
        trace: the graph.
        u: what the first of the modules gets.
        contexts: those of the modules, by what they are to the kernel.
        scale: what the update is multiplied by in the end.

    Returns:
        Whether it was done.
    """
    name, ctx = next((k, c) for k, c in contexts.items() if k not in ("lr", "weight_decay"))
    h, decay = ctx.settings, contexts.get("weight_decay")
    if not _able(ctx) or (decay is not None and decay.settings.ord != 2):
        return False
    if name in ("heavyball", "nag") and h.momentum == 0:
        return False  # the kernel would not keep the velocity
    lr = contexts["lr"].settings.lr * scale
    numbers: tuple[Any, ...]
    if name == "adam":
        weight_decay = 0.0 if decay is None else decay.settings.weight_decay
        order = list(contexts)
        decoupled = decay is None or order.index("weight_decay") > order.index("adam")
        names, numbers = _adam_states(ctx), (lr, h.beta1, h.beta2, weight_decay, h.eps, ctx.step)
        fn: Callable[..., None] = _adamw if decoupled or weight_decay == 0 else _adam_l2
    elif name == "adagrad":
        names, numbers, fn = ["sq_sum"], (lr, h.lr_decay, h.eps, ctx.step), _adagrad
    else:
        names, numbers = ["exp_avg" if name == "heavyball" else "velocity"], (lr, h.momentum, h.dampening, ctx.step)
        fn = _nesterov if name == "nag" else _momentum
    states, p = _states(ctx, *names), trace.load(PARAM, Kind.ELEMENT)
    out = Value(trace, CALL, (u.float(), p, *numbers, *states), Kind.ELEMENT, attr=Call(trace.key(), fn))
    _leave(ctx, names, states, out)
    trace.stores[PARAM] = Value(trace, WRITTEN, (p, out), Kind.ELEMENT)
    return True


# -- the kernels -------------------------------------------------------------------------------------------------------
class _Counter(threading.local):
    """A counter on the host, written without a call of torch, which would cost a tenth of a small step."""

    def __init__(self) -> None:
        self.tensor = torch.zeros((), dtype=torch.float32, device="cpu")  # whatever the default is
        self.number = self.tensor.numpy()


_counter = _Counter()


def _steps(step: float, params: list[Tensor]) -> list[Tensor]:
    """One counter for all tensors; the kernels read it."""
    if params[0].is_cpu:
        _counter.number[()] = step
        return [_counter.tensor] * len(params)
    return [torch.full((), float(step), dtype=torch.float32, device=params[0].device)] * len(params)


def _run_adam(
    kernel: Callable[..., None],
    u: list[Tensor],
    p: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    step: float,
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    max_exp_avg_sq: list[Tensor] | None = None,
) -> None:
    kernel(
        p,
        u,
        exp_avg,
        exp_avg_sq,
        max_exp_avg_sq or [],
        _steps(step, p),
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=max_exp_avg_sq is not None,
        maximize=False,
    )
    increment_version(p)  # the kernels do not: a graph built before the step must refuse to run


def _adamw(*args: Any) -> None:
    _run_adam(torch._fused_adamw_, *args)


def _adam_l2(*args: Any) -> None:
    _run_adam(torch._fused_adam_, *args)


def _run_sgd(
    u: list[Tensor],
    p: list[Tensor],
    lr: float,
    momentum: float,
    dampening: float,
    step: int,
    v: list[Tensor],
    *,
    nesterov: bool,
) -> None:
    torch._fused_sgd_(
        p,
        u,
        v,
        weight_decay=0.0,
        momentum=momentum,
        lr=lr,
        dampening=dampening,
        nesterov=nesterov,
        maximize=False,
        is_first_step=step == 1,
    )
    increment_version(p)


def _momentum(*args: Any) -> None:
    _run_sgd(*args, nesterov=False)


def _nesterov(*args: Any) -> None:
    _run_sgd(*args, nesterov=True)


def _adagrad(
    u: list[Tensor], p: list[Tensor], lr: float, lr_decay: float, eps: float, step: int, sq_sum: list[Tensor]
) -> None:
    torch._fused_adagrad_(
        p,
        u,
        sq_sum,
        _steps(step, p),
        lr=lr,
        lr_decay=lr_decay,
        weight_decay=0.0,
        eps=eps,
        maximize=False,
    )
    increment_version(p)


def adam_update(out: list[Tensor], u: list[Tensor], *rest: Any) -> list[Tensor]:
    """Adam's update, by the kernel that moves parameters: from zero, with a learning rate of −1.

    Args:
        out: takes the update.
        u: what Adam gets.
        *rest: exp_avg, exp_avg_sq and for amsgrad max_exp_avg_sq, updated in place; then beta1, beta2, eps and the step
            count, 1 at the first.
    """
    beta1, beta2, eps, step = rest[-4:]
    torch._foreach_zero_(out)
    _adamw(in_memory_order(u, out), out, -1.0, beta1, beta2, 0.0, eps, step, *rest[:-4])
    return out


def in_memory_order(tensors: list[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors laid out as others are: the kernels go by memory."""
    if all(map(Tensor.is_contiguous, tensors)) and all(map(Tensor.is_contiguous, like)):  # as nearly always
        return tensors
    for t, p in zip(tensors, like, strict=True):
        if t.stride() != p.stride():
            return [torch.empty_like(p).copy_(t) for t, p in zip(tensors, like, strict=True)]
    return tensors
