"""When to stop: rules that a training loop, ``tz.minimize``, a chain and Lightning ask after each step."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..distributed import Reductions
from .closure import detached
from .home import StepInfo
from .near import did_you_mean

#: What a rule may ask for.
Knowledge = Literal["loss", "grads", "move"]
#: From so many steps on a loss that falls as fast as ever looks strange.
MANY = 100


@dataclass
class Progress:
    """What is known after a step.

    Attributes:
        steps: how many steps were made.
        evaluations: how often the loss was evaluated in all.
        loss: the loss, where it is known.
        grads: the gradients, where they are known.
        params: the parameters.
        move: what the step has changed the parameters by, up to its sign; None before the first step.
        status: "ok", or what went wrong in the step.
        falling: a search has failed because the loss fell as far as it looked.
        uphill: the update that a line search was given leads uphill.
        retries: a line search has failed, and will try other step sizes at the next step.
        reductions: what other ranks know.
    """

    steps: int = 0
    evaluations: int = 0
    loss: float | Tensor | None = None
    grads: Sequence[Tensor | None] | None = None
    params: Sequence[Tensor] = ()
    move: Sequence[Tensor] | None = None
    status: str = "ok"
    falling: bool = False
    uphill: bool = False
    retries: bool = False
    reductions: Reductions = field(default_factory=Reductions)

    def loss_value(self) -> float | None:
        """The loss as a number, the mean over ranks."""
        return None if self.loss is None else float(self.reductions.mean_loss(detached(self.loss)))

    def norm(self, tensors: Sequence[Tensor | None], ord: float) -> float:
        """A norm over all elements of some tensors, of all shards.

        Args:
            tensors: the tensors; None counts as zeros.
            ord: the order of the norm, 2 or infinity.
        """
        norms = [torch.linalg.vector_norm(t.detach(), ord) for t in tensors if t is not None and t.numel()]
        if not norms:
            return 0.0
        each = torch.stack([n.double().to(norms[0].device) for n in norms])
        if math.isinf(ord):
            return float(self.reductions.max_scalar(each.max()))
        return math.sqrt(float(self.reductions.sum_scalar(each.square().sum())))


def outcome(info: StepInfo) -> dict[str, Any]:
    """What a rule is told of how a step went, as arguments of :class:`Progress`.

    Args:
        info: of the step.
    """
    return {name: getattr(info, name) for name in ("status", "falling", "uphill", "retries")}


class StoppingRule:
    """Says after each step whether to stop.

    A rule is asked with the optimizer, and with the loss where the step was given no closure. ``a | b`` stops where
    either does, ``a & b`` where both do at the same step. A rule of one's own defines :meth:`met`; what it remembers
    lies in ``self.memory``, numbers by name.

    Attributes:
        memory: what it remembers of earlier steps, numbers by name.
        code: scipy's number for this way to end: 0 converged, 1 a limit was reached, 2 no progress, 3 not finite.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([3.0, -2.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.LR(0.1))
        >>> stop = tz.stopping.GradNorm(1e-3) | tz.stopping.MaxSteps(1000)
        >>> while True:
        ...     optimizer.zero_grad()
        ...     loss = p.square().sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     if stop(optimizer, loss):
        ...         break
        >>> stop.message, stop.memory["steps"]
        ('The norm of the gradient is at most 0.001.', 40)
    """

    #: What it looks at, apart from counts.
    needs: ClassVar[frozenset[Knowledge]] = frozenset()
    code: int = 0

    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}
        self._before: list[Tensor] | None = None

    def met(self, progress: Progress) -> bool:
        """Whether to stop; called once after each step.

        Args:
            progress: what is known.
        """
        raise NotImplementedError(f"{type(self).__name__} has no met(progress); a stopping rule must define one.")

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        return f"{type(self).__name__} is met."

    @property
    def success(self) -> bool:
        """Whether stopping means that a minimum was found."""
        return self.code == 0

    def reason(self) -> StoppingRule:
        """The single rule that was met."""
        return self

    def reset(self) -> None:
        """Forget everything, as if no step had been made; a clock starts anew."""
        self.memory.clear()
        self._before = None

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, plain numbers."""
        return dict(self.memory)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was remembered.

        Args:
            state: of :meth:`state_dict`.
        """
        self.memory = dict(state)

    def __call__(self, optimizer: Optimizer, loss: float | Tensor | None = None) -> bool:
        """Whether to stop after the step that the optimizer has just made.

        Args:
            optimizer: any torch optimizer. Gradients are those in ``p.grad``; evaluations and the outcome of a search
                are known of a :class:`~torchzero_core.Modular` only.
            loss: the loss; None for that of the closure that the step was given.

        Raises:
            ValueError: the rule looks at the loss, and none is known.
        """
        info = getattr(optimizer, "last_step", None)
        loss = info.loss if loss is None and info is not None else loss
        if "loss" in self.needs and loss is None:
            raise ValueError(
                f"{type(self).__name__} looks at the loss: call it with the loss, stop(optimizer, loss), or give "
                "optimizer.step a closure."
            )
        params = [p for group in optimizer.param_groups for p in group["params"]]
        progress = Progress(
            steps=self.memory.get("steps", 0) + 1,
            evaluations=self.memory.get("evaluations", 0) + (info.evaluations if info is not None else 1),
            loss=loss,
            grads=[p.grad for p in params],
            params=params,
            move=self._move(params),
            reductions=getattr(optimizer, "distributed", Reductions()),
            **({} if info is None else outcome(info)),
        )
        self.memory.update(steps=progress.steps, evaluations=progress.evaluations)
        return self.met(progress)

    def _move(self, params: Sequence[Tensor]) -> list[Tensor] | None:
        if "move" not in self.needs:
            return None
        before, self._before = self._before, [p.detach().clone() for p in params]
        if before is None or len(before) != len(params):
            return None
        return [p.detach() - b for p, b in zip(params, before, strict=True)]

    def __or__(self, other: StoppingRule) -> StoppingRule:
        return AnyOf([self, other])

    def __and__(self, other: StoppingRule) -> StoppingRule:
        return AllOf([self, other])

    def __repr__(self) -> str:
        given = {k: v for k, v in vars(self).items() if k not in ("memory", "code") and not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in given.items())})"


class _Several(StoppingRule):
    """Several rules as one.

    Args:
        rules: the rules.
    """

    def __init__(self, rules: Sequence[StoppingRule]) -> None:
        super().__init__()
        if not rules:
            raise ValueError(f"{type(self).__name__} needs at least one stopping rule.")
        self.rules = [as_rule(rule) for rule in rules]
        self._reason: StoppingRule = self.rules[0]

    @property
    def needs(self) -> frozenset[Knowledge]:  # type: ignore[override]
        """What any of them looks at."""
        return frozenset().union(*(rule.needs for rule in self.rules))

    @property
    def message(self) -> str:
        """Why the one that was met stops."""
        return self._reason.message

    @property
    def code(self) -> int:  # type: ignore[override]
        """That of the one that was met."""
        return self._reason.code

    def reason(self) -> StoppingRule:
        return self._reason.reason()

    def met(self, progress: Progress) -> bool:
        found = [rule for rule in self.rules if rule.met(progress)]  # each one has to see every step
        self._reason = found[0] if found else self.rules[0]
        return self.enough(len(found))

    def enough(self, number: int) -> bool:
        """Whether so many of them are.

        Args:
            number: how many are met.
        """
        raise NotImplementedError

    def reset(self) -> None:
        super().reset()
        for rule in self.rules:
            rule.reset()

    def state_dict(self) -> dict[str, Any]:
        return {**self.memory, "rules": [rule.state_dict() for rule in self.rules]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory = {k: v for k, v in state.items() if k != "rules"}
        for rule, one in zip(self.rules, state["rules"], strict=True):
            rule.load_state_dict(one)


class AnyOf(_Several):
    """Stops where any of its rules does, as ``a | b``.

    Args:
        rules: the rules; the first one that is met says why.

    Example:
        >>> import torchzero_core as tz
        >>> tz.stopping.MaxSteps(5) | tz.stopping.GradNorm(1e-3)
        AnyOf(rules=[MaxSteps(n=5), GradNorm(tol=0.001, ord=inf)])
    """

    def enough(self, number: int) -> bool:
        """Whether one of them is met."""
        return number > 0


class AllOf(_Several):
    """Stops where all of its rules do at the same step, as ``a & b``.

    Args:
        rules: the rules; the first one says why.
    """

    def enough(self, number: int) -> bool:
        """Whether all of them are met."""
        return number == len(self.rules)


class GradNorm(StoppingRule):
    """Stops where a norm of the gradient is small: ‖g‖ ≤ tol.

    Args:
        tol: the norm.
        ord: its order: infinity, which is the largest element, or 2.
    """

    needs = frozenset({"grads"})

    def __init__(self, tol: float = 1e-5, ord: float = math.inf) -> None:
        super().__init__()
        if ord not in (2, math.inf):
            raise ValueError(f"GradNorm(ord={ord!r}) must be 2 or infinity.")
        self.tol, self.ord = _at_least(self, "tol", tol), ord

    def met(self, progress: Progress) -> bool:
        """Whether the norm is small."""
        grads = progress.grads
        if grads is None or all(g is None for g in grads):
            return False
        return progress.norm(grads, self.ord) <= self.tol

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        return f"The norm of the gradient is at most {self.tol:g}."


class StepNorm(StoppingRule):
    """Stops where a step is short: ‖Δp‖₂ ≤ tol·(tol + ‖p‖₂).

    A step of a search that failed is none, and does not count.

    Args:
        tol: the length relative to that of the parameters.
    """

    needs = frozenset({"move"})

    def __init__(self, tol: float = 1e-8) -> None:
        super().__init__()
        self.tol = _at_least(self, "tol", tol)

    def met(self, progress: Progress) -> bool:
        """Whether the step is short."""
        if progress.move is None or progress.status != "ok":
            return False
        return progress.norm(progress.move, 2) <= self.tol * (self.tol + progress.norm(progress.params, 2))

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        return f"The last step is at most {self.tol:g} of the length of the parameters."


class LossChange(StoppingRule):
    """Stops where the loss stalls: ``patience`` steps have not lowered the best loss f by more than tol·max(abs(f), 1).

    A step whose search goes on in the next one, with other step sizes, does not count.

    Args:
        tol: the decrease that counts, relative to the loss where that is above 1.
        patience: so many steps in a row without one.
    """

    needs = frozenset({"loss"})

    def __init__(self, tol: float = 1e-9, patience: int = 1) -> None:
        super().__init__()
        self.tol, self.patience = _at_least(self, "tol", tol), _at_least(self, "patience", patience, 1)

    def met(self, progress: Progress) -> bool:
        """Whether the loss has stalled."""
        loss, best = progress.loss_value(), self.memory.get("best", math.inf)
        if loss is None or progress.retries:
            return False
        if best == math.inf or best - loss > self.tol * max(abs(best), abs(loss), 1.0):
            self.memory.update(best=loss if math.isfinite(loss) else best, stalled=0)
            return False
        self.memory["stalled"] = self.memory.get("stalled", 0) + 1
        return self.memory["stalled"] >= self.patience

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        steps = "the last step" if self.patience == 1 else f"the last {self.patience} steps"
        return f"The loss has gone down by at most {self.tol:g} in {steps}."


class LossBelow(StoppingRule):
    """Stops where the loss is at most a value.

    Args:
        value: the loss to reach.
    """

    needs = frozenset({"loss"})

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def met(self, progress: Progress) -> bool:
        """Whether the loss is low enough."""
        loss = progress.loss_value()
        return loss is not None and loss <= self.value

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        return f"The loss is at most {self.value:g}."


class NotFinite(StoppingRule):
    """Stops where the loss is not finite."""

    needs = frozenset({"loss"})
    code = 3

    def met(self, progress: Progress) -> bool:
        """Whether the loss is infinite or NaN."""
        loss = progress.loss_value()
        return loss is not None and not math.isfinite(loss)

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        return "The loss is not finite (NaN result encountered)."


class Unbounded(StoppingRule):
    """Stops where the loss seems to be unbounded below: it has fallen to −size·max(abs(f₀), 1), f₀ the first loss.

    Args:
        size: how many times as far from zero as the first loss. At the default, that one is long lost in the rounding.
    """

    needs = frozenset({"loss"})
    code = 2

    def __init__(self, size: float = 1e20) -> None:
        super().__init__()
        self.size = _at_least(self, "size", size, 1)

    def met(self, progress: Progress) -> bool:
        """Whether the loss has fallen so far."""
        loss = progress.loss_value()
        if loss is None or math.isnan(loss):
            return False
        first = self.memory.setdefault("first", loss if math.isfinite(loss) else 0.0)
        self.memory["loss"] = loss
        return loss <= -self.size * max(abs(first), 1.0)

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        return f"The loss seems to be unbounded below: it has fallen to {self.memory.get('loss', -math.inf):.3g}."


class SearchFailed(StoppingRule):
    """Stops where line searches or trust regions have failed several times in a row.

    A search that goes on in the next step, with other step sizes, has not failed yet.

    Args:
        patience: so many times.
    """

    code = 2

    def __init__(self, patience: int = 2) -> None:
        super().__init__()
        self.patience = _at_least(self, "patience", patience, 1)

    def met(self, progress: Progress) -> bool:
        """Whether searches have failed often enough."""
        failed = 0 if progress.status == "ok" else self.memory.get("failed", 0) + (not progress.retries)
        self.memory["failed"] = failed
        self.memory["falling"] = int(failed > 0 and (progress.falling or bool(self.memory.get("falling", 0))))
        self.memory["uphill"] = int(failed > 0 and progress.uphill)
        return failed >= self.patience

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        if self.memory.get("falling", 0):
            return (
                "The loss seems to be unbounded below along the search direction: it fell as far as the search looked."
            )
        if self.memory.get("uphill", 0):
            return (
                "The update leads uphill, so no step along it was acceptable. A Newton method does that where the "
                "Hessian is not positive definite: tz.m.Newton(eigval_tfm=torch.abs) and trust regions do not."
            )
        return "No acceptable step was found: desired error not necessarily achieved due to precision loss."


class MaxSteps(StoppingRule):
    """Stops after so many steps.

    Where the loss is known and fell as much in the second half of them as in the first, the message says so.

    Args:
        n: how many.
    """

    code = 1

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = _at_least(self, "n", n)

    def met(self, progress: Progress) -> bool:
        """Whether so many steps were made."""
        self._look(progress)
        return progress.steps >= self.n

    def _look(self, progress: Progress) -> None:
        """Remember the first loss, that in the middle and the last one."""
        if self.n < MANY:
            return
        at = {self.n // 2: "half", self.n: "last"}
        name = at.get(progress.steps) if "first" in self.memory else "first"
        if name and (loss := progress.loss_value()) is not None:
            self.memory[name] = loss

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        text = f"Maximum number of iterations has been reached ({self.n})"
        first, half, last = (self.memory.get(name, math.nan) for name in ("first", "half", "last"))
        if 0 < first - half <= half - last:
            text += "; the loss fell as much in their second half as in the first: its minimum is far, if it has one"
        return f"{text}."


class MaxEvaluations(StoppingRule):
    """Stops after so many evaluations of the loss; a step that has begun is ended.

    Args:
        n: how many.
    """

    code = 1

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = _at_least(self, "n", n)

    def met(self, progress: Progress) -> bool:
        """Whether the loss was evaluated so often."""
        return progress.evaluations >= self.n

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        return f"Maximum number of function evaluations has been reached ({self.n})."


class MaxTime(StoppingRule):
    """Stops after so many seconds, counted from when it is made or reset; a run that is resumed goes on counting.

    Ranks take the mean of their clocks, so that all of them stop at the same step.

    Args:
        seconds: how many.
    """

    code = 1

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = _at_least(self, "seconds", seconds)
        self._last = time.monotonic()

    def spent(self) -> float:
        """The seconds so far."""
        now = time.monotonic()
        self.memory["spent"] = self.memory.get("spent", 0.0) + now - self._last
        self._last = now
        return self.memory["spent"]

    def met(self, progress: Progress) -> bool:
        """Whether the time is over."""
        spent = torch.tensor(self.spent(), dtype=torch.float64, device="cpu")
        return float(progress.reductions.mean_loss(spent)) >= self.seconds

    def reset(self) -> None:
        """Begin to count anew."""
        super().reset()
        self._last = time.monotonic()

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        return f"Maximum time has been reached ({self.seconds:g} s)."


def _at_least(rule: StoppingRule, name: str, value: Any, low: int = 0) -> Any:
    """The value of an argument.

    Raises:
        ValueError: it is no number from ``low`` on.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) >= low:
        raise ValueError(f"{type(rule).__name__}({name}={value!r}) must be a number from {low} on.")
    return value


def as_rule(rule: StoppingRule | Iterable[StoppingRule]) -> StoppingRule:
    """A rule as it is; several of them as one that stops where any does.

    Args:
        rule: the rule or rules.

    Raises:
        TypeError: something else.
    """
    if isinstance(rule, StoppingRule):
        return rule
    if isinstance(rule, (list, tuple)) and rule:
        return AnyOf(rule)
    raise TypeError(f"A stopping rule is wanted, such as tz.stopping.GradNorm(1e-5), or a list of them, not {rule!r}.")


__all__ = [
    "AllOf",
    "AnyOf",
    "GradNorm",
    "LossBelow",
    "LossChange",
    "MaxEvaluations",
    "MaxSteps",
    "MaxTime",
    "NotFinite",
    "Progress",
    "SearchFailed",
    "StepNorm",
    "StoppingRule",
    "Unbounded",
    "as_rule",
]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise AttributeError(f"tz.stopping has no {name!r}.{did_you_mean(name, __all__, prefix='tz.stopping.')}")


def __dir__() -> list[str]:
    return list(__all__)
