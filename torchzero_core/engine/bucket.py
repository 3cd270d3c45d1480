"""The tensors of a segment that take the same path, and their state."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from ..lang import Slot
from . import kernels
from .plan import Storage
from .program import Program


class Bucket:
    """The tensors of a segment that take the same path.

    Attributes:
        params: the tensors.
        indices: their positions in the step's parameters.
        compilable: whether a compiling backend takes them.
        kernels: whether torch's kernels take them.
        recompute: whether they are too many to stay in the processor's cache between two passes.
        settings: the settings of all rules, by index.
        counts: the next step count of each rule.
        stores: for each parameter, the dict of its state and the prefix of each rule's part.
    """

    def __init__(self, segment: Any, params: list[Tensor], indices: list[int], *, dense: bool) -> None:
        self.segment, self.params, self.indices, self.dense = segment, params, indices, dense
        self.data = [p.detach() for p in params]
        self.settings = segment.read_settings(params[0])
        located = [segment.rules[0].locate(p) for p in params] if segment.rules else []
        cut = len(segment.rules[0].prefix) if segment.rules else 0
        self.stores = [(store, prefix[: len(prefix) - cut]) for store, prefix in located]
        self.counts = segment.read_counts(params[0])
        self.runners: dict[Any, Any] = {}
        self._plain = all(p.is_contiguous() for p in self.data)
        self._places: dict[Any, list[tuple[dict[str, Any], str]]] = {}
        self._vectors: dict[Storage, tuple[Tensor, tuple[Tensor, ...]]] = {}
        self.program: Program | None = None
        self.compilable = self.recompute = False
        self.kernels = kernels.takes(self.data[0], dense=dense)

    def key(self, rule: int, name: str, i: int) -> str:
        """What a rule's state is called in the dict of the i-th tensor."""
        return f"{self.stores[i][1]}{self.segment.rules[rule].prefix}{name}"

    def conforming(self, tensors: list[Tensor]) -> list[Tensor]:
        """Tensors as compiled code wants them: of the dtype and in the memory order of the parameters."""
        if self._plain:
            dtype = self.data[0].dtype
            for t in tensors:
                if t.dtype is not dtype or not t.is_contiguous():
                    break
            else:
                return tensors
        return [t if _conforms(t, p) else torch.empty_like(p).copy_(t) for t, p in zip(tensors, self.data, strict=True)]

    def states(self, storage: Storage) -> list[Tensor]:
        """The tensors of one state, made where they are missing.

        A state that was loaded, or whose parameter has since changed, is brought to the parameter's dtype, device and
        memory order: kernels and compiled code go by them.
        """
        places = self._places.get(storage)
        if places is not None:
            try:
                return [store[key] for store, key in places]
            except KeyError:
                pass
        _, rule, name = storage
        slot: Slot = self.segment.rules[rule].slots[name]
        init = slot.init
        if isinstance(init, str):
            init = float(self.settings[self.segment.setting_index(rule, init)])
        out = []
        for i, p in enumerate(self.data):
            store, key = self.stores[i][0], self.key(rule, name, i)
            value = store.get(key)
            if value is None:
                value = store[key] = p.new_full((), init) if slot.scalar else torch.full_like(p, init)
            elif slot.scalar:
                value = store[key] = value.to(device=p.device, dtype=p.dtype)
            elif value.shape != p.shape:
                raise ValueError(
                    f"The state {key!r} has shape {tuple(value.shape)} and its parameter {tuple(p.shape)}: it belongs "
                    "to another parameter. Load the state of this model, or call reset()."
                )
            elif value.device != p.device or not _conforms(value, p):
                value = store[key] = torch.empty_like(p).copy_(value)
            out.append(value)
        self._places[storage] = [(store, self.key(rule, name, i)) for i, (store, _) in enumerate(self.stores)]
        return out

    def vector(self, storage: Storage) -> Tensor:
        """The numbers of a state with one for each tensor, as a vector whose elements are the states themselves."""
        states = self.states(storage)
        vector, elements = self._vectors.get(storage, (None, ()))
        if vector is None or not all(map(operator.is_, states, elements)):
            vector = torch.stack(states)
            elements = vector.unbind()
            for (store, key), element in zip(self._places[storage], elements, strict=True):
                store[key] = element
            self._vectors[storage] = vector, elements
        return vector

    def global_state(self, storage: Storage) -> Tensor:
        """The one tensor of a module-wide state."""
        _, rule, name = storage
        module = self.segment.rules[rule]
        state = module.global_state
        if name not in state:
            init = module.slots[name].init
            if isinstance(init, str):
                init = float(self.settings[self.segment.setting_index(rule, init)])
            state[name] = self.data[0].new_full((), init)
        return state[name]

    def count(self) -> None:
        """Note that every counted rule has made one more step."""
        assert self.program is not None
        for rule in self.program.counted:
            self.count_rule(rule)

    def count_rule(self, rule: int) -> None:
        """Note that one rule has made one more step."""
        t = self.counts[rule]
        places = self._places.get(rule)
        if places is None:
            places = self._places[rule] = [
                (store, self.key(rule, "step", i)) for i, (store, _) in enumerate(self.stores)
            ]
        for store, key in places:
            store[key] = t
        self.counts[rule] = t + 1


def _conforms(t: Tensor, p: Tensor) -> bool:
    return t.dtype is p.dtype and ((t.is_contiguous() and p.is_contiguous()) or t.stride() == p.stride())


def is_dense(p: Tensor) -> bool:
    """Whether the elements fill one block of memory, in whatever order."""
    if p.layout is not torch.strided or type(p) not in (Tensor, torch.nn.Parameter):
        return False
    return p.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(p)
