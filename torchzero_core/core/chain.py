"""Modules in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from .module import Module, Modules

if TYPE_CHECKING:
    from .segment import Segment
    from .transform import Transform
    from .var import Var

Part: TypeAlias = "Module | Segment"


class Chain(Module):
    """Runs modules one after another; neighbouring rules run together as one segment.

    Args:
        *modules: the modules in order.
    """

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            self.set_child(str(i), module)
        self._parts: list[Part] | None = None

    @property
    def requires_closure(self) -> bool:  # type: ignore[override]
        """Whether any module in it needs a closure."""
        return any(m.requires_closure for m in self.children.values())

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether its first module needs the gradient."""
        return next((m.needs_gradient for m in self.children.values()), True)

    def parts(self, *, apply: bool) -> list[Part]:
        """The modules, with each run of rules gathered into a segment.

        Args:
            apply: let a segment that ends the chain move the parameters too.
        """
        from .segment import Segment
        from .transform import is_rule

        out: list[Part] = []
        run: list[Transform] = []
        watched = self._modular is not None and self._modular.watched

        def close() -> None:
            if run:
                out.append(Segment(run.copy(), self._modular, inner=not apply))
                run.clear()

        for module in self.children.values():
            if is_rule(module):
                run.append(module)  # type: ignore[arg-type]
                if watched or not only_rules(module):
                    close()
            else:
                close()
                out.append(module)
        close()
        if apply and out and isinstance(out[-1], Segment) and not watched and only_rules(out[-1].modules[-1]):
            out[-1].apply = True
        return out

    def step(self, var: Var) -> Var:
        """Run the modules in turn."""
        if self._parts is None or var.modular is not self._modular:
            self._parts = self.parts(apply=False)
        return run_parts(self._parts, var)

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_parts": None}

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.children.values()))}]"


def run_parts(parts: Sequence[Part], var: Var) -> Var:
    """Run modules in turn on one step's context."""
    watch = var.modular._watchers if var.modular is not None else ()
    for part in parts:
        if var.stop:
            break
        if part.needs_gradient and var.update is None:
            var.get_grad()
        var = part.step(var)
        if watch and not var.nested:
            for fn in tuple(watch.values()):
                fn(part.path, list(var.peek_update()))
    return var


def only_rules(module: Module) -> bool:
    """Whether a module and all inside it are rules: then nothing in it can end the step or move the parameters."""
    from .transform import is_rule

    return (isinstance(module, Chain) or is_rule(module)) and all(map(only_rules, module.children.values()))


def as_module(module: Modules, where: str = "") -> Module:
    """A module as it is; a list of modules as a chain.

    Raises:
        TypeError: something that is neither, with the place where it stands.
    """
    if isinstance(module, Module):
        return module
    if isinstance(module, (list, tuple)) and module and all(isinstance(m, Module) for m in module):
        return module[0] if len(module) == 1 else Chain(*module)
    hint = f" Did you mean {module.__name__}()?" if isinstance(module, type) and issubclass(module, Module) else ""
    raise TypeError(f"{where or 'A chain'} takes a module or a list of modules, not {module!r}.{hint}")
