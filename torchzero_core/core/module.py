"""The unit a chain is made of."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from typing_extensions import dataclass_transform

from ..distributed import Reductions, processes
from ..engine import Transaction
from ..engine.params import Params
from .declare import Check, Field, Range, Role, declare, per_group
from .home import Home
from .kept import POSITION, StateKind
from .mistakes import no_module, shown
from .overrides import Overrides
from .packages import is_ours
from .route import Routes, only_rules, run_stages
from .settings import Settings
from .state import GLOBAL, ScopedState, StateOf
from .validate import settled, validate
from .var import Var


@dataclass_transform(eq_default=False, field_specifiers=(per_group,))
class Module:
    """Base class of everything that can stand in a chain.

    A module takes the :class:`Var` of a step, changes its ``update`` (or its closure, or its gradients) and returns
    it. What it remembers is kept in ``self.state[p]`` for a parameter and in ``self.global_state`` for itself; both
    live in the optimizer's ``state`` and are saved and loaded with it, so they hold only tensors, numbers, strings
    and lists or dicts of them.

    Annotated class attributes are its settings: they make the constructor, can be overridden per parameter group and
    are read through ``self.settings[p]``. Their type says what they may be, :data:`~torchzero_core.core.Beta` or a
    ``Literal`` for example; one of type :data:`~torchzero_core.core.Child` is a module inside this one. An attribute
    that is no setting has no annotation or is a ``ClassVar``. A method ``__post_init__`` runs after the constructor. A
    constructor written by hand passes the settings on instead, ``super().__init__(dict(scale=scale))``, and may state
    ranges as ``ranges = {"scale": (0, 1, "[)")}``.

    Args:
        defaults: settings by name with the values that the constructor was given.

    Example:
        >>> import torch
        >>> from torchzero_core.core import Modular, Module
        >>> class SignDescent(Module):
        ...     scale: float = 1.0
        ...
        ...     def step(self, var):
        ...         for p, u in zip(var.params, var.get_update()):
        ...             u.sign_().mul_(self.settings[p]["scale"])
        ...         return var
        >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -0.1])
        >>> Modular([p], SignDescent(0.5)).step()
        >>> p.detach()
        tensor([ 0.5000, -1.5000])
    """

    #: Whether the module calls the closure itself.
    requires_closure: ClassVar[bool] = False
    #: Whether a module of somebody else that calls the closure takes ``closure(False)`` for its value alone. Otherwise
    #: it may differentiate it, and all evaluations of the chain make a graph.
    takes_values: ClassVar[bool] = False
    #: Whether a step that it begins evaluates the loss for its value alone first.
    starts_with_value: ClassVar[bool] = False
    #: Whether the chain has to have the gradient before this module runs.
    needs_gradient: ClassVar[bool] = True
    #: Whether the length of its update means something, so that a search tries a step size of 1 first.
    has_scale: ClassVar[bool] = True
    #: Whether that length is learnt step by step, so that it may be too short for a while.
    learns_scale: ClassVar[bool] = False
    #: Whether it takes a step as long as the direction before it wherever that will do, and else finds a better length,
    #: so that the method before it may let its directions grow.
    corrects_length: ClassVar[bool] = False
    #: Whether the engine can trace it.
    is_rule: ClassVar[bool] = False
    #: Whether it is a list of modules.
    is_chain: ClassVar[bool] = False
    #: Whether it only shows the step to somebody.
    only_shows: ClassVar[bool] = False
    #: Whether modules in it, or it itself, keep something only after some steps.
    state_comes_later: ClassVar[bool] = False
    #: Whether what it keeps says where a run has come to, and not what was learnt on the way: a restart leaves it.
    keeps_place: ClassVar[bool] = False
    #: Whether it takes only parameters that this rank has in one piece.
    one_piece: ClassVar[bool] = False
    #: What it does to the size of the update, which advice about the order of modules goes by: "factor" multiplies it
    #: by a number, "adds" adds to it, "unit" makes it about 1 in every element, "own" makes it another one that does
    #: not depend on the size before, "limit" only limits it, "keeps" leaves it about as it is, "same" leaves the update
    #: as it is, "direction" turns it to where a step of length 1 is about right, "search" finds the size of the step.
    #: "": something else.
    size_effect: ClassVar[str] = ""
    #: What it keeps in ``state`` and ``global_state``, by name, so that what is loaded can be checked.
    kept: ClassVar[Mapping[str, StateKind]] = {}
    #: The ranges of settings as (low, high, brackets); those of declared settings come from their types.
    ranges: ClassVar[Mapping[str, tuple[float, float, str]]] = {}
    #: What else their types say.
    checks: ClassVar[Mapping[str, Check]] = {}
    #: What the body of the class declares.
    own_fields: ClassVar[Mapping[str, Field]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        declare(cls, Module)

    def __init__(self, defaults: Mapping[str, Any] | None = None) -> None:
        self.defaults: dict[str, Any] = dict(defaults or {})
        self.children: dict[str, Module] = {}
        self.path: str = type(self).__name__
        self.overrides = Overrides()
        self.generators: dict[str, torch.Generator] = {}
        self._home: weakref.ref[Home] | None = None
        self._detached: dict[Any, dict[str, Any]] = {}
        self.state = StateOf(self)
        self.settings = Settings(self)
        validate(self, self.defaults, f"{type(self).__name__}(")
        self.defaults = settled(type(self), self.defaults)

    # -- what a module does ------------------------------------------------------------------------------------------
    def step(self, var: Var) -> Var:
        """Change ``var`` and return it.

        Args:
            var: the step's parameters, gradients, update, loss and closure.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step(var); a module must define one.")

    def post_step(self, var: Var) -> None:
        """Called after the parameters have moved; does nothing unless overridden."""

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse values that their types do not tell from good ones; does nothing unless overridden.

        Called with what the constructor was given, and with what a group makes of it whenever a group sets something.

        Args:
            settings: all settings of the module by name.

        Raises:
            ValueError: settings that do not go together.
        """

    # -- structure ---------------------------------------------------------------------------------------------------
    @property
    def home(self) -> Home | None:
        """The optimizer that the module is part of; None while there is none."""
        return None if self._home is None else self._home()

    @home.setter
    def home(self, value: Home | None) -> None:
        self._home = None if value is None else weakref.ref(value)

    def set_child(self, name: str, module: Modules) -> None:
        """Make ``module`` (or a list of modules, which becomes a chain) a child under ``name``."""
        child, home = as_module(module, f"{type(self).__name__}.{name}"), self.home
        if home is None:
            self.children[name] = child
        else:
            home.adopt(child, self, name)

    def inner_params(self, params: Params) -> Params:
        """The tensors that the modules inside this one work on: its own unless overridden.

        Args:
            params: those that this module works on.
        """
        return params

    def set_param_groups(self, groups: Iterable[Mapping[str, Any]]) -> None:
        """Override settings of this module for some parameters; stronger than the optimizer's own groups.

        Args:
            groups: dicts with ``"params"`` and settings of this module.

        Raises:
            ValueError: a group without parameters, a setting that this module does not have, a value out of range.
        """
        overrides = []
        for group in groups:
            if not isinstance(group, Mapping) or "params" not in group:
                raise ValueError(
                    f"A group of {self.path}.set_param_groups is a dict with 'params' and settings of this module, "
                    f"not {group!r}."
                )
            values = {k: v for k, v in group.items() if k != "params"}
            unknown = [k for k in values if k not in self.defaults]
            if unknown:
                known = ", ".join(map(repr, self.defaults)) or "none"
                raise ValueError(f"{self.path} has no setting {unknown[0]!r}; it has {known}.")
            validate(self, values, f"a parameter group of {self.path}: ")
            params = group["params"]
            overrides.append(([params] if isinstance(params, Tensor) else list(params), settled(type(self), values)))
        self.overrides = Overrides(overrides)
        self.settings.forget()
        home = self.home
        if home is not None:
            home.drop_params()

    def reset(self) -> None:
        """Forget everything: the state of this module and of its children, as if no step had been made.

        With a ``seed`` the same random directions come again.
        """
        for child in self.children.values():
            child.reset()
        self._forget(self._keeps)
        self.generators.clear()

    def restart(self) -> None:
        """Forget what was learnt, as after a step that has led nowhere, and go on from there.

        Random numbers go on, and so does what keeps the place in a plan: a ``Switch`` stays with its module, a line
        search with how far it has come.
        """
        for child in self.children.values():
            child.restart()
        if not self.keeps_place:
            inside, position = self.children.values(), f"{self.prefix}{GLOBAL}{POSITION}"
            self._forget(lambda k: self._keeps(k) and position not in k and not any(one._keeps(k) for one in inside))

    def _keeps(self, key: str) -> bool:
        """Whether a state by its full name is that of this module or of one in it."""
        # A projection keeps its children's state under a longer prefix; the path is unique either way.
        return key.startswith(self.prefix) or f"/{self.prefix}" in key

    def _forget(self, what: Callable[[str], bool]) -> None:
        home = self.home
        for store in self._detached.values() if home is None else home.state_dicts():
            for key in list(filter(what, store)):
                del store[key]
        if home is not None:
            home.drop_params()

    # -- state -------------------------------------------------------------------------------------------------------
    @property
    def prefix(self) -> str:
        """What the names of this module's state start with in ``optimizer.state``."""
        return f"{self.path}."

    def locate(self, param: Tensor) -> tuple[dict[str, Any], str]:
        """The dict that holds the state of ``param`` and the prefix of this module's part of it."""
        home = self.home
        if home is None:
            return self._detached.setdefault(param, {}), self.prefix
        store, outer = home.locate(param)
        return store, outer + self.prefix

    @property
    def global_state(self) -> ScopedState:
        """What the module remembers as a whole; it sits with the first parameter."""
        home = self.home
        store = self._detached.setdefault(None, {}) if home is None else home.first_state()
        return ScopedState(store, f"{self.prefix}{GLOBAL}", self.transaction)

    @property
    def transaction(self) -> Transaction | None:
        """Where changes of the state are noted down while a step is tried; None else."""
        home = self.home
        return home.transaction if home is not None and home.transaction.active else None

    @property
    def foreign(self) -> bool:
        """Whether it is somebody else's code, which may raise anything at any time."""
        return not is_ours(type(self))

    def get_state(
        self, params: Sequence[Tensor], name: str, init: Callable[[Tensor], Tensor] = torch.zeros_like
    ) -> list[Tensor]:
        """The state ``name`` of every parameter, made by ``init(param)`` where it is missing.

        What is like the parameter stays so: it is brought to a dtype or device that has changed since.

        Raises:
            ValueError: its shape has changed.
        """
        out = []
        for p in params:
            state = self.state[p]
            value = state.get(name)
            if value is None:
                value = state[name] = init(p.detach())
            elif init is torch.zeros_like and (value.shape, value.dtype, value.device) != (p.shape, p.dtype, p.device):
                if value.shape != p.shape:
                    raise ValueError(
                        f"{self.path} keeps {name!r} of shape {tuple(value.shape)} for a parameter of shape "
                        f"{tuple(p.shape)}; forget it with the module's reset()."
                    )
                value = state[name] = value.to(p.device, p.dtype)
            out.append(value)
        return out

    def get_settings(self, params: Sequence[Tensor], name: str) -> list[Any]:
        """The setting ``name`` of every parameter."""
        return [self.settings[p][name] for p in params]

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """This module's own random generator on a device, seeded by the setting ``seed``.

        Without a seed one is drawn once from torch's global generator. Its position is state: it is saved, loaded
        and copied with the optimizer. Call :meth:`save_generator` after drawing (the chain does so after each step).
        """
        key = str(torch.device(device))
        if key not in self.generators:
            generator = torch.Generator("cpu" if key == "meta" else device)
            saved = self.global_state.get(f"{POSITION}{key}")
            if saved is not None:
                try:
                    generator.set_state(saved.cpu())
                except (RuntimeError, TypeError, AttributeError) as error:
                    raise ValueError(
                        f"The state '{self.prefix}{GLOBAL}{POSITION}{key}' is no position of a random generator "
                        f"({error}); forget it with the module's reset()."
                    ) from error
            else:
                seed = self._seed()
                generator.manual_seed(self._drawn_seed() if seed is None else int(seed))
            self.generators[key] = generator
        return self.generators[key]

    def _seed(self) -> Any:
        """The setting ``seed``, by the constructor or by a group.

        Raises:
            ValueError: groups set it differently.
        """
        home, own = self.home, self.defaults.get("seed")
        if home is None or "seed" not in self.defaults:
            return own
        seeds = {seed for p in home.all_params if (seed := self.settings[p]["seed"]) != own}
        if len(seeds) > 1:
            raise ValueError(
                f"{self.path} has one random generator for all parameters, but the parameter groups set the seeds "
                f"{', '.join(map(repr, sorted(seeds, key=str)))}; give every group the same value."
            )
        return seeds.pop() if seeds else own

    def _drawn_seed(self) -> int:
        """A seed from torch's global generator, on which ranks agree that talk to one another."""
        drawn, home = int(torch.randint(2**62, (), device="cpu").item()), self.home
        if home is None:
            return drawn
        if type(home.distributed) is Reductions and processes() > 1:
            way = f"give it a seed, {type(self).__name__}(seed=0), or " if "seed" in self.defaults else ""
            home.warn_once(
                f"{self.path}.seed",
                f"{self.path} draws random numbers, and the {processes()} processes may draw different ones, so that "
                f"their parameters drift apart: {way}let them agree on one, optimizer.distributed = "
                "tz.RankMeans().",
            )
        return home.distributed.agree(drawn)

    def save_generators(self) -> None:
        """Write the position of this module's generators into its state."""
        for key, generator in self.generators.items():
            self.global_state[f"{POSITION}{key}"] = generator.get_state()

    def rewind_generators(self) -> None:
        """Put this module's generators back to where the last finished step left them."""
        for key, generator in self.generators.items():
            saved = self.global_state.get(f"{POSITION}{key}")
            if saved is None:
                generator.manual_seed(generator.initial_seed())
            else:
                generator.set_state(saved.cpu())

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("state", "settings", "generators", "_home")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._home, self.generators = None, {}
        self.state, self.settings = StateOf(self), Settings(self)

    def extra_repr(self) -> str:
        """The settings as they are shown in the tree."""
        return ", ".join(f"{k}={v!r}" for k, v in self.defaults.items())

    def __repr__(self) -> str:
        parts = [self.extra_repr()] if self.defaults else []
        parts += [f"{name}={child!r}" for name, child in self.children.items()]
        return f"{type(self).__name__}({', '.join(parts)})"


