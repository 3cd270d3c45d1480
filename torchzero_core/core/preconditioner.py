"""Preconditioners: matrices that are accumulated from updates, decomposed now and then, and multiplied with."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..distributed import spread, wholes
from .kept import StateKind
from .module import Module, Modules
from .var import Var
from .vector_method import Unit, inner_update, units_of

#: The state of a tensor by name: tensors, and the numbers "step" and "phase".
State = Mapping[str, Any]
#: On a CPU, tensors and matrices of more elements than this are worked on one by one: they gain nothing from a batch.
ALONE = 2**15


class Preconditioner(Module):
    """Base class of methods that multiply an update with factors made from matrices of past updates.

    Each tensor has some symmetric matrices (one, or one for each dimension) that :meth:`accumulate` adds the update
    to. Every ``update_freq`` steps of the tensor, from its first on, :meth:`refresh` makes the factors from them, for
    all matrices of one size in one batch. :meth:`precondition` multiplies with the factors.

    With ``stagger`` the tensors take turns, so that no step has to refresh them all; :func:`phases` spreads the n³ of
    their matrices evenly. All matrices of one tensor have their turn together.

    Where a refresh fails, or its result is not finite, the last good factor stays (the identity before there was one).
    The failures in a row are counted in the state and the step's status says so; after :attr:`max_failures` of them
    comes an error. All arithmetic is in float32 at least, and so is the state.

    Tensors of one shape and with the same settings come to :meth:`accumulate_all` and :meth:`precondition_all`
    together, which a method may override to work on a batch. On a CPU each large one comes alone, and each large matrix
    is refreshed alone: a batch would gain nothing and cost copies.

    Settings that the base reads: ``update_freq`` (or what :attr:`interval` names); ``stagger`` and ``concat_params`` if
    there are any.

    Args:
        defaults: the settings.
        inner: a module that gives what is multiplied with the factors; the matrices see the plain update.

    Raises:
        RuntimeError: a matrix could not be decomposed :attr:`max_failures` times in a row.

    Example:
        >>> import torch, torchzero_core as tz
        >>> from torchzero_core.core.preconditioner import Preconditioner
        >>> from torchzero_core.linalg import inverse_root
        >>> class RowWhitening(Preconditioner):
        ...     def __init__(self, beta=0.9, update_freq=1):
        ...         super().__init__(dict(beta=beta, update_freq=update_freq))
        ...
        ...     def sizes(self, shape, settings):
        ...         return shape[:1]
        ...
        ...     def accumulate(self, state, matrices, u, settings):
        ...         rows = u.reshape(len(u), -1)
        ...         matrices[0].lerp_(rows @ rows.T, 1 - settings["beta"])
        ...
        ...     def refresh(self, matrices, factors):
        ...         return inverse_root(matrices, 2)
        ...
        ...     def precondition(self, state, factors, x, settings):
        ...         return (factors[0] @ x.reshape(len(x), -1)).view_as(x)
        >>> p = torch.zeros(2, 3, requires_grad=True)
        >>> p.grad = torch.tensor([[1.0, 0.0, 0.0], [0.0, 10.0, 0.0]])
        >>> tz.Modular([p], RowWhitening(beta=0.0)).step()
        >>> p.detach().round(decimals=4) + 0.0
        tensor([[-1.,  0.,  0.],
                [ 0., -1.,  0.]])
    """

    kept = {"phase": StateKind.COUNT, "failures": StateKind.WHOLE}

    #: The names of matrices and factors in the state. Where a tensor has several they are one vector.
    accumulator: ClassVar[str] = "GG"
    factor: ClassVar[str] = "factor"
    #: The names of what else :meth:`init` makes for a tensor.
    more_states: ClassVar[tuple[str, ...]] = ()
    #: How many failures in a row are an error.
    max_failures: ClassVar[int] = 5
    #: The setting that says after how many steps the factors are refreshed.
    interval: ClassVar[str] = "update_freq"
    #: Whether the factors of a step have already learnt from its update.
    learns_first: ClassVar[bool] = True

    def __init__(self, defaults: Mapping[str, Any] | None = None, inner: Modules | None = None) -> None:
        super().__init__(defaults)
        if inner is not None:
            self.set_child("inner", inner)

    # -- what a method defines ---------------------------------------------------------------------------------------
    def sizes(self, shape: Sequence[int], settings: Mapping[str, Any]) -> Sequence[int]:
        """The sizes of the matrices of a tensor.

        Args:
            shape: the tensor's shape.
            settings: its settings.
        """
        raise NotImplementedError(f"{type(self).__name__} has no sizes(shape, settings).")

    def accumulate(self, state: State, matrices: list[Tensor], u: Tensor, settings: Mapping[str, Any]) -> None:
        """Add the update to the matrices, in place.

        Args:
            state: all states of the tensor, by name; they may be written in place.
            matrices: its matrices.
            u: its update.
            settings: its settings.
        """
        raise NotImplementedError(f"{type(self).__name__} has no accumulate(state, matrices, u, settings).")

    def accumulate_all(
        self,
        states: Sequence[State],
        matrices: Sequence[list[Tensor]],
        us: Sequence[Tensor],
        settings: Mapping[str, Any],
    ) -> None:
        """The same for tensors of one shape, one by one unless overridden.

        Args:
            states: the states of each.
            matrices: the matrices of each.
            us: their updates.
            settings: the settings of all.
        """
        for state, own, u in zip(states, matrices, us, strict=True):
            self.accumulate(state, own, u, settings)

    def arguments(self, shape: Sequence[int], settings: Mapping[str, Any]) -> tuple[Hashable, ...]:
        """What :meth:`refresh` gets beside the matrices; those that differ in it are refreshed apart.

        Args:
            shape: the tensor's shape.
            settings: its settings.
        """
        return ()

    def refresh(self, matrices: Tensor, factors: list[Tensor], *arguments: Any) -> tuple[Tensor, ...]:
        """The factors of a batch of matrices.

        Args:
            matrices: of shape (batch, n, n).
            factors: the present factors, one for each matrix.
            *arguments: those of :meth:`arguments`.

        Returns:
            The new factors, of the same shape; of shape (batch,) whether they are right; and whatever :meth:`follow`
            needs to know, as tensors whose first dimension is the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} has no refresh(matrices, factors).")

    def begin(self, matrices: Tensor, factors: list[Tensor], *arguments: Any) -> tuple[Tensor, ...]:
        """The same at the first step of a tensor: :meth:`refresh` unless overridden.

        Args:
            matrices: of shape (batch, n, n).
            factors: identities.
            *arguments: those of :meth:`arguments`.
        """
        return self.refresh(matrices, factors, *arguments)

    def follow(
        self, state: State, k: int, factor: Tensor, new: Tensor, settings: Mapping[str, Any], *more: Tensor
    ) -> None:
        """Change what depends on a factor just before it is replaced; nothing unless overridden.

        Args:
            state: all states of the tensor, by name; they may be written in place.
            k: the number of the factor.
            factor: the factor.
            new: the one that takes its place.
            settings: the tensor's settings.
            *more: what else :meth:`refresh` has returned.
        """

    def precondition(self, state: State, factors: list[Tensor], x: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """The product of the factors with a tensor.

        Args:
            state: all states of the tensor, by name.
            factors: its factors.
            x: what to multiply with, in the tensor's shape.
            settings: its settings.
        """
        raise NotImplementedError(f"{type(self).__name__} has no precondition(state, factors, x, settings).")

    def precondition_all(
        self,
        states: Sequence[State],
        factors: Sequence[list[Tensor]],
        xs: Sequence[Tensor],
        settings: Mapping[str, Any],
    ) -> Sequence[Tensor]:
        """The same for tensors of one shape, one by one unless overridden.

        Args:
            states: the states of each.
            factors: the factors of each.
            xs: what to multiply with, in their shape.
            settings: the settings of all.
        """
        return [self.precondition(state, own, x, settings) for state, own, x in zip(states, factors, xs, strict=True)]

    # -- functions of lists of tensors -------------------------------------------------------------------------------
    def init(self, like: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """The state of a tensor before its first step: matrices and factors are identities.

        Args:
            like: the tensor, in the dtype of the state.
            settings: its settings.
        """
        sizes = self.sizes(like.shape, settings)
        identities = [torch.eye(n, dtype=like.dtype, device=like.device) for n in sizes]
        packed = identities[0] if len(sizes) == 1 else torch.cat([like.new_zeros(0), *(m.view(-1) for m in identities)])
        failures = torch.zeros((), dtype=torch.long, device=like.device)
        return {self.accumulator: packed, self.factor: packed.clone(), "failures": failures}

    def learn(
        self, us: Sequence[Tensor], states: Sequence[State], settings: Sequence[Mapping[str, Any]], due: Sequence[bool]
    ) -> int:
        """Accumulate the updates and refresh what is due.

        Args:
            us: the updates.
            states: their states, changed in place.
            settings: their settings.
            due: whose factors to refresh.

        Returns:
            For how many tensors a refresh failed.
        """
        groups: dict[tuple[Any, ...], list[_Member]] = {}
        for places in _alike(us, states, settings):
            matrices = [self._matrices(states[i][self.accumulator], us[i], settings[i]) for i in places]
            self.accumulate_all([states[i] for i in places], matrices, [us[i] for i in places], settings[places[0]])
            for i, own in zip(places, matrices, strict=True):
                if not due[i]:
                    continue
                factors = self._matrices(states[i][self.factor], us[i], settings[i])
                arguments = states[i]["step"] == 1, *self.arguments(us[i].shape, settings[i])
                for k, (matrix, factor) in enumerate(zip(own, factors, strict=True)):
                    key = matrix.shape, matrix.dtype, matrix.device, arguments, _alone(matrix, (i, k))
                    groups.setdefault(key, []).append(_Member(i, k, matrix, factor))
        failed: set[int] = set()
        if any(u.is_meta for u in us):  # a step on tensors without memory, to see what will be kept
            return 0
        for (*_, (first, *arguments), _), members in groups.items():
            failed |= self._refresh_group(members, states, settings, first, arguments)
        self._count(us, states, [i for i, refreshed in enumerate(due) if refreshed], failed)
        return len(failed)

    def _refresh_group(
        self,
        members: Sequence[_Member],
        states: Sequence[State],
        settings: Sequence[Mapping[str, Any]],
        first: bool,
        arguments: Sequence[Any],
    ) -> set[int]:
        """Refresh the factors of matrices of one size; the tensors for which it failed."""
        factors = [member.factor for member in members]
        matrices = [member.matrix for member in members]
        new, ok, *more = (self.begin if first else self.refresh)(as_batch(matrices), factors, *arguments)
        right = (ok & (new.mul(0).sum((-2, -1)) == 0)).tolist()  # what is not finite is not 0 then
        pairs = [(factor, n) for factor, n, fine in zip(factors, new, right, strict=True) if fine]
        for at, (i, k, _, factor) in enumerate(members):
            if right[at]:
                self.follow(states[i], k, factor, new[at], settings[i], *(m[at] for m in more))
        if pairs:
            torch._foreach_copy_([factor for factor, _ in pairs], [n for _, n in pairs])
        return {member.place for member, fine in zip(members, right, strict=True) if not fine}

    def _count(self, us: Sequence[Tensor], states: Sequence[State], refreshed: list[int], failed: set[int]) -> None:
        """Count the failures in a row.

        Raises:
            RuntimeError: there are too many.
        """
        fine = [states[i]["failures"] for i in refreshed if i not in failed]
        if fine:
            torch._foreach_zero_(fine)
        for i in sorted(failed):
            failures = int(states[i]["failures"].add_(1))
            if failures >= self.max_failures:
                finite = bool(states[i][self.accumulator].isfinite().all())
                raise RuntimeError(
                    f"{self.path} could not decompose the matrices of a parameter of shape {tuple(us[i].shape)} "
                    f"{failures} times in a row"
                    + (
                        "; a larger eps or parameters in float64 make them easier to decompose."
                        if finite
                        else ": they are not finite, because an update was not. Skip steps whose loss or gradient is "
                        "not finite, and forget the matrices with the module's reset()."
                    )
                )

    def apply(
        self, xs: Sequence[Tensor], states: Sequence[State], settings: Sequence[Mapping[str, Any]]
    ) -> list[Tensor]:
        """The products of the factors with tensors. Of what is known it changes nothing that the factors depend on.

        Args:
            xs: the tensors.
            states: their states.
            settings: their settings.
        """
        out = list(xs)
        for places in _alike(xs, states, settings):
            factors = [self._matrices(states[i][self.factor], xs[i], settings[i]) for i in places]
            of_places = [states[i] for i in places], factors, [xs[i] for i in places]
            for i, x in zip(places, self.precondition_all(*of_places, settings[places[0]]), strict=True):
                out[i] = x
        return out

    def _matrices(self, packed: Tensor, like: Tensor, settings: Mapping[str, Any]) -> list[Tensor]:
        """The matrices of a tensor as views of its state."""
        sizes = self.sizes(like.shape, settings)
        pieces = packed.view(-1).split([n * n for n in sizes])
        return [piece.view(n, n) for piece, n in zip(pieces, sizes, strict=True)]

    # -- under the chain: all that knows of steps, and of where state is kept ----------------------------------------
    def step(self, var: Var) -> Var:
        """Accumulate the update, refresh what is due, and multiply with the factors."""
        update = wholes(var.get_update())
        units = units_of(self, var, concat=False, gathers=True)
        if not units:
            return var
        us, settings = [_values(unit, update) for unit in units], [unit.settings for unit in units]
        for unit, u in zip(units, us, strict=True):
            self._prepare(unit, u)
        due = self._due(units, us)
        states = [dict(unit.state) for unit in units]
        if self.learns_first:
            self._learn(var, us, states, settings, due)
        inner = inner_update(self, var)
        xs = us if inner is None else [_values(unit, wholes(inner)) for unit in units]
        results = self.apply(xs, states, settings)
        if not self.learns_first:
            self._learn(var, us, states, settings, due)
        out = list(update)
        for unit, x in zip(units, results, strict=True):
            for place, tensor in zip(unit.places, unit.tensors(x.reshape(-1)), strict=True):
                out[place] = tensor
        var.update = spread(out, var.params)
        return var

    def _learn(self, var: Var, *of_units: Any) -> None:
        if self.learn(*of_units):
            var.info.status = "decomposition failed"

    def _prepare(self, unit: Unit, u: Tensor) -> None:
        """Make the state of a tensor at its first step, and bring it to a dtype or device that has changed since.

        Raises:
            ValueError: its shape has changed.
        """
        state = unit.state
        if self.accumulator not in state or self.factor not in state:
            state.update(self.init(u, unit.settings))
            return
        if not all(name in state for name in ("failures", *self.more_states)):  # anybody may delete state
            state.update({k: v for k, v in self.init(u, unit.settings).items() if k not in state})
        matrices = state[self.accumulator]
        if matrices.dtype != u.dtype or matrices.device != u.device:
            for name, value in state.items():
                if isinstance(value, Tensor):
                    state[name] = value.to(u.device, u.dtype if value.is_floating_point() else value.dtype)
        if matrices.numel() != sum(n * n for n in self.sizes(u.shape, unit.settings)):
            raise ValueError(
                f"{self.path} keeps matrices for another shape than {tuple(u.shape)}, which a parameter has now, or "
                "for other settings; forget them with the module's reset()."
            )
        for name in self.more_states:
            if state[name].shape != u.shape:
                raise ValueError(
                    f"{self.path} keeps {name!r} of shape {tuple(state[name].shape)} for a parameter of shape "
                    f"{tuple(u.shape)}; forget it with the module's reset()."
                )

    def _due(self, units: Sequence[Unit], us: Sequence[Tensor]) -> list[bool]:
        """Count a step of every tensor; whose factors are to be refreshed in it."""
        new: dict[int, list[int]] = {}
        for i, unit in enumerate(units):
            if "step" not in unit.state and unit.settings.get("stagger", False):
                new.setdefault(unit.settings[self.interval], []).append(i)
        for every, members in new.items():
            costs = [sum(n**3 for n in self.sizes(us[i].shape, units[i].settings)) for i in members]
            for i, phase in zip(members, phases(costs, every), strict=True):
                units[i].state["phase"] = phase
        due = []
        for unit in units:
            t = unit.state["step"] = unit.state.get("step", 0) + 1
            due.append(t == 1 or (t - 1 - unit.state.get("phase", 0)) % unit.settings[self.interval] == 0)
        return due


class _Member(NamedTuple):
    """A matrix that is due: of which tensor, which of its matrices, and its factor."""

    place: int
    k: int
    matrix: Tensor
    factor: Tensor


def _alike(
    tensors: Sequence[Tensor], states: Sequence[State], settings: Sequence[Mapping[str, Any]]
) -> list[list[int]]:
    """The positions of tensors that go through one batch: of one shape, with the same settings, of the same age."""
    batches: dict[Hashable, list[int]] = {}
    for i, (t, state, own) in enumerate(zip(tensors, states, settings, strict=True)):
        batches.setdefault((t.shape, t.dtype, t.device, id(own), state["step"], _alone(t, i)), []).append(i)
    return list(batches.values())


def _alone(tensor: Tensor, place: Hashable) -> Hashable:
    """What keeps a tensor out of all batches, its own place, if it is better off alone."""
    return place if tensor.device.type == "cpu" and tensor.numel() > ALONE else None


def as_batch(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape in one with a first dimension for the batch; a single one shares its memory.

    Args:
        tensors: one or more.
    """
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


def averaging_weights(name: str, settings: Mapping[str, Any]) -> tuple[float, float]:
    """What a matrix A and the new term are multiplied with before they are added, by the settings beta and decay.

    Args:
        name: of the method.
        settings: with "beta", A ← beta·A + (1−beta)·new; with "decay", A ← decay·A + new; with neither, their sum.

    Raises:
        ValueError: it has both.
    """
    beta, decay = settings["beta"], settings["decay"]
    if beta is not None and decay is not None:
        raise ValueError(f"{name}(beta={beta}, decay={decay}): give beta or decay, not both.")
    return (1.0 if decay is None else decay, 1.0) if beta is None else (beta, 1 - beta)


def phases(costs: Sequence[float], every: int) -> list[int]:
    """Spread things over the steps of an interval: in which step each has its turn.

    The dearest first, each goes to the step that has least to do so far; few things are as far from each other as can
    be. So the dearest step costs at most a third more than it has to, and never less than the dearest thing.

    Args:
        costs: what each thing costs.
        every: the number of steps.

    Reference: R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969.

    Example:
        >>> phases([1, 1, 1], 10), phases([5, 1, 9, 1], 2)
        ([0, 3, 6], [1, 1, 0, 1])
    """
    used = min(len(costs), every)
    out, loads = [0] * len(costs), [0.0] * used
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        step = loads.index(min(loads))
        loads[step] += costs[i]
        out[i] = step * every // used
    return out


def _values(unit: Unit, tensors: Sequence[Tensor]) -> Tensor:
    """All as one vector, or the one tensor in its own shape."""
    if unit.concat:
        return unit.vector(tensors)
    tensor = tensors[unit.places[0]]
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
