"""The user's closure in the one form that modules call."""

from __future__ import annotations

import inspect
import math
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..distributed import Reductions, clones
from .graphless import Graphless
from .home import Home, StepInfo
from .replaced_grads import replace_grads, return_grads
from .sight import Sight, changes, look

Closure = Callable[..., Any]

_NO_LOSS = "The closure returned None; it must return the loss."


def as_number(loss: Any) -> Tensor | None:
    """What a closure has returned as a tensor without dimensions; it keeps its graph.

    Python's and numpy's numbers and counts become double precision, so that nothing of them is lost. None stays None.

    Raises:
        TypeError: it is no number: a tuple of the loss and something else, for example.
        ValueError: a tensor with more than one element, or with none.
    """
    if loss is None:
        return None
    if not isinstance(loss, Tensor):
        loss = _number(loss)
    elif loss.numel() != 1:
        raise ValueError(
            f"The closure returned a tensor of shape {tuple(loss.shape)}; the loss must be one number, such as "
            "loss.mean() or loss.sum()."
        )
    if loss.is_complex():
        raise TypeError(f"The closure returned a complex number ({loss.dtype}); the loss must be a real one.")
    if not loss.is_floating_point():
        loss = loss.to(torch.float32 if loss.device.type == "mps" else torch.float64)
    return loss.reshape(()) if loss.ndim else loss


def _number(loss: Any) -> Tensor:
    """A number that is no tensor, in double precision."""
    item = getattr(loss, "item", None)  # of arrays, with whatever number of dimensions
    try:
        value = loss if isinstance(loss, (str, bytes, complex)) else item() if callable(item) else loss
        if hasattr(value, "__float__"):
            return torch.tensor(float(value), dtype=torch.float64, device="cpu")
    except (TypeError, ValueError):
        pass
    what = f"a {type(loss).__name__}" + (f" of {len(loss)}" if isinstance(loss, (tuple, list, dict)) else "")
    raise TypeError(
        f"The closure returned {what}; it must return the loss, one number, and nothing else. Keep what else you need "
        "in a variable outside of the closure."
    )


def detached(loss: Any) -> Tensor:
    """A loss without its graph, as a tensor that is nobody else's.

    Raises:
        TypeError: None, or no number.
    """
    return value_of(loss).clone()


def value_of(loss: Any) -> Tensor:
    """A loss without its graph, to be read at once: it may still be somebody else's.

    Raises:
        TypeError: None, or no number.
    """
    number = as_number(loss)
    if number is None:
        raise TypeError(_NO_LOSS)
    return number.detach() if number.requires_grad else number


class _Kept(NamedTuple):
    """What a closure was at one point; the number of its loss is there to be compared with others."""

    values: list[Tensor]
    loss: Tensor
    grads: list[Tensor | None]
    sight: Sight | None
    number: float


