"""Several optimizers as one."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer


class Split(Optimizer):
    """Steps several torch optimizers, each with parameters of its own, as one.

    It is a torch optimizer: its groups are those of all of them, so one scheduler drives all, and its state dict is
    theirs together. A group is added to one of them, ``split.optimizers[0].add_param_group(...)``.

    A step with a closure evaluates it once for all optimizers that only need gradients, and these step first. Then the
    optimizers that evaluate the loss themselves, such as ``torch.optim.LBFGS`` or a chain with a line search, get the
    closure in turn, each with the parameters where the ones before have left them.

    Args:
        *optimizers: the optimizers.

    Attributes:
        optimizers: the optimizers.

    Raises:
        TypeError: something that is no torch optimizer.
        ValueError: no optimizers, or a parameter that two of them have.

    Example:
        >>> import torch, torchzero_core as tz
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = tz.optim.Split(
        ...     torch.optim.SGD([model.bias], lr=0.1),
        ...     tz.Modular([model.weight], tz.m.BFGS(), tz.m.Backtracking()),
        ... )
        >>> x, y = torch.eye(2), torch.ones(2, 1)
        >>> def closure(backward=True):
        ...     loss = (model(x) - y).square().mean()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> for _ in range(20):
        ...     loss = optimizer.step(closure)
        >>> loss.item() < 1e-3
        True
    """

    optimizers: tuple[Optimizer, ...]

    def __init__(self, *optimizers: Optimizer) -> None:
        given: tuple[Any, ...] = optimizers
        if not given:
            raise ValueError("Split needs at least one optimizer.")
        for i, optimizer in enumerate(given):
            if not isinstance(optimizer, Optimizer):
                hint = ", not as a list of them" if isinstance(optimizer, (list, tuple)) else ""
                raise TypeError(f"Split takes torch optimizers{hint}; argument {i} is a {type(optimizer).__name__}.")
        owners = Counter(p for optimizer in optimizers for p in set(_params(optimizer)))
        shared = [p for p, n in owners.items() if n > 1]
        if shared:
            raise ValueError(
                f"A parameter of shape {tuple(shared[0].shape)} belongs to two optimizers of a Split; each parameter "
                "can have one."
            )
        # What the base's constructor sets besides groups and state, which are those of the optimizers.
        super().__setstate__({"optimizers": tuple(optimizers), "defaults": {}})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> MutableMapping[Any, Any]:  # type: ignore[override]
        """The state of all parameters; what is written to it goes to the optimizer that has the parameter."""
        return _States(self.optimizers)

    @property
    def requires_closure(self) -> bool:
        """Whether ``step`` has to be given a closure."""
        return any(map(_needs_closure, self.optimizers))

    def step(self, closure: Callable[..., Any] | None = None) -> Any:
        """Step all optimizers.

        Args:
            closure: evaluates the loss and its gradients.

        Returns:
            The loss at the start of the step, or None without a closure.

        Raises:
            RuntimeError: one of the optimizers needs a closure and there is none.
        """
        needy = [optimizer for optimizer in self.optimizers if _needs_closure(optimizer)]
        if needy and closure is None:
            raise RuntimeError(f"{type(needy[0]).__name__} in a Split has to evaluate the loss: call step(closure).")
        loss = None
        if closure is not None and len(needy) < len(self.optimizers):
            with torch.enable_grad():
                loss = _without_graph(closure())
        for optimizer in self.optimizers:
            if optimizer not in needy:
                optimizer.step()
        for optimizer in needy:
            first = _without_graph(optimizer.step(closure))
            loss = first if loss is None else loss
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters.

        Args:
            set_to_none: set them to None rather than to zero.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Not here: a group is added to one of the optimizers.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "Split does not know which of its optimizers shall have the group; call "
            "split.optimizers[i].add_param_group(...)."
        )

    # -- state -------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """The state in torch's own format, with the parameters of all optimizers numbered in order.

        What an optimizer saves beyond that format is under ``"optimizers"``.
        """
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        out: dict[str, Any] = {"state": {}, "param_groups": [], "optimizers": []}
        start = 0
        for optimizer in self.optimizers:
            own = optimizer.state_dict()
            out["state"].update({k + start: v for k, v in own["state"].items() if isinstance(k, int)})
            out["param_groups"] += [_renumbered(group, start) for group in own["param_groups"]]
            rest = {k: v for k, v in own.items() if k not in ("state", "param_groups")}
            named = {k: v for k, v in own["state"].items() if not isinstance(k, int)}
            out["optimizers"].append({**rest, "state": named} if named else rest)
            start += len(_params(optimizer))
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            changed = post_hook(self, out)
            out = out if changed is None else changed
        return out

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; where one optimizer refuses its part, all keep theirs.

        Args:
            state_dict: what :meth:`state_dict` of a Split of the same optimizers returned.

        Raises:
            ValueError: the groups are others.
        """
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        done: list[tuple[Optimizer, dict[str, Any]]] = []
        try:
            for optimizer, part in zip(self.optimizers, self._parts(state_dict), strict=True):
                done.append((optimizer, optimizer.state_dict()))
                optimizer.load_state_dict(part)
        except BaseException:
            for optimizer, before in done:
                optimizer.load_state_dict(before)
            raise
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _parts(self, state_dict: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The state dict of each optimizer."""
        saved = [len(group["params"]) for group in state_dict["param_groups"]]
        here = [len(group["params"]) for group in self.param_groups]
        if saved != here:
            raise ValueError(
                f"The state is that of groups with {saved} parameters; the groups of this Split have {here}. It takes "
                "the state of a Split of the same optimizers in the same order."
            )
        groups, parts, start = list(state_dict["param_groups"]), [], 0
        extras: Sequence[Mapping[str, Any]] = state_dict.get("optimizers") or [{}] * len(self.optimizers)
        for optimizer, extra in zip(self.optimizers, extras, strict=True):
            n, count = len(_params(optimizer)), len(optimizer.param_groups)
            state = {k - start: v for k, v in state_dict["state"].items() if start <= k < start + n}
            own = [_renumbered(group, -start) for group in groups[:count]]
            parts.append({**extra, "state": {**state, **extra.get("state", {})}, "param_groups": own})
            groups, start = groups[count:], start + n
        return parts

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizers": self.optimizers, "defaults": self.defaults}

    def __repr__(self) -> str:
        inside = ",\n".join(map(repr, self.optimizers)).replace("\n", "\n  ")
        return f"Split(\n  {inside}\n)"


def _params(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _needs_closure(optimizer: Optimizer) -> bool:
    """Whether it says so, as chains do, or its ``step`` cannot be called without one."""
    says: bool | None = getattr(optimizer, "requires_closure", None)
    if says is not None:
        return says
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _without_graph(loss: Any) -> Any:
    return loss.detach() if isinstance(loss, Tensor) else loss


def _renumbered(group: Mapping[str, Any], shift: int) -> dict[str, Any]:
    return {**group, "params": [i + shift for i in group["params"]]}


class _States(MutableMapping[Any, Any]):
    """The states of several optimizers as one.

    Args:
        optimizers: the optimizers.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers

    def _of(self, key: Any) -> MutableMapping[Any, Any]:
        """The state that a key belongs to: that of the parameter's optimizer, else the one that has it."""
        for optimizer in self._optimizers:
            if key in optimizer.state or any(p is key for p in _params(optimizer)):
                return optimizer.state
        raise KeyError(key)

    def __getitem__(self, key: Any) -> Any:
        return self._of(key)[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._of(key)[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._of(key)[key]

    def __contains__(self, key: object) -> bool:
        return any(key in optimizer.state for optimizer in self._optimizers)

    def __iter__(self) -> Iterator[Any]:
        for optimizer in self._optimizers:
            yield from optimizer.state

    def __len__(self) -> int:
        return sum(len(optimizer.state) for optimizer in self._optimizers)

    def clear(self) -> None:
        """Forget the state of all."""
        for optimizer in self._optimizers:
            optimizer.state.clear()
