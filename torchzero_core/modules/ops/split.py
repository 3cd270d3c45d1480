"""Different modules for different parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn

from ...core import Module, Params, Var
from ...core.grouping import choose
from ...core.module import Modules
from ...core.stand_ins import real_param
from .filters import hidden_matrices


class Split(Module):
    """Sends each parameter to one of two modules.

    Which goes where is shown with the optimizer, ``print(optimizer)``, and in full by :meth:`choice`.

    Args:
        filter: says of a parameter whether it goes to ``true``. "hidden_matrices" is the filter for methods like
            Muon: weights of two and more dimensions that belong to no embedding and not to the head; see
            :func:`~torchzero_core.m.hidden_matrices`. Other words are the kinds, names and patterns of names of
            :func:`torchzero_core.groups`, such as "norms" and "encoder.*". All of them need the optimizer to be given
            the model, ``Modular(model, ...)``.
        true: module, or list of modules, for the parameters that the filter accepts; None leaves their update as it
            is.
        false: the same for the others.
        names: decides for parameters of these names whatever the filter says: True sends them to ``true``. A name may
            be a pattern, as in ``{"head.*": False}``; of several that fit the last counts. The optimizer knows the
            names where it was given the model, or pairs of names and parameters.

    Raises:
        ValueError: a name that no parameter has.

    Example:
        >>> import torch, torchzero_core as tz
        >>> weight, bias = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([weight, bias], tz.m.Split(lambda p: p.ndim >= 2, tz.m.Sign(), tz.m.Mul(0.5)))
        >>> weight.grad, bias.grad = torch.full((2, 2), 3.0), torch.full((2,), 3.0)
        >>> optimizer.step()
        >>> weight[0, 0].item(), bias[0].item()
        (-1.0, -1.5)

        Muon for the hidden matrices of a model and Adam for the rest, each with its own learning rate and weight decay;
        the ``lr`` of the groups, which schedulers change, then scales both:

        >>> from torch import nn
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 9))
        >>> muon = [tz.m.Muon(adjust_lr=True), tz.m.WeightDecay(0.1), tz.m.LR(3e-3)]
        >>> adam = [tz.m.Adam(), tz.m.LR(1e-3)]
        >>> split = tz.m.Split("hidden_matrices", muon, adam, names={"2.*": False})
        >>> optimizer = tz.Modular(model, split)
        >>> split.choice()["true"]
        ['1.weight']
    """

    def __init__(
        self,
        filter: Literal["hidden_matrices"] | str | Callable[[Tensor], bool],
        true: Modules | None = None,
        false: Modules | None = None,
        names: Mapping[str, bool] | None = None,
    ) -> None:
        super().__init__()
        if not callable(filter) and not isinstance(filter, str):
            raise TypeError(
                "Split's filter must be a function of a parameter, 'hidden_matrices', or another kind or pattern of "
                f"names, not {filter!r}."
            )
        self.filter = filter
        self.names = dict(names or {})
        for name, module in (("true", true), ("false", false)):
            if module is not None:
                self.set_child(name, module)

    def routes(self, var: Var) -> dict[str, list[int]]:
        """The positions of the parameters that go to each child."""
        params = var.params
        known = params.derived.get(self) if isinstance(params, Params) else None
        if known is None:
            accepts = self._decision(var.model)
            known = {"true": [], "false": []}
            for i, p in enumerate(params):
                known["true" if accepts(real_param(p)) else "false"].append(i)
            if isinstance(params, Params):
                params.derived[self] = known
        return known

    def choice(self) -> dict[str, list[str]]:
        """The names of the optimizer's parameters that go to "true" and to "false", or their shapes without names.

        Raises:
            RuntimeError: the module belongs to no optimizer.
            ValueError: the filter needs the model, which the optimizer was not given, or a name fits no parameter.
        """
        home = self.home
        if home is None:
            raise RuntimeError(
                f"{self.path} is not part of an optimizer yet, so there are no parameters to choose from."
            )
        accepts, names = self._decision(home.model), self._param_names()
        chosen: dict[str, list[str]] = {"true": [], "false": []}
        for p in home.all_params:
            side = "true" if accepts(p) else "false"
            chosen[side].append(names.get(id(p), f"shape {tuple(p.shape)}"))
        return chosen

    def _decision(self, model: nn.Module | None) -> Callable[[Tensor], bool]:
        """The filter, and what the names say instead."""
        accepts = self.filter
        if not callable(accepts):
            if model is None:
                way = ", or give Split filter=tz.m.hidden_matrices(model)" if accepts == "hidden_matrices" else ""
                raise ValueError(
                    f"{self.path}(filter={accepts!r}) must know the model to tell embeddings and the head "
                    f"from hidden weights, and names: give it to the optimizer, Modular(model, ...){way}."
                )
            accepts = hidden_matrices(model) if accepts == "hidden_matrices" else self._named(model, accepts)
        if not self.names:
            return accepts
        decided: dict[int, bool] = {}
        names = self._param_names()
        for pattern, side in self.names.items():
            fitting = [key for key, name in names.items() if fnmatchcase(name, pattern)]
            if not fitting:
                why = (
                    f"it has {', '.join(list(names.values())[:5])}, …"
                    if names
                    else "it was given none: give it the model"
                )
                raise ValueError(f"{self.path}: no parameter of the optimizer has a name like {pattern!r}; {why}.")
            decided.update(dict.fromkeys(fitting, side))
        return lambda p: decided[id(p)] if id(p) in decided else accepts(p)

    def _named(self, model: nn.Module, words: str) -> Callable[[Tensor], bool]:
        """The filter that accepts what a kind or a pattern means."""
        try:
            chosen = set(map(id, choose(model, words)))
        except ValueError as error:
            raise ValueError(f"{self.path}(filter={words!r}): {error}") from None
        return lambda p: id(p) in chosen

    def _param_names(self) -> dict[int, str]:
        """The names of the optimizer's parameters that have one, by the parameters' ids."""
        home = self.home
        if home is None:
            return {}
        names = {} if home.model is None else {id(p): name for name, p in home.model.named_parameters()}
        for g in home.param_groups:
            names.update((id(p), name) for p, name in zip(g["params"], g.get("param_names", ()), strict=False))
        ours = set(map(id, home.all_params))
        return {key: name for key, name in names.items() if key in ours}

    def step(self, var: Var) -> Var:
        """Run each child on its parameters."""
        routes = {self.children[name]: at for name, at in self.routes(var).items() if at and name in self.children}
        var.absorb_parts((child.step(var.select(places)), places) for child, places in routes.items())
        return var

    def extra_repr(self) -> str:
        shown = self.filter if isinstance(self.filter, str) else getattr(self.filter, "__name__", self.filter)
        text = f"filter={shown}" + (f", names={self.names}" if self.names else "")
        try:
            chosen = self.choice()
        except Exception:  # it is not in an optimizer, or a filter of the user fails, which its step will say
            return text
        return f"{text}; " + ", ".join(f"{side}: {_few(names)}" for side, names in chosen.items())


def _few(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "") if names else "none"
