"""What an optimizer is to the modules in it: where they live, with everything that is derived."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..distributed import Reductions
from ..engine import Segment, Transaction
from .advice import advise, missing_lr
from .all_params import AllParams
from .graphless import Graphless
from .groups import GroupValues
from .module import Chain, Module
from .naming import adopt, check_free, child_path, release, unrolled
from .precision import Precision
from .replaced_grads import replace_grads, return_grads
from .rounding import StochasticRounding
from .route import Routes, RuleStage
from .stand_ins import real_place
from .step import WholeChain
from .transform import Transform
from .watch import Watchers


class ModuleHome:
    """The part of an optimizer that its modules know; see :class:`~torchzero_core.core.home.Home`.

    All that is derived hangs on one of two objects: what follows from the chain on its routes, what follows from the
    parameters on :class:`~torchzero_core.core.all_params.AllParams`. Either is thrown away as a whole.

    Attributes:
        chain: the modules.
        modules: those of the chain itself.
        compile: whether rules run as generated kernels.
        deterministic: whether the closure is the same function at every step; None where that is found out.
        graphless: evaluates the loss without a graph where only its value is wanted.
        advice: whether to say where modules are hardly in the order that was meant.
        distributed: the reductions over ranks.
        lr_scales_update: whether the lr of the groups scales the final update, for want of one LR module.
        precision: the dtypes that states are kept in.
        rounding: what rounds new parameters; None: to the nearest.
        watchers: who looks at the modules while they run.
        model: the model that the optimizer was given.
        settings_version: counts the changes of settings.
        transaction: what has to be undone where a step fails.
    """

    _params: AllParams | None = None
    chain: Module
    modules: tuple[Module, ...]
    compile: bool
    deterministic: bool | None
    graphless: Graphless
    advice: bool = True
    distributed: Reductions
    lr_scales_update: bool
    precision: Precision
    rounding: StochasticRounding | None = None
    param_groups: list[dict[str, Any]]
    model: nn.Module | None
    state: Any

    def begin(self) -> None:
        """Start with nothing derived from anything."""
        self.settings_version = 0
        self.watchers = Watchers()
        self._warned: set[str] = set()
        self.transaction = Transaction()
        # A chain that has made a step with these parameters and settings makes the next one too: then nothing in it is
        # noted down to be undone, unless somebody else's code runs in it.
        self._proven: AllParams | None = None
        self.loaded = False  # whether no step has been made yet with the state that is there
        self._grads_replaced = False
        self._watched = False
        self._values: GroupValues | None = None
        self.invalidate()

    def __del__(self) -> None:
        transaction: Transaction | None = getattr(self, "transaction", None)
        if transaction is not None:
            transaction.retire()

    # -- modules -----------------------------------------------------------------------------------------------------
    @property
    def unrolled_modules(self) -> list[Module]:
        """Every module of the chain and every child, depth first."""
        return [m for m in unrolled(self.chain) if not isinstance(m, Chain)]

    @property
    def drawers(self) -> list[Module]:
        """All that may have a random generator: the modules, and what rounds parameters."""
        return [*self.unrolled_modules, *([] if self.rounding is None else [self.rounding])]

    def adopt(self, child: Module, parent: Module, name: str) -> None:
        """Put a module into one that is part of this optimizer; see :meth:`Module.set_child`.

        Raises:
            ValueError: the module belongs to another optimizer.
        """
        check_free([child], self)
        old = parent.children.get(name)
        if old is not None and old is not child:
            release(old)
        parent.children[name] = child
        child.path = child_path(parent, name, child)
        adopt(self, child)
        self.invalidate()

    def invalidate(self) -> None:
        """Forget everything that was derived: modules, parameters, groups or state have changed."""
        self._routes = Routes(self)
        self._whole: dict[bool, WholeChain] = {}
        self.drop_params()

    def drop_params(self) -> None:
        """Forget what was derived from the parameters, their groups and their state."""
        if self._params is not None:
            self._params.forget()
            self._params = None
        self.settings_version += 1

    def stages(self, chain: Module) -> list[Any]:
        """What a chain runs in turn."""
        return self._routes.stages(chain, moves=chain is self.chain)

    def segment(self, rule: Module) -> Segment:
        """What runs a rule alone."""
        return self._routes.segment(rule)

    # -- parameters and their state ---------------------------------------------------------------------------------
    @property
    def all_params(self) -> AllParams:
        """The parameters of all groups, and all that is derived from them."""
        if self._params is None:
            self._params = AllParams(self.param_groups, self.state)
        return self._params

    def locate(self, param: Tensor) -> tuple[dict[str, Any], str]:
        """Where the state of a parameter or stand-in is kept: a dict and a prefix."""
        real, prefix = real_place(param)
        if not self.all_params.knows(real):
            raise KeyError(
                f"State is kept for parameters of the optimizer, and a tensor of shape {tuple(real.shape)} is none of "
                "them. A function in ctx.call is given its state by name: ctx.call(fn, u, state=('name',))."
            )
        return self._store(real), prefix

    def _store(self, param: Tensor) -> dict[str, Any]:
        """The dict of one parameter, known from now on to be checked."""
        state = self.state
        store: dict[str, Any] | None = state.get(param)
        if store is None:
            store = state[param] = {}
            self.all_params.note(store, state)
        return store

    def first_state(self) -> dict[str, Any]:
        """The dict that module-wide state is kept in: that of the first parameter."""
        params = self.all_params
        if params.first_store is None:
            params.first_store = self._store(params[0])
        return params.first_store

    def state_dicts(self) -> list[dict[str, Any]]:
        """The dicts that the state of all parameters is kept in."""
        return list(self.state.values())

    def group_number(self, param: Tensor) -> int:
        """The group of a parameter where its lr scales the update."""
        return self.all_params.group_index(param) if self.lr_scales_update else 0

    def final_scale(self, param: Tensor) -> float:
        """The lr of a parameter's group where no LR module applies it."""
        return float(self.param_groups[self.all_params.group_index(param)]["lr"]) if self.lr_scales_update else 1.0

    # -- while a step is made ----------------------------------------------------------------------------------------
    @property
    def watched(self) -> bool:
        """Whether somebody looks at each module while it runs."""
        return self.watchers.apart

    def refresh(self) -> WholeChain:
        """Notice what has changed since the last step; what the chain runs now."""
        groups, watched = self.param_groups, self.watchers.apart
        self._read_groups()
        # A chain that is watched runs by other segments, and each counts steps in its buckets.
        if self._params is not None and (watched != self._watched or not self._params.unchanged(groups, self.state)):
            self.drop_params()
        self._watched = watched
        whole = self._whole.get(watched)
        if whole is None:
            whole = self._whole[watched] = WholeChain(self.stages(self.chain), self.drawers, watched=watched)
            if self.compile:
                self._warn_uncompiled(whole.stages)
            if self.advice and self.lr_scales_update and all(group["lr"] == 1 for group in groups):
                advise(missing_lr(self.modules))
        return whole

    def _read_groups(self) -> None:
        """Notice the values of groups that have changed."""
        groups = self.param_groups
        if self._values is None or not self._values.same(groups):
            before, self._values = self._values, GroupValues(groups, self.unrolled_modules, self._values)
            self.settings_version += 1
            if len(groups) > 1 and (before is None or self._values.differ(before)):
                self._proven = None  # modules that take one value for all parameters may refuse them

    def evaluated(self) -> None:
        """Notice settings that the closure has changed: a schedule by hand may stand in it."""
        self._read_groups()
        if self._proven is None and not self.transaction.active:
            self.transaction.begin(self.state, thorough=False)

    def _warn_uncompiled(self, stages: Sequence[Any]) -> None:
        """One warning that names the modules of the chain that are no rules, so that there is nothing to compile."""
        names = [s.path for s in stages if not isinstance(s, (RuleStage, Transform))]
        if names:
            self.warn_once(
                "compile:modules",
                f"compile=True has no effect on {', '.join(names)}: only rules can be compiled. The rules of the chain "
                "are, also those inside other modules.",
            )

    def undo(self) -> None:
        """Make it as if the step had not been tried."""
        self.transaction.roll_back()
        for module in self.drawers:
            module.rewind_generators()
        self.invalidate()  # some of it may be half made

    def replace_grads(self, params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        """Put other gradients into ``p.grad``, until the closure is called again or the step ends.

        Args:
            params: the parameters.
            grads: their new gradients.
        """
        self._grads_replaced = True
        replace_grads(params, grads)

    def return_grads(self) -> None:
        """Put the user's gradients back."""
        if self._grads_replaced:
            return_grads(self.all_params)

    def warn_once(self, key: str, message: str) -> None:
        """A warning, once for each key."""
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, UserWarning, stacklevel=3)
