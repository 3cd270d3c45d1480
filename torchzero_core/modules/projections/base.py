"""Running modules in another space."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ...core import Chain, Module, Params, Var
from ...core.evaluate import uniform_settings
from ...core.module import Modules
from ...core.naming import unrolled
from ...core.same_params import last_params, same_params
from ...core.stand_ins import stand_for
from ...core.var import NoGraph

Current: TypeAlias = Literal["params", "grads", "update"]


class ProjectedVar(Var):
    """A step's context in the projected space: the gradient is projected when somebody asks for it.

    Args:
        outer: the context outside.
        params: the stand-ins.
        closure: evaluates the loss where the stand-ins are, or None.
        make_grad: projects the gradient.
    """

    def __init__(
        self,
        outer: Var,
        params: Params,
        closure: Callable[..., Any] | None,
        make_grad: Callable[[], list[Tensor]],
    ) -> None:
        super().__init__(params, closure, outer.model, outer.current_step, outer.modular)
        self.own_closure, self.make_grad = closure, make_grad
        outer.tell(self)

    def get_grad(self, retain_graph: bool | None = None, create_graph: bool = False) -> list[Tensor]:
        """The projected gradient.

        Args:
            retain_graph: see :meth:`Var.get_grad`.
            create_graph: not possible here.

        Raises:
            RuntimeError: with ``create_graph``.
        """
        if self.grad is None:
            if create_graph:
                raise NoGraph("The gradient in a projected space has no graph.")
            if self.closure is not self.own_closure:  # a module has put an approximation in its place
                return super().get_grad(retain_graph)
            self.grad = self.make_grad()
        assert self.grad is not None
        return self.grad

    def fork(self, params: Params, update: list[Tensor] | None, grad: list[Tensor] | None, *, writable: bool) -> Var:
        """A context for a child, in the same space."""
        other = ProjectedVar(self, params, self.own_closure, self.make_grad)
        other.closure, other.grad = self.closure, grad  # the same, or it counts as another one
        if update is not None:
            other.set_update(update, writable=writable)
        return other

    def drop_closure(self) -> None:
        """Let go of the closure in this context."""
        super().drop_closure()
        self.own_closure, self.make_grad = None, list

    def select(self, places: Sequence[int]) -> Var:
        """A context for some of the stand-ins."""
        child = super().select(places)
        assert isinstance(child, ProjectedVar)
        child.make_grad = lambda: [self.get_grad()[i] for i in places]
        return child


class Projection(Module):
    """Base class of projections: modules run on another representation of update, gradients and parameters.

    A subclass defines :meth:`project` and :meth:`unproject`. The child modules see stand-ins for the parameters that
    hold the projected parameters and have their own state, which is kept with the real ones.

    Args:
        modules: what runs in the projected space.
        project_update: the modules start from the projected update, and their result, brought back, is the update.
            False: they start from the projected gradient.
        project_params: the modules also get a closure that moves the real parameters to where the stand-ins are, so
            that line searches and the like work in the projected space.
        project_grad: the modules see the projected gradient as the gradient. It is projected when they ask for it in
            any case; this does so at once.
        defaults: settings of a subclass.

    Raises:
        ValueError: settings of the modules that differ between parameter groups that end in one projected tensor.

    Example:
        >>> import torch, torchzero_core as tz
        >>> class Doubled(tz.m.Projection):
        ...     def project(self, tensors, var, current):
        ...         return [2 * t for t in tensors]
        ...
        ...     def unproject(self, tensors, var, current):
        ...         return [t / 2 for t in tensors]
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> p.grad = torch.tensor([0.4, 5.0])
        >>> tz.Modular([p], Doubled(tz.m.ClipValue(1.0))).step()
        >>> p.detach()
        tensor([0.6000, 1.5000])
    """

    #: Whether a projected tensor is made of several parameters, which then take part together or not at all, and must
    #: agree in the settings of the modules. Otherwise :meth:`keeper` says of which it is made.
    joins = True
    one_piece = True
    keeps_place = True

    def __init__(
        self,
        modules: Modules,
        project_update: bool = True,
        project_params: bool = False,
        project_grad: bool = False,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        if not (project_update or project_params or project_grad):
            raise ValueError(
                f"{type(self).__name__} has to project something: one of project_update, project_params and "
                "project_grad must be True."
            )
        super().__init__(defaults)
        self.project_update, self.project_params, self.project_grad = project_update, project_params, project_grad
        self.set_child("modules", modules)

    @property
    def requires_closure(self) -> bool:  # type: ignore[override]
        """Whether the projected closure can be made."""
        return self.project_params

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether the modules start from the gradient; an approximation of it among them makes its own."""
        return not self.project_params or self.children["modules"].needs_gradient

    # -- what a projection defines -----------------------------------------------------------------------------------
    def project(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Into the projected space.

        Args:
            tensors: one for each parameter of ``var``. They are not the projection's to write to.
            var: the step's context.
            current: what the tensors are. With ``project_params`` "grads" are gradients of the loss, and what a search
                in the projected space needs are its gradients there: the transpose of :meth:`unproject`, which differs
                from this where the projection is not orthonormal.

        Returns:
            As many tensors as there are stand-ins; they may share memory with the given ones.
        """
        raise NotImplementedError(f"{type(self).__name__} has no project(tensors, var, current).")

    def unproject(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Back from the projected space.

        Args:
            tensors: one for each stand-in.
            var: the step's context, with the real parameters.
            current: what the tensors are.

        Returns:
            One tensor for each parameter of ``var``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no unproject(tensors, var, current).")

    # -- the step ----------------------------------------------------------------------------------------------------
    def step(self, var: Var) -> Var:
        """Project, run the modules, bring their update back."""
        if not self.project_params:
            self._check_closures()
        source: list[Tensor] | None = None
        if self.needs_gradient or (self.project_update and var.update is not None):
            source = var.peek_update() if self.project_update else var.get_grad()
        if not var.params:
            return var
        if self.joins:
            self._check_groups(var.params)
            if not same_params(self, var.params):
                self.children["modules"].reset()
        fakes = self._stand_ins(var)
        untouched: list[Tensor] = []
        inner = ProjectedVar(
            var,
            fakes,
            self._closure(var, fakes) if self.project_params else None,
            lambda: self._project(_all_grads(var, untouched), var, "grads"),
        )
        if source is not None:
            of_loss = self.project_params and source is var.grad
            projected = self._project(source, var, "grads" if of_loss else "update")
            if var.update is None:  # then the update is still the gradient, there as here
                inner.grad = projected
            else:
                inner.update = projected
        if self.project_grad and source is not None:
            inner.get_grad()
        done = self.children["modules"].step(inner)
        var.absorb(done, [])
        var.stop |= done.stop
        left = set(map(id, untouched))
        places = [i for i, p in enumerate(var.params) if id(p) not in left]
        if done.skip_update:  # the modules have moved the stand-ins themselves
            values = self._listed("unproject", self.unproject([f.detach() for f in fakes], var, "params"))
            if places:
                with torch.no_grad():
                    torch._foreach_copy_([var.params[i] for i in places], [values[i] for i in places])
            var.skip_update = True
            return var
        projected = done.get_update()
        if len(projected) != len(fakes):
            raise RuntimeError(
                f"The modules in {self.path} give an update for {len(projected)} of {len(fakes)} projected tensors: "
                "one of them has moved the others itself, or has found no gradient for them. Put it outside of the "
                "projection."
            )
        update = self._listed("unproject", self.unproject(projected, var, "update"))
        if left:
            grads, var.params = var.get_grad(), var.part(places)
            update, var.grad = [update[i] for i in places], [grads[i] for i in places]
        var.update = update
        return var

    @torch.no_grad()
    def _stand_ins(self, var: Var) -> Params:
        """Tensors that hold the projected parameters and under which the modules keep their state."""
        assert self.home is not None
        source = var.part(range(len(var.params)))
        values = self._listed("project", self.project([p.detach() for p in var.params], var, "params"))
        known: Params | None = source.derived.get(self)
        if known is not None and len(known) == len(values) and all(map(_alike, known, values)):
            torch._foreach_copy_(known, values)
            for tensor in known:
                tensor.grad = None
            return known
        made = source.derived[self] = Params(v.detach().clone().requires_grad_() for v in values)
        first = self.home.all_params[0]
        kept: dict[int, int] = {}
        for i, tensor in enumerate(made):
            keeper = self.keeper(i, var, first)
            number = kept[id(keeper)] = kept.get(id(keeper), -1) + 1
            stand_for(tensor, keeper, f"{self.path}.{number}/")
        return made

    def _project(self, tensors: Sequence[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Projected tensors in memory of their own."""
        foreign = {t.untyped_storage().data_ptr() for t in tensors}
        projected = self._listed("project", self.project(list(tensors), var, current))
        return [t.clone() if t.untyped_storage().data_ptr() in foreign else t for t in projected]

    def _listed(self, method: str, found: Any) -> Any:
        """What a method of a subclass has returned, where it is a list."""
        if found is None or isinstance(found, Tensor):
            raise TypeError(
                f"The {method} of {type(self).__name__} returned {'None' if found is None else 'one tensor'}; it must "
                "return a list of tensors."
            )
        return found

    def inner_params(self, params: Params) -> Params:
        """The stand-ins of the parameters that there is state of."""
        if self.joins:
            known = last_params(self, params)
        else:
            located = [(p, *self.locate(p)) for p in params]
            known = [p for p, store, prefix in located if any(name.startswith(prefix) for name in store)]
        if not known or self.home is None:
            return Params()
        home: Any = self.home
        return self._stand_ins(Var(params.part(known), None, home.model, 0, home))

    def keeper(self, index: int, var: Var, default: Tensor) -> Tensor:
        """The parameter with which the state of a stand-in is kept, and whose group it is in.

        Args:
            index: of the stand-in.
            var: the step's context.
            default: the optimizer's first parameter.
        """
        return default

    def _check_groups(self, params: list[Tensor]) -> None:
        """Refuse settings that differ where they could not be honoured."""
        if self.home is None or len(self.home.param_groups) == 1:
            return
        pending = [self.children["modules"]]
        while pending:
            module = pending.pop()
            pending += module.children.values()
            if not isinstance(module, Chain):
                uniform_settings(module, params)

    def _check_closures(self) -> None:
        """Refuse modules that would evaluate the loss at other points, where that is only possible outside."""
        needy = next((m for m in unrolled(self.children["modules"]) if m.requires_closure), None)
        if needy is not None:
            name = type(self).__name__
            can = "project_params" in inspect.signature(type(self)).parameters
            way = f"give {name} project_params=True" if can else f"{name} only has updates there, so put it behind"
            raise RuntimeError(f"{needy.path} has to evaluate the loss in the projected space: {way}.")

    def _closure(self, var: Var, fakes: list[Tensor]) -> Callable[..., Any]:
        exact = var.closure
        if exact is None:
            raise RuntimeError(f"{self.path} has project_params=True, so step(closure) needs a closure.")
        owners = var.params
        params = [p.detach() for p in owners]  # to be written whether gradients are on or off
        start: list[Tensor] = []

        @torch.no_grad()
        def closure(backward: bool = True) -> Any:
            if not start:
                start.extend(p.clone() for p in params)
                if var.modular is not None:
                    var.modular.transaction.lend(params, start)
            try:
                torch._foreach_copy_(
                    params, self._listed("unproject", self.unproject([f.detach() for f in fakes], var, "params"))
                )
                loss = exact(backward)
                if backward:
                    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in owners]
                    for f, g in zip(fakes, self._project(grads, var, "grads"), strict=True):
                        f.grad = g
                return loss.detach() if isinstance(loss, Tensor) else loss  # its graph does not lead to the stand-ins
            finally:
                torch._foreach_copy_(params, start)

        return closure


def _all_grads(var: Var, untouched: list[Tensor]) -> list[Tensor]:
    """The gradients of the parameters that have stand-ins already; zeros where one has none after all.

    Args:
        var: the step's context.
        untouched: gets the parameters without a gradient.
    """
    everything, grads = var.params, var.get_grad()
    if len(var.params) == len(everything):
        return grads
    known = dict(zip(map(id, var.params), grads, strict=True))
    untouched += [p for p in everything if id(p) not in known]
    var.params = everything
    var.grad = [known[id(p)] if id(p) in known else torch.zeros_like(p) for p in everything]
    return var.grad


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
