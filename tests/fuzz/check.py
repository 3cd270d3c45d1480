"""What has to hold for a case."""

from __future__ import annotations

import copy
import io
import linecache
import os
import re
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import torchzero_core as tz
from tests.fuzz.draw import PARTIAL, Case
from tests.problems import bits, same, values
from tests.registry import public_modules

Run = tuple[list[torch.Tensor], tz.Modular]


class Wrong(Exception):
    """Something does not hold.

    Args:
        kind: which promise.
        text: what was seen.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Refused(Exception):
    """The library has said in a sentence why it does not run."""


class Trouble(Exception):
    """What a closure raises."""


_NAMES = re.compile("|".join(sorted(public_modules(), key=len, reverse=True)) + r"|closure|\w+=|group|Modular")


def refusal(error: BaseException) -> str | None:
    """The sentence, where an error is one of ours that names something; None where it is an accident."""
    frames = traceback.extract_tb(error.__traceback__)
    if any(f"torch{os.sep}optim{os.sep}" in f.filename and "optimizer.py" not in f.filename for f in frames):
        return str(error)  # an optimizer of torch in a Wrap does what it would do alone
    frame = frames[-1]
    line = linecache.getline(frame.filename, frame.lineno)
    ours = "torchzero_core" in frame.filename and "raise" in line
    if not ours or not isinstance(error, (ValueError, TypeError, RuntimeError)):
        return None
    return str(error) if _NAMES.search(str(error)) else None


def guarded(fn: Callable[[], Any], kind: str = "crash") -> Any:
    """Call a function; turn refusals and accidents into their exceptions."""
    try:
        return fn()
    except (Wrong, Refused, Trouble):
        raise
    except Exception as error:
        sentence = refusal(error)
        if sentence is not None:
            raise Refused(sentence) from error
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "torchzero_core" in f.filename]
        at = f"{frames[-1].filename.rsplit('torchzero_core/')[-1]}:{frames[-1].lineno}" if frames else "?"
        raise Wrong(kind, f"{type(error).__name__} at {at}: {error}") from error


class Runner:
    """Makes the steps of a case in several ways and compares them.

    Args:
        case: the case.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.written: list[list[torch.Tensor | None]] = []

    # -- steps -------------------------------------------------------------------------------------------------------
    def closure(self, run: Run, i: int, fails: int | None = None) -> Callable[..., torch.Tensor]:
        """The closure of a step; it notes the gradients that it writes."""
        params = [p for g in run[1].param_groups for p in g["params"]]
        used = [p for p in self.case.used(params, i) if p.requires_grad] or params[:1]
        kept = self.written if self.case.deterministic else []  # where these are found again
        self.written = [*kept, [None if p.grad is None else p.grad.clone() for p in params]]
        calls = 0

        def closure(backward: bool = True) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == fails:
                raise Trouble
            loss = self.case.value(used)
            if backward:
                for p in params:
                    p.grad = None
                if loss.requires_grad:
                    loss.backward()
                self.written.append([None if p.grad is None else p.grad.clone() for p in params])
            return loss

        return closure

    def step(self, run: Run, i: int, *, closure: bool | None = None, fails: int | None = None) -> None:
        """Make a step, and look at what must hold after any."""
        optimizer = run[1]
        params = [p for g in optimizer.param_groups for p in g["params"]]
        before = bits(params)
        if closure is None:
            closure = optimizer.requires_closure or self.case.closure
        torch.manual_seed(1000 + i)
        fn = self.closure(run, i, fails)
        if not closure:
            fn()
        try:
            guarded(lambda: optimizer.step(fn) if closure else optimizer.step())
        except Refused as error:
            if not same(before, bits(params)):
                raise Wrong("refused after moving", str(error)) from error
            raise
        self.look(optimizer, params, before, i)

    def look(self, optimizer: tz.Modular, params: list[torch.Tensor], before: list[torch.Tensor], i: int) -> None:
        """Gradients are those that somebody wrote, parameters without one are untouched, finite ones stay finite."""
        grads = [p.grad for p in params]
        for k, g in enumerate(grads):
            if self.case.hand in ("move memory", "cast parameters"):
                break
            if not any(
                k < len(ws) and (ws[k] is None if g is None else ws[k] is not None and same(g, ws[k]))
                for ws in self.written
            ):
                raise Wrong("p.grad written", f"step {i}")
        idle = params[len(self.case.used(params, i)) :] + [p for p in params if not p.requires_grad]
        free = any(_derivative_free(m) for m in optimizer.unrolled_modules)
        for p, b in zip(params, before, strict=True):
            if any(p is q for q in idle) and not free and not same(p.detach(), b):
                raise Wrong("moved without a gradient", f"step {i}, shape {tuple(p.shape)}")
        calm = all(bool((b.double().abs() < 1e3).all()) for b in before)
        partial = any(type(m).__name__ in PARTIAL for m in optimizer.unrolled_modules)
        if calm and not partial and not all(bool(p.detach().isfinite().all()) for p in params):
            raise Wrong("not finite", f"step {i}")

    # -- ways --------------------------------------------------------------------------------------------------------
    def build(self, **options: Any) -> Run:
        torch.manual_seed(self.case.seed)
        return guarded(lambda: self.case.build(**options))

    def resumed(self, run: Run) -> Run:
        """A fresh optimizer that goes on from a file."""
        params, optimizer = self.build()
        optimizers_params = [p for g in optimizer.param_groups for p in g["params"]]
        source = [p for g in run[1].param_groups for p in g["params"]]
        with torch.no_grad():
            for p, q in zip(optimizers_params, source, strict=True):
                p.copy_(q)
                p.grad = None if q.grad is None else q.grad.clone()
                p.requires_grad_(q.requires_grad)
        guarded(lambda: self.load(optimizer, run[1]), "crash in a round trip")
        return params, optimizer

    @staticmethod
    def load(optimizer: tz.Modular, source: tz.Modular) -> None:
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        optimizer.load_state_dict(torch.load(file, weights_only=True))

    def check(self) -> None:
        """Everything."""
        case = self.case
        run = self.build()
        if run[1].requires_closure:
            self.without_closure()
        resumed: Run | None = None
        compiled = self.build(compile=True) if case.compile else None
        for i in range(case.STEPS):
            if i == 3:
                if case.hand is None:
                    resumed = self.resumed(run)
                else:
                    run = self.hand(run, i)
            if compiled is not None and (case.hand is None or i < 3):
                self.compare(run, compiled, i)
            else:
                self.step(run, i)
            if not _calm(run):
                return
            if resumed is not None:
                self.step(resumed, i)
                self.equal(run, resumed, "resumed", i)
        if case.fails is not None and case.hand is None:
            self.failing()

    def without_closure(self) -> None:
        """A chain that needs a closure says so without one, and nothing has moved."""
        params, optimizer = self.build()
        before = bits(params)
        self.case.value(params).backward()
        try:
            guarded(optimizer.step)
        except Refused:
            if not same(before, bits(params)):
                raise Wrong("refused after moving", "no closure") from None
        else:
            raise Wrong("not refused", "requires_closure, and a step without one")

    def equal(self, run: Run, other: Run, what: str, i: int) -> None:
        ours, theirs = ([p for g in o.param_groups for p in g["params"]] for _, o in (run, other))
        if not same(bits(ours), bits(theirs)):
            raise Wrong(what, f"step {i}: {_difference(ours, theirs)}")

    def compare(self, run: Run, compiled: Run, i: int) -> None:
        """The same step eager and compiled, from the same state."""
        if i:
            self.take_over(run, compiled)
        twins = [copy.deepcopy(run) for _ in range(2)]
        before = bits(run[0])
        self.step(run, i)
        self.step(compiled, i)
        eps = torch.finfo(self.case.dtype).eps
        sizes = [1 + float(b.double().abs().max()) if b.numel() else 1.0 for b in before]
        difference = _far(run[0], compiled[0], sizes)
        bases = (tz.m.SOAP, tz.m.GaLore)  # rounding alone decides which basis a null space gets
        if difference <= 1e3 * eps or any(isinstance(m, bases) for m in run[1].unrolled_modules):
            return
        chaos = 0.0
        for k, twin in enumerate(twins):
            self.shake(twin, k)
            try:
                self.step(twin, i)
            except (Wrong, Refused):
                return
            chaos = max(chaos, _far(run[0], twin[0], sizes))
        if not difference <= 1e2 * chaos:
            raise Wrong("compiled", f"step {i}: {difference:.1e}, and {chaos:.1e} when shaken")

    def take_over(self, run: Run, other: Run) -> None:
        with torch.no_grad():
            for p, q in zip(other[0], run[0], strict=True):
                p.copy_(q)
                p.grad = None if q.grad is None else q.grad.clone()
        guarded(lambda: self.load(other[1], run[1]), "crash in a round trip")

    def shake(self, run: Run, seed: int) -> None:
        """Rounding errors everywhere."""
        generator = torch.Generator().manual_seed(seed)
        eps = torch.finfo(self.case.dtype).eps

        def noisy(t: torch.Tensor) -> None:
            if t.is_floating_point() and t.numel():
                noise = torch.randn(t.shape, generator=generator, dtype=torch.float64)
                t.copy_(t.double() * (1 + eps * noise) + eps * 1e-3 * noise * t.double().abs().max())

        with torch.no_grad():
            for p in run[0]:
                noisy(p)
            for state in run[1].state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        noisy(value)

    def failing(self) -> None:
        """A closure that raises: parameters as they were, and the next step as if it had not been tried."""
        run, twin = self.build(), self.build()
        for i in range(2):
            self.step(run, i)
            self.step(twin, i)
        before = bits(run[0])
        try:
            self.step(run, 2, closure=True, fails=self.case.fails)
        except Trouble:
            pass
        else:
            return
        if not same(before, bits(run[0])):
            raise Wrong("exception leaves parameters", f"at evaluation {self.case.fails}")
        self.step(run, 2, closure=True)
        self.step(twin, 2, closure=True)
        try:
            self.equal(run, twin, "repeated after an exception", 2)
        except Wrong as error:
            raise Wrong(error.kind, f"at evaluation {self.case.fails}: {error}") from None

    # -- hands -------------------------------------------------------------------------------------------------------
    def hand(self, run: Run, i: int) -> Run:
        """What somebody does between two steps. Where it changes nothing, that is checked."""
        params, optimizer = run
        name = self.case.hand
        if name in ("deepcopy", "round trip", "copy state", "regroup settings"):
            return self.harmless(run, i)
        first = optimizer.param_groups[0]["params"][0]
        if name == "clear state":
            optimizer.state.clear()
        elif name == "clear one state":
            optimizer.state.pop(first, None)
        elif name == "cast state":
            wide = torch.float32 if self.case.dtype == torch.float64 else torch.float64
            for state in optimizer.state.values():
                for key, value in state.items():
                    if isinstance(value, torch.Tensor) and value.is_floating_point():
                        state[key] = value.to(wide)
        elif name == "lr":
            optimizer.param_groups[-1]["lr"] = 0.005
        elif name == "numpy lr":
            optimizer.param_groups[-1]["lr"] = np.float32(0.005)
        elif name == "replace parameter":
            new = values(tuple(first.shape), 3).to(first.dtype).requires_grad_()
            optimizer.param_groups[0]["params"][0] = new
            params[0] = new
        elif name == "add group":
            params.append(values((3,), 5).to(self.case.dtype).requires_grad_())
            guarded(lambda: optimizer.add_param_group({"params": [params[-1]]}))
        elif name == "freeze":
            first.requires_grad_(False)
            first.grad = None
        elif name == "cast parameters":
            for p in params:
                p.data = p.data.to(torch.float32 if self.case.dtype == torch.float64 else torch.float64)
                p.grad = None
        elif name == "move memory":
            for p in params:
                p.data = p.data.clone()
        elif name == "reset":
            guarded(optimizer.reset)
        elif name == "drop parameter" and len(params) > 1:
            optimizer.param_groups[-1]["params"].pop()
            params.pop()
        return run

    def harmless(self, run: Run, i: int) -> Run:
        """Things after which the next step is the same."""
        other = guarded(lambda: copy.deepcopy(run), "crash in a deepcopy")
        name, optimizer = self.case.hand, run[1]
        if name == "round trip":
            guarded(lambda: self.load(optimizer, optimizer), "crash in a round trip")
        elif name == "copy state":
            for p, state in list(optimizer.state.items()):
                optimizer.state[p] = copy.deepcopy(state)
        elif name == "regroup settings":
            optimizer.param_groups[0]["lr"] = float(optimizer.param_groups[0]["lr"])
        self.step(run, i)
        self.step(other, i)
        self.equal(run, other, str(name), i)
        return other


