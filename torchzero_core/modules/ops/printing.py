"""Looking at the update from inside a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...core import Module, Var


class _Print(Module):
    """What both print with."""

    only_shows = True

    def __init__(self, text: str, print_fn: Callable[[str], Any]) -> None:
        super().__init__()
        self.text, self.print_fn = text, print_fn

    def extra_repr(self) -> str:
        """The text."""
        return f"text={self.text!r}"


class PrintShape(_Print):
    """Prints the shapes of the update, and leaves it as it is.

    Args:
        text: what stands in front.
        print_fn: gets the line.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, 3, requires_grad=True)
        >>> p.grad = torch.ones(2, 3)
        >>> tz.Modular([p], tz.m.PrintShape()).step()
        shapes = [(2, 3)]
    """

    def __init__(self, text: str = "shapes = ", print_fn: Callable[[str], Any] = print) -> None:
        super().__init__(text, print_fn)

    def step(self, var: Var) -> Var:
        """Print."""
        self.print_fn(f"{self.text}{[tuple(u.shape) for u in var.peek_update()]}")
        return var


class PrintUpdate(_Print):
    """Prints the update, and leaves it as it is.

    Args:
        text: what stands in front.
        print_fn: gets the text.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.ones(2)
        >>> tz.Modular([p], tz.m.PrintUpdate(), tz.m.Mul(2)).step()
        update = [tensor([1., 1.])]
    """

    def __init__(self, text: str = "update = ", print_fn: Callable[[str], Any] = print) -> None:
        super().__init__(text, print_fn)

    def step(self, var: Var) -> Var:
        """Print."""
        self.print_fn(f"{self.text}{[u.detach() for u in var.peek_update()]}")
        return var