class Chain(Module):
    """Runs modules one after another; neighbouring rules run together as one segment.

    Args:
        *modules: the modules in order.
    """

    slots: ClassVar[dict[str, Any]] = {}
    kernel_needs: ClassVar[dict[str, Any]] = {}
    is_chain = True

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            self.set_child(str(i), module)

    @property
    def requires_closure(self) -> bool:  # type: ignore[override]
        """Whether any module in it needs a closure."""
        return any(m.requires_closure for m in self.children.values())

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether its first module needs the gradient."""
        return next((m.needs_gradient for m in self.children.values()), True)

    @property
    def is_rule(self) -> bool:  # type: ignore[override]
        """Whether all in it are rules; their composition is one too."""
        return all(map(only_rules, self.children.values()))

    def declared(self, name: str) -> Any:
        """It declares no state."""
        return self.slots[name]

    def check(self, params: list[Tensor]) -> None:
        """Nothing to check."""

    def rule(self, u: Any, ctx: Any) -> Any:
        """The composition of its rules."""
        for name in self.children:
            u = ctx.child(name, u)
        return u

    def step(self, var: Var) -> Var:
        """Run the modules in turn."""
        home = self.home
        return run_stages(Routes(None).stages(self) if home is None else home.stages(self), var)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.children.values()))}]"


def as_module(module: Modules, where: str = "", allowed: str = "a module or a list of modules") -> Module:
    """A module as it is; a list of modules as a chain.

    Args:
        module: the module or list.
        where: where it stands.
        allowed: what may stand there.

    Raises:
        TypeError: something that is neither, with the place where it stands.
    """
    if isinstance(module, Module):
        if "children" not in vars(module):
            name = type(module).__name__
            raise TypeError(
                f"{name}.__init__ does not call super().__init__(...), which a constructor written by hand has to do "
                "first, with the settings: super().__init__(dict(beta=beta))."
            )
        return module
    if isinstance(module, (list, tuple)) and module and all(isinstance(m, Module) for m in module):
        return module[0] if len(module) == 1 else Chain(*module)
    raise TypeError(f"{where or 'A chain'} takes {allowed}, not {shown(module)}.{no_module(module)}")


Modules: TypeAlias = Module | Sequence[Module]
#: ``inner: Child | None = None`` declares a child that may be absent, ``modules: Child`` one that must be given.
Child: TypeAlias = Annotated[Modules, Role.CHILD]
#: ``other: Input`` declares an operand: a number, which is a setting, or a module, which is a child.
Input: TypeAlias = Annotated[Modules | float, Range(-math.inf, math.inf, "()"), Role.PASSED]