class Evaluations:
    """What a deterministic closure was at its last points, found again by the values of the parameters.

    Two evaluations are kept, the latest and the best of the others: where a step ends is nearly always one of them.

    Nobody's word is taken for ever: now and then the closure is evaluated where it was evaluated before, and where loss
    and gradients are not the same to the last bit, nothing is remembered any more. Without a word they have to be the
    same once before anything is, and everything that the closure refers to has to be seen and to be as it was.

    Args:
        word: whether somebody has said that the closure is deterministic.
    """

    #: The closure is asked again when it would have been saved so many evaluations, and then at four times as many.
    FIRST_CHECK = 32
    #: So often the closure may refer to something else before it is taken for one that changes from step to step.
    PATIENCE = 3

    def __init__(self, *, word: bool) -> None:
        self.word = word
        self.over = False
        self.doubted = not word
        self._kept: list[_Kept] = []
        self._saved, self._check, self._changes = 0, self.FIRST_CHECK, 0

    def note(self, params: Sequence[Tensor], loss: Tensor, closure: Closure) -> None:
        """Remember loss and gradients at the present point."""
        if self.over:
            return
        sight = None if self.word else look(closure, params)
        if sight is None and not self.word:
            return self.end()
        spare = self._drop()
        values = _copies(params, None if spare is None else spare.values)
        grads = _copies([p.grad for p in params], None if spare is None else spare.grads)
        number = loss.item()
        number = math.inf if math.isnan(number) else number
        self._kept.append(_Kept(values, loss.clone(), grads, sight, number))  # type: ignore[arg-type]

    def _drop(self) -> _Kept | None:
        """Make room for another evaluation: the one that goes, whose memory can be used."""
        if len(self._kept) < 2:
            return None
        first, second = self._kept
        return self._kept.pop(0 if second.number < first.number else 1)

    def find(self, params: Sequence[Tensor], closure: Closure) -> _Kept | None:
        """What was evaluated at the present point, if anything was, and as far as is seen by the same function."""
        for kept in self._kept:
            if len(kept.values) == len(params) and all(map(_same_values, kept.values, params)):
                break
        else:
            return None
        if kept.sight is None or kept.sight.same(look(closure, params)):
            return kept
        self._kept, self._changes = [], self._changes + 1
        if self._changes >= self.PATIENCE:
            self.end()
        return None

    def trusts(self) -> bool:
        """Whether an evaluation may stand for another one at the same point."""
        self._saved += 1
        if self._saved >= self._check:
            self._check *= 4
            return False
        return not self.doubted

    def recall(self, kept: _Kept, params: Sequence[Tensor]) -> Tensor:
        """The loss of an evaluation, with its gradients in ``p.grad``."""
        replace_grads(params, _copies(kept.grads, None))
        return kept.loss.clone()

    def agrees(self, kept: _Kept, params: Sequence[Tensor], loss: Tensor) -> bool:
        """Whether another evaluation at the same point was the same to the last bit; otherwise nothing is kept on."""
        grads = [p.grad for p in params]
        same = _equal(loss, kept.loss) and all(map(_equal, grads, kept.grads))
        self.doubted = False
        if not same:
            self.end()
        return same

    def end(self) -> None:
        """Remember nothing any more."""
        self.over, self._kept = True, []

    def forget(self) -> None:
        """Evaluate anew at the present point."""
        self._kept = []


def _same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same, in the same dtype: anybody may cast parameters."""
    return a.dtype is b.dtype and torch.equal(a, b)


def _copies(tensors: Sequence[Tensor | None], memory: Sequence[Tensor | None] | None) -> list[Tensor | None]:
    """Copies of tensors, in memory that is there where it fits."""
    there = [t for t in tensors if t is not None]
    held = [] if memory is None else [m for m in memory if m is not None]
    if held and len(held) == len(there) and all(map(_like, held, there)):  # anybody may add or cast parameters
        copies = held
        torch._foreach_copy_(copies, there)
    else:
        copies = clones(there)
    if len(there) == len(tensors):
        return copies  # type: ignore[return-value]
    rest = iter(copies)
    return [None if t is None else next(rest) for t in tensors]


def _like(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are of one kind and lie in memory in the same way."""
    return a.dtype is b.dtype and a.shape == b.shape and a.stride() == b.stride() and a.device == b.device


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether both are the same to the last bit, or neither is there."""
    return a is b if a is None or b is None else torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())


def _random_state() -> Tensor:
    """Where torch's random numbers are."""
    return torch.default_generator.get_state()


