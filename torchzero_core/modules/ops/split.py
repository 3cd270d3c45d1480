"""Different modules for different parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from ...core import Module, Params, Var
from ...core.module import Modules
from ...core.stand_ins import real_param
from .filters import hidden_matrices


class Split(Module):
    """Sends each parameter to one of two modules.

    Args:
        filter: says of a parameter whether it goes to ``true``. "hidden_matrices" is the filter for methods like
            Muon: weights of two and more dimensions that belong to no embedding and not to the head. It needs the
            optimizer to be given the model, ``Modular(model, ...)``; see :func:`~torchzero_core.m.hidden_matrices`.
        true: module, or list of modules, for the parameters that the filter accepts; None leaves their update as it
            is.
        false: the same for the others.

    Example:
        >>> import torch, torchzero_core as tz
        >>> weight, bias = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([weight, bias], tz.m.Split(lambda p: p.ndim >= 2, tz.m.Sign(), tz.m.Mul(0.5)))
        >>> weight.grad, bias.grad = torch.full((2, 2), 3.0), torch.full((2,), 3.0)
        >>> optimizer.step()
        >>> weight[0, 0].item(), bias[0].item()
        (-1.0, -1.5)
    """

    def __init__(
        self,
        filter: Callable[[Tensor], bool] | Literal["hidden_matrices"],
        true: Modules | None = None,
        false: Modules | None = None,
    ) -> None:
        super().__init__()
        if not callable(filter) and filter != "hidden_matrices":
            raise TypeError(f"Split's filter must be a function of a parameter or 'hidden_matrices', not {filter!r}.")
        self.filter = filter
        for name, module in (("true", true), ("false", false)):
            if module is not None:
                self.set_child(name, module)

    def routes(self, var: Var) -> dict[str, list[int]]:
        """The positions of the parameters that go to each child."""
        params = var.params
        known = params.derived.get(self) if isinstance(params, Params) else None
        if known is None:
            accepts = self.filter
            if not callable(accepts):
                if var.model is None:
                    raise ValueError(
                        f"{self.path}(filter='hidden_matrices') must know the model to tell embeddings and the head "
                        "from hidden weights: give it to the optimizer, Modular(model, ...), or give Split "
                        "filter=tz.m.hidden_matrices(model)."
                    )
                accepts = hidden_matrices(var.model)
            known = {"true": [], "false": []}
            for i, p in enumerate(params):
                known["true" if accepts(real_param(p)) else "false"].append(i)
            if isinstance(params, Params):
                params.derived[self] = known
        return known

    def step(self, var: Var) -> Var:
        """Run each child on its parameters."""
        routes = {self.children[name]: at for name, at in self.routes(var).items() if at and name in self.children}
        var.absorb_parts((child.step(var.select(places)), places) for child, places in routes.items())
        return var

    def extra_repr(self) -> str:
        return (
            f"filter={self.filter if isinstance(self.filter, str) else getattr(self.filter, '__name__', self.filter)}"
        )
