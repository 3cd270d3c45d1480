"""Settings declared once: annotated class attributes of a module become its constructor, settings, ranges, children.

``beta1: Beta = 0.9`` says all there is to say about a setting: its name, its type, its range, its default.
"""

from __future__ import annotations

import inspect
import math
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from enum import Enum, auto
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar, Union, get_args, get_origin

from ..lang import Slot
from .docstrings import inherit_args
from .mistakes import check_first, unknown_option


class Range(NamedTuple):
    """From where to where a number may be; a bracket that is round leaves its end out."""

    low: float
    high: float
    brackets: str = "[]"

    def holds(self, number: float) -> bool:
        """Whether a number is in it; NaN is in none."""
        above = self.low <= number if self.brackets[0] == "[" else self.low < number
        return above and (number <= self.high if self.brackets[1] == "]" else number < self.high)

    def __str__(self) -> str:
        return f"{self.brackets[0]}{self.low:g}, {self.high:g}{self.brackets[1]}"


class Check(NamedTuple):
    """What a range cannot say: ``refuse(name, value)`` raises a ValueError, whose sentence begins with name=value."""

    refuse: Callable[[str, Any], object]


#: The decay of an average, in [0, 1).
Beta: TypeAlias = Annotated[float, Range(0, 1, "[)")]
#: A share of something, in [0, 1].
Fraction: TypeAlias = Annotated[float, Range(0, 1, "[]")]
#: A share that is neither nothing nor all, in (0, 1).
OpenFraction: TypeAlias = Annotated[float, Range(0, 1, "()")]
#: In (0, inf).
Positive: TypeAlias = Annotated[float, Range(0, math.inf, "()")]
#: In [0, inf).
NonNegative: TypeAlias = Annotated[float, Range(0, math.inf, "[)")]
#: Any number but an infinity.
Finite: TypeAlias = Annotated[float, Range(-math.inf, math.inf, "()")]
#: The order of a norm, in (0, inf].
Order: TypeAlias = Annotated[float, Range(0, math.inf, "(]")]
#: A whole number from 0 on.
Natural: TypeAlias = Annotated[int, Range(0, math.inf, "[)")]
#: Where a module's own random generator starts.
Seed: TypeAlias = Annotated[int, Range(-(2**63), 2**64, "[)")]
#: How many: a whole number from 1 on.
Count: TypeAlias = Annotated[int, Range(1, math.inf, "[)")]
#: How many are kept in one tensor.
Length: TypeAlias = Annotated[int, Range(1, 2**31, "[)")]


class Role(Enum):
    """What becomes of a declared attribute that is no setting; a part of its annotation."""

    #: A module, or a list of modules, that becomes a child under the attribute's name.
    CHILD = auto()
    #: It goes to the constructor of the base that has a hand-written one, under its name.
    PASSED = auto()
    #: The same, and it is the constructor's last parameter, also where a subclass declares more.
    PASSED_LAST = auto()


T = TypeVar("T")
#: ``modules: Passed[Modules]`` goes to the constructor of the base.
Passed: TypeAlias = Annotated[T, Role.PASSED]


class PerGroup(NamedTuple):
    """The default of a setting that only groups can change."""

    default: Any


def per_group(*, default: Any, init: Literal[False] = False) -> Any:
    """Declare a setting that the constructor does not take: a group can change it, under its name.

    Args:
        default: what it is where no group says otherwise.
        init: never; tells type checkers that the constructor does not take it.

    Example:
        >>> from torchzero_core.core import Transform
        >>> class Frozen(Transform):
        ...     frozen: bool = per_group(default=True)
        >>> Frozen().defaults
        {'frozen': True}
    """
    return PerGroup(default)


@dataclass(frozen=True)
class Field:
    """A declared attribute. Read from a module it raises: what counts is the value that its group has.

    Attributes:
        owner: the class that declares it.
        name: its name.
        hint: its type, without what is said of its range and role.
        default: what the constructor takes where it is not given; ``inspect.Parameter.empty`` where it must be.
        range: where a number must be.
        check: what else it must be.
        role: what it is if it is no setting.
        in_signature: whether the constructor takes it.
        keyword_only: whether it takes it by name only, as all that stand behind ``_: KW_ONLY`` in the class.
    """

    owner: str
    name: str
    hint: Any
    default: Any
    range: Range | None
    check: Check | None
    role: Role | None
    in_signature: bool
    keyword_only: bool = False

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        name = self.name
        raise AttributeError(
            f"{self.owner}.{name} differs between parameters, so no module has it as an attribute: read "
            f"ctx.settings.{name} in a rule, self.settings[p][{name!r}] in a step, and self.defaults[{name!r}] for "
            "what the constructor was given."
        )

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(
            f"{self.owner}.{self.name} cannot be assigned, because it differs between parameters: change it in the "
            f"optimizer's param_groups, as in optimizer.param_groups[0][{self.name!r}] = {value!r}."
        )

    def parameter(self) -> inspect.Parameter:
        """Its place in a signature."""
        kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, kinds[self.keyword_only], default=self.default, annotation=self.hint)


