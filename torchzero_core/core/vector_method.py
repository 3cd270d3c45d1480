"""Methods that see all parameters as one vector: quasi-Newton, Newton, conjugate gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from ..distributed import Reductions
from .evaluate import uniform_settings
from .module import Module, Modules
from .same_params import same_params
from .state import ScopedState
from .var import Var

#: A vector of so many elements may be made on the way: that is faster than to go by its pieces.
SMALL = 1 << 18
#: What the state of a vector keeps when it starts anew: who is part of it.
MEMBERSHIP = ("epoch", "members")


def at_hand(tensor: Tensor) -> bool:
    """Whether asking for the values of a tensor makes nobody wait.

    Args:
        tensor: of any kind.
    """
    return tensor.is_cpu


def told(condition: Tensor) -> bool | None:
    """The value of a condition where asking for it makes nobody wait; None on an accelerator.

    Args:
        condition: a truth value.
    """
    return bool(condition) if at_hand(condition) else None


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """The elements of tensors as one vector on the device of the first; a single tensor may share its memory."""
    if len(tensors) == 1:
        return tensors[0].detach().reshape(-1)
    try:
        return _flatten_dense_tensors(tensors).detach()  # one call for all of them
    except RuntimeError:  # they are on several devices
        return torch.cat([t.detach().reshape(-1).to(tensors[0].device) for t in tensors])


class Curvature(Protocol):
    """A Hessian as a linear operator, such as a ``linalg.SymmetricOperator``."""

    def __matmul__(self, v: Tensor) -> Tensor: ...

    @property
    def dense(self) -> Tensor:
        """The matrix."""

    @property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Its eigenvalues, ascending, and eigenvectors."""

    def definite_solve(self, x: Tensor) -> Tensor | None:
        """The solution d of Bd = x where B is positive definite, else None."""

    def solve(self, x: Tensor, shift: Tensor) -> Tensor:
        """The solution d of (B + diag(shift)) d = x."""