def _derivative_free(module: Any) -> bool:
    """Whether a parameter may rightly move in a step in which it has no gradient."""
    others = ("WeightDropout", "NegateOnLossIncrease", "GradientAccumulation")
    return isinstance(module, tz.m.GradApproximator) or type(module).__name__ in others


def _calm(run: Run) -> bool:
    return all(bool((p.detach().double().abs() < 1e6).all()) for p in run[0])


def _far(a: list[torch.Tensor], b: list[torch.Tensor], sizes: list[float]) -> float:
    out = 0.0
    for x, y, size in zip(a, b, sizes, strict=True):
        if x.numel():
            gap = (x.detach().double() - y.detach().double()).abs()
            gap = torch.where(x.detach().double().eq(y.detach().double()) | (x.isnan() & y.isnan()), 0.0, gap)
            out = max(out, float(gap.nan_to_num(nan=torch.inf).max()) / size)
    return out


def _difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> str:
    return f"{_far(a, b, [1.0] * len(a)):.1e}"


def outcome(seed: int) -> tuple[str, str, float]:
    """What became of a case: "held", "refused", or the kind of what is wrong; a text; and seconds of the processor."""
    case = Case(seed)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            Runner(case).check()
            result = "held", ""
        except Refused as error:
            result = "refused", str(error)
        except Wrong as error:
            result = error.kind, str(error).removeprefix(f"{error.kind}: ")
    foreign = [w for w in caught if not issubclass(w.category, UserWarning) or "site-packages" in w.filename]
    if result[0] == "held" and foreign:
        result = "warning", f"{foreign[0].category.__name__}: {foreign[0].message}"
    return *result, time.process_time() - start