def declare(cls: Any, root: type) -> None:
    """Take what a new class declares: its slots, and its fields unless it writes its constructor by hand.

    Args:
        cls: the class.
        root: the class that all modules come from.

    Raises:
        TypeError: an annotation that cannot be resolved, a name that means something else, a field that has no way
            into the constructor of a base.
    """
    for name in vars(cls):
        inherited = next((vars(c)[name] for c in cls.__mro__[1:] if name in vars(c)), None)
        if isinstance(inherited, Field) and name not in inspect.get_annotations(cls):
            raise TypeError(
                f"{cls.__name__}.{name} is a setting of {inherited.owner}; declare it anew with its type to give it "
                f"another default, as in `{name}: {getattr(inherited.hint, '__name__', inherited.hint)} = ...`."
            )
    slots = {name: value for name, value in vars(cls).items() if isinstance(value, Slot)}
    if slots and not hasattr(cls, "rule"):
        raise TypeError(
            f"{cls.__name__}.{next(iter(slots))} is a Slot, which only a rule can use: derive from Transform, or keep "
            f"the state of a step in self.state[p][{next(iter(slots))!r}]."
        )
    for name in slots:
        _check_slot(cls, name)
    if slots:
        cls.slots = {**getattr(cls, "slots", {}), **slots}
    if "__init__" in vars(cls):
        return
    own = _own_fields(cls)
    base = next(c for c in cls.__mro__[1:] if "__init__" in vars(c) and not hasattr(c.__init__, "fields"))
    if not own and list(_fields_after(cls, base)) == list(fields_of(cls)):  # the constructor is inherited
        inherit_args(cls, _visible(fields_of(cls)))
        return
    for field in own.values():
        _check_field(cls, field)
    for field in own.values():
        if field.role is None:
            setattr(cls, field.name, field)
        elif field.name in vars(cls):
            delattr(cls, field.name)  # the constructor sets what is no setting
    cls.own_fields = own
    fields = _fields_after(cls, base)
    if base is not root and "defaults" not in inspect.signature(base.__init__).parameters:
        raise TypeError(
            f"{cls.__name__} declares {', '.join(fields)}, but {base.__name__} has a hand-written __init__ that takes "
            f"no defaults to pass them on by; write {cls.__name__}.__init__ by hand too."
        )
    cls.ranges = _merged(cls.ranges, {name: field.range for name, field in fields.items()})
    cls.checks = _merged(cls.checks, {name: field.check for name, field in fields.items()})
    cls.__init__ = _constructor(cls, base, fields)
    inherit_args(cls, _visible(fields))


def fields_of(cls: Any) -> Mapping[str, Field]:
    """The fields that a class's constructor is made of, in its order; none where it is hand-written.

    Args:
        cls: a module's class.

    Example:
        >>> import torchzero_core as tz
        >>> [f"{name}: {field.range}" for name, field in fields_of(tz.m.Lion).items()]
        ['beta1: [0, 1)', 'beta2: [0, 1)']
    """
    return getattr(cls.__init__, "fields", {})


def _visible(fields: Mapping[str, Field]) -> list[str]:
    """The names of those that the constructor takes."""
    return [name for name, field in fields.items() if field.in_signature]


def _merged(inherited: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**inherited, **own}.items() if value is not None}


def _own_fields(cls: type) -> dict[str, Field]:
    """The fields that stand in the body of a class."""
    body = vars(cls)
    own: dict[str, Field] = {}
    keyword_only = False
    for name, text in inspect.get_annotations(cls).items():
        if name == "_":
            keyword_only = keyword_only or _resolve(cls, name, text) is KW_ONLY
            continue
        if name.startswith("_") or str(text).startswith(("ClassVar", "typing.ClassVar")):
            continue
        hint = _resolve(cls, name, text)
        if hint is ClassVar or get_origin(hint) is ClassVar:
            continue
        default = body.get(name, inspect.Parameter.empty)
        only_group = isinstance(default, PerGroup)
        notes = list(_notes(hint))
        own[name] = Field(
            owner=cls.__name__,
            name=name,
            hint=_plain(hint),
            default=default.default if isinstance(default, PerGroup) else default,
            range=next((n for n in notes if isinstance(n, Range)), None),
            check=next((n for n in notes if isinstance(n, Check)), None),
            role=next((n for n in notes if isinstance(n, Role)), None),
            in_signature=not only_group,
            keyword_only=keyword_only,
        )
    return own


def _resolve(cls: type, name: str, text: Any) -> Any:
    """An annotation where it is written; subclasses elsewhere need not import its names."""
    if not isinstance(text, str):
        return text
    functions = [inspect.unwrap(f) for f in vars(cls).values() if isinstance(f, types.FunctionType)]
    space = functions[0].__globals__ if functions else vars(sys.modules[cls.__module__])
    try:
        return eval(text, dict(space), dict(vars(cls)))
    except Exception as error:
        raise TypeError(
            f"The annotation {text!r} of {cls.__name__}.{name} cannot be resolved ({error}). The names in it must be "
            "known when the class is made: import them at the top of the file, not under TYPE_CHECKING or in a "
            "function. What is no setting is annotated as ClassVar or not at all."
        ) from error


