"""Steps that would spoil the training are left out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from torchzero_core.core import Modular, Var

from .. import compat, loop
from .hooks import log, prefixes
from .norms import dense, has_norm

#: Buffers from this size on are copied only when something has written to them.
LARGE = 1 << 16


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


class _Skip(Exception):
    """The step is left out."""


class SkipNonFinite(Callback):
    """Leaves out each step whose loss or gradient is not finite.

    Parameters, the state of the optimizer and of its chain, and the model's buffers (the running statistics of
    batch normalisation) stay exactly as they were before the batch. The rest goes on as in Lightning where
    ``training_step`` returns None: the batch and the step are counted, and schedulers step. It works for any
    optimizer, in automatic and in manual optimization, and with chains that evaluate the loss themselves; losses that
    are not finite at the points that a search tries are left to the search. On several processes the step is left out
    on all of them if it is on one.

    The number of steps left out is logged as ``skipped_steps`` each time there is one more. The first one is warned of.

    It costs one look at the gradients a step, for which the host waits.

    Args:
        limit: steps left out in a row after which the training ends; None for no limit.
        on_limit: how it ends: "raise" an error, or "stop" the Trainer after the batch.

    Attributes:
        skipped: how many steps were left out.

    Raises:
        ValueError: a limit of less than one step.
        NonFiniteError: the limit is reached.

    Example:
        >>> from tz_lightning import SkipNonFinite
        >>> SkipNonFinite(limit=0)
        Traceback (most recent call last):
        ValueError: SkipNonFinite(limit=0) must be at least 1, or None for no limit.
    """

    def __init__(self, limit: int | None = 20, on_limit: Literal["raise", "stop"] = "raise") -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"SkipNonFinite(limit={limit}) must be at least 1, or None for no limit.")
        if on_limit not in ("raise", "stop"):
            raise ValueError(f"SkipNonFinite(on_limit={on_limit!r}) must be 'raise' or 'stop'.")
        self.limit, self.on_limit = limit, on_limit
        self.skipped = 0
        self._in_a_row, self._logged = 0, 0
        self._guards: list[_Guard] = []
        self._buffers: _Buffers | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Be there for the steps of this batch."""
        if [guard.optimizer for guard in self._guards] != trainer.optimizers:
            self._remove()
            names = prefixes(trainer.optimizers)
            self._guards = [
                _Guard(self, trainer, o, name.rstrip("/")) for o, name in zip(trainer.optimizers, names, strict=True)
            ]
        if self._buffers is None:
            self._buffers = _Buffers(pl_module)
        if not self._in_accumulation(trainer, batch_idx):
            self._buffers.keep()

    @staticmethod
    def _in_accumulation(trainer: Trainer, batch_idx: int) -> bool:
        """Whether a step has begun with an earlier batch."""
        return trainer.lightning_module.automatic_optimization and batch_idx % trainer.accumulate_grad_batches != 0

    def note(self, what: str, optimizer: str, *, skipped: bool) -> None:
        """A step was tried.

        Args:
            what: is not finite.
            optimizer: its name.
            skipped: whether it was left out.

        Raises:
            NonFiniteError: the limit is reached.
        """
        if not skipped:
            self._in_a_row = 0
            return
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        if self._buffers is not None:
            self._buffers.put_back()
        if self.skipped == 1:
            of = f" of {optimizer}" if optimizer else ""
            rank_zero_warn(f"SkipNonFinite: {what} is not finite, so the step{of} was left out. It is the first one.")
        if self.limit is not None and self._in_a_row >= self.limit and self.on_limit == "raise":
            raise NonFiniteError(
                f"SkipNonFinite: {self._in_a_row} steps in a row were left out, the last one because {what} is not "
                "finite. The parameters are those of before. Look at the data, lower the learning rate, or clip the "
                "gradient; with torch.autograd.detect_anomaly() torch says where the first such number comes from."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, and stop where the limit is reached."""
        if self.skipped != self._logged:
            self._logged = self.skipped
            log(trainer, {"skipped_steps": float(self.skipped)})
        if self.limit is not None and self._in_a_row >= self.limit and not trainer.should_stop:
            trainer.should_stop = True
            rank_zero_warn(f"SkipNonFinite: {self._in_a_row} steps in a row were left out, so the training stops.")

    def state_dict(self) -> dict[str, Any]:
        """What was counted."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped = self._logged = state_dict["skipped"]
        self._in_a_row = state_dict["in_a_row"]

    def _remove(self) -> None:
        for guard in self._guards:
            guard.remove()
        self._guards = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Guard no longer."""
        self._remove()
        self._buffers = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Guard no longer."""
        self._remove()
        self._buffers = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_guards": [], "_buffers": None}


class _Guard:
    """Stands in front of the steps of one optimizer.

    What is not finite is found in the closure, before the optimizer has seen it, and ends the step by an exception
    that leaves the optimizer as it was. A chain may make its own gradient of losses: then a watcher finds it.
    """

    apart = False

    def __init__(self, skip: SkipNonFinite, trainer: Trainer, optimizer: Optimizer, name: str) -> None:
        self._skip, self._trainer, self.optimizer, self._name = skip, trainer, optimizer, name
        own = vars(optimizer)
        self._own, self._step = own.get("step"), optimizer.step
        self._handle = None
        if isinstance(optimizer, Modular) and loop.evaluates_the_loss(optimizer):
            self._handle = optimizer.watch(self)
        # the original takes part in what schedulers and Lightning have put onto it
        own["step"] = self._wrapper = functools.wraps(self._step)(
            lambda *args, **kwargs: self._guarded(*args, **kwargs)
        )
        self._seen = False
        self._returned: Any = None

    def remove(self) -> None:
        """Go away."""
        own = vars(self.optimizer)
        if own.get("step") is self._wrapper:
            if self._own is None:
                del own["step"]
            else:
                own["step"] = self._own
        if self._handle is not None:
            self._handle.remove()

    def _guarded(self, closure: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
        self._seen, self._returned = False, None
        try:
            if closure is None:
                self._check([], self._gradients())
                result = self._step(**kwargs)
            else:
                result = self._step(closure=self._checked(closure), **kwargs)
        except _Skip as skip:
            self._skip.note(str(skip), self._name, skipped=True)
            return self._returned
        self._skip.note("", self._name, skipped=False)
        return result

    def _checked(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        """The closure, whose first evaluation is looked at."""
        optimizer = self.optimizer
        if self._handle is not None and isinstance(optimizer, Modular):
            for guard in optimizer.closure_guards:
                guard(optimizer, closure)

        @functools.wraps(closure)
        def checked(*args: Any, **kwargs: Any) -> Any:
            loss = closure(*args, **kwargs)
            if not self._seen:
                self._seen = True
                self._returned = loss.detach() if isinstance(loss, Tensor) else loss
                backward = (args[0] if args else kwargs.get("backward", True)) is not False
                self._check([loss] if isinstance(loss, Tensor) else [], self._gradients() if backward else [])
            return loss

        return checked

    def _gradients(self) -> list[Tensor]:
        params = (p for group in self.optimizer.param_groups for p in group["params"])
        return [p.grad for p in params if p.grad is not None]

    def _check(self, loss: list[Tensor], grads: list[Tensor]) -> None:
        if not self._trainer.strategy.reduce_boolean_decision(finite([*loss, *grads]), all=True):
            raise _Skip("the gradient" if finite(loss) else "the loss")

    # -- as a watcher ------------------------------------------------------------------------------------------------
    def before(self, path: str, var: Var) -> None:
        """Look at the gradient that the chain goes by, as soon as there is one."""
        if not var.nested and var.update is None and var.grad is not None:
            self._check([], var.grad)

    def after(self, path: str, var: Var) -> None:
        """Nothing more to see."""


class _Buffers:
    """What the buffers of a model were before a batch.

    Large ones that nothing has written to are copied once. Small ones are copied each time: batch normalisation writes
    to its statistics without a mark.

    Args:
        module: the model.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._kept: dict[int, tuple[Tensor, Any, Tensor]] = {}

    def keep(self) -> None:
        """Take note of them."""
        before, self._kept = self._kept, {}
        for buffer in self._module.buffers():
            known, mark = before.get(id(buffer)), _mark(buffer)
            if known is None or known[0] is not buffer or known[1] != mark or mark is None:
                known = (buffer, mark, buffer.detach().clone())
            self._kept[id(buffer)] = known

    def put_back(self) -> None:
        """Give them their values back."""
        for key, (buffer, mark, value) in self._kept.items():
            if (mark is None or _mark(buffer) != mark) and buffer.shape == value.shape:
                buffer.data.copy_(value)
                self._kept[key] = buffer, _mark(buffer), value


def _mark(tensor: Tensor) -> Any:
    """What tells that a large tensor has changed; None for a small one."""
    if tensor.numel() < LARGE:
        return None
    version = compat.written(tensor)
    return version, tensor.data_ptr() if tensor.layout is torch.strided else None


def finite(tensors: list[Tensor]) -> bool:
    """Whether there is no infinity and no NaN in some tensors.

    Args:
        tensors: dense or sparse; those of integers are.

    Example:
        >>> finite([torch.ones(2), torch.zeros(0), torch.tensor([1])]), finite([torch.tensor([1.0, torch.inf])])
        (True, False)
        >>> finite([torch.tensor([1e30])])
        True
    """
    values = [dense(t.detach()) for t in tensors if has_norm(t)]
    values = [v for v in values if v.numel()]
    if not values:
        return True
    # Of squares, which overflow before the values do: what seems to be infinite is looked at once more.
    norms = torch._foreach_norm(values)
    fine = torch.stack([n.isfinite().to(norms[0].device) for n in norms]).all()
    return bool(fine) or all(bool(v.isfinite().all()) for v in values)
