"""What torch has a fused kernel for runs that kernel: the end of a chain, and Adam wherever it stands.

A module says with ``kernel`` what it is to a kernel. The state is the module's own, so a chain can change between the
kernel and the rule at any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..lang import Context, Value
from .surroundings import Step

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PATTERNS = (
    ("adam", "weight_decay", "lr"),
    ("weight_decay", "adam", "lr"),
    ("adam", "lr"),
    ("heavyball", "lr"),
    ("nag", "lr"),
    ("adagrad", "lr"),
)


class Tail:
    """The last modules of a segment, run as one kernel; what stands before them runs as a segment of its own."""

    def __init__(self, segment: Any, pattern: tuple[str, ...]) -> None:
        cut = len(segment.modules) - len(pattern)
        self.pattern = pattern
        self.head = segment.part(0, cut) if cut else None
        self.tail = segment.part(cut)
        self.place = {kind: i for i, kind in enumerate(pattern)}
        self.kind = next(k for k in pattern if k not in ("lr", "weight_decay"))

    def fits(self, params: list[Tensor]) -> bool:
        """Whether the kernel can do what the present settings ask for."""
        if params:
            self.tail.refresh(params)
        return all(self._fits(b) for b in self.tail.buckets)

    def unbind(self) -> None:
        """Forget the buckets and their step counts."""
        self.tail.unbind()
        if self.head is not None:
            self.head.unbind()

    def run(self, step: Step, update: list[Tensor], *, owned: bool) -> None:
        """Make the step."""
        params = step.params
        tail = self.tail
        if not params:
            return
        tail.refresh(params)
        if self.head is not None:
            update = self.head.run(step, update, owned=owned)
        for bucket in tail.buckets:
            grads = update if len(tail.buckets) == 1 else [update[i] for i in bucket.indices]
            getattr(self, f"_{self.kind}")(bucket, in_memory_order(grads, bucket.data))
            increment_version(bucket.data)  # the kernels do not: a graph built before the step must refuse to run
            bucket.count_rule(self.place[self.kind])

    def _setting(self, bucket: Any, kind: str, name: str) -> Any:
        return bucket.settings[self.tail.setting_index(self.place[kind], name)]

    def _lr(self, bucket: Any) -> float:
        """That of the LR module, times that of the group where this scales the update."""
        return float(self._setting(bucket, "lr", "lr")) * float(bucket.settings[-1])

    def _fits(self, bucket: Any) -> bool:
        if not takes(bucket.data[0], dense=bucket.dense):
            return False
        module = self.tail.rules[self.place[self.kind]]
        if any(self._setting(bucket, self.kind, k) != v for k, v in module.kernel_needs.items()):
            return False
        if "momentum" in module.defaults and self._setting(bucket, self.kind, "momentum") == 0:
            return False  # the kernel would not keep the velocity
        return "weight_decay" not in self.place or self._setting(bucket, "weight_decay", "ord") == 2

    def _state(self, bucket: Any, name: str) -> list[Tensor]:
        return bucket.states(("state", self.place[self.kind], name))

    def _steps(self, bucket: Any, before: int) -> list[Tensor]:
        """One counter for all tensors; the kernels read it."""
        device = bucket.data[0].device
        step = torch.full((), float(bucket.counts[self.place[self.kind]] - 1 + before), device=device)
        return [step] * len(bucket.data)

    def _adam(self, bucket: Any, grads: list[Tensor]) -> None:
        get = self._setting
        decay = float(get(bucket, "weight_decay", "weight_decay")) if "weight_decay" in self.place else 0.0
        decoupled = decay == 0.0 or self.place["weight_decay"] > self.place["adam"]
        kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
        amsgrad = bool(get(bucket, "adam", "amsgrad"))
        kernel(
            bucket.data,
            grads,
            self._state(bucket, "exp_avg"),
            self._state(bucket, "exp_avg_sq"),
            self._state(bucket, "max_exp_avg_sq") if amsgrad else [],
            self._steps(bucket, 1),
            lr=self._lr(bucket),
            beta1=float(get(bucket, "adam", "beta1")),
            beta2=float(get(bucket, "adam", "beta2")),
            weight_decay=decay,
            eps=float(get(bucket, "adam", "eps")),
            amsgrad=amsgrad,
            maximize=False,
            grad_scale=None,
            found_inf=None,
        )

    def _momentum(self, bucket: Any, grads: list[Tensor], kind: str, state: str, *, nesterov: bool) -> None:
        torch._fused_sgd_(
            bucket.data,
            grads,
            self._state(bucket, state),
            weight_decay=0.0,
            momentum=float(self._setting(bucket, kind, "momentum")),
            lr=self._lr(bucket),
            dampening=float(self._setting(bucket, kind, "dampening")),
            nesterov=nesterov,
            maximize=False,
            is_first_step=bucket.counts[self.place[kind]] == 1,
            grad_scale=None,
            found_inf=None,
        )

    def _heavyball(self, bucket: Any, grads: list[Tensor]) -> None:
        self._momentum(bucket, grads, "heavyball", "exp_avg", nesterov=False)

    def _nag(self, bucket: Any, grads: list[Tensor]) -> None:
        self._momentum(bucket, grads, "nag", "velocity", nesterov=True)

    def _adagrad(self, bucket: Any, grads: list[Tensor]) -> None:
        get = self._setting
        torch._fused_adagrad_(
            bucket.data,
            grads,
            self._state(bucket, "sq_sum"),
            self._steps(bucket, 1),
            lr=self._lr(bucket),
            lr_decay=float(get(bucket, "adagrad", "lr_decay")),
            weight_decay=0.0,
            eps=float(get(bucket, "adagrad", "eps")),
            maximize=False,
            grad_scale=None,
            found_inf=None,
        )


def takes(param: Tensor, *, dense: bool) -> bool:
    """Whether torch's kernels can run on a parameter."""
    return dense and param.dtype in DTYPES and param.device.type in ("cpu", "cuda")