class CountedClosure:
    """The user's closure as modules call it: ``closure(backward=True)``, counted.

    It returns the loss as a tensor without dimensions that is nobody else's. ``closure(False)`` makes no graph, unless
    gradients are on where it is called; then the loss comes with it. Where gradients were asked for, the closure may
    return None.

    A closure without a ``backward`` argument is evaluated with its backward pass either way; the gradients are put
    back when none were asked for. A warning says so once. A deterministic closure is not evaluated with gradients
    where that has just been done.

    Args:
        closure: the user's.
        home: the optimizer.
        info: where evaluations are counted.
        known: what a deterministic closure has been; None for others.
        habits: looks for gradients that are not computed, or not cleared.

    Attributes:
        gave_none: the closure has returned None where gradients were asked for.
    """

    def __init__(
        self, closure: Closure, home: Home, info: StepInfo, known: Evaluations | None, habits: Habits | None = None
    ) -> None:
        self._closure, self._home, self._info, self._known = closure, home, info, known
        self._habits, self._graphless = habits, home.graphless
        self._takes_backward = accepts_backward(closure)
        self.gave_none = False

    def __call__(self, backward: bool = True) -> Tensor | None:
        """Evaluate.

        Raises:
            TypeError: the closure returned what is no number.
            ValueError: it returned more than one number.
        """
        known = self._known
        # Ranks that share the parameters out would not agree on whether a point is known.
        if known is None or known.over or not backward or type(self._home.distributed) is not Reductions:
            return self._evaluate(backward)
        params = self._home.all_params
        kept = known.find(params, self._closure)
        if kept is not None and known.trusts():
            return known.recall(kept, params)
        return_grads(params)
        watched = self._habits is not None and self._habits.watching
        before = _random_state() if watched else None
        loss = self._evaluate(backward)
        if loss is None:
            return None
        if before is not None and not torch.equal(before, _random_state()):
            known.doubted = True  # dropout, or it draws a batch: it has to show that it draws the same every time
        if kept is not None and not known.agrees(kept, params, loss) and known.word:
            self._home.warn_once(
                "closure:deterministic",
                f"deterministic=True, but the closure gave a loss of {float(kept.loss):.9g} and then of "
                f"{float(loss):.9g} at the same parameters, or other gradients: it uses other data, dropout or "
                "something else that changes. It is evaluated at the start of each step from now on; construct the "
                "optimizer without deterministic=True.",
            )
        known.note(params, loss, self._closure)
        return loss

    def residuals(self) -> Any:
        """What the closure returns where no gradients are asked for, as it is: for methods that want residuals."""
        self._info.evaluations += 1
        with self._graphless.grad_mode():
            values = self._graphless(lambda: self._call(False))
        self._called()
        return values

    def close(self) -> None:
        """Let go of the user's closure, with its batch: the step has ended."""
        self._closure, self._takes_backward = _ended, "keyword"

    def _evaluate(self, backward: bool) -> Tensor | None:
        self._info.evaluations += 1
        self._info.backward_evaluations += bool(backward)
        loss = self._evaluate_with_grads() if backward else self._evaluate_loss()
        self._called()
        return loss

    def _called(self) -> None:
        """After the first call of a step: a schedule by hand in the closure counts in this step, as with torch's."""
        if self._info.evaluations == 1:
            self._home.evaluated()

    def _evaluate_with_grads(self) -> Tensor | None:
        habits = self._habits
        with torch.enable_grad():
            if habits is None or not habits.watching:
                number = as_number(self._call(True))
            else:
                with habits.watch(self._home, self._closure) as watch:
                    number = as_number(self._call(True))
                    watch.skipped = number is None
        if number is None:
            self.gave_none = True
            return None
        return number.detach().clone()

    def _evaluate_loss(self) -> Tensor:
        if self._takes_backward:
            with self._graphless.grad_mode():
                number = as_number(self._graphless(lambda: self._call(False)))
                if number is None:
                    raise TypeError(_NO_LOSS)
                return number.clone()  # with its graph, where gradients are on
        self._home.warn_once(
            "backward",
            "The closure takes no `backward` argument, so evaluations that need only the loss also compute "
            "gradients, which costs about three times as much. Define it as closure(backward=True) and call "
            "loss.backward() only if backward is true. (In Lightning, derive the model from "
            "tz_lightning.ClosureModule.)",
        )
        params = self._home.all_params
        kept = [p.grad for p in params]
        for p in params:
            p.grad = None
        try:
            with torch.enable_grad():
                return detached(self._closure())
        finally:
            for p, g in zip(params, kept, strict=True):
                p.grad = g

    def _call(self, backward: bool) -> Any:
        way = self._takes_backward
        if not way:
            return self._closure()
        if way == "positional":
            return self._closure(backward)
        if way == "keyword":
            return self._closure(backward=backward)
        try:
            return self._closure(backward=backward)
        except TypeError as error:  # what takes any argument hands it on to what does not
            if "'backward'" not in str(error) or "argument" not in str(error):
                raise
        self._takes_backward = ""
        if backward:
            return self._closure()
        return self._evaluate_loss()


