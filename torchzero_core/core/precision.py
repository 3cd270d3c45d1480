"""In what state is kept where somebody asks for another dtype than that of the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch

from ..lang import near

#: A dtype, its name, or either for each of some modules and states by their paths.
StateDtype: TypeAlias = torch.dtype | str | Mapping[str, torch.dtype | str] | None
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def as_dtype(dtype: Any) -> torch.dtype:
    """A dtype from its name, as YAML spells it.

    Args:
        dtype: itself or its name.

    Raises:
        ValueError: state cannot be kept in it.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found not in DTYPES:
        raise ValueError(
            f"state_dtype={dtype!r} is no dtype that state can be kept in: bfloat16, float16, float32 or float64."
        )
    return found


class Precision:
    """The dtypes that declared states are kept in.

    A state that is like its parameter, or a ring of such, may have any; counts, and numbers per tensor or slice, have
    float32 at least whatever is asked.

    Args:
        given: a dtype for all, or by path: "Adam" for all states of a module, "Adam.exp_avg" for one.
        modules: every module of the chain.

    Raises:
        ValueError: a path that no module has, a state that has to be as it is, or something that is no dtype.
    """

    def __init__(self, given: StateDtype, modules: Iterable[Any]) -> None:
        self.given = given
        self._all = None if given is None or isinstance(given, Mapping) else as_dtype(given)
        self._some = {path: as_dtype(d) for path, d in given.items()} if isinstance(given, Mapping) else {}
        if not self._some:
            return
        known: dict[str, bool] = {}
        for module in modules:
            slots = getattr(module, "slots", {})
            known[module.path] = any(slot.free for slot in slots.values())
            known.update({f"{module.path}.{name}": slot.free for name, slot in slots.items()})
        for path in self._some:
            if path not in known:
                raise ValueError(f"state_dtype: no module or state of the chain is {path!r}{near(str(path), known)}")
            if not known[path]:
                raise ValueError(
                    f"state_dtype: {path!r} declares no state like its parameters, which alone can have another dtype."
                )

    def asked(self, path: str, name: str) -> torch.dtype | None:
        """The dtype that was asked for; None: that of the parameter.

        Args:
            path: of the module.
            name: of the state.
        """
        return self._some.get(f"{path}.{name}", self._some.get(path, self._all))