def _notes(hint: Any) -> Iterable[Any]:
    """What the annotations in a type say beside it, also those of a union's members."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        yield from notes
        yield from _notes(inner)
    elif get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _notes(member)


def _plain(hint: Any) -> Any:
    """The type without them."""
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) is Union:
        return Union[tuple(map(_plain, get_args(hint)))]  # noqa: UP007
    return hint


#: Attributes that every module has, and keys that every parameter group has.
_TAKEN = {
    "params": "the key of the parameters in every group",
    "param_names": "a key of groups",
    "children": "where a module keeps the modules inside it",
    "path": "where a module keeps its name in the chain",
    "defaults": "where a module keeps its settings",
    "overrides": "where a module keeps the settings of its own groups",
    "generators": "where a module keeps its random generators",
    "state": "where a module finds its state",
    "settings": "where a module finds its settings",
    "target": "what a rule is applied to; declare it as target: Target",
}


def _check_field(cls: type, field: Field) -> None:
    """Refuse a declaration that means nothing."""
    name, default = field.name, field.default
    if name in _TAKEN and field.role is None:
        raise TypeError(f"{cls.__name__}.{name} cannot be a setting: {name!r} is {_TAKEN[name]}. Take another name.")
    if isinstance(default, Slot) or field.hint is Slot:
        raise TypeError(f"{cls.__name__}.{name} is a state: declare it without an annotation, {name} = Slot().")
    if hasattr(default, "set_child") and field.role is None:
        kind = type(default).__name__
        raise TypeError(
            f"{cls.__name__}.{name} has a module as its default, {kind}, which all instances would share: declare "
            f"`{name}: Child | None = None` and make the module where it is None."
        )
    _check_name(cls, name)


def _check_slot(cls: type, name: str) -> None:
    """Refuse a state whose name is that of a method, which would be gone."""
    for base in cls.__mro__[1:]:
        method = vars(base).get(name)
        if callable(method) or isinstance(method, (property, classmethod)):
            raise TypeError(
                f"{cls.__name__}.{name} cannot be a state: {base.__name__}.{name} is a method that modules need. Give "
                f"the state another name, such as {name}_ = Slot()."
            )


def _check_name(cls: type, name: str) -> None:
    """Refuse a field whose name is that of something else."""
    for base in cls.__mro__[1:]:
        if name in vars(base) and not isinstance(vars(base)[name], Field):
            raise TypeError(
                f"{cls.__name__}.{name} is annotated, which declares a setting, but {base.__name__}.{name} is none. "
                f"Write {name} without an annotation or as a ClassVar, or give the setting another name."
            )


def _fields_after(cls: Any, base: type) -> dict[str, Field]:
    """All fields from the hand-written base down to a class, as its constructor takes them."""
    below = cls.__mro__[: cls.__mro__.index(base)]
    fields: dict[str, Field] = {}
    for part in reversed(below):
        fields.update(vars(part).get("own_fields", {}))
    return dict(sorted(fields.items(), key=lambda item: (item[1].keyword_only, item[1].role is Role.PASSED_LAST)))


def _constructor(cls: type, base: Any, fields: dict[str, Field]) -> Callable[..., None]:
    """The constructor with the explicit signature."""
    visible = [f for f in fields.values() if f.in_signature]
    optional = False
    for field in visible:
        if field.keyword_only:
            continue
        required = field.default is inspect.Parameter.empty
        if required and optional:
            raise TypeError(
                f"{cls.__name__}.{field.name} has no default but follows one that has; give it a default or declare it "
                "earlier."
            )
        optional = not required
    signature = inspect.Signature([f.parameter() for f in visible], return_annotation=None)
    first = visible[0].name if visible else None
    hidden = {f.name: f.default for f in fields.values() if not f.in_signature}
    settings = [f.name for f in fields.values() if f.role is None]
    children = {f.name: f.default for f in fields.values() if f.role is Role.CHILD}
    passed = [f.name for f in fields.values() if f.role in (Role.PASSED, Role.PASSED_LAST)]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if args:
            check_first(type(self).__name__, first, args[0])
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            way = unknown_option(type(self).__name__, kwargs, signature.parameters)
            raise TypeError(f"{cls.__name__}(): {error}. {way}") from None
        bound.apply_defaults()
        values = {**bound.arguments, **hidden}
        base.__init__(self, defaults={n: values[n] for n in settings}, **{n: values[n] for n in passed})
        for name, default in children.items():
            if values[name] is not None or default is not None:
                self.set_child(name, values[name])
        after = getattr(self, "__post_init__", None)
        if after is not None:
            after()

    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    made: Any = __init__
    made.fields = fields
    made.__signature__ = signature.replace(parameters=[me, *signature.parameters.values()])
    made.__annotations__ = {f.name: f.hint for f in visible} | {"return": None}
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    return __init__
