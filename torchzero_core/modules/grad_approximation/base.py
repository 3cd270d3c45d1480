"""What every gradient approximation shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from ...core import Module, Passed, Var

ApproximationTarget: TypeAlias = Passed[Literal["closure", "grad", "update"]]


class GradApproximator(Module):
    """Base class of gradient approximations: a subclass defines :meth:`approximate`.

    Args:
        defaults: settings.
        target: what the approximation replaces. "closure": the gradients that the closure computes, so that every
            later module, a line search or a quasi-Newton method, works on it without knowing; each evaluation with
            ``backward`` costs one evaluation of the exact loss more. "grad": the gradient of the step. "update": the
            update of the step.

    Example:
        >>> import torch, torchzero_core as tz
        >>> class Forward(tz.m.GradApproximator):
        ...     h: float = 1e-3
        ...
        ...     def approximate(self, closure, params, loss, var):
        ...         loss = closure(False) if loss is None else loss
        ...         grads = [torch.zeros_like(p) for p in params]
        ...         for p, g in zip(params, grads):
        ...             h = self.settings[p]["h"]
        ...             for i in range(p.numel()):
        ...                 before = p.view(-1)[i].clone()
        ...                 p.view(-1)[i] += h
        ...                 g.view(-1)[i] = (closure(False) - loss) / h
        ...                 p.view(-1)[i] = before
        ...         return grads, loss, None
        >>> p = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = tz.Modular([p], Forward(h=1e-7), tz.m.LR(0.1))
        >>> optimizer.step(lambda backward=True: (p**2).sum()).item()
        5.0
        >>> p.detach().round(decimals=5)
        tensor([ 0.8000, -1.6000], dtype=torch.float64)
    """

    requires_closure = True
    takes_values = True
    starts_with_value = True
    one_piece = True
    needs_gradient = False
    #: Whether it keeps a copy of the parameters, and says so to the step's transaction; else that makes one.
    lends_params: ClassVar[bool] = False

    def __init__(self, defaults: Mapping[str, Any] | None = None, target: ApproximationTarget = "closure") -> None:
        if target not in ("closure", "grad", "update"):
            raise ValueError(f"{type(self).__name__}: target={target!r} is not one of 'closure', 'grad', 'update'.")
        super().__init__(defaults)
        self.target: ApproximationTarget = target

    def pre_step(self, var: Var) -> None:
        """Called once at the start of each step, before anything is evaluated.

        Args:
            var: the step's context.
        """

    def approximate(
        self, closure: Callable[..., Any], params: list[Tensor], loss: Tensor | None, var: Var
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """The gradient at the present parameters.

        Parameters that are moved must be put back exactly, also when the closure raises.

        Args:
            closure: ``closure(False)`` evaluates the loss.
            params: the parameters.
            loss: the loss at the present parameters where it is known.
            var: the step's context.

        Returns:
            Gradients, which become the caller's; the loss at the present parameters, or None if it was not
            evaluated; an estimate of it from points nearby, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} has no approximate(closure, params, loss, var).")

    def _approximated(self, closure: Any, params: list[Tensor], loss: Any, var: Var) -> tuple[list[Tensor], Any, Any]:
        """What ``approximate`` returns, where that fits the parameters."""
        found: Any = self.approximate(closure, params, loss, var)
        name = f"The approximate of {type(self).__name__}"
        if not isinstance(found, tuple) or len(found) != 3:
            what = f"a {type(found).__name__}" + (f" of {len(found)}" if isinstance(found, (list, tuple)) else "")
            raise TypeError(
                f"{name} returned {what}; it must return the gradients, the loss here or None, and an estimate of the "
                "loss or None: return grads, loss, None."
            )
        grads = found[0]
        if not isinstance(grads, (list, tuple)) or len(grads) != len(params):
            what = f"a {type(grads).__name__}" + (f" of {len(grads)}" if isinstance(grads, (list, tuple)) else "")
            raise TypeError(f"{name} gave {what} as gradients; it must be a list with one for each of params.")
        for p, g in zip(params, grads, strict=True):
            if g is not None and (g.shape != p.shape or g.dtype != p.dtype):
                raise ValueError(
                    f"{name} gave a gradient of shape {tuple(g.shape)} and {g.dtype} for a parameter of shape "
                    f"{tuple(p.shape)} and {p.dtype}; torch.zeros_like(p) has what fits."
                )
        return found

    def step(self, var: Var) -> Var:
        """Replace closure, gradient or update."""
        exact = var.closure
        if exact is None:
            raise RuntimeError(f"{self.path} has to evaluate the loss: call optimizer.step(closure).")
        params = var.params
        if not params:
            return var
        if not self.lends_params and var.modular is not None:
            var.modular.transaction.keep(params)
        self.pre_step(var)
        if self.target == "closure":
            home = var.modular
            assert home is not None

            @torch.no_grad()
            def closure(backward: bool = True) -> Any:
                home.return_grads()
                loss = exact(False)
                if isinstance(loss, Tensor):
                    loss = loss.detach()  # its graph leads to the exact gradient
                if backward:
                    grads, _, _ = self._approximated(exact, params, loss, var)
                    home.replace_grads(params, grads)
                return loss

            var.wrap_closure(closure)
            return var
        grads, loss, estimate = self._approximated(exact, params, var.loss, var)
        if var.loss is None:
            if loss is not None:
                var.loss = loss
            else:
                var.loss_approx = estimate
        if self.target == "update":
            var.update = grads
        else:
            if var.update is None and var.grad is not None:
                var.get_update()  # what came before stays the update
            var.grad = grads
        return var

    def __repr__(self) -> str:
        text = super().__repr__()
        return (
            text if self.target == "closure" else f"{text[:-1]}{', ' if self.defaults else ''}target={self.target!r})"
        )
