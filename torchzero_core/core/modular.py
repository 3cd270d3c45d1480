"""The optimizer: a chain of modules behind the interface of ``torch.optim.Optimizer``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import profiler
from torch.optim.optimizer import Optimizer, _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ..distributed import Reductions, refuse_spread
from ..engine import Segment
from ..engine.layout import check_memory
from ..engine.memory import failed_twice
from ..engine.params import Params
from . import checkpoint, colours, show
from .accidents import is_accident
from .advice import advise, order
from .blank import asks_for_state, blank_closure
from .closure import Closure, CountedClosure, Evaluations, Habits, warn_of_lightning
from .graphless import Graphless
from .groups import check_new_group, checked_params, default_values, named_alike
from .home import StepInfo
from .mistakes import check_closure, check_params, check_seed, explained, switch
from .module import Chain, Module, Modules, as_module
from .module_home import ModuleHome
from .naming import adopt, check_free, release
from .precision import Precision, StateDtype
from .rounding import StochasticRounding
from .var import Var
from .watch import AfterEach, Look, Watcher, WatchHandle


class Modular(ModuleHome, Optimizer):
    """An optimizer made of modules.

    The first module gets the gradient, each later one the update of the one before, and in the end the parameters
    move by the last update: p ← p − u.

    It is a torch optimizer in every respect: schedulers, hooks, ``state_dict``, ``copy.deepcopy``, ``pickle``,
    ``add_param_group``. Each parameter group has an ``"lr"``: that of the :class:`~torchzero_core.m.LR` module, or 1
    where the chain has none or several that differ; it then scales the final update. Each setting of each module can
    be overridden by a key of a group, for one module with its path ("Adam.beta1").

    Args:
        params: tensors, (name, tensor) pairs, dicts that define groups, or a model.
        *modules: the chain.
        compile: run the rules of the chain as generated kernels. The result is the same to rounding.
        deterministic: the closure is the same function of the parameters at every step (all of the data, no dropout),
            so loss and gradients at the point where a step ended serve as the start of the next one. It saves a line
            search one evaluation a step, and keeps two copies of parameters and gradients. None: find out. It is so
            where everything that the closure refers to can be seen and has not changed, and an evaluation at a known
            point has given the same to the last bit.
        advice: warn of an order of modules that makes one of them useless, and of a chain without a learning rate.
        state_dtype: the dtype of declared state that is like a parameter, as a dtype or by name ("bfloat16"); for some
            modules or states by their paths, ``{"Adam": "float32", "EMA.exp_avg": "bfloat16"}``. None: that of the
            parameter. Counts, numbers per tensor and what modules keep by hand are left alone.
        stochastic_rounding: round new bfloat16 parameters up or down at random, so that small steps are not lost; see
            :class:`~torchzero_core.core.StochasticRounding`. A number is the seed.

    Attributes:
        model: the model, where one was given.
        last_step: the outcome of the last step; see :class:`~torchzero_core.core.StepInfo`.
        distributed: the reductions over ranks; see :mod:`torchzero_core.distributed`.

    Raises:
        ValueError: an empty chain, a duplicate parameter, a group key that no module knows, a value out of range, a
            module that belongs to another optimizer.
        TypeError: something in the chain that is no module.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.ClipValue(1), tz.m.LR(0.1))
        >>> p.grad = torch.tensor([5.0, -0.5])
        >>> optimizer.step()
        >>> p.detach()
        tensor([0.9000, 2.0500])
    """

    #: Called with the optimizer and the closure where the chain evaluates the loss itself; they may refuse the closure.
    closure_guards: ClassVar[list[Callable[[Modular, Closure], None]]] = [warn_of_lightning]

    @explained
    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]] | nn.Module,
        *modules: Modules,
        compile: bool = False,
        deterministic: bool | None = None,
        advice: bool = True,
        state_dtype: StateDtype = None,
        stochastic_rounding: bool | int = False,
    ) -> None:
        check_params(params)
        if not modules:
            raise ValueError(
                "Modular needs at least one module, for example tz.Modular(params, tz.m.Adam(), tz.m.LR(1e-3))."
            )
        self.model: nn.Module | None = params if isinstance(params, nn.Module) else None
        self.compile, self.advice = switch("compile", compile), switch("advice", advice)
        self.deterministic = None
        if deterministic is not None:
            self.deterministic = switch("deterministic", deterministic, "True, False or None")
        self.last_step = StepInfo()
        self.distributed = Reductions()
        self.modules: tuple[Module, ...] = tuple(as_module(m, "Modular") for m in modules)
        self._habits, self.graphless = Habits(), Graphless()
        self.begin()
        check_free(self.modules)
        self.chain = Chain(*self.modules)
        self.chain.path = ""
        try:
            adopt(self, self.chain)
            self.precision = Precision(state_dtype, self.unrolled_modules)
            self._begin_rounding(stochastic_rounding)
            defaults, self.lr_scales_update = default_values(self.unrolled_modules)
            given: list[Any] = list(params.named_parameters() if isinstance(params, nn.Module) else params)
            if not given:
                raise ValueError(
                    "Modular got an empty list of parameters (a generator, such as model.parameters(), can be used "
                    "only once)."
                )
            super().__init__(given, defaults)
        except BaseException:
            release(self.chain)  # a failed construction must not keep the modules
            raise
        self._evaluations = self._remembered()
        self.current_step = 0
        if advice:
            advise(order(self.modules))

    def _begin_rounding(self, given: bool | int) -> None:
        """Make what rounds parameters, if that is asked for."""
        if isinstance(given, (bool, np.bool_)):
            self.rounding = StochasticRounding() if given else None
        else:
            self.rounding = StochasticRounding(check_seed("stochastic_rounding", given))
        if self.rounding is not None:
            self.rounding.home = self

    # -- structure ---------------------------------------------------------------------------------------------------
    @property
    def requires_closure(self) -> bool:
        """Whether ``step`` has to be given a closure."""
        return any(m.requires_closure for m in self.unrolled_modules)

    # -- parameters --------------------------------------------------------------------------------------------------
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its keys override settings for its parameters.

        Raises:
            ValueError: a key that no module knows, a value out of range, a parameter that is there already, one
                without a name where the others have names.
        """
        check_new_group(param_group, self.unrolled_modules)
        known = [p for group in getattr(self, "param_groups", []) for p in group["params"]]
        params = checked_params(param_group["params"], known)
        if self.rounding is not None and any(p.dtype is torch.float16 for p in params if isinstance(p, Tensor)):
            raise ValueError("stochastic_rounding=True is for bfloat16 parameters, and there are some of float16.")
        params = named_alike(params, getattr(self, "param_groups", []), self.model)
        super().add_param_group({**param_group, "params": params})
        self.drop_params()

    # -- the step ----------------------------------------------------------------------------------------------------
    def step(self, closure: Callable[..., Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: ``closure(backward=True)`` evaluates the loss and, if ``backward``, clears the gradients and
                computes them. Chains with line searches, gradient approximations and the like need one. For the value
                alone it is called with gradients off, unless it turns out to need them.

        Returns:
            The loss at the start of the step, or None without a closure. Where only a gradient approximation
            evaluated the loss, its estimate.

        Raises:
            RuntimeError: the chain needs a closure and was given none, or gradients are sparse.
        """
        if torch.compiler.is_dynamo_compiling():  # there is nothing for it to trace: it breaks its graph here
            return torch.compiler.disable(_hooked_step)(self, closure)
        if torch.is_inference_mode_enabled():  # state that is made in it could never be written to outside
            with torch.inference_mode(mode=False):
                return self.step(closure)
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or profiler._is_profiler_enabled
        ):
            return _hooked_step(self, closure)
        return self._step(closure)

    # torch would wrap `step` in its hooks and a profiler range, which costs as much as a small chain.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[..., Any] | None = None) -> Any:
        grad_mode = torch.is_grad_enabled()
        try:
            torch._C._set_grad_enabled(False)  # the public class of this name costs more than all of this method
            return self._step_without_grad(closure)
        except BaseException as error:
            torn = not self.transaction.active and failed_twice(error)
            try:
                self.undo()
            except KeyboardInterrupt:  # another one, before it could be held back
                self.undo()
            accident = is_accident(error)
            if torn:
                error.args = (
                    f"{error} It happened twice while the step was being written, so parameters and state may be half "
                    "of it: load the last checkpoint.",
                )
                raise
            if accident and self.loaded:
                raise ValueError(
                    f"The first step after load_state_dict failed ({type(error).__name__}: {error}), and nothing has "
                    "changed: the state dict is damaged or belongs to another model. Load another one, or forget the "
                    "state with optimizer.reset()."
                ) from error
            if accident and (found := checkpoint.misfit(self)) is not None:
                raise ValueError(
                    f"The step failed ({type(error).__name__}: {error}), and nothing has changed. {found}; set it "
                    "right, or forget the state with optimizer.reset()."
                ) from error
            raise
        finally:
            torch._C._set_grad_enabled(grad_mode)
            if self._grads_replaced:
                self.return_grads()
                self._grads_replaced = False
            if self.transaction.open:
                self.transaction.end()

    def _step_without_grad(self, closure: Closure | None) -> Any:
        whole = self.refresh()
        params: Params = self.all_params
        if closure is None and whole.repeatable is not None and self._repeated(whole.repeatable):
            return None
        if closure is None and whole.needy is not None and asks_for_state(self.param_groups, self.state):
            return self._blank_step()
        if closure is None:
            var = Var(params, None, self.model, self.current_step, self)
            if whole.needy is None:
                var.take_grads()
        else:
            check_closure(closure)
            for guard in self.closure_guards if whole.needy is not None else ():
                guard(self, closure)
            params = params.part([p for p in params if p.requires_grad])
            var = Var(params, None, self.model, self.current_step, self)
            self.graphless.differentiated = whole.differentiates
            var.closure = counted = CountedClosure(closure, self, var.info, self._evaluations, self._habits)
        if self._proven is not self._params:
            check_memory(self.all_params, "parameter")
            if whole.in_one_piece is not None:
                refuse_spread(whole.in_one_piece.path, self.all_params)
        evaluates = whole.evaluates and closure is not None
        if whole.foreign or self._proven is not self._params or evaluates or len(self.watchers):
            self.transaction.begin(self.state, thorough=whole.thorough)
        if closure is None:
            if var.grad is not None and var.params is self._params:
                self._params.note_grads(var.grad)
            self.last_step = whole.run(var, self, None).info
        else:
            try:
                self.last_step = whole.run(var, self, counted).info
            finally:
                var.let_go()
                counted.close()
        self._proven, self.loaded = self._params, False
        self._count()
        return None if closure is None else self.last_step.loss

    def _repeated(self, rules: Segment) -> bool:
        """Whether a step has been made that differs from the one before in nothing but numbers, as most do."""
        params = self._params
        if params is None or self._proven is not params or self.watchers or self.rounding is not None:
            return False
        grads = [p.grad for p in params]
        alike = params.grads_as_before(grads)
        if alike is None or not rules.repeat(params, grads, alike):  # type: ignore[arg-type]
            return False
        self.last_step = StepInfo()
        self._count()
        return True

    def _count(self) -> None:
        self.current_step += 1
        if self.all_params:
            self.first_state()["Modular.step"] = self.current_step

    def forget_evaluations(self) -> None:
        """Let the next step evaluate a deterministic closure anew, although nothing has changed since."""
        if self._evaluations is not None:
            self._evaluations.forget()

    def _remembered(self) -> Evaluations | None:
        """Room for what a deterministic closure has been, where that may be of use."""
        if self.deterministic is None:
            return Evaluations(word=False) if self.requires_closure else None
        return Evaluations(word=True) if self.deterministic else None

    def _blank_step(self) -> None:
        """Make the state of a chain that needs a closure without one: a step where loss and gradients are zero."""
        params = list(self.all_params)
        start = [p.detach().clone() for p in params]
        try:
            self._step_without_grad(blank_closure(params))
        finally:
            torch._foreach_copy_(params, start)
            self._evaluations = self._remembered()
        self.last_step.loss = None

    # -- state -------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """The state in torch's own format: tensors and plain values, as far as modules keep nothing else.

        ``{"state": {index: {name: value}}, "param_groups": [...]}``; names are those of the modules. What somebody else
        has put into ``optimizer.state`` is there as it is, as in torch's optimizers.
        """
        out = super().state_dict()
        out["param_groups"][0].update(chain=checkpoint.signature(self), settings=checkpoint.settings_of(self))
        return out

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state. Parameters are left alone; each state tensor keeps its dtype and moves to its parameter.

        All settings come from the state, those of the groups and what the modules were constructed with, as in torch;
        a warning says which of the latter are others here.

        Raises:
            ValueError: the state of another chain or of other groups; the message shows the difference.
        """
        checkpoint.load(self, state_dict)

    def reset(self) -> None:
        """Forget the state of every module, as if no step had been made.

        That goes for random generators too: a module with a ``seed`` draws the same directions again.
        """
        for module in (*self.modules, *([] if self.rounding is None else [self.rounding])):
            module.reset()

    def restart(self) -> None:
        """Forget what every module has learnt, and go on from here.

        For a run that the averages or curvature of the past lead nowhere. Random numbers go on, and so does what keeps
        the place in a plan, such as a ``Switch``.
        """
        for module in self.modules:
            module.restart()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            "state": self.state,
            "param_groups": self.param_groups,
            "model": self.model,
            "compile": self.compile,
            "deterministic": self.deterministic,
            "advice": self.advice,
            "modules": self.modules,
            "chain": self.chain,
            "lr_scales_update": self.lr_scales_update,
            "precision": self.precision,
            "rounding": self.rounding,
            "distributed": self.distributed,
            "current_step": self.current_step,
            "last_step": StepInfo(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch puts it there, and new groups would get it
        if "chain" in state:
            if self.chain.home is not None:  # a shallow copy: the modules stay with the original
                shared = {id(p): p for m in self.unrolled_modules for params, _ in m.overrides.groups for p in params}
                self.chain = copy.deepcopy(self.chain, shared)
                self.modules = tuple(self.chain.children.values())
            if self.rounding is not None:
                self.rounding = copy.copy(self.rounding)
                self.rounding.home = self
            self._habits, self.graphless = Habits(), Graphless()
            self.begin()
            adopt(self, self.chain)
            self._evaluations = self._remembered()
        self.drop_params()

    # -- looking at it -----------------------------------------------------------------------------------------------
    def watch(self, fn: Look | Watcher) -> WatchHandle:
        """Call ``fn(path, update)`` after each module of the chain; the chain runs unfused while it is watched.

        Args:
            fn: gets the module's path and the update after it, to read and not to keep. Or an object that sees more,
                see :class:`~torchzero_core.core.watch.Watcher`.

        Returns:
            A handle whose ``remove()`` ends it.
        """
        return self.watchers.add(AfterEach(fn) if callable(fn) else fn)

    def summary(self) -> str:
        """The chain as a tree: each module with its settings and the bytes of its state.

        Before the first step they are those that the state will take: what is found by two steps on tensors that have
        a shape and no memory. "At least" says that values of tensors, which nobody knows yet, may add to it.

        It is a string; printed on a terminal it has colours where rich is installed, and so has the optimizer itself.
        """
        return colours.Shown(show.summary(self))

    def __repr__(self) -> str:
        return show.tree(self)

    def __str__(self) -> str:
        return colours.for_terminal(repr(self))

    def __rich__(self) -> Any:
        return colours.coloured(repr(self))

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)


_hooked_step = Optimizer.profile_hook_step(Modular._step)


__all__ = ["Modular"]