@dataclass(eq=False)
class Unit:
    """The parameters that are one vector in a step, with their settings and state.

    Where the parameters are shards, each rank has its own piece of the vector, and what it knows of the whole are sums
    (:meth:`total`, :meth:`dot`, :meth:`numel`). A method with a matrix over all elements gathers instead: the vectors
    are then the whole ones on every rank, and so are the sums.

    Attributes:
        places: where the parameters stand among those of the step.
        params: the parameters.
        settings: their settings.
        state: their state.
        reductions: what the ranks exchange.
        concat: whether these are all parameters of the step.
        gathers: whether vectors are whole on every rank.
        given: what :meth:`VectorMethod.prepare` returned.
        update: the update as a vector.
        unsure: what :meth:`VectorMethod.learn` returned.
        seen: what :meth:`VectorMethod.learn` has found on the way for :meth:`VectorMethod.apply`.
    """

    places: Sequence[int]
    params: Sequence[Tensor]
    settings: Mapping[str, Any]
    state: ScopedState
    reductions: Reductions
    concat: bool = True
    gathers: bool = False
    given: Any = None
    update: Tensor | None = None
    unsure: Tensor | bool = False
    seen: Any = None
    _start: int = 0

    # -- to a vector and back ----------------------------------------------------------------------------------------
    def pick(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors of this unit's parameters out of those of all."""
        return [tensors[i] for i in self.places]

    def pieces(self, vector: Tensor) -> list[Tensor]:
        """Views of this rank's part of a vector, shaped like the parameters."""
        if len(self.params) == 1:
            return [vector.view(self.params[0].shape)]
        if all(map(Tensor.numel, self.params)):
            return list(_unflatten_dense_tensors(vector, self.params))
        pieces = vector.split(list(map(Tensor.numel, self.params)))
        return [piece.view(p.shape) for piece, p in zip(pieces, self.params, strict=True)]

    def vector(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors like the parameters as one vector, in float32 at least; a single one may share its memory."""
        vector = _flat(tensors)
        if vector.dtype is not torch.float32 and vector.dtype is not torch.float64:
            vector = vector.to(torch.promote_types(vector.dtype, torch.float32))
        if self.gathers:
            vector, self._start = self.reductions.gather(vector)
        return vector

    def tensors(self, vector: Tensor) -> list[Tensor]:
        """A vector as tensors like the parameters; those of the same dtype share its memory."""
        if self.gathers:
            vector = vector.narrow(0, self._start, sum(p.numel() for p in self.params))
        pieces = self.pieces(vector)
        dtype, device = vector.dtype, vector.device
        return [
            piece if p.dtype is dtype and p.device == device else piece.to(device=p.device, dtype=p.dtype)
            for piece, p in zip(pieces, self.params, strict=True)
        ]

    def point(self, out: Tensor) -> Tensor:
        """The parameters, written into a vector."""
        if self.gathers or out.numel() <= SMALL:
            return out.copy_(self.vector(self.params))
        torch._foreach_copy_(self.pieces(out), list(self.params))
        return out

    def step_from(self, previous: Tensor) -> Tensor:
        """The parameters less a vector, in the memory of that vector."""
        if self.gathers or previous.numel() <= SMALL:
            return torch.sub(self.vector(self.params), previous, out=previous)
        torch._foreach_sub_(self.pieces(previous), list(self.params))
        return previous.neg_()

    # -- of all ranks ------------------------------------------------------------------------------------------------
    def total(self, value: Tensor) -> Tensor:
        """The sum over shards of a sum, or of several, that each shard has over its own elements."""
        return value if self.gathers else self.reductions.sum_scalar(value)

    def largest(self, value: Tensor) -> Tensor:
        """The largest over shards."""
        return value if self.gathers else self.reductions.max_scalar(value)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """The inner product of two vectors."""
        return self.total(torch.dot(a, b))

    def dots(self, *pairs: tuple[Tensor, Tensor], dtype: torch.dtype) -> Sequence[Tensor] | Sequence[float]:
        """Inner products of vectors: plain numbers where nobody has to wait for them.

        Args:
            pairs: the vectors.
            dtype: that of the tensors, where they are no plain numbers.
        """
        found = [torch.dot(a, b) for a, b in pairs]
        if not at_hand(found[0]):
            return self.total(torch.stack(found)).to(dtype).unbind()
        if type(self.reductions) is Reductions or self.gathers:
            return [dot.item() for dot in found]
        numbers: list[float] = self.total(torch.stack(found)).tolist()  # in one exchange
        return numbers

    def numel(self) -> int:
        """The number of elements."""
        n = sum(p.numel() for p in self.params)
        if type(self.reductions) is Reductions:
            return n
        return int(self.reductions.sum_scalar(torch.tensor(float(n), dtype=torch.float64, device="cpu")))


def units_of(
    module: Module, var: Var, *, concat: bool = True, gathers: bool = False, starts_anew: bool = True
) -> list[Unit]:
    """What a module works on: all parameters as one vector, or each for itself where ``concat_params`` is False.

    Parameters without elements are not worked on for themselves.

    Args:
        module: the module. Its settings hold for a whole vector.
        var: the step, with its gradients.
        concat: which of the two where the module has no setting ``concat_params``.
        gathers: whether every rank needs the whole vector and not only its shard.
        starts_anew: forget what is known of the one vector when another set of parameters has gradients.

    Raises:
        ValueError: settings that differ between the parameters of one vector.
    """
    params = var.params
    if not any(p.numel() for p in params):
        return []
    if "concat_params" in module.defaults:
        concat = uniform_settings(module, params, ["concat_params"])["concat_params"]
    if not concat:
        return [
            Unit([i], [p], module.settings[p], module.state[p], Reductions(), concat=False)
            for i, p in enumerate(params)
            if p.numel()
        ]
    settings, state = uniform_settings(module, params), module.global_state
    if starts_anew and not same_params(module, params):
        for key in [k for k in state if k not in MEMBERSHIP]:
            del state[key]
    reductions = reductions_of(var)
    gathers = gathers and type(reductions).gather is not Reductions.gather
    return [Unit(range(len(params)), params, settings, state, reductions, gathers=gathers)]


def reductions_of(var: Var) -> Reductions:
    """What the ranks of a step exchange."""
    return Reductions() if var.modular is None else var.modular.distributed


def inner_update(module: Module, var: Var) -> list[Tensor] | None:
    """What the child "inner" makes of a copy of the update; None without the child.

    Args:
        module: the module.
        var: the step; it learns which losses and gradients the child evaluated.
    """
    if "inner" not in module.children:
        return None
    return var.run_inner(module.children["inner"])


class VectorMethod(Module):
    """Base class of methods that see all parameters as one vector.

    A subclass defines :meth:`learn`, called once a step with the update, and :meth:`apply`, which transforms a vector
    with what was learnt. They are separable: whoever runs such a method may call :meth:`learn_from` once and
    :meth:`apply` as often as it likes.

    This class takes care of settings that must be the same for all parameters, of starting anew when another set of
    parameters has gradients, of dtypes (vectors are in float32 at least), of shards, of the first step's length and of
    the child ``inner``. With a setting ``concat_params`` that is False, each parameter is a vector of its own.

    Args:
        defaults: the settings.
        inner: a module that gives what is transformed; the method learns from the plain update.

    Raises:
        ValueError: settings that differ between the parameters of one vector.

    Example:
        >>> import torch, torchzero_core as tz
        >>> from torchzero_core.core.vector_method import VectorMethod
        >>> class BarzilaiBorwein(VectorMethod):
        ...     def learn(self, unit, u):
        ...         state = unit.state
        ...         if first := "x" not in state:
        ...             state.update(x=unit.point(torch.empty_like(u)), g=u.clone(), size=torch.ones(()))
        ...         s, y = unit.step_from(state["x"]), u - state["g"]
        ...         if not first:
        ...             state["size"] = unit.dot(s, y) / unit.dot(y, y)
        ...         unit.point(state["x"])
        ...         state["g"].copy_(u)
        ...         return first
        ...
        ...     def apply(self, unit, x):
        ...         return x * unit.state["size"]
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], BarzilaiBorwein())
        >>> for _ in range(5):
        ...     p.grad = torch.tensor([1.0, 4.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-3)
        True
    """

    #: Whether each rank needs the whole vector: the method has a matrix over all elements. Sums are not enough then.
    gathers: ClassVar[bool] = False
    #: Whether it has to forget everything when another set of parameters has gradients.
    starts_anew: ClassVar[bool] = True
    one_piece = True
    size_effect = "direction"
    #: The names of the state that runs over the vector in its last dimension. Anybody may cast it, or the parameters.
    vectors: ClassVar[tuple[str, ...]] = ()

    def __init__(self, defaults: Mapping[str, Any] | None = None, inner: Modules | None = None) -> None:
        super().__init__(defaults)
        if inner is not None:
            self.set_child("inner", inner)

    # -- what a method defines ---------------------------------------------------------------------------------------
    def prepare(self, var: Var) -> Any:
        """What the method evaluates before the update is asked for, such as a Hessian; it is found in ``unit.given``.

        Args:
            var: the step.
        """
        return None

    def learn(self, unit: Unit, u: Tensor) -> Tensor | bool:
        """Take in the present parameters and update.

        Args:
            unit: the parameters of one vector, their settings and state.
            u: their update as a vector. It may be kept only as a copy.

        Returns:
            Whether the method knows nothing of the curvature yet: the direction is then multiplied by 1/max(1, ‖u‖₁).
            A truth value, on the device where it would have to wait for one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no learn(unit, u).")

    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """The direction for a vector. It changes nothing of what is known.

        Args:
            unit: the parameters of one vector, their settings and state.
            x: the vector; it may be overwritten.
        """
        raise NotImplementedError(f"{type(self).__name__} has no apply(unit, x).")

    def curvature(self, unit: Unit) -> Curvature:
        """The Hessian, or what the method takes for it, as a linear operator; a trust region asks for it.

        Args:
            unit: the parameters of one vector, as :meth:`learn_from` returned them.

        Raises:
            TypeError: the method has none.
        """
        raise TypeError(
            f"{self.path} has no Hessian to hand out; a method that has one, such as BFGS, SR1, LBFGS, Newton or "
            "NewtonCG, goes there."
        )

    def finish(self, unit: Unit, direction: Tensor) -> Tensor:
        """What becomes of the direction at the end of the step; nothing unless overridden.

        Args:
            unit: the parameters of one vector, their settings and state.
            direction: the direction; it may be overwritten.
        """
        return direction

    # -- the step ----------------------------------------------------------------------------------------------------
    def learn_from(self, var: Var, *, again: bool = True) -> list[Unit]:
        """Learn from a step and change nothing of it.

        Args:
            var: the step.
            again: False: the parameters are where they were when the method has learnt last, since the step was
                rejected, so what it knows already is all there is.

        Returns:
            The vectors, to be handed to :meth:`apply`; none where no parameter has a gradient.
        """
        if not var.params:
            return []
        given, update = self.prepare(var), var.get_update()
        units = units_of(self, var, gathers=self.gathers, starts_anew=self.starts_anew)
        for unit in units:
            unit.given, unit.update = given, unit.vector(unit.pick(update))
            self._fit(unit, unit.update)
            if again or not unit.state.keys() - set(MEMBERSHIP):
                unit.unsure = self.learn(unit, unit.update)
        return units

    def _fit(self, unit: Unit, u: Tensor) -> None:
        """Bring the state of a vector to a dtype or device that has changed since the last step.

        Raises:
            ValueError: the number of elements has changed.
        """
        state = unit.state
        for name in self.vectors:
            if name not in state or not isinstance(value := state.peek(name), Tensor):
                continue
            if value.shape[-1:] != u.shape:
                raise ValueError(
                    f"{self.path} keeps {name!r} for {value.shape[-1] if value.ndim else 1} elements, and the "
                    f"parameters have {u.numel()} now; forget it with the module's reset()."
                )
            if value.dtype is not u.dtype or value.device != u.device:
                unit.state[name] = value.to(u.device, u.dtype)

    def step(self, var: Var) -> Var:
        """Learn from the update and replace it by the direction."""
        units = self.learn_from(var)
        if not units:
            return var
        scales = [self._first_scale(unit) for unit in units]
        var.guessed = units[0].unsure if len(units) == 1 else all(unit.unsure is True for unit in units)
        inner = inner_update(self, var)
        out = list(var.get_update())
        for unit, scale in zip(units, scales, strict=True):
            assert unit.update is not None
            direction = self.apply(unit, unit.update if inner is None else unit.vector(unit.pick(inner)))
            if scale is not None:
                direction.mul_(scale.to(direction.dtype))
            direction = self.finish(unit, direction)
            for place, tensor in zip(unit.places, unit.tensors(direction), strict=True):
                out[place] = tensor
        var.update = out
        return var

    def _first_scale(self, unit: Unit) -> Tensor | None:
        """1/max(1, ‖u‖₁) where nothing is known of the curvature."""
        if unit.unsure is False:
            return None
        assert unit.update is not None
        scale = 1 / unit.total(unit.update.abs().sum()).clamp(min=1.0)
        return scale if unit.unsure is True else torch.where(unit.unsure, scale, 1.0)
