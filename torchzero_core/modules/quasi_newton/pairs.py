"""What the limited-memory methods share: the last pairs (s, y) as rows of matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core import StateKind
from ...core.state import ScopedState
from ...core.vector_method import Unit, VectorMethod, at_hand
from ...linalg import at_least_float32

#: What concerns so many pairs is done in plain numbers, where those are at hand.
FEW = 16


class PairMethod(VectorMethod):
    """Base class of methods that keep the last pairs of differences s of parameters and y of updates between steps.

    What a method keeps of a pair are rows of matrices in the state, with one number or a row and a column of numbers
    for each: :attr:`rows`, :attr:`numbers` and :attr:`squares` are their names. A new pair is written into the spare
    row, and only counts once it is accepted; so nothing has to wait for an accelerator. A subclass declares the setting
    ``history_size`` and defines :meth:`take`, and has ``params_beta``, ``grads_beta``, ``update_freq`` and
    ``tol_reset`` or its own :meth:`learn`.

    Args:
        history_size: the number of pairs that are kept. When it changes the newest stay.
        params_beta: take s from an exponential moving average of the parameters with this factor.
        grads_beta: take y from an exponential moving average of the updates with this factor.
        update_freq: take a new pair every so many steps.
        inner: a module that gives what H is multiplied with; the pairs are taken from the plain update.
    """

    kept = {"valid": StateKind.MASK, "spare": StateKind.WHOLE}

    learns_scale = True
    #: The names of what the state holds for a pair: vectors, single numbers, and a number for each other pair.
    rows: ClassVar[tuple[str, ...]] = ("s", "y")
    vectors = ("s", "y", "v", "prev_params", "prev_update", "z")
    numbers: ClassVar[tuple[str, ...]] = ()
    squares: ClassVar[tuple[str, ...]] = ()

    def take(self, unit: Unit, s: Tensor, y: Tensor) -> None:
        """Take in a pair.

        Args:
            unit: the parameters of the vector, with their state.
            s: the difference of the parameters, in the first of the vectors of :meth:`room`; it may be overwritten.
            y: the difference of the updates, in the second of them; it may be overwritten.
        """
        raise NotImplementedError(f"{type(self).__name__} has no take(unit, s, y).")

    def learn(self, unit: Unit, u: Tensor) -> Tensor | bool:
        """Take a pair from the differences to the last values, or to averages of them."""
        state, h = unit.state, unit.settings
        t = state["step"] = state.get("step", 0) + 1
        if self.begin(unit, u) or "prev_params" not in state or "prev_update" not in state:  # anybody may delete state
            state["prev_params"], state["prev_update"] = unit.point(torch.empty_like(u)), u.clone()
            return knows_nothing(state)
        a, b, takes = h["params_beta"], h["grads_beta"], (t - 1) % h["update_freq"] == 0
        p = unit.point(torch.empty_like(u))
        if not takes and a is None and b is None:
            state["prev_params"], state["prev_update"] = p, u.clone()
            return knows_nothing(state)
        before, old = state.examined("prev_params"), state.examined("prev_update")
        s, y = self.room(unit) if takes else (torch.empty_like(u), torch.empty_like(u))
        torch.sub(p, before, out=s)
        torch.sub(u, old, out=y)
        # An average moves by (1 − β) of the difference. What was there stays as it is, for a step that fails.
        state["prev_params"] = p if a is None else before + s.mul_(1 - a)
        state["prev_update"] = u.clone() if b is None else old + y.mul_(1 - b)
        if takes:
            self.take(unit, s, y)
        return knows_nothing(state)

    def begin(self, unit: Unit, u: Tensor) -> bool:
        """Make room for the pairs, or for another number of them.

        Args:
            unit: the parameters of the vector, with their state.
            u: a vector.

        Returns:
            Whether nothing was known before.
        """
        state, slots = unit.state, int(unit.settings["history_size"]) + 1
        small_ones = (*self.squares, *self.numbers)
        names = ("valid", *small_ones, "spare", *self.rows)
        values = state.examined_all(names)
        new = values is None
        if values is not None:
            for name, value in zip(small_ones, values[1:], strict=False):
                if value.dtype.itemsize < 4:  # anybody may cast state
                    state[name] = at_least_float32(value)
            if values[0].shape[0] == slots:
                return False
        old = {} if new else {name: state[name] for name in names}
        small = torch.float32 if u.device.type == "mps" else torch.float64
        for name in self.rows:
            state[name] = u.new_zeros(slots, u.numel())
        for name in self.squares:
            state[name] = torch.zeros(slots, slots, dtype=small, device=u.device)
        for name in self.numbers:
            state[name] = torch.zeros(slots, dtype=small, device=u.device)
        state["valid"] = torch.zeros(slots, dtype=torch.bool, device=u.device)
        state["spare"] = torch.zeros(1, dtype=torch.long, device=u.device)
        if not new:
            self._carry_over(old, state, slots)
        return new

    def _carry_over(self, old: Mapping[str, Tensor], state: Any, slots: int) -> None:
        """Put the newest of the old pairs in front."""
        kept = min(len(old["valid"]), slots) - 1
        spare = old["spare"]
        newest = (spare + torch.arange(-kept, 0, device=spare.device)) % len(old["valid"])
        for name in ("valid", *self.rows, *self.numbers):
            state[name][:kept] = old[name][newest]
        for name in self.squares:
            state[name][:kept, :kept] = old[name][newest][:, newest]
        state["spare"] += kept

    def room(self, unit: Unit) -> tuple[Tensor, Tensor]:
        """Two vectors to write a new pair to, for :meth:`take`.

        They are the spare rows themselves where their number is known without waiting.

        Args:
            unit: the parameters of the vector, with their state.
        """
        state = unit.state
        first, second = (state.peek(name) for name in self.rows)
        spare = state.peek("spare")
        if not at_hand(spare):
            return torch.empty_like(first[0]), torch.empty_like(second[0])
        place = spare.item()
        rows = first[place], second[place]
        state.keep_part(rows)
        return rows

    def write(self, unit: Unit, accept: Tensor | bool, pair: tuple[Tensor, Tensor]) -> Tensor | int | None:
        """Let the pair in the spare row count, or not; the squares and numbers are still to be written.

        Args:
            unit: the parameters of the vector, with their state.
            accept: whether it is to count, as a truth value on the device or as one that is known.
            pair: what :meth:`room` gave, written.

        Returns:
            The row, as a number where that is known; None where it is known that the pair does not count, and nothing
            is to be written.
        """
        state, spare = unit.state, unit.state.peek("spare")
        if at_hand(spare):
            if not accept:
                for row in pair:  # it may not be finite
                    row.zero_()
                return None
            place, valid = int(spare.item()), state.peek("valid").numpy().copy()
            after = (place + 1) % len(valid)
            valid[place], valid[after] = True, False
            # They are not written in place: a step that fails finds the old ones.
            state["valid"], state["spare"] = torch.from_numpy(valid), torch.from_numpy(np.array([after]))
            return place
        mask, valid = torch.as_tensor(accept, device=spare.device), state["valid"]
        state.keep_rows(spare, *((state.peek(name), 0) for name in self.rows))
        for name, row in zip(self.rows, pair, strict=True):
            state.peek(name).index_copy_(0, spare, row.masked_fill_(~mask, 0.0).unsqueeze(0))
        valid.index_copy_(0, spare, mask.unsqueeze(0))
        state["spare"] = torch.where(mask, (spare + 1) % valid.shape[0], spare)
        valid.index_fill_(0, state["spare"], False)
        return spare


def knows_nothing(state: ScopedState) -> Tensor | bool:
    """Whether there is no pair, as a truth value on the device where asking would make somebody wait."""
    valid = state.peek("valid")
    return not any(valid.tolist()) if at_hand(valid) else ~valid.any()


def known_rows(state: ScopedState) -> list[int] | None:
    """The rows that hold a pair, from the oldest on, where asking for them makes nobody wait; None elsewhere.

    Args:
        state: with the number of the spare row and the truth values of all.
    """
    spare, valid = state.peek("spare"), state.peek("valid")
    if not at_hand(spare):
        return None
    first, holds = int(spare.item()) + 1, valid.tolist()
    return [i for i in (*range(first, len(holds)), *range(first)) if holds[i]]


def by_age(state: ScopedState) -> tuple[Tensor, Tensor | None]:
    """The rows from the oldest pair on, and which of them hold one.

    Args:
        state: with the number of the spare row and the truth values of all.

    Returns:
        All rows, the spare one last, with their truth values; on the CPU those that hold a pair, and None.
    """
    if (rows := known_rows(state)) is not None:
        return torch.tensor(rows, dtype=torch.long, device="cpu"), None
    spare, valid = state.peek("spare"), state.peek("valid")
    age = (spare + torch.arange(1, valid.shape[0] + 1, device=spare.device)) % valid.shape[0]
    return age, valid[age]