def kind(module: Any) -> str | None:
    """What a module is to a kernel: None with children, or in a subclass with a rule of its own."""
    for cls in type(module).__mro__ if not module.children else ():
        if "kernel" in vars(cls):
            return vars(cls)["kernel"]
        if "rule" in vars(cls):
            break
    return None


def kernel_value(u: Value, ctx: Context) -> Value | None:
    """Adam anywhere in a chain as one call of torch's kernel; None for other rules and where the settings forbid it.

    Args:
        u: the update.
        ctx: the rule's context.
    """
    module, h, s = ctx.module, ctx.settings, ctx.state
    if kind(module) != "adam" or any(getattr(h, name) != v for name, v in module.kernel_needs.items()):
        return None
    names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if h.amsgrad else [])]
    states = [getattr(s, name) for name in names]
    out = Value(ctx.trace, "adam", (u.float(), h.beta1, h.beta2, h.eps, ctx.step, *states), "element")
    for name, old in zip(names, states, strict=True):
        setattr(s, name, Value(ctx.trace, "written", (old, out), "element"))
    return out


def adam_update(
    out: list[Tensor], u: list[Tensor], beta1: float, beta2: float, eps: float, step: float, *states: list[Tensor]
) -> list[Tensor]:
    """Adam's update, by the kernel that moves parameters: from zero, with a learning rate of −1.

    Args:
        out: takes the update.
        u: what Adam gets.
        beta1: decay of the average.
        beta2: decay of the average of squares.
        eps: added to the root.
        step: the step count, 1 at the first.
        *states: exp_avg, exp_avg_sq and for amsgrad max_exp_avg_sq, updated in place.
    """
    torch._foreach_zero_(out)
    torch._fused_adamw_(
        out,
        in_memory_order(u, out),
        states[0],
        states[1],
        states[2] if len(states) > 2 else [],
        [torch.full((), step, device=out[0].device)] * len(out),
        lr=-1.0,
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=eps,
        amsgrad=len(states) > 2,
        maximize=False,
        grad_scale=None,
        found_inf=None,
    )
    return out


def in_memory_order(tensors: list[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors laid out as others are: the kernels go by memory."""
    if all(map(Tensor.is_contiguous, tensors)) and all(map(Tensor.is_contiguous, like)):  # as nearly always
        return tensors
    for t, p in zip(tensors, like, strict=True):
        if t.stride() != p.stride():
            return [torch.empty_like(p).copy_(t) for t, p in zip(tensors, like, strict=True)]
    return tensors


def find_tail(segment: Any) -> Tail | None:
    """The pattern that a segment ends with, if any."""
    kinds = tuple(kind(m) for m in segment.modules)
    for pattern in PATTERNS:
        if kinds[-len(pattern) :] == pattern:
            return Tail(segment, pattern)
    return None
