"""Different modules for different parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from ...core import Module, Var
from ...core.filters import hidden_matrices
from ...core.module import Modules


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
        true: Modules | None,
        false: Modules | None,
    ) -> None:
        super().__init__()
        if not callable(filter) and filter != "hidden_matrices":
            raise TypeError(f"Split's filter must be a function of a parameter or 'hidden_matrices', not {filter!r}.")
        self.filter = filter
        for name, module in (("true", true), ("false", false)):
            if module is not None:
                self.set_child(name, module)
        self._routes: tuple[list[Tensor], dict[str, list[int]]] | None = None

    def routes(self, var: Var) -> dict[str, list[int]]:
        """The positions of the parameters that go to each child."""
        if self._routes is None or self._routes[0] is not var.params:
            accepts = self.filter
            if not callable(accepts):
                if var.model is None:
                    raise ValueError(
                        f"{self.path}(filter='hidden_matrices') must know the model to tell embeddings and the head "
                        "from hidden weights: give it to the optimizer, Modular(model, ...), or give Split "
                        "filter=tz.m.hidden_matrices(model)."
                    )
                accepts = hidden_matrices(var.model)
            host = var.modular.host_param if var.modular is not None else (lambda p: p)
            places: dict[str, list[int]] = {"true": [], "false": []}
            for i, p in enumerate(var.params):
                places["true" if accepts(host(p)) else "false"].append(i)
            self._routes = (var.params, places)
        return self._routes[1]

    def step(self, var: Var) -> Var:
        params, grads = var.params, var.grad
        # Where the update is still the gradient, it is that for the children too.
        update, fresh = list(var.peek_update()), var.update is None
        owned = [var.owned] * len(params)
        moved: set[int] = set()
        for name, places in self.routes(var).items():
            child = self.children.get(name)
            if child is None or not places:
                continue
            own = [params[i] for i in places]
            assert var.modular is not None
            inner = var.clone([update[i] for i in places], params=var.modular.same_list(own))
            inner.owned = var.owned
            if fresh:
                inner.update = None
            inner.grad = None if grads is None else [grads[i] for i in places]
            inner.stop = inner.skip_update = False
            inner = child.step(inner)
            var.loss = inner.loss if var.loss is None else var.loss
            if inner.skip_update or (inner.stop and inner.update is None):
                moved |= set(places)  # it has moved its parameters, or leaves them where they are
                continue
            for i, u in zip(places, inner.peek_update(), strict=True):
                update[i], owned[i] = u, inner.owned
        if moved:
            kept = [i for i in range(len(params)) if i not in moved]
            assert var.modular is not None
            var.params = var.modular.same_list([params[i] for i in kept])
            var.grad = None if grads is None else [grads[i] for i in kept]
            update, owned = [update[i] for i in kept], [owned[i] for i in kept]
        var.update = [u if mine else u.clone() for u, mine in zip(update, owned, strict=True)]
        return var

    def extra_repr(self) -> str:
        return (
            f"filter={self.filter if isinstance(self.filter, str) else getattr(self.filter, '__name__', self.filter)}"
        )

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_routes": None}
