"""The optimizer: a chain of modules behind the interface of ``torch.optim.Optimizer``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import profiler
from torch.optim.optimizer import Optimizer, _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ..distributed import Reductions
from ..engine.params import Params
from . import checkpoint
from .module import Chain, Module, Modules, as_module
from .settings import check_group, unknown_keys
from .step import RuleStage, run_stages, stages
from .transform import Transform
from .var import Closure, CountedClosure, Evaluations, StepInfo, Var, warn


class WatchHandle:
    """Ends a :meth:`Modular.watch` when ``remove()`` is called."""

    def __init__(self, modular: Modular, key: int) -> None:
        self._modular, self._key = modular, key

    def remove(self) -> None:
        """Stop calling the function."""
        if self._modular._watchers.pop(self._key, None) is not None:
            self._modular._choose_parts()


class Modular(Optimizer):
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
            search one evaluation a step, and keeps two copies of parameters and gradients.

    Attributes:
        model: the model, where one was given.
        last_step: the outcome of the last step; see :class:`~torchzero_core.core.StepInfo`.
        distributed: the reductions over ranks; see :mod:`torchzero_core.core.distributed`.

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
    closure_guards: ClassVar[list[Callable[[Modular, Closure], None]]] = []

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]] | nn.Module,
        *modules: Modules,
        compile: bool = False,
        deterministic: bool = False,
    ) -> None:
        if not modules:
            raise ValueError(
                "Modular needs at least one module, for example tz.Modular(params, tz.m.Adam(), tz.m.LR(1e-3))."
            )
        self.model: nn.Module | None = params if isinstance(params, nn.Module) else None
        self.compile, self.deterministic = compile, deterministic
        self.last_step = StepInfo()
        self.distributed = Reductions()
        self.version = 0
        self.settings_version = 0
        self._watchers: dict[int, Callable[[str, list[Tensor]], None]] = {}
        self._warned: set[str] = set()
        self._reset_caches()
        self.lr_scales_update = True
        self.modules: tuple[Module, ...] = tuple(as_module(m, "Modular") for m in modules)
        adopted: list[Module] = []
        try:
            self._check_owners()
            self.chain = Chain(*self.modules)
            self.adopt(self.chain, None, "", adopted)
            defaults = self._defaults()
            given = list(params.named_parameters()) if isinstance(params, nn.Module) else params
            if isinstance(given, Tensor):
                raise TypeError("params must be an iterable of tensors or groups, not one tensor; put it in a list.")
            super().__init__(_known(given), defaults)
        except BaseException:
            for module in adopted:  # a failed construction must not keep the modules
                module._modular = None
            raise
        self.current_step = 0

    # -- structure ---------------------------------------------------------------------------------------------------
    @property
    def requires_closure(self) -> bool:
        """Whether ``step`` has to be given a closure."""
        return any(m.requires_closure for m in self.unrolled_modules)

    @property
    def unrolled_modules(self) -> list[Module]:
        """Every module of the chain and every child, depth first."""
        out: list[Module] = []

        def visit(module: Module) -> None:
            if not isinstance(module, Chain):
                out.append(module)
            for child in module.children.values():
                visit(child)

        visit(self.chain)
        return out

    def _check_owners(self) -> None:
        seen: set[int] = set()

        def visit(module: Module) -> None:
            if module._modular is not None:
                raise ValueError(
                    f"{module!r} already belongs to another Modular; make a new instance for each optimizer."
                )
            if id(module) in seen:
                raise ValueError(f"{module!r} stands in the chain twice; make a new instance for each place.")
            seen.add(id(module))
            for child in module.children.values():
                visit(child)

        for module in self.modules:
            visit(module)

    def adopt(self, module: Module, parent: Module | None, name: str, adopted: list[Module] | None = None) -> None:
        """Make a module and its children part of this optimizer and name them.

        A path is made of class and child names, with a number only where a name repeats, so that another module in
        the chain does not rename the state of the rest. A chain adds nothing to the path of its modules.
        """
        if module._modular is not None and module._modular is not self:
            raise ValueError(f"{module!r} already belongs to another Modular; make a new instance for each optimizer.")
        base = (
            ""
            if parent is None or parent is getattr(self, "chain", None)
            else f"{parent.path}.{name}"
            if name
            else parent.path
        )
        if isinstance(module, Chain):
            module.path = base
            counts: dict[str, int] = {}
            for child in module.children.values():
                kind = type(child).__name__
                counts[kind] = counts.get(kind, 0) + 1
                self._name(child, base, f"{kind}_{counts[kind]}" if counts[kind] > 1 else kind, adopted)
        else:
            self._name(module, base, type(module).__name__, adopted)
        module._modular = self
        if adopted is not None:
            adopted.append(module)
        self.invalidate()

    def _name(self, module: Module, base: str, kind: str, adopted: list[Module] | None) -> None:
        if isinstance(module, Chain):
            module.path = f"{base}.{kind}" if base else kind
            self.adopt(module, module, "", adopted)
            return
        module.path = f"{base}.{kind}" if base else kind
        module._modular = self
        if adopted is not None:
            adopted.append(module)
        for name, child in module.children.items():
            self.adopt(child, module, name, adopted)

    def _defaults(self) -> dict[str, Any]:
        """What torch's schedulers look for: lr always, momentum or betas where the chain has one value for them."""
        modules = self.unrolled_modules

        def common(name: str) -> list[Any]:
            values = [m.defaults[name] for m in modules if m.defaults.get(name) is not None]
            return values[:1] if values and all(v is values[0] or v == values[0] for v in values) else []

        lr = common("lr")
        self.lr_scales_update = not lr
        defaults: dict[str, Any] = {"lr": lr[0] if lr else 1.0}
        momentum, beta1, beta2 = common("momentum"), common("beta1"), common("beta2")
        if momentum:
            defaults["momentum"] = momentum[0]
        pairs = [tuple(m.defaults["betas"]) for m in modules if "betas" in m.defaults]  # of wrapped torch optimizers
        if beta1:
            pairs.append((beta1[0], *beta2))
        if pairs and all(pair == pairs[0] for pair in pairs):
            defaults["betas"] = pairs[0]
        return defaults

    # -- parameters --------------------------------------------------------------------------------------------------
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its keys override settings for its parameters.

        Raises:
            ValueError: a key that no module knows, a value out of range, a parameter that is there already.
        """
        modules = self.unrolled_modules
        unknown = unknown_keys(param_group, modules)
        if unknown:
            names = sorted({name for m in modules for name in m.defaults} | {"lr"})
            near = difflib.get_close_matches(unknown[0].rsplit(".", 1)[-1], names, 1)
            raise ValueError(
                f"A parameter group has the key {unknown[0]!r}, which no module of this chain knows. "
                + (f"Did you mean {near[0]!r}? " if near else "")
                + f"Known settings: {', '.join(names)}; address one module with its path, as in "
                f"'{modules[0].path}.{next(iter(modules[0].defaults), 'setting')}'."
            )
        check_group(param_group, modules)
        params = param_group["params"]
        if isinstance(params, Tensor):
            params = [params]
        elif isinstance(params, (set, frozenset)):
            raise TypeError("The parameters of a group must be in a list, not a set: their order is part of the state.")
        params = list(params)
        seen = {id(p) for group in getattr(self, "param_groups", []) for p in group["params"]}
        for i, item in enumerate(params):
            p = item[1] if isinstance(item, tuple) else item
            if id(p) in seen:
                raise ValueError(f"Parameter {i} of the group (shape {tuple(p.shape)}) appears in the optimizer twice.")
            seen.add(id(p))
            if isinstance(p, Tensor) and p.is_complex():
                raise ValueError(
                    f"Parameter {i} of the group is complex ({p.dtype}). Optimize torch.view_as_real(p) as a real "
                    "parameter and build the complex one from it with torch.view_as_complex."
                )
            if isinstance(p, Tensor) and not p.is_floating_point():
                raise ValueError(
                    f"Parameter {i} of the group has dtype {p.dtype}; only floating point can be optimized."
                )
        super().add_param_group({**param_group, "params": params})
        self.invalidate()

    @property
    def all_params(self) -> list[Tensor]:
        """The parameters of all groups."""
        if self._all[0] != self.version:
            self._all = (self.version, Params(p for group in self.param_groups for p in group["params"]))
        return self._all[1]

    def invalidate(self) -> None:
        """Forget what was resolved: parameters, groups, modules or state have changed."""
        self.version += 1
        self.settings_version += 1
        self._parts: list[Any] | None = None
        self._known_parts: dict[bool, list[Any]] = {}
        self._group_of: dict[int, int] | None = None

    def _reset_caches(self) -> None:
        self._all = (-1, [])
        self._lists: list[list[Tensor]] = []
        self._aliases: dict[int, tuple[Tensor, Tensor, str]] = {}
        self._buffers: dict[str, dict[int, Tensor]] = {}
        self._kept: list[tuple[list[Tensor], list[Tensor]]] = []
        self._addresses: list[int] = []
        self._evaluations = Evaluations() if self.deterministic else None
        self._buffer_lists: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
        self._snapshot: list[dict[str, Any]] | None = None
        self._group_of = None
        self._parts, self._known_parts = None, {}

    def group_index(self, param: Tensor) -> int:
        """The number of the group a parameter is in."""
        if self._group_of is None:
            self._group_of = {id(p): i for i, group in enumerate(self.param_groups) for p in group["params"]}
        return self._group_of[id(param)]

    def alias(self, fake: Tensor, real: Tensor, prefix: str) -> None:
        """Let a stand-in tensor (of a projection) keep its state with a real parameter, under ``prefix``."""
        self._aliases[id(fake)] = (fake, real, prefix)

    def host_param(self, param: Tensor) -> Tensor:
        """The parameter that a stand-in stands for; a parameter itself."""
        found = self._aliases.get(id(param)) if self._aliases else None
        return param if found is None else self.host_param(found[1])

    def locate(self, param: Tensor) -> tuple[dict[str, Any], str]:
        """Where the state of a parameter or stand-in is kept: a dict and a prefix."""
        found = self._aliases.get(id(param)) if self._aliases else None
        if found is None:
            return self.state[param], ""
        store, prefix = self.locate(found[1])
        return store, prefix + found[2]

    def first_param(self, module: Module) -> Tensor:
        """The parameter with which module-wide state is kept."""
        return self.all_params[0]

    def stores(self) -> list[dict[str, Any]]:
        """The state dicts of all parameters."""
        return list(self.state.values())

    def same_list(self, params: list[Tensor]) -> list[Tensor]:
        """The same list object for the same parameters, so that what is cached for it is found again."""
        return self.all_params.part(params)

    def workspace(self, name: str, params: list[Tensor]) -> list[Tensor]:
        """Scratch tensors shaped like ``params``; they keep their memory, not their content, between steps."""
        return self.all_params.part(params).scratch(name)

    # -- the step ----------------------------------------------------------------------------------------------------
    def step(self, closure: Callable[..., Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: ``closure(backward=True)`` evaluates the loss and, if ``backward``, clears the gradients and
                computes them. Chains with line searches, gradient approximations and the like need one.

        Returns:
            The loss at the start of the step, or None without a closure. Where only a gradient approximation
            evaluated the loss, its estimate.

        Raises:
            RuntimeError: the chain needs a closure and was given none, or gradients are sparse.
        """
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
        torch._C._set_grad_enabled(False)  # the public class of this name costs more than all of this method
        try:
            return self._step_without_grad(closure)
        except BaseException:
            for module in self.unrolled_modules:
                module.rewind_generators()
            for params, values in reversed(self._kept):
                torch._foreach_copy_(params, values)
            raise
        finally:
            self._kept.clear()
            torch._C._set_grad_enabled(grad_mode)

    def _step_without_grad(self, closure: Callable[..., Any] | None) -> Any:
        self._refresh_settings()
        self._refresh_memory()
        if self._parts is None:
            self._parts = self._known_parts[self.watched] = stages(self.chain.children.values(), self, moves=True)
            if self.compile:
                self._warn_uncompiled()
            self._closure_needed = self.requires_closure
            self._unrolled = self.unrolled_modules
            self._post = [m for m in self.unrolled_modules if type(m).post_step is not Module.post_step]
        params = self.all_params
        if closure is None:
            if self._closure_needed:
                needy = next(m for m in self.unrolled_modules if m.requires_closure)
                raise RuntimeError(
                    f"{needy.path} has to evaluate the loss: call optimizer.step(closure) with closure(backward=True)."
                )
            var = Var(params, None, self.model, self.current_step, self)
            var._take_grads()
        else:
            if self._closure_needed:
                for guard in self.closure_guards:
                    guard(self, closure)
            params = self.same_list([p for p in params if p.requires_grad])
            var = Var(params, None, self.model, self.current_step, self)
            var.closure = CountedClosure(closure, self, var.info)
        var = run_stages(self._parts, var)
        if not var.skip_update:
            if closure is not None and var.loss is None and not hasattr(var, "loss_approx"):
                var.get_loss()  # nobody has needed it, but step returns it
            if not (var.stop and var.update is None):
                self._apply(var)
        for module in self._post:
            module.post_step(var)
        for module in self._unrolled:
            if module._generators:
                module.save_generators()
        self.current_step += 1
        loss = var.loss if var.loss is not None else getattr(var, "loss_approx", None)
        info = var.info
        info.loss = loss
        self.last_step = info
        if params:
            self.state[self.all_params[0]]["Modular.step"] = self.current_step
        return None if closure is None else loss

    _all: tuple[int, list[Tensor]] = (-1, [])

    def keep(self, params: list[Tensor]) -> None:
        """Copy parameters that are about to be moved in the middle of a step: an exception later on puts them back."""
        self._kept.append((params, [p.detach().clone() for p in params]))

    def _apply(self, var: Var) -> None:
        """p ← p − u, scaled by the group's lr where no LR module does it."""
        update = var.get_update()
        if not update:
            return
        if self.lr_scales_update:
            scales = [self.param_groups[self.group_index(p)]["lr"] for p in var.params]
            if any(isinstance(s, Tensor) or s != 1.0 for s in scales):
                torch._foreach_mul_(update, [float(s) for s in scales])
        torch._foreach_sub_(var.params, update)

    def _refresh_settings(self) -> None:
        """Notice values of the groups that were changed since the last step."""
        old, groups = self._snapshot, self.param_groups
        if old is not None and len(old) == len(groups):
            for group, before in zip(groups, old, strict=True):
                if _differs(group, before):
                    break
            else:
                return
        elif old is not None:
            self.invalidate()
        known = old if old is not None and len(old) == len(groups) else [{} for _ in groups]
        modules = self.unrolled_modules
        for group, before in zip(groups, known, strict=True):
            check_group(group, modules, before)
        self._snapshot = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        self.settings_version += 1

    def _refresh_memory(self) -> None:
        """Notice parameters whose memory was exchanged (``p.data = …``, ``model.to(…)``) since the last step."""
        try:
            addresses = list(map(Tensor.data_ptr, self.all_params))
        except RuntimeError:  # tensors without memory of their own
            return
        if addresses != self._addresses:
            if self._addresses:
                self.version += 1
                self._buffer_lists.clear()
            self._addresses = addresses

    def _warn_uncompiled(self) -> None:
        """One warning that names the modules of the chain that are no rules, so that there is nothing to compile."""
        names = [p.path for p in self._parts or [] if not isinstance(p, (RuleStage, Transform))]
        if names:
            self.warn_once(
                "compile:modules",
                f"compile=True has no effect on {', '.join(names)}: only rules can be compiled. The rules of the chain "
                "are, also those inside other modules.",
            )

    def group_number(self, param: Tensor) -> int:
        """The group of a parameter where its lr scales the update."""
        return self.group_index(self.host_param(param)) if self.lr_scales_update else 0

    def final_scale(self, param: Tensor) -> float:
        """The lr of a parameter's group where no LR module applies it."""
        return (
            float(self.param_groups[self.group_index(self.host_param(param))]["lr"]) if self.lr_scales_update else 1.0
        )

    def warn_once(self, key: str, message: str) -> None:
        """A warning, once for each key."""
        if key not in self._warned:
            self._warned.add(key)
            warn(message)

    # -- state -------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """The state in torch's own format: tensors and plain values only.

        ``{"state": {index: {name: value}}, "param_groups": [...]}``; names are those of the modules.
        """
        out = super().state_dict()
        out["param_groups"][0]["chain"] = checkpoint.signature(self)
        return out

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state. Parameters are left alone; each state tensor keeps its dtype and moves to its parameter.

        Raises:
            ValueError: the state of another chain or of other groups; the message shows the difference.
        """
        checkpoint.load(self, state_dict)

    def reset(self) -> None:
        """Forget the state of every module."""
        for module in self.modules:
            module.reset()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            "state": self.state,
            "param_groups": self.param_groups,
            "model": self.model,
            "compile": self.compile,
            "deterministic": self.deterministic,
            "modules": self.modules,
            "chain": self.chain,
            "lr_scales_update": self.lr_scales_update,
            "distributed": self.distributed,
            "current_step": self.current_step,
            "last_step": StepInfo(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.version = self.settings_version = 0
        self._watchers, self._warned = {}, set()
        self.deterministic = state["deterministic"]
        self._reset_caches()
        super().__setstate__(state)
        for module in self.unrolled_modules:
            module._modular = self

    # -- looking at it -----------------------------------------------------------------------------------------------
    @property
    def watched(self) -> bool:
        """Whether somebody looks at the update of each module."""
        return bool(self._watchers)

    def watch(self, fn: Callable[[str, list[Tensor]], None]) -> WatchHandle:
        """Call ``fn(path, update)`` after each module of the chain; the chain runs unfused while it is watched.

        Args:
            fn: gets the module's path and the update after it, to read and not to keep.

        Returns:
            A handle whose ``remove()`` ends it.
        """
        key = max(self._watchers, default=-1) + 1
        self._watchers[key] = fn
        self._choose_parts()
        return WatchHandle(self, key)

    def _choose_parts(self) -> None:
        """Take the parts for a chain that is watched, or for one that is not; each keeps what it has traced."""
        self.version += 1  # the others may have counted steps
        self._parts = self._known_parts.get(self.watched)

    def summary(self) -> str:
        """The chain as a tree: each module with its settings and the bytes of its state."""
        return checkpoint.summary(self)

    def __repr__(self) -> str:
        return checkpoint.tree(self)


def _known(params: Iterable[Any]) -> list[Any]:
    """torch's own checks want a list."""
    out = list(params)
    if not out:
        raise ValueError("Modular got an empty list of parameters.")
    return out


def _differs(group: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    if len(group) != len(before) + 1:
        return True
    for key, value in before.items():
        now = group.get(key, before)
        if isinstance(now, Tensor) or (now is not value and now != value):  # a tensor may have been changed in place
            return True
    return False


_hooked_step = Optimizer.profile_hook_step(Modular._step)


__all__ = ["Modular", "WatchHandle"]
