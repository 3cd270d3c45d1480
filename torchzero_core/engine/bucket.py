"""The tensors of a segment that take the same path, and their state."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed import Shards, local, shards_of
from ..lang.graph import Storage, as_dims
from ..lang.rule import Rule, Slot
from .layout import address_of, are_plain, has_memory, layout_check
from .params import same_objects
from .program import Program
from .surroundings import Rounding


class Places:
    """Where a state is kept: for each tensor, a dict and a name in it.

    Args:
        stores: the dicts.
        keys: the names.
    """

    __slots__ = ("keys", "pairs", "stores")

    def __init__(self, stores: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
        self.stores, self.keys = list(stores), list(keys)
        self.pairs = list(zip(stores, keys, strict=True))

    def read(self) -> list[Any]:
        """What lies there.

        Raises:
            KeyError: nothing, in one place.
        """
        return list(map(operator.getitem, self.stores, self.keys))

    def __add__(self, other: Places) -> Places:
        return Places([*self.stores, *other.stores], [*self.keys, *other.keys])


class Found:
    """States as they were found, to be believed as long as nobody has touched them.

    Args:
        places: where each is kept.
        states: the tensors.
    """

    __slots__ = ("_address", "_addresses", "_laid_out", "_places", "_small", "_states")

    def __init__(self, places: Places, states: list[Tensor]) -> None:
        self._places, self._states = places, states
        self._address = address_of(states)
        self._addresses = list(map(self._address, states))
        self._small = any(t.numel() < 2 for t in states)
        self._laid_out = layout_check(states)

    def again(self) -> list[Tensor] | None:
        """The states; None where one has been replaced, or given another shape, order, dtype or device."""
        try:
            found = self._places.read()
        except KeyError:
            return None
        return found if same_objects(found, self._states, small=self._small) and self._laid_out(*found) else None

    def in_place(self) -> bool:
        """Whether they lie where they did: with other memory they may have less of it."""
        return list(map(self._address, self._states)) == self._addresses


class Row:
    """A state of one number for each tensor, all in one vector.

    Args:
        places: where each is kept; from now on an element of the vector lies there.
        vector: the numbers.

    Attributes:
        array: the same memory as numpy's on the CPU; its calls cost a fraction of torch's.
    """

    __slots__ = ("_addresses", "_elements", "_places", "array", "vector")

    def __init__(self, places: Places, vector: Tensor) -> None:
        self._places, self.vector = places, vector
        self._elements = list(vector.unbind())
        self._addresses = list(map(Tensor.data_ptr, self._elements))
        self.array = vector.numpy() if vector.is_cpu and vector.dtype is not torch.bfloat16 else None
        for (store, key), element in zip(places.pairs, self._elements, strict=True):
            store[key] = element

    def holds(self) -> bool:
        """Whether the elements of the vector are still the states: anybody may have replaced one, or its memory."""
        try:
            found = self._places.read()
        except KeyError:
            return False
        return all(map(operator.is_, found, self._elements)) and list(map(Tensor.data_ptr, found)) == self._addresses


class Bucket:
    """The tensors of a segment that take the same path.

    Attributes:
        params: the tensors.
        data: their memory on this rank.
        indices: their positions in the step's parameters.
        settings: the settings of all rules, by index.
        counts: the next step count of each rule.
        shards: how they are spread over ranks; None where each rank has them whole.
        dense: whether each fills one block of memory.
        compilable: whether a compiling backend takes them.
        kernels: whether torch's kernels take them.
        rounding: what moves parameters of less than 32 bits; None: to the nearest.
        recompute: whether they are too many to stay in the processor's cache between two passes.
        program: what runs on them in this step.
        hosts: its host numbers in this step.
        checked: the settings that have passed the guards of the program.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        setting_index: Mapping[tuple[int, str], int],
        params: list[Tensor],
        indices: list[int],
        settings: list[Any],
        counts: list[int],
    ) -> None:
        self.rules, self.setting_index = rules, setting_index
        self.params, self.indices, self.settings, self.counts = params, indices, settings, counts
        self.whole = [p.detach() for p in params]
        self.data = [local(p) for p in self.whole]
        self.shards: Shards | None = shards_of(params)
        self.dense = is_dense(self.data[0])
        self.compilable = self.recompute = self.kernels = False
        self.rounding: Rounding | None = None
        self.program: Program | None = None
        self.hosts: tuple[Any, ...] = ()
        self.checked: list[Any] = []
        self._conformed: Callable[..., bool] | None = None  # knows the tensors that last conformed
        self._plain = all(p.is_contiguous() for p in self.data)
        self._places: dict[tuple[int, str], Places] = {}
        self._ready: dict[tuple[int, str], Found] = {}
        self._rows: dict[tuple[int, str], Row] = {}

    def conforming(self, tensors: list[Tensor]) -> list[Tensor]:
        """Tensors as compiled code wants them: of the dtype and in the memory order of the parameters."""
        if self._conformed is not None and self._conformed(*tensors):
            return tensors
        if self._plain:
            dtype = self.data[0].dtype
            for t in tensors:
                if t.dtype is not dtype or not t.is_contiguous():
                    break
            else:
                self._conformed = layout_check(tensors) if are_plain(tensors) else None
                return tensors
        return [
            t if conforms(t, p, p.dtype) else torch.empty_like(p).copy_(t)
            for t, p in zip(tensors, self.data, strict=True)
        ]

    # -- state -------------------------------------------------------------------------------------------------------
    def slot(self, rule: int, name: str) -> Slot:
        """The declaration of a state."""
        return self.rules[rule].declared(name)

    def places(self, rule: int, name: str) -> Places:
        """For each tensor, the dict that holds a state and its name there."""
        places = self._places.get((rule, name))
        if places is None:
            located = list(map(self.rules[rule].locate, self.params))
            places = Places([store for store, _ in located], [prefix + name for _, prefix in located])
            self._places[rule, name] = places
        return places

    def states(self, rule: int, name: str, *, anywhere: bool = False) -> list[Tensor]:
        """The tensors of one state on this rank, made where they are missing.

        A state that was loaded, or whose parameter has since changed, is brought to its declared dtype, its parameter's
        device and memory order: kernels and compiled code go by them.

        Args:
            rule: whose state it is.
            name: of the state.
            anywhere: the caller notices itself where they lie elsewhere than before.
        """
        known = self._ready.get((rule, name))
        if known is not None:
            found = known.again()
            if found is not None and (anywhere or known.in_place()):
                return found if self.shards is None else list(map(local, found))
        out = [self._state(rule, name, i) for i in range(len(self.params))]
        self._ready[rule, name] = Found(self.places(rule, name), out)
        return list(map(local, out))

    def _state(self, rule: int, name: str, i: int) -> Tensor:
        (store, key), slot, p = self.places(rule, name).pairs[i], self.slot(rule, name), self.whole[i]
        places = slot.history
        if isinstance(places, str):
            setting = self.settings[self.setting_index[rule, places]]
            places = len(setting) if isinstance(setting, (list, tuple)) else int(setting)
        shape, dtype = slot.shape_for(p, places or 0), slot.dtype_for(p)
        value = store.get(key)
        if value is None:
            value = store[key] = self._new_state(i, slot, shape, dtype)
            self._fill_state(value, rule, slot)
        elif not isinstance(value, Tensor):
            raise ValueError(
                f"The state {key!r} is a {type(value).__name__} where there must be a tensor; call reset()."
            )
        elif tuple(value.shape) != shape:
            raise ValueError(
                f"The state {key!r} has shape {tuple(value.shape)} and its parameter {tuple(p.shape)}: it belongs "
                "to another parameter. Load the state of this model, or call reset()."
            )
        elif not has_memory(value):
            raise RuntimeError(
                f"The memory of the state {key!r} of a parameter of shape {tuple(p.shape)} has been given back: its "
                f"storage has {value.untyped_storage().nbytes()} bytes. Bring it back, or call reset()."
            )
        elif value.device != p.device or value.dtype != dtype or not self._conforms(value, i, slot):
            old, value = value, self._new_state(i, slot, shape, dtype)
            store[key] = value
            self._take(value, old)
        return value

    def _placements(self, slot: Slot, i: int) -> tuple[Any, ...] | None:
        """How a state is spread over ranks; None where each rank has all of it."""
        if self.shards is None or slot.shape is not None or slot.scalar:
            return None
        dims = as_dims(slot.dims)
        if dims is not None:
            return self.shards.without(dims.of(self.whole[i].shape))
        return self.shards.placements if slot.history is None else self.shards.ring()

    def _new_state(self, i: int, slot: Slot, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        placements, part = self._placements(slot, i), self.data[i]
        if placements is None or self.shards is None:
            return new_state(part, shape, dtype, like=slot.shape is None)
        here = slot.shape_for(part, shape[0] if slot.history is not None else 0)
        return self.shards.join(new_state(part, here, dtype, like=True), shape, placements)

    def _conforms(self, value: Tensor, i: int, slot: Slot) -> bool:
        placements = getattr(value, "placements", None)
        return placements == self._placements(slot, i) and _laid_out(local(value), self.data[i], slot)

    def _take(self, value: Tensor, old: Tensor) -> None:
        """Copy a state that may be spread over ranks in another way."""
        if self.shards is not None and hasattr(value, "placements"):
            local(value).copy_(self.shards.part(old.to(value.device), value.placements))
        else:
            value.copy_(old.full_tensor() if hasattr(old, "full_tensor") else old)

    # -- whole tensors, for functions that want them -----------------------------------------------------------------
    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """All of tensors like the parameters of which this rank has its parts."""
        if self.shards is None:
            return list(tensors)
        return [self.shards.gather(t, p.shape) for t, p in zip(tensors, self.whole, strict=True)]

    def scatter(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """This rank's parts of tensors like the parameters that each rank has all of."""
        return list(tensors) if self.shards is None else [self.shards.part(t) for t in tensors]

    def whole_states(self, rule: int, name: str) -> list[Tensor]:
        """The tensors of one state as a function of whole tensors gets them."""
        states = self.states(rule, name)
        if self.shards is None:
            return states
        found = self.places(rule, name).read()
        return [t.full_tensor() if hasattr(t, "full_tensor") else t for t in found]

    def take_states(self, rule: int, name: str, tensors: Sequence[Tensor]) -> None:
        """Keep what a function has made of the tensors of one state that it was given."""
        if self.shards is None:
            return
        for (store, key), new in zip(self.places(rule, name).pairs, tensors, strict=True):
            if hasattr(store[key], "placements"):
                self._take(store[key], new)

    def _fill(self, value: Tensor, rule: int, slot: Slot) -> None:
        init = slot.init
        if callable(init):
            init(value)
        else:
            value.fill_(float(self.settings[self.setting_index[rule, init]]) if isinstance(init, str) else init)

    def _fill_state(self, value: Tensor, rule: int, slot: Slot) -> None:
        if callable(slot.init) and hasattr(value, "placements"):  # it may depend on where in the tensor an element is
            whole = torch.empty(value.shape, dtype=value.dtype, device=value.device)
            self._fill(whole, rule, slot)
            self._take(value, whole)
        else:
            self._fill(local(value), rule, slot)

    def row(self, rule: int, name: str) -> Row:
        """The numbers of a state with one for each tensor, as a vector whose elements are the states themselves."""
        row = self._rows.get((rule, name))
        if row is None or not row.holds():
            places = self.places(rule, name)
            row = self._rows[rule, name] = Row(places, torch.stack(self.states(rule, name)))
        return row

    def global_state(self, rule: int, name: str) -> Tensor:
        """The one tensor of a module-wide state."""
        state, slot, like = self.rules[rule].global_state, self.slot(rule, name), self.data[0]
        if name not in state:
            state[name] = torch.empty((), dtype=slot.dtype_for(like), device=like.device)
            self._fill(state[name], rule, slot)
        return state[name]

    def counts_hold(self) -> bool:
        """Whether the state still says which step each counted rule makes next."""
        for rule in () if self.program is None else self.program.graph.counted:
            places = self.places(rule, "step")
            try:
                if places.read() != [self.counts[rule] - 1] * len(places.keys):
                    return False
            except (KeyError, RuntimeError, ValueError):  # what is no number has no truth value
                return False
        return True

    def count(self) -> None:
        """Note that every counted rule has made one more step."""
        assert self.program is not None
        for rule in self.program.graph.counted:
            t = self.counts[rule]
            for store, key in self.places(rule, "step").pairs:
                store[key] = t
            self.counts[rule] = t + 1


def new_state(p: Tensor, shape: tuple[int, ...], dtype: torch.dtype, *, like: bool) -> Tensor:
    """Memory for a state, in the order of its parameter where it is shaped like it or a ring of such."""
    if shape == tuple(p.shape):
        return torch.empty_like(p, dtype=dtype)
    if like and shape[1:] == tuple(p.shape) and is_dense(p):
        return torch.empty_strided(shape, (p.numel(), *p.stride()), dtype=dtype, device=p.device)
    return torch.empty(shape, dtype=dtype, device=p.device)


def _laid_out(value: Tensor, p: Tensor, slot: Slot) -> bool:
    if slot.shape is not None or slot.scalar or slot.dims is not None:
        return value.is_contiguous()
    return conforms(value if slot.history is None else value[0], p, value.dtype)


def conforms(t: Tensor, p: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor has this dtype and the memory order of a parameter."""
    return t.dtype is dtype and ((t.is_contiguous() and p.is_contiguous()) or t.stride() == p.stride())


def is_dense(p: Tensor) -> bool:
    """Whether the elements fill one block of memory, in whatever order."""
    if p.layout is not torch.strided or type(p) not in (Tensor, torch.nn.Parameter):
        return False
    return p.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(p)


def state_dtypes(rules: Sequence[Rule], dtype: torch.dtype) -> Callable[[Storage], torch.dtype]:
    """Says the dtype of each state for parameters of a dtype. It knows no tensors, so programs may keep it."""
    like = torch.empty(0, dtype=dtype, device="cpu")
    return lambda storage: rules[storage.rule].declared(storage.name).dtype_for(like)
