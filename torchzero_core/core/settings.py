"""Settings: where each comes from, what it may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor

from .home import Home
from .overrides import Overrides
from .stand_ins import real_param
from .validate import LR_RANGE, Checked, check_kind, check_range, plain, settled, validate


class Configured(Checked, Protocol):
    """What has settings."""

    path: str
    defaults: dict[str, Any]
    overrides: Overrides

    @property
    def home(self) -> Home | None:
        """The optimizer that it is part of."""


#: Keys that torch, its schedulers and Lightning put into groups; they are no module's settings.
FOREIGN_KEYS = {
    "params", "param_names", "name", "lr", "initial_lr", "max_lr", "min_lr", "base_lr", "swa_lr", "lr_scale",
    "max_momentum", "base_momentum", "momentum", "betas",
}  # fmt: skip


def find(group: Mapping[str, Any], module: Configured, name: str) -> Any:
    """The value that a parameter group gives to a module's setting, or ``MISSING``.

    The most specific key counts: the module's path and the setting ("RMSprop.inner.EMA.momentum", or the end of it
    from any module name on, "EMA.momentum"), then the setting's own name, then the ``betas`` of torch.
    """
    best, length = MISSING, -1
    for key, value in group.items():
        if "." in key and len(key) > length and (f".{module.path}.{name}").endswith(f".{key}"):
            best, length = value, len(key)
    if best is not MISSING:
        return best
    home = module.home
    if name in group and name != "params":
        final = name == "lr" and home is not None and home.lr_scales_update and module.defaults[name] is not None
        if not final:  # else it scales what the chain as a whole gives
            return group[name]
    place = BETAS.get(name)
    if place is not None and module.defaults[name] is not None and place < len(group.get("betas", ())):
        return group["betas"][place]
    return MISSING


MISSING: Any = object()
#: The settings that are torch's ``betas``.
BETAS = {"beta1": 0, "beta2": 1}


class Settings:
    """``module.settings``: maps a parameter to the module's settings for it.

    Order: :meth:`Module.set_param_groups`, then the keys of the parameter group, then the constructor.
    """

    __slots__ = ("_cache", "_module", "_version")

    def __init__(self, module: Configured) -> None:
        self._module = module
        self._cache: dict[Any, dict[str, Any]] = {}
        self._version = -1

    def forget(self) -> None:
        """Resolve everything anew at the next look."""
        self._cache.clear()

    def __getitem__(self, param: Tensor) -> dict[str, Any]:
        module = self._module
        home = module.home
        if home is None:
            return self._resolve(param, {})
        if self._version != home.settings_version:
            self._cache.clear()
            self._version = home.settings_version
        params = home.all_params
        real = real_param(param)
        group = params.group_index(real)
        key = (group, module.overrides.places(real)) if module.overrides else group
        if key not in self._cache:
            self._cache[key] = self._resolve(real, home.param_groups[group])
        return self._cache[key]

    def _resolve(self, param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        module = self._module
        values = dict(module.defaults)
        if found := given(group, module):
            values.update(settled(type(module), found))
        return values | module.overrides.values(param)


def given(group: Mapping[str, Any], module: Configured) -> dict[str, Any]:
    """The settings of a module that a parameter group gives a value to."""
    paths, betas = "." in "".join(map(str, group)), "betas" in group
    names = [n for n in module.defaults if paths or n in group or (betas and n in BETAS)]
    return {n: value for n in names if (value := find(group, module, n)) is not MISSING}


def check_group(
    group: Mapping[str, Any], modules: Iterable[Configured], before: Mapping[str, Any] | None = None
) -> None:
    """Refuse values that a parameter group may not give to a module.

    Args:
        group: the group.
        modules: of the chain.
        before: the group when it was last checked; then only what has changed is looked at, and no tensor of an
            accelerator is, since its value may have to be waited for.

    Raises:
        ValueError: naming the setting, its value and what it may be.
    """
    new = group
    if before is not None:
        known = before if before.keys() <= group.keys() else {}  # what is gone may uncover a value
        new = {k: v for k, v in group.items() if k != "params" and _is_new(v, known.get(k, MISSING))}
    if "lr" in new:
        value = plain(new["lr"])
        check_kind("lr", value, float, WHERE)
        check_range("lr", value, LR_RANGE, WHERE)
    if "betas" in new:
        _check_betas(new["betas"])
    names = {key.rsplit(".", 1)[-1] for key in new}
    if "betas" in names:
        names |= BETAS.keys()
    for module in modules:
        if names.isdisjoint(module.defaults):
            continue
        if found := given(new, module):
            validate(module, found, WHERE, found if new is group else given(group, module))


def _is_new(value: Any, old: Any) -> bool:
    """Whether a value has to be looked at: a tensor may have been written to, and only one here can be read at once."""
    return value.device.type == "cpu" if isinstance(value, Tensor) else value is not old


def _check_betas(value: Any) -> None:
    """Refuse what is no pair of numbers; their ranges are those of the modules."""
    if not isinstance(value, (tuple, list)) or not value:
        raise ValueError(f"{WHERE}betas={value!r} must be a pair of numbers, as in betas=(0.9, 0.999).")
    for number in value:
        if not isinstance(number, Tensor):
            check_kind("betas", plain(number), float, WHERE)


#: The beginning of the sentence about a bad value of a group.
WHERE = "a parameter group: "


def unknown_keys(keys: Iterable[Any], modules: Iterable[Configured]) -> list[Any]:
    """Those keys of a group that no module of the chain knows."""
    keys = list(keys)
    if not keys:
        return []
    modules = list(modules)
    names = {name for m in modules for name in m.defaults} | FOREIGN_KEYS
    paths = [f".{m.path}.{name}" for m in modules for name in m.defaults]
    return [key for key in keys if not _is_known(str(key), names, paths)]


#: Before the name of a setting: where a schedule keeps what it was at first. A setting's own name may begin so too.
INITIAL = "initial_"


def _is_known(key: str, names: set[str], paths: list[str]) -> bool:
    spellings = (key, key.removeprefix(INITIAL))
    return any(k in names or ("." in k and any(path.endswith(f".{k}") for path in paths)) for k in spellings)