def _ended(backward: bool) -> Any:
    raise RuntimeError("A closure can be evaluated only within the step that it was given to.")


class WrappedClosure:
    """A closure that a module has put around another one: it is run with gradients on or off, as the user's own is.

    Args:
        closure: the module's.
        graphless: runs it where no gradients are asked for.
    """

    __slots__ = ("_closure", "_graphless")

    def __init__(self, closure: Closure, graphless: Graphless) -> None:
        self._closure, self._graphless = closure, graphless

    def __call__(self, backward: bool = True) -> Any:
        """Evaluate."""
        with torch.enable_grad() if backward else self._graphless.grad_mode():
            return as_number(self._closure(True) if backward else self.residuals())

    def residuals(self) -> Any:
        """What the closure returns where no gradients are asked for, as it is."""
        with self._graphless.grad_mode():
            return self._graphless(lambda: self._closure(False))


def made_by(closure: Closure) -> str | None:
    """The package of Lightning that has made a closure; None where none has, whether or not it is installed."""
    classes = type(getattr(getattr(closure, "func", None), "__self__", None)).__mro__
    names = ("lightning.pytorch", "pytorch_lightning")
    return next((name for name in names for cls in classes if cls.__module__.startswith(f"{name}.")), None)


def warn_of_lightning(home: Home, closure: Closure) -> None:
    """Say what a closure does that Lightning has made, where nobody is there who gives another one."""
    if made_by(closure) is not None:
        home.warn_once(
            "lightning",
            "The chain evaluates the loss several times a step, and each time Lightning logs and counts the batch "
            "again, with other random numbers. Give the Trainer the callback tz_lightning.ClosureOptimization(), or in "
            "manual optimization call tz_lightning.closure_step(self, optimizer, fn).",
        )


def accepts_backward(closure: Closure) -> str:
    """How a closure takes ``backward``.

    Returns:
        "positional", "keyword", "any" where it takes keywords of any name, or "" where it does not.
    """
    code, bound = _code(closure)
    if code is not None:
        names = code.co_varnames[bound : code.co_argcount + code.co_kwonlyargcount]
        if "backward" in names:
            return "keyword"
        if not names:
            return ""
    try:
        parameters = inspect.signature(closure).parameters.values()
    except (TypeError, ValueError):
        return ""
    kinds = inspect.Parameter
    for p in parameters:
        if p.kind is kinds.KEYWORD_ONLY and p.name == "backward":
            return "keyword"
        if p.kind <= kinds.POSITIONAL_OR_KEYWORD and "backward" in p.name:
            return "keyword" if p.name == "backward" and p.kind is not kinds.POSITIONAL_ONLY else "positional"
    required = [p for p in parameters if p.default is kinds.empty and p.kind <= kinds.POSITIONAL_OR_KEYWORD]
    if len(required) == 1:  # whatever it is called, it cannot be anything else
        return "positional"
    return "any" if any(p.kind is kinds.VAR_KEYWORD for p in parameters) else ""


