"""The optimizer that a configuration file can spell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from torchzero_core.core import Modular, Module

from .compat import is_lightning_closure


class ModularChain(Modular):
    """A :class:`~torchzero_core.core.Modular` whose modules come as a list, as YAML and the command line give them.

    Args:
        params: tensors, (name, tensor) pairs, dicts that define groups, or a model.
        modules: the chain.
        compile: run the rules of the chain as generated kernels.

    Example:
        >>> import torch, torchzero_core as tz
        >>> from tz_lightning import ModularChain
        >>> p = torch.zeros(1, requires_grad=True)
        >>> ModularChain([p], [tz.m.Adam(), tz.m.LR(1e-2)]).param_groups[0]["lr"]
        0.01
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]] | nn.Module,
        modules: list[Module],
        compile: bool = False,
    ) -> None:
        super().__init__(params, *([modules] if isinstance(modules, Module) else modules), compile=compile)

    def step(self, closure: Callable[..., Any] | None = None) -> Any:
        """Make one step; see :meth:`torchzero_core.core.Modular.step`.

        Raises:
            RuntimeError: the chain evaluates the loss itself, but Lightning's automatic optimization runs it.
        """
        if self.requires_closure and is_lightning_closure(closure):
            needy = next(m for m in self.unrolled_modules if m.requires_closure)
            raise RuntimeError(
                f"{needy.path} evaluates the loss several times a step, which Lightning's automatic optimization would "
                "log and count each time. Give the Trainer the callback tz_lightning.ClosureOptimization(), or derive "
                "the model from tz_lightning.ClosureModule."
            )
        return super().step(closure)

    step.hooked = True  # type: ignore[attr-defined]
