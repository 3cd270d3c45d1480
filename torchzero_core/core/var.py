"""The context of one step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import clones, copy_all
from ..engine.layout import MemoryCheck
from ..engine.params import Params
from .closure import Closure, CountedClosure, WrappedClosure, detached
from .graph_grads import graph_grads
from .graphless import Graphless
from .home import Home, StepInfo


class NoGraph(RuntimeError):
    """Gradients are to be differentiable, and the loss has no graph."""


class Var:
    """Parameters, gradients, update, loss and closure of one step. Everything is evaluated at most once and kept.

    Attributes:
        params: the parameters that take part. Those without a gradient leave the list when gradients are asked for.
        closure: ``closure(backward=True)``, or None. A module may wrap it for the modules after it. ``closure(False)``
            returns a loss that can be differentiated only ``with torch.enable_grad()``.
        model: the model the optimizer was given, or None.
        current_step: number of the step, 0 at the first.
        modular: the optimizer.
        info: the outcome so far; see :class:`StepInfo`.
        loss: the loss at the start of the step, where it was evaluated.
        loss_approx: an estimate of it where only that is known, else the loss.
        writable: whether the update may be overwritten.
        guessed: whether the length of the update is a guess, since its method knows nothing of the curvature yet.
        stop: a module sets it to end the chain here.
        skip_update: a module sets it when it has moved the parameters itself.
        nested: whether this is the context of a child.
        copies_grads: whether gradients are copied when they are taken, because a module may call the closure again:
            closures may write the next gradients into the same memory.
        changes_grads: whether the closure's gradients are others than those of the loss that it returns, because a
            module has put it there that changes them.
    """

    _family: list[Var] | None = None  # the other contexts of the same step
    _loss_approx: Any = None
    guessed: bool | Tensor = False
    _evaluated = False  # whether the gradients are those that the closure has computed

    def __init__(
        self,
        params: Params,
        closure: Closure | None,
        model: nn.Module | None,
        current_step: int,
        modular: Home | None = None,
    ) -> None:
        self.params = params
        self.model = model
        self.current_step = current_step
        self.modular = modular
        self._closure = closure
        self.info = StepInfo()
        self.loss: Tensor | None = None
        self._grad: list[Tensor] | None = None
        self._update: list[Tensor] | None = None
        self.writable = False
        self.stop = False
        self.skip_update = False
        self.nested = False
        self.copies_grads = False
        self.changes_grads = False

    # -- gradient and loss -------------------------------------------------------------------------------------------
    @property
    def closure(self) -> Closure | None:
        """``closure(backward=True)``, or None."""
        return self._closure

    @closure.setter
    def closure(self, value: Closure | None) -> None:
        if value is None or value is self._closure or isinstance(value, (CountedClosure, WrappedClosure)):
            self._closure = value
            return
        self._closure = WrappedClosure(value, Graphless() if self.modular is None else self.modular.graphless)
        if self._evaluated and self._update is None:  # by the other one, and nobody has used it yet
            self.loss = self._grad = None

    def wrap_closure(self, closure: Closure) -> None:
        """Replace the closure for the modules after this one; what has been evaluated stays as it is.

        Args:
            closure: the new one; it is run as it is.
        """
        self._closure = closure

    @property
    def loss_approx(self) -> Any:
        """An estimate of the loss where only that is known, else the loss."""
        return self.loss if self._loss_approx is None else self._loss_approx

    @loss_approx.setter
    def loss_approx(self, value: Any) -> None:
        self._loss_approx = value

    def let_go(self) -> None:
        """Let go of the closure, which may hold contexts and the batch in turn: nothing of it outlives the step."""
        for var in (self, *(self._family or ())):
            var.drop_closure()
        self._family = None

    def drop_closure(self) -> None:
        """Let go of the closure in this context."""
        self._closure = None

    @property
    def grad(self) -> list[Tensor] | None:
        """The gradients if they were evaluated; setting them replaces what later modules see."""
        return self._grad

    @grad.setter
    def grad(self, value: Sequence[Tensor] | None) -> None:
        self._grad = None if value is None else list(value)
        self._evaluated = False

    def get_loss(self, backward: bool = False) -> Tensor:
        """The loss at the start of the step.

        Args:
            backward: compute the gradients in the same evaluation.

        Raises:
            RuntimeError: the step was given no closure.
            TypeError: the closure returned no number.
        """
        if self.loss is None or (backward and self._grad is None):
            loss = self._evaluate(backward)
            if self.loss is None:
                self.loss = detached(loss)
        return self.loss

    def _evaluate(self, backward: bool) -> Any:
        if self._closure is None:
            raise RuntimeError("This chain needs the loss, so step(closure) needs a closure that evaluates it.")
        loss = self._closure(backward)
        if backward:
            self.take_grads()
            self._evaluated = True
        return loss

    def get_grad(self, retain_graph: bool | None = None, create_graph: bool = False) -> list[Tensor]:
        """The gradients of ``params``; read them only.

        Args:
            retain_graph: keep the graph for another backward pass.
            create_graph: make the gradients differentiable; the closure is then evaluated without ``backward``.

        Raises:
            RuntimeError: ``create_graph`` without a closure, or the loss has no graph.
        """
        if create_graph and (self._grad is None or not any(g.requires_grad for g in self._grad)):
            if self.closure is None:
                raise RuntimeError("Differentiable gradients need a closure; call step(closure).")
            with torch.enable_grad():
                loss = self.closure(False)
                if not isinstance(loss, Tensor) or not loss.requires_grad:
                    raise NoGraph(
                        "Differentiable gradients need the graph of the loss, but closure(backward=False) returned a "
                        "loss without one: compute it from the parameters and return it undetached, and call "
                        "loss.backward() only if backward is true."
                    )
                grads = graph_grads(loss, self.params, create_graph=True, retain_graph=retain_graph)
            self.narrow(list(grads))
            if self.loss is None:
                self.loss = detached(loss)
        elif self._grad is None:
            if self._closure is None:
                self.take_grads()
            else:
                loss = self._evaluate(True)
                if self.loss is None and loss is not None:  # who needs the loss asks for it
                    self.loss = detached(loss)
        return self._grad  # type: ignore[return-value]

    def take_grads(self) -> None:
        """The gradients are those that lie in ``p.grad``."""
        self.narrow([p.grad for p in self.params])
        if self._grad is not None:
            derived = self._interned().derived
            if "gradients" not in derived:
                derived["gradients"] = MemoryCheck("gradient")
            derived["gradients"](self._grad)
        if self.copies_grads and self.closure is not None and self._grad is not None:
            self._grad = clones(self._grad)

    def narrow(self, grads: list[Tensor | None]) -> None:
        """Keep the parameters that have a gradient: the others stay untouched in this step.

        Args:
            grads: the gradients of all parameters.

        Raises:
            RuntimeError: one of them is sparse.
        """
        for g in grads:
            if g is None or g.is_sparse:
                break
        else:
            self._grad = grads  # type: ignore[assignment]
            return
        for p, g in zip(self.params, grads, strict=True):
            if g is not None and g.is_sparse:
                raise RuntimeError(
                    f"A parameter of shape {tuple(p.shape)} has a sparse gradient, which no module can use; build its "
                    "layer with sparse=False, or give it to torch.optim.SparseAdam."
                )
        if self._update is not None:
            self._update = [u for u, g in zip(self._update, grads, strict=True) if g is not None]
        self.params = self.part(i for i, g in enumerate(grads) if g is not None)
        self._grad = [g for g in grads if g is not None]

    # -- update ------------------------------------------------------------------------------------------------------
    @property
    def update(self) -> list[Tensor] | None:
        """What will be subtracted from the parameters; None while it is still the gradient."""
        return self._update

    @update.setter
    def update(self, value: Sequence[Tensor] | None) -> None:
        self._update = None if value is None else list(value)
        self.writable = value is not None

    def set_update(self, value: list[Tensor], *, writable: bool) -> None:
        """Set the update where it may be that others still need the tensors.

        Args:
            value: the new update.
            writable: whether modules after this one may overwrite it.
        """
        self._update, self.writable = value, writable

    @property
    def settled(self) -> bool:
        """Whether the parameters need no update any more: they were moved, or stay where they are."""
        return self.skip_update or (self.stop and self._update is None)

    def peek_update(self) -> list[Tensor]:
        """The update for reading only: it may be the gradients themselves."""
        return self.get_grad() if self._update is None else self._update

    def get_update(self) -> list[Tensor]:
        """The update, which you may overwrite; the gradients are copied the first time."""
        if self._update is None or not self.writable:
            source = self.peek_update()
            if self.modular is not None and not self.nested:
                self._update = self.scratch("update")
                copy_all(self._update, source) if source else None
            else:
                self._update = [t.clone() for t in source]
            self.writable = True
        return self._update

    # -- for modules that run others ---------------------------------------------------------------------------------
    def part(self, places: Iterable[int]) -> Params:
        """The parameters at some places; the same list for the same ones.

        Args:
            places: their positions.
        """
        params = self.params
        return self._interned().part([params[i] for i in places])

    def scratch(self, name: str) -> list[Tensor]:
        """Tensors like the parameters for a module to write into; their memory, not their content, is kept.

        Args:
            name: what for, with the module's path where it is for that module alone.
        """
        return self._interned().scratch(name)

    def _interned(self) -> Params:
        params: list[Tensor] = self.params
        if isinstance(params, Params):
            return params
        # A module of a user has set another kind of list.
        return Params(params) if self.modular is None else self.modular.all_params.part(params)

    def fork(self, params: Params, update: list[Tensor] | None, grad: list[Tensor] | None, *, writable: bool) -> Var:
        """A context for a child that works on other tensors in the same step: with this loss, closure and outcome.

        Args:
            params: the child's parameters.
            update: what it starts from; None where that is the gradient.
            grad: its gradients, if they are known.
            writable: whether it may overwrite the update.
        """
        other = Var(params, self._closure, self.model, self.current_step, self.modular)
        self.tell(other)
        other._update, other._grad, other.writable = update, grad, writable and update is not None
        return other

    def tell(self, other: Var) -> None:
        """Make another context that of a child: with what is known of the loss and with the same outcome."""
        other.info, other.loss, other._loss_approx, other.nested = self.info, self.loss, self._loss_approx, True
        other.copies_grads, other.changes_grads = self.copies_grads, self.changes_grads
        if self._closure is not None:
            if self._family is None:
                self._family = []
            other._family = self._family
            other._family.append(other)

    def clone(
        self, update: Sequence[Tensor] | None = None, *, clone_update: bool = True, params: Params | None = None
    ) -> Var:
        """A context for a child: shares everything but the update.

        Args:
            update: what the child starts from; it becomes the child's to overwrite. None: a copy of the own update.
            clone_update: False: without an ``update``, the child gets the own one itself and not a copy.
            params: the child's parameters when they are others.
        """
        own = self._update if update is None else list(update)
        if own is not None and update is None:
            own = [t.clone() for t in own] if clone_update else list(own)
        mine = update is not None or clone_update or self.writable
        other = self.fork(self.params if params is None else params, own, self._grad, writable=mine)
        other.stop, other.skip_update = self.stop, self.skip_update
        return other

    def select(self, places: Sequence[int]) -> Var:
        """A context for some of the parameters. Where the update is still the gradient, it is that for the child too.

        Args:
            places: their positions.
        """
        update, grad = self._update, self._grad
        return self.fork(
            self.part(places),
            None if update is None else [update[i] for i in places],
            None if grad is None else [grad[i] for i in places],
            writable=self.writable,
        )

    def absorb(self, child: Var, places: Sequence[int] | None = None) -> None:
        """Learn from a child's context what it evaluated, and whether it has ended the step; not its update.

        Args:
            child: the context that the child has returned.
            places: the positions of its parameters where it had not all of them. Then the step goes on for the others.
        """
        if self.loss is None:
            self.loss = child.loss
        if self._loss_approx is None:
            self._loss_approx = child._loss_approx
        if places is None:
            if self._grad is None and child._grad is not None and len(child.params) == len(self.params):
                self._grad = child._grad
            self.stop |= child.stop
            self.skip_update |= child.skip_update

    def absorb_parts(self, children: Iterable[tuple[Var, Sequence[int]]]) -> None:
        """Take what children have made of the parts of the update that they were given by :meth:`select`.

        Parameters that a child has moved, or that it leaves where they are, do not take part in the step any more.

        Args:
            children: the contexts that they have returned, and the positions of their parameters. Where this is a
                generator, a child knows which loss those before it have evaluated.
        """
        update = list(self.peek_update())
        writable = [self.writable] * len(update)
        moved: set[int] = set()
        for child, places in children:
            self.absorb(child, places)
            if child.settled:
                moved.update(places)
                continue
            stayed = places
            if len(child.params) < len(places):  # a module inside it has moved the others
                left = set(map(id, child.params))
                stayed = [i for i in places if id(self.params[i]) in left]
                moved.update(set(places).difference(stayed))
            for i, u in zip(stayed, child.peek_update(), strict=True):
                update[i], writable[i] = u, child.writable
        if moved:
            rest = [i for i in range(len(update)) if i not in moved]
            self.params = self.part(rest)
            self._grad = None if self._grad is None else [self._grad[i] for i in rest]
            update, writable = [update[i] for i in rest], [writable[i] for i in rest]
        self.update = [u if mine else u.clone() for u, mine in zip(update, writable, strict=True)]

    def run_inner(self, module: Any) -> list[Tensor]:
        """What a module makes of a copy of the update, which itself stays as it is.

        Args:
            module: a child of the module that asks; what it evaluates is known from now on.
        """
        child = module.step(self.clone())
        _check_complete(child, module, len(self.params))
        self.absorb(child)
        return child.get_update()

    def run_child(self, module: Any, inputs: dict[int, Tensor]) -> dict[int, Tensor]:
        """The result of a module on some updates, by the position of the parameter.

        Args:
            module: a module that is no rule.
            inputs: its update; it gets copies.
        """
        places = sorted(inputs)
        whole = len(places) == len(self.params)
        child = self.select(places)
        child.update = [inputs[i].clone() for i in places]
        child.stop, child.skip_update = self.stop, self.skip_update
        if not self.stop:  # one before it has ended the step, and the result is not used
            child = module.step(child)
            _check_complete(child, module, len(places))
        self.absorb(child, None if whole else places)
        return dict(zip(places, child.peek_update(), strict=True))


def _check_complete(child: Var, module: Any, number: int) -> None:
    """Refuse a result that lacks the update of parameters for which the step has ended.

    Raises:
        RuntimeError: naming the module.
    """
    if len(child.params) != number:
        raise RuntimeError(
            f"{module.path} gives an update for {len(child.params)} of {number} parameters: for the others something "
            "in it has ended the step, such as a GradientAccumulation that waits or an optimizer that moves parameters "
            "itself. Nothing can be computed with that. Put it into the chain itself, or give GradientAccumulation "
            "stop=False."
        )