def _code(closure: Any) -> tuple[types.CodeType | None, int]:
    """The code that a closure runs, and how many of its arguments are bound; None where that takes more to find out.

    Signatures take as long as the rest of a small step.
    """
    bound, takes_any = 0, inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
    if type(closure) is types.MethodType:
        closure, bound = closure.__func__, 1
    elif type(closure) is not types.FunctionType and not hasattr(closure, "__signature__"):
        closure, bound = vars(type(closure)).get("__call__"), 1
    if type(closure) is not types.FunctionType or hasattr(closure, "__wrapped__") or hasattr(closure, "__signature__"):
        return None, 0
    code = closure.__code__
    return (None, 0) if code.co_flags & takes_any or code.co_posonlyargcount else (code, bound)


class Habits:
    """Notices closures that forget something, at the first evaluations of an optimizer: it costs nothing later on.

    A closure that never calls ``backward`` leaves all parameters without gradients. One that does not clear gradients
    adds to those of the evaluation before: where nobody else has touched these, and what comes out is the old gradient
    and the new one, it has forgotten it.
    """

    #: How many evaluations with gradients are looked at.
    EVALUATIONS = 4

    def __init__(self) -> None:
        self.watching = self.EVALUATIONS
        self._left: tuple[weakref.ref[Tensor], weakref.ref[Tensor], int] | None = None

    def watch(self, home: Home, closure: Closure) -> _Watch:
        """Look at one evaluation.

        Args:
            home: the optimizer.
            closure: the user's.
        """
        return _Watch(self, home, closure)

    def leave(self, params: Sequence[Tensor]) -> None:
        """Remember the gradients that an evaluation leaves behind."""
        small = min((p for p in params if p.grad is not None and p.numel()), key=Tensor.numel, default=None)
        grad = None if small is None else small.grad
        self._left = None
        if small is not None and grad is not None:
            self._left = weakref.ref(small), weakref.ref(grad), changes(grad)

    def stale(self) -> Tensor | None:
        """A parameter whose gradient is that of the last evaluation, untouched."""
        if self._left is None:
            return None
        param, grad, version = self._left[0](), self._left[1](), self._left[2]
        if param is None or grad is None or param.grad is not grad or changes(grad) != version:
            return None
        return param


class _Watch:
    """One evaluation that is looked at.

    Attributes:
        skipped: the closure has returned None: there was nothing to compute.
    """

    def __init__(self, habits: Habits, home: Home, closure: Closure) -> None:
        self._habits, self._home, self._closure = habits, home, closure
        self._param = habits.stale()
        self._old: Tensor | None = None
        self._new: list[Tensor] = []
        self.skipped = False

    def __enter__(self) -> _Watch:
        p = self._param
        self._hook: Any = None
        if p is not None and p.grad is not None and p.requires_grad and type(p.grad) is Tensor:
            self._old = p.grad.detach().clone()
            new = self._new
            self._hook = p.register_hook(lambda g: new.append(g.detach().clone()))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._hook is not None:
            self._hook.remove()
        if kind is not None:
            return
        self._habits.watching -= 1
        params, name = self._home.all_params, getattr(self._closure, "__qualname__", type(self._closure).__name__)
        wanted = [p for p in params if p.requires_grad]
        if not self.skipped and wanted and all(p.grad is None for p in wanted):
            self._home.warn_once(
                "closure:backward",
                f"No parameter has a gradient after the closure {name} was called to compute them, so nothing moves. "
                "It has to call loss.backward(), on a loss that was computed from the parameters without detach() or "
                "torch.no_grad().",
            )
        if self._adds_up():
            self._home.warn_once(
                "closure:clear",
                f"The closure {name} adds its gradients to those of the evaluation before. Clear them in it: call "
                "optimizer.zero_grad() before loss.backward().",
            )
        self._habits.leave(params)

    def _adds_up(self) -> bool:
        p, old, new = self._param, self._old, self._new
        if p is None or old is None or p.grad is None or not new or new[0].shape != old.shape:
            return False
        total = sum(new[1:], new[0])
        size = float(old.abs().max())
        if not (size > 0 and math.isfinite(size) and bool(total.isfinite().all())):
            return False
        found = p.grad.detach()
        return torch.allclose(found, old + total, rtol=1e-3) and not torch.allclose(found, total, rtol=1e-3)
