"""What an evaluation of the loss may change beside gradients, and how it is put back."""

from __future__ import annotations

import functools
import operator
import random
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from . import compat
from .tape import Tape, is_iterator

#: Tensors up to this size are compared as a whole.
SMALL = 1 << 14
#: Tensors from this size on are copied only when something writes to them.
LARGE = 1 << 18
#: So many evaluations of a model are watched for what writes to large tensors.
_WATCHED = 2
#: Longer lists are put back, but what lies in them is not.
LONG = 256
#: Larger arrays of numpy are not put back.
_BYTES = SMALL * 8
_DEPTH = 8
_schema = operator.attrgetter("_schema")
_ATOMS = (int, float, complex, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size)
_NUMBERS = frozenset((bool, int, float))
#: Objects of these have a life of their own.
LEFT_ALONE = (Trainer, Callback, LightningDataModule, Logger, Dataset, DataLoader)
#: What objects of these packages hold is their own affair.
FOREIGN = frozenset(
    ("torch", "lightning", "lightning_fabric", "pytorch_lightning", "numpy", "torchzero_core", "tz_lightning")
)
#: Attributes with which torch and Lightning run a module.
_OWN = frozenset(vars(LightningModule())) - {"training"} | {"_compiler_ctx"}


class Shadow:
    """A tensor, what tells that it has changed, and its value where a copy was made.

    Args:
        tensor: the tensor.
        copied: whether to copy it.
        moving: whether it has changed in an evaluation before.
    """

    __slots__ = ("_mark", "_sample", "alias", "moving", "tensor", "value")

    def __init__(self, tensor: Tensor, copied: bool, moving: bool) -> None:
        self.tensor, self.moving = tensor, moving
        self.value = tensor.detach().clone() if copied else None
        self.alias = tensor.detach() if not copied and not is_lazy(tensor) else None  # where ``.data`` is assigned
        self._mark = _mark(tensor)
        sample = self._sampled()
        self._sample = None if sample is None else sample.clone()

    def fresh(self) -> bool:
        """Whether the tensor is as it was."""
        if is_lazy(self.tensor) or self._mark != _mark(self.tensor):
            return False
        sample = self._sampled()  # a change by way of ``.data`` leaves no mark
        return sample is None or self._sample is None or torch.equal(sample, self._sample)

    def _sampled(self) -> Tensor | None:
        tensor = self.tensor
        if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.is_quantized:
            return None
        if tensor.numel() <= SMALL:
            return tensor.detach()
        per = max(2, int(256 ** (1 / tensor.dim())))
        return tensor.detach()[tuple(slice(None, None, max(1, n // per)) for n in tensor.shape)]


def _mark(tensor: Tensor) -> Any:
    if is_lazy(tensor):
        return None
    version = compat.written(tensor)
    return version, _pointer(tensor), tensor.shape


def _pointer(tensor: Tensor) -> int | None:
    return tensor.data_ptr() if tensor.layout is torch.strided else None


def put(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor its value back, unnoticed by graphs that hold it."""
    if tensor.layout is not torch.strided:
        with torch.no_grad():
            tensor.copy_(value)
    elif tensor.shape != value.shape:
        tensor.data = value.clone()
    else:
        tensor.data.copy_(value)


class Members(MutableMapping[str, Any]):
    """The attributes of what has no ``__dict__`` to write to: of a class, its methods aside, or of ``__slots__``.

    Args:
        owner: the class or the object.
        names: what attributes there may be.
    """

    def __init__(self, owner: Any, names: Iterable[str]) -> None:
        self._owner, self._names = owner, names

    @classmethod
    def of_class(cls, owner: type) -> Members:
        """Those of a class itself, and of none of its bases."""
        return cls(owner, vars(owner))

    @classmethod
    def of_slots(cls, owner: Any) -> Members:
        """Those of an object."""
        return cls(owner, [k for c in type(owner).__mro__ for k, v in vars(c).items() if isinstance(v, _SLOT)])

    def __iter__(self) -> Iterator[str]:
        if isinstance(self._owner, type):
            own = vars(self._owner)
            return (k for k in list(self._names) if k[:2] != "__" and not hasattr(type(own[k]), "__get__"))
        return (k for k in self._names if hasattr(self._owner, k))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Any:
        if name not in set(self):
            raise KeyError(name)
        return getattr(self._owner, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self._owner, name, value)

    def __delitem__(self, name: str) -> None:
        delattr(self._owner, name)


_SLOT = types.MemberDescriptorType


class Things:
    """All that can change and can be reached from some roots: containers, generators, arrays, tensors.

    Args:
        roots: a module, and batches or anything else.
        without: ids of tensors that are none of it, such as the parameters that the optimizer moves.
        optimizer: the one that is stepped: its groups may be changed, its state is its own affair.
    """

    def __init__(self, roots: Iterable[Any], without: frozenset[int], optimizer: Optimizer) -> None:
        self.containers: list[tuple[Any, Any]] = [(group, dict(group)) for group in optimizer.param_groups]
        self.attributes: list[tuple[MutableMapping[str, Any], dict[str, Any]]] = []
        self.flags: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.generators: list[tuple[Any, Any]] = []
        self.tapes: list[Tape] = []
        self._taped: list[tuple[Any, Any, Any, Any]] = []
        self._holders: list[tuple[Any, Any]] = []
        self.arrays: list[tuple[Any, Any]] = []
        self.tensors: list[Tensor] = []
        self.beyond: list[Any] = []  # what changes in these is not put back
        self._leaves: list[tuple[Tensor, bool]] = []
        self._seen: dict[int, Any] = {id(optimizer): optimizer}
        self._without = without
        self.lasting = 0  # so many of the tensors are those of the first root
        for i, root in enumerate(roots):
            self._visit(root, 0)
            self.lasting = self.lasting if i else len(self.tensors)
        self.known = frozenset(self._seen)  # ids of all of it
        self._seen.clear()

    def _visit(self, value: Any, depth: int) -> None:
        if isinstance(value, _ATOMS) or id(value) in self._seen or depth > _DEPTH:
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            if value.is_leaf and not is_lazy(value):
                self._leaves.append((value, value.requires_grad))
            if id(value) not in self._without and value.device.type != "meta":
                self.tensors.append(value)
        elif isinstance(value, nn.Module):
            self._visit_module(value, depth)
        elif isinstance(value, dict):
            self._visit_container(value, dict(value), value.values(), depth)
        elif isinstance(value, (list, deque, set)):
            self._visit_container(value, list(value), value, depth)
        elif isinstance(value, tuple):
            self._visit_all(value, depth)
        elif isinstance(value, np.ndarray):
            if value.nbytes <= _BYTES:
                self.arrays.append((value, value.copy()))
            else:
                self.beyond.append(value)
        elif (state := generator_state(value)) is not None:
            self.generators.append((value, state))
        elif isinstance(value, Optimizer):  # another one than that which is stepped
            self.flags.append((vars(value), {k: v for k, v in vars(value).items() if type(v) in _NUMBERS}))
            self._visit_container(value.state, dict(value.state), (), depth)
            for held in [*value.state.values(), *value.param_groups]:
                self._visit(held, depth + 1)
        elif isinstance(value, types.MethodType):
            self._visit(value.__self__, depth)
        elif isinstance(value, functools.partial):
            self._visit_all((value.func, value.args, value.keywords), depth)
        elif is_a_user_s(value):
            self._visit_attributes(value, vars(value), depth)
        elif _has_slots(value):
            self._visit_attributes(value, Members.of_slots(value), depth)

    def _visit_attributes(self, value: Any, own: MutableMapping[str, Any], depth: int) -> None:
        self._visit_class(type(value), depth)
        self.attributes.append((own, dict(own)))
        self._visit_all(own.values(), depth)

    def _visit_class(self, cls: type, depth: int) -> None:
        """What a class and its bases have in common for all objects: counts, lists."""
        for base in cls.__mro__:
            if id(base) not in self._seen and package_of(base) not in FOREIGN | sys.stdlib_module_names:
                self._seen[id(base)] = base
                members = Members.of_class(base)
                if attributes := dict(members):
                    self.attributes.append((members, attributes))
                    self._visit_all(attributes.values(), depth)

    def _visit_container(self, container: Any, content: Any, values: Any, depth: int) -> None:
        self.containers.append((container, content))
        if 0 < len(values) <= LONG and isinstance(container, (dict, list)):
            self._holders.append((container, content))
        if len(values) > LONG:
            self.beyond.append(container)
        self._visit_all(values, depth)

    def _visit_all(self, values: Any, depth: int) -> None:
        if len(values) <= LONG:
            for value in values:
                self._visit(value, depth + 1)

    def _visit_module(self, module: nn.Module, depth: int) -> None:
        own = vars(module)
        for name in ("_buffers", "_parameters", "_modules"):
            held = own[name]
            if held:
                self.containers.append((held, dict(held)))
                for value in held.values():
                    self._visit(value, 0)
        if type(module).__module__.startswith("torch.nn."):
            self.flags.append((own, {k: v for k, v in own.items() if type(v) in _NUMBERS}))
        else:
            self._visit_class(type(module), depth)
            attributes = attributes_of(module)
            self.attributes.append((own, attributes))
            for value in attributes.values():
                self._visit(value, depth + 1)

    @contextmanager
    def taping(self) -> Iterator[None]:
        """Within it, what is drawn from iterators is kept, so that :meth:`restore` brings it again."""
        for own, kept in [*self.attributes, *self._holders]:
            for name, value in list(kept.items() if isinstance(kept, dict) else enumerate(kept)):
                taped = self._on_tape(value)
                if taped is not value:
                    own[name] = kept[name] = taped
                    self._taped.append((own, name, taped, value))
        try:
            yield
        finally:
            for own, name, taped, value in self._taped:
                if _at(own, name) is taped:
                    own[name] = value

    def _on_tape(self, value: Any) -> Any:
        """An iterator with a tape in it, also one in a tuple; anything else as it is."""
        if type(value) is tuple:
            taped = tuple(map(self._on_tape, value)) if len(value) <= LONG else value
            return value if all(a is b for a, b in zip(taped, value, strict=True)) else taped
        if isinstance(value, _ATOMS) or not is_iterator(value):
            return value
        self.tapes.append(Tape(value))
        return self.tapes[-1]

    def changed(self) -> bool:
        """Whether anything but the tensors is not as it was."""
        untaped = {id(taped): value for _, _, taped, value in self._taped}
        return (
            any(not _holds(container, content, untaped) for container, content in self.containers)
            or any(not _has(own, attributes, untaped) for own, attributes in self.attributes)
            or any(own.get(k) is not v for own, flags in self.flags for k, v in flags.items())
            or any(leaf.requires_grad is not wanted for leaf, wanted in self._leaves)
            or any(tape.items for tape in self.tapes)
            or any(not _equal(generator_state(generator), state) for generator, state in self.generators)
            or any(not _equal(array, content) for array, content in self.arrays)
        )

    def restore(self) -> None:
        """Put everything but the tensors back."""
        for tape in self.tapes:
            tape.rewind()
        for container, content in self.containers:
            _refill(container, content)
        for own, attributes in self.attributes:
            for name in [k for k in own if k not in attributes and k not in _OWN]:
                del own[name]
            for name, value in attributes.items():
                if own.get(name, own) is not value:
                    own[name] = value
        for own, flags in self.flags:
            own.update(flags)
        for leaf, wanted in self._leaves:
            if leaf.requires_grad is not wanted and leaf.is_leaf:
                leaf.requires_grad_(wanted)
        for generator, state in self.generators:
            _set_generator(generator, state)
        for array, content in self.arrays:
            array[...] = content


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are none of torch's and Lightning's."""
    return {k: v for k, v in vars(module).items() if k not in _OWN}


def package_of(thing: Any) -> str:
    """The package that a class or a module belongs to."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return (name or "").partition(".")[0]


def is_a_user_s(value: Any) -> bool:
    """Whether it is an object of a class that neither torch nor Lightning knows, with attributes."""
    if isinstance(value, LRScheduler):
        return True
    if isinstance(value, (type, types.ModuleType, *LEFT_ALONE)) or not hasattr(value, "__dict__"):
        return False
    if callable(value) and not isinstance(type(value).__call__, types.FunctionType):  # a function, of some kind
        return False
    return package_of(type(value)) not in FOREIGN


def _has_slots(value: Any) -> bool:
    kind = type(value)
    if kind.__flags__ & _IMMUTABLE or package_of(kind) in FOREIGN | sys.stdlib_module_names:
        return False
    return any("__slots__" in vars(c) for c in kind.__mro__)


#: The flag of types that are written in C.
_IMMUTABLE = 1 << 8


def _at(own: Any, name: Any) -> Any:
    """What lies somewhere; None where there is no such place any more."""
    if isinstance(own, list):
        return own[name] if name < len(own) else None
    return own.get(name)


def generator_state(value: Any) -> Any:
    """The state of a generator of random numbers; None where it is none."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    return value.get_state() if isinstance(value, np.random.RandomState) else None


def _set_generator(value: Any, state: Any) -> None:
    if isinstance(value, random.Random):
        value.setstate(state)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    else:
        value.set_state(state)


def _equal(a: Any, b: Any) -> bool:
    """Whether states of generators, or arrays, are the same."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(v, b[k]) for k, v in a.items())
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def _holds(container: Any, content: Any, untaped: dict[int, Any]) -> bool:
    """Whether a container holds what it held.

    Args:
        container: the container.
        content: what it held.
        untaped: what was there before a tape was put in, by the id of what is in ``content``.
    """
    if len(container) != len(content):
        return False
    if isinstance(container, dict):
        pairs = zip(container.items(), content.items(), strict=True)
        return all(k is j and (v is w or v is untaped.get(id(w), w)) for (k, v), (j, w) in pairs)
    return all(a is b or a is untaped.get(id(b), b) for a, b in zip(container, content, strict=True))


def _has(own: MutableMapping[str, Any], attributes: dict[str, Any], untaped: dict[int, Any]) -> bool:
    """Whether an object has the attributes that it had."""
    if {k for k in own if k not in _OWN} != attributes.keys():
        return False
    return all(own[k] is v or own[k] is untaped.get(id(v), v) for k, v in attributes.items())


def _refill(container: Any, content: Any) -> None:
    if _holds(container, content, {}):
        return
    if isinstance(container, dict):
        kind: Any = type(container) if type(container) in (OrderedDict, defaultdict) else dict
        kind.clear(container)
        kind.update(container, content)
    else:
        container.clear()
        getattr(container, "update" if isinstance(container, set) else "extend")(content)


class Randomness:
    """The global random generators: torch's, of the device too, Python's, numpy's.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._states = (torch.get_rng_state(), random.getstate(), np.random.get_state())  # noqa: NPY002
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def moved(self) -> bool:
        """Whether random numbers have been drawn."""
        now = Randomness(self._device)
        return not (_equal(now._states, self._states) and (self._cuda is None or _equal(now._cuda, self._cuda)))

    def restore(self) -> None:
        """Go back."""
        torch.set_rng_state(self._states[0])
        random.setstate(self._states[1])
        np.random.set_state(self._states[2])  # noqa: NPY002
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)


class Snapshot:
    """Where an evaluation starts.

    Args:
        device: where the model is.
        things: what there is.
        shadows: of its tensors.
    """

    def __init__(self, device: torch.device, things: Things, shadows: list[Shadow]) -> None:
        self.randomness, self.things, self.shadows = Randomness(device), things, shadows
        self.values: list[tuple[Tensor, Tensor]] = []
        self.moved: list[Tensor] = []
        self.looked = False

    def quiet(self) -> bool:
        """After the evaluation: whether it has left everything as it was."""
        return not (self.moved or self.things.changed() or self.randomness.moved())

    def look(self) -> None:
        """After the evaluation: find the tensors that it has changed."""
        self.looked = True
        moved = self._moved()
        self.moved = [s.tensor for s in moved]
        self.values = [(s.tensor, s.value) for s in moved if s.value is not None]
        self.shadows = []

    def undo(self) -> None:
        """Instead of :meth:`look`: put everything back, so that the evaluation can be made anew."""
        for shadow in self._moved():
            if shadow.value is not None:
                put(shadow.tensor, shadow.value)
        self.things.restore()
        self.randomness.restore()

    def _moved(self) -> list[Shadow]:
        moved = [s for s in self.shadows if not s.fresh()]
        for shadow in moved:
            shadow.moving = True
            if shadow.value is None and shadow.alias is not None and _pointer(shadow.alias) != _pointer(shadow.tensor):
                shadow.value = shadow.alias
        return moved

    def restore(self) -> None:
        """Put everything back as it was at the start."""
        self.things.restore()
        for tensor, value in self.values:
            put(tensor, value)


class CopyOnWrite(TorchDispatchMode):
    """Copies a tensor before an operation writes to its memory.

    Args:
        shadows: of the tensors.
    """

    def __init__(self, shadows: list[Shadow]) -> None:
        super().__init__()
        self._shadows: dict[int, list[Shadow]] = {}
        for shadow in shadows:
            self._shadows.setdefault(_storage(shadow.tensor), []).append(shadow)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the arguments that the operation writes to."""
        kwargs = kwargs or {}
        for i, argument in enumerate(_schema(func).arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = args[i] if i < len(args) else kwargs.get(argument.name)
                for tensor in written if isinstance(written, (list, tuple)) else [written]:
                    if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                        for shadow in self._shadows.pop(_storage(tensor), ()):
                            shadow.value = shadow.tensor.detach().clone()
        return func(*args, **kwargs)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)


class Keeper:
    """Takes snapshots, and remembers which tensors move, so that large ones that do not are not copied.

    Args:
        module: the model.
        optimizer: whose parameters are not part of it.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        self._module, self._optimizer = module, optimizer
        self._without = frozenset(id(p) for group in optimizer.param_groups for p in group["params"])
        self._shadows: dict[int, Shadow] = {}
        self._snapshots = 0

    def snapshot(self, *roots: Any) -> Snapshot:
        """Note what there is now, in the model and in ``roots``."""
        things = Things([self._module, *roots], self._without, self._optimizer)
        shadows: dict[int, Shadow] = {}
        for tensor in things.tensors:
            known = self._shadows.get(id(tensor))
            moving = known is not None and known.moving
            copied = moving or is_lazy(tensor) or tensor.numel() < LARGE
            if known is None or (copied and known.value is None) or not known.fresh():
                known = Shadow(tensor, copied and not is_lazy(tensor), moving)
            shadows[id(tensor)] = known
        # nothing of a batch outlives the step
        self._shadows = {id(t): shadows[id(t)] for t in things.tensors[: things.lasting]}
        self._snapshots += 1
        return Snapshot(_device(self._module), things, list(shadows.values()))

    def watching(self, snapshot: Snapshot) -> Any:
        """Within it, a large tensor is copied before something writes to it; only for a model's first evaluations.

        One that is written to for the first time later is not put back between the evaluations of that step.
        """
        large = [s for s in snapshot.shadows if s.value is None and s.alias is not None]
        return CopyOnWrite(large) if large and self._snapshots <= _WATCHED else nullcontext()

    def end(self, starts: Iterable[Snapshot], *roots: Any) -> Snapshot:
        """Note what there is now, with the tensors that have moved since ``starts``."""
        snapshot = Snapshot(_device(self._module), Things([self._module, *roots], self._without, self._optimizer), [])
        moved = {id(t): t for start in starts for t in start.moved}
        snapshot.moved = list(moved.values())
        snapshot.values = [(t, t.detach().clone()) for t in snapshot.moved]
        return snapshot


def _device(module: nn.Module) -> torch.device:
    device = getattr(module, "device", None)
    return device if isinstance(device, torch.device) else torch.device("cpu")
