"""How large the updates are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from torchzero_core.core import Modular, Var

from .. import loop
from .hooks import Handles, check_interval, due, log, prefixes
from .norms import has_norm, inner, norms, total


class UpdateNormMonitor(Callback):
    """Logs how large the updates are: ‖Δp‖, ‖p‖, ‖Δp‖ / ‖p‖ and ‖g‖ over all parameters of an optimizer.

    They are logged as ``update_norm``, ``param_norm`` (before the step), ``update_ratio`` and ``grad_norm``. The
    gradient is the one that the optimizer gets, after accumulation and clipping by the Trainer; for a chain that
    approximates it, the approximation. The optimizer may be any one, not only a chain, and may be stepped in any way.

    With several optimizers each name starts with that of its optimizer: ``Modular/update_norm``,
    ``Modular-1/update_norm``. Where one makes several steps in a batch, the last one is logged; where one makes none,
    its next one.

    Between the steps that are logged it does nothing, and no hook is left. A step that is logged takes a copy of the
    parameters; with ``per_module`` the rules of the chain run one by one in it.

    Args:
        every_n_steps: log every so many steps; None for the Trainer's ``log_every_n_steps``.
        per_module: log for each module of a chain what comes in, what goes out, and the cosine of that with the
            gradient: ``module/0.ClipValue/in``, ``…/out``, ``…/cosine``. Numbers are places in the chain. The modules
            of lists inside a module are there too.
        per_layer: log the same four numbers for each layer of the model that has parameters of its own:
            ``layer/net.0/update_norm``.

    Raises:
        ValueError: an interval of less than one step.

    Example:
        >>> from tz_lightning import UpdateNormMonitor
        >>> UpdateNormMonitor(every_n_steps=0)
        Traceback (most recent call last):
        ValueError: UpdateNormMonitor(every_n_steps=0) must be at least 1.
    """

    def __init__(self, every_n_steps: int | None = None, per_module: bool = False, per_layer: bool = False) -> None:
        check_interval(type(self).__name__, every_n_steps)
        self.every_n_steps, self.per_module, self.per_layer = every_n_steps, per_module, per_layer
        self._looks: list[_Look] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the steps of this batch where it is logged."""
        if not due(trainer, self.every_n_steps):
            return
        waiting = {id(look.optimizer) for look in self._looks}
        layers = _layers(pl_module) if self.per_layer else None
        for optimizer, prefix in zip(trainer.optimizers, prefixes(trainer.optimizers), strict=True):
            if id(optimizer) not in waiting:
                self._looks.append(_Look(optimizer, prefix, layers, per_module=self.per_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the steps that were made."""
        if not self._looks:
            return
        done = [look for look in self._looks if look.metrics]
        log(trainer, {name: value for look in done for name, value in look.metrics.items()})
        self._look_no_longer(done)

    def _look_no_longer(self, looks: Iterable[_Look]) -> None:
        gone = list(looks)
        for look in gone:
            look.remove()
        self._looks = [look for look in self._looks if look not in gone]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look no longer."""
        self._look_no_longer(self._looks)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Look no longer."""
        self._look_no_longer(self._looks)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_looks": []}


class _Look:
    """Looks at the steps of one optimizer.

    Attributes:
        metrics: of the last step.
    """

    def __init__(self, optimizer: Optimizer, prefix: str, layers: dict[int, str] | None, *, per_module: bool) -> None:
        self.optimizer, self._prefix, self._layers = optimizer, prefix, layers
        self.metrics: dict[str, float] = {}
        self._params: list[Tensor] = []
        self._start: list[Tensor] = []
        self._modules: _Modules | None = None
        self._handles = Handles()
        self._handles.around(optimizer, self._before, self._after)
        if isinstance(optimizer, Modular) and (per_module or loop.evaluates_the_loss(optimizer)):
            self._modules = _Modules(optimizer, apart=per_module)
            self._handles.add(optimizer.watch(self._modules))

    def remove(self) -> None:
        """Look no longer."""
        self._handles.remove()
        self._start = []

    def _before(self) -> None:
        self._params = [p for group in self.optimizer.param_groups for p in group["params"] if has_norm(p)]
        self._start = [p.detach().clone() for p in self._params]
        if self._modules is not None:
            self._modules.begin()

    def _after(self) -> None:
        sizes = norms(self._start)
        for before, p in zip(self._start, self._params, strict=True):
            before.sub_(p.detach())
        numbers = zip(sizes, norms(self._start), strict=True)
        by_param = {id(p): found for p, found in zip(self._params, numbers, strict=True)}
        self._start = []
        if self._modules is not None:
            self._modules.end()
        grads = self._gradients()
        self.metrics = _four(self._prefix, list(by_param), by_param, grads)
        if self._modules is not None:
            self.metrics |= {f"{self._prefix}{name}": value for name, value in self._modules.found.items()}
        if self._layers is not None:
            for layer, ids in self._by_layer().items():
                self.metrics |= _four(f"{self._prefix}layer/{layer}/", ids, by_param, grads)

    def _gradients(self) -> dict[int, float]:
        """The norm of each parameter's gradient."""
        if self._modules is not None:
            return self._modules.grads
        known = [(id(p), p.grad) for p in self._params if p.grad is not None]
        return dict(zip([key for key, _ in known], norms([g for _, g in known]), strict=True))

    def _by_layer(self) -> dict[str, list[int]]:
        assert self._layers is not None
        found: dict[str, list[int]] = {}
        for i, p in enumerate(self._params):
            found.setdefault(self._layers.get(id(p), f"parameter {i}"), []).append(id(p))
        return found


class _Modules:
    """Looks at the gradient of a step and, one by one, at the modules.

    Attributes:
        apart: whether each module is seen.
        grads: the norm of the gradient of each parameter that has one.
        found: what was seen of the modules.
    """

    def __init__(self, optimizer: Modular, *, apart: bool) -> None:
        self.apart = apart
        modules = optimizer.unrolled_modules
        digits = len(str(len(modules) - 1))
        self._names = {module.path: f"module/{i:0{digits}}.{module.path}" for i, module in enumerate(modules)}
        self.begin()

    def begin(self) -> None:
        """A step begins."""
        self.grads: dict[int, float] = {}
        self.found: dict[str, float] = {}
        self._known, self._gradient = False, 0.0
        self._grad: list[Tensor] | None = None
        self._left: tuple[list[Tensor], float] | None = None  # what the last module left, for the next one

    def end(self) -> None:
        """A step has ended: nothing of it is kept but numbers."""
        self._grad = self._left = None

    def before(self, path: str, var: Var) -> None:
        """Note what comes in."""
        self._see_gradient(var)
        update = var.grad if var.update is None else var.update
        if self.apart and update is not None:
            left, self._left = self._left, None
            known = left is not None and left[0] is update
            self.found[f"{self._names[path]}/in"] = left[1] if left and known else self._length(update)

    def after(self, path: str, var: Var) -> None:
        """Note what goes out."""
        self._see_gradient(var)
        update, grad = var.grad if var.update is None else var.update, var.grad
        if not self.apart or update is None:
            return
        name, length = self._names[path], self._length(update)
        self.found[f"{name}/out"] = length
        self._left = update, length
        if grad is not None and [u.shape for u in update] == [g.shape for g in grad]:
            of_grad = self._gradient if grad is self._grad else total(norms(grad))
            if length and of_grad:
                self.found[f"{name}/cosine"] = inner(update, grad) / length / of_grad

    def _length(self, update: list[Tensor]) -> float:
        return self._gradient if update is self._grad else total(norms(update))

    def _see_gradient(self, var: Var) -> None:
        if not self._known and not var.nested and var.grad is not None:
            self._known, self._grad = True, var.grad
            self.grads = dict(zip(map(id, var.params), norms(var.grad), strict=True))
            self._gradient = total(self.grads.values())


def _four(
    prefix: str, ids: Iterable[int], by_param: dict[int, tuple[float, float]], grads: dict[int, float]
) -> dict[str, float]:
    """The four numbers of some parameters."""
    ids = list(ids)
    size, update = (total(by_param[i][k] for i in ids) for k in (0, 1))
    found = {f"{prefix}update_norm": update, f"{prefix}param_norm": size}
    if size:
        found[f"{prefix}update_ratio"] = update / size
    known = [grads[i] for i in ids if i in grads]
    if known:
        found[f"{prefix}grad_norm"] = total(known)
    return found


def _layers(module: LightningModule) -> dict[int, str]:
    """The layer that each parameter belongs to; a parameter of the model itself is one of its own."""
    return {id(p): name.rpartition(".")[0] or name for name, p in module.named_parameters()}
