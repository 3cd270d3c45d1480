"""Evaluating the loss without a graph where only its value is wanted."""

from __future__ import annotations

import random
import re
import traceback
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


class Graphless:
    """Evaluates without a graph what nobody differentiates, unless the function does so itself.

    A graph holds every activation, so without one an evaluation takes the memory of inference. Whether a loss can be
    evaluated so is found out by trying. One that contains derivatives, of a network by its inputs for example, or whose
    closure goes backward whatever it is asked for, raises an error that speaks of gradients. It is evaluated anew with
    gradients on, from the same random numbers, and always so from then on. What else the attempt has changed until it
    was broken off stays changed, once, where nobody undoes it.

    Who wants to differentiate a value enables gradients around the evaluation: in a step they are off.

    Attributes:
        needs_graph: whether the function differentiates something itself.
        proven: whether an evaluation without a graph has succeeded.
        differentiated: whether somebody may differentiate values without having enabled gradients.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> graphless = Graphless()
        >>> with torch.no_grad():
        ...     graphless(lambda: x.sum()).requires_grad, graphless.needs_graph
        (False, False)
        >>> with torch.no_grad():
        ...     graphless(lambda: torch.autograd.grad(x.sum(), x)[0].sum()).item(), graphless.needs_graph
        (2.0, True)
    """

    def __init__(self) -> None:
        self.needs_graph = self.proven = self.differentiated = False

    def grad_mode(self) -> torch.set_grad_enabled:
        """Within it gradients are on if they are anyway, or if somebody may differentiate what is evaluated."""
        return torch.set_grad_enabled(self.differentiated or torch.is_grad_enabled())

    def __call__(self, evaluate: Callable[[], T], undo: Callable[[], None] | None = None) -> T:
        """Evaluate, with a graph only where gradients are on or the function needs it.

        Args:
            evaluate: calls the function.
            undo: puts back what an attempt that was broken off has changed; by default the global random numbers, as
                long as none has succeeded.
        """
        if torch.is_grad_enabled():
            return evaluate()
        if not self.needs_graph:
            if undo is None and not self.proven:
                undo = _Randomness().restore
            try:
                value = evaluate()
            except Exception as error:
                if not _misses_gradients(error):
                    raise
            else:
                self.proven = True
                return value
            if undo is not None:
                undo()
        with torch.enable_grad():
            value = evaluate()
        self.needs_graph = True
        return value


#: How torch says it of a tensor without a graph; the others are how code that looks for one fails.
_WORDS = re.compile("requires?[ _]grad|grad_fn")
_KINDS = (RuntimeError, UserWarning, AssertionError, AttributeError)


def _misses_gradients(error: Exception) -> bool:
    """Whether an error is due to gradients that are off: it says so, or the line does that it comes from.

    What else may be raised to end a step has to end it: the closure is not called again.
    """
    if not isinstance(error, _KINDS):
        return False
    last = traceback.extract_tb(error.__traceback__, limit=-1)
    return any(map(_WORDS.search, [str(error), *(frame.line or "" for frame in last)]))


class _Randomness:
    """Where the global random generators are."""

    def __init__(self) -> None:
        self._states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore(self) -> None:
        """Go back."""
        torch.set_rng_state(self._states[0])
        random.setstate(self._states[1])
        np.random.set_state(self._states[2])  # noqa: NPY002
        torch.cuda.set_rng_state_all(self._cuda)
