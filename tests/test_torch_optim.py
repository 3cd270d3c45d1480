"""Every optimizer and every scheduler of torch, beside the chain that is the same: whole trajectories in float64."""

import functools
import importlib
import sys
import types
import unittest

import pytest
import torch
from torch.optim import lr_scheduler, swa_utils

import torchzero_core as tz
from tests.parity import apart, compared, found
from tests.problems import backward, closure_of, make_params
from torchzero_core.linalg import newton_schulz

m = tz.m
SHAPES = [(3, 4), (2,), (2, 2, 3), (), (1, 5)]
STEPS = 40


@functools.cache
def database():
    """Configurations that torch tests its own optimizers with, by the name of the optimizer."""
    if importlib.util.find_spec("expecttest") is None:  # imported by torch for tests that are not run here
        stub = types.ModuleType("expecttest")
        stub.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stub
    from torch.testing._internal.common_optimizers import optim_db

    return {
        info.optim_cls.__name__: (info.optim_cls, [c.kwargs for c in info.optim_inputs_func("cpu")])
        for info in optim_db
    }


@pytest.fixture(autouse=True)
def double():
    """torch keeps single numbers of an optimizer in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# -- which chain is which optimizer ------------------------------------------------------------------------------------
def around(modules, kw, lr, *, decoupled=False, after=()):
    """A chain with what the optimizers of torch share: maximize, weight decay, the learning rate."""
    decay = [m.WeightDecay(kw["weight_decay"])] if kw.get("weight_decay") else []
    decoupled = kw.get("decoupled_weight_decay", decoupled)
    return [
        *([m.Mul(-1)] if kw.get("maximize") else []),
        *([] if decoupled else decay),
        *modules,
        *(decay if decoupled else []),
        *([m.LR(kw.get("lr", lr))] if lr is not None else []),
        *after,
    ]


def picked(kw, *names, **renamed):
    """Those of the arguments that a module has too."""
    return {n: kw[n] for n in names if n in kw} | {renamed[n]: kw[n] for n in renamed if n in kw}


def adagrad(kw):
    return around([m.Adagrad(**picked(kw, "lr_decay", "initial_accumulator_value"))], kw, 1e-2)


def rmsprop(kw):
    momentum = [m.HeavyBall(kw["momentum"])] if kw.get("momentum") else []
    return around([m.RMSprop(init="zeros", **picked(kw, "centered")), *momentum], kw, 1e-2)


def rprop(kw):
    etas, sizes = kw.get("etas", (0.5, 1.2)), kw.get("step_sizes", (1e-6, 50))
    alpha = kw.get("lr", 1e-2)
    module = m.Rprop(nminus=etas[0], nplus=etas[1], lb=sizes[0], ub=sizes[1], alpha=alpha, backtrack=False)
    return around([module], kw, None)


def sgd(kw):
    cls = m.NAG if kw.get("nesterov") else m.HeavyBall
    momentum = [cls(kw["momentum"], kw.get("dampening", 0))] if kw.get("momentum") else []
    return around(momentum, kw, 1e-3)


def adafactor(kw):
    module = m.Adafactor(eps1=2.0**-52, **picked(kw, "lr", "beta2_decay", "d"))
    decay = [m.DirectWeightDecay(kw["weight_decay"])] if kw.get("weight_decay") else []
    return around([module], {"maximize": kw.get("maximize")}, None, after=decay)


CHAINS = {
    "SGD": sgd,
    "Adam": lambda kw: around([m.Adam(**picked(kw, "amsgrad"))], kw, 1e-3),
    "AdamW": lambda kw: around([m.Adam(**picked(kw, "amsgrad"))], {"weight_decay": 1e-2, **kw}, 1e-3, decoupled=True),
    "Adamax": lambda kw: around([m.Adamax()], kw, 2e-3),
    "NAdam": lambda kw: around([m.NAdam(**picked(kw, "momentum_decay"))], kw, 2e-3),
    "RAdam": lambda kw: around([m.RAdam(**picked(kw, "eps"))], kw, 1e-3),
    "Adadelta": lambda kw: around([m.Adadelta(**picked(kw, "rho"))], kw, 1.0),
    "Adafactor": adafactor,
    "Adagrad": adagrad,
    "ASGD": lambda kw: around([m.ASGD(**picked(kw, "lr", "lambd", "t0"))], kw, None),
    "RMSprop": rmsprop,
    "Rprop": rprop,
    "LBFGS": lambda kw: [m.Wrap(torch.optim.LBFGS, **kw)],
}
#: Muon takes matrices only and has a test of its own; no module takes sparse gradients.
ELSEWHERE = {"Muon", "SparseAdam"}
#: What a configuration may say that `around` and the chains read.
KNOWN = {
    "lr", "weight_decay", "maximize", "amsgrad", "decoupled_weight_decay", "momentum_decay", "eps", "rho", "lambd",
    "t0", "beta2_decay", "d", "lr_decay", "initial_accumulator_value", "centered", "momentum", "dampening", "nesterov",
    "etas", "step_sizes",
}  # fmt: skip


def loss_of(params):
    """A bowl with waves."""
    return sum((0.5 + 0.1 * i) * (p - 0.3 * i).square().sum() + 0.2 * (3 * p).cos().sum() for i, p in enumerate(params))


def trajectory(optimizer, params, steps=STEPS, scale=1.0):
    """The parameters after each step, as one vector a step; gradients are scaled now and then."""
    out = []
    for i in range(steps):
        backward(params, loss_of)
        for p in params:
            p.grad *= scale if i % 7 == 3 else 1.0
        optimizer.step()
        out.append(torch.cat([p.detach().flatten() for p in params]))
    return torch.stack(out)


@pytest.mark.parity
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", [n for n in CHAINS if n != "LBFGS"])
def test_every_configuration_of_torch(name, compile):
    cls, configurations = database()[name]
    assert len(configurations) >= 5
    for kw in configurations:
        assert kw.keys() <= KNOWN, f"{kw} has something that the chain does not know"
        ours, theirs = make_params(SHAPES), make_params(SHAPES)
        expected = trajectory(cls(theirs, **kw), theirs, scale=5.0)
        seen = trajectory(tz.Modular(ours, *CHAINS[name](kw), compile=compile), ours, scale=5.0)
        off = found(apart(seen, expected), f"the chain of torch's {name}", "torch.optim, every configuration")
        assert off <= 1e-12, f"{name}({kw}) is off by {off}"
        assert not torch.equal(expected[0], expected[-1])


@pytest.mark.parametrize("place", range(5))
def test_every_configuration_of_lbfgs(place):
    cls, configurations = database()["LBFGS"]
    kw = configurations[place]
    ours, theirs = make_params(SHAPES), make_params(SHAPES)
    for params, optimizer in ((theirs, cls(theirs, **kw)), (ours, tz.Modular(ours, *CHAINS["LBFGS"](kw)))):
        closure = closure_of(params, loss_of)
        for _ in range(3):
            optimizer.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], make_params(SHAPES)[0])


@compared("the chain of torch's Muon", "torch.optim, every configuration")
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_every_configuration_of_muon(shape, adjust, monkeypatch):
    """torch rounds the products to bfloat16; here it is kept from it."""
    from torch.optim import _muon

    def exact(grad, coefficients, steps, eps):
        return newton_schulz(grad, steps, coefficients=[coefficients], dtype=torch.float64, eps=eps, gram=False)

    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", exact)
    cls, configurations = database()["Muon"]
    assert len(configurations) >= 5
    for kw in configurations:
        assert kw.keys() <= {"lr", "weight_decay", "momentum", "ns_steps", "ns_coefficients"}
        chain = [
            m.Muon(
                kw.get("momentum", 0.95),
                ns_steps=kw.get("ns_steps", 5),
                coefficients=[kw.get("ns_coefficients", (3.4445, -4.775, 2.0315))],
                ns_dtype="float64",
                adjust_lr=adjust != "original",
            ),
            *([m.Mul(max(1, shape[0] / shape[1]) ** 0.5)] if adjust == "original" else []),
            m.WeightDecay(kw.get("weight_decay", 0.1)),
            m.LR(kw.get("lr", 1e-3)),
        ]
        ours, theirs = make_params([shape, shape]), make_params([shape, shape])
        expected = trajectory(cls(theirs, adjust_lr_fn=adjust, **kw), theirs)
        torch.testing.assert_close(trajectory(tz.Modular(ours, *chain), ours), expected, rtol=1e-11, atol=1e-12)
        assert not torch.equal(expected[0], expected[-1])


def test_no_optimizer_of_torch_is_forgotten():
    assert set(database()) == set(CHAINS) | ELSEWHERE
    with pytest.raises(RuntimeError, match=r"torch\.optim\.SparseAdam"):
        p = torch.zeros(3, requires_grad=True)
        p.grad = torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True)
        tz.Modular([p], m.Adam()).step()


def test_settings_that_torch_refuses_are_refused():
    """Those of torch's own error inputs that are about one setting."""
    for make in (
        lambda: m.Adadelta(rho=1.1),
        lambda: m.Adafactor(d=0.0),
        lambda: m.Adafactor(beta2_decay=0.8),
        lambda: m.Adafactor(eps1=-1e-30),
        lambda: m.Adagrad(lr_decay=-0.5),
        lambda: m.Adagrad(initial_accumulator_value=-1),
        lambda: m.Adam(beta1=1.0),
        lambda: m.Adamax(beta2=1.0),
        lambda: m.NAdam(momentum_decay=-0.2),
        lambda: m.RAdam(eps=-1e-8),
        lambda: m.ASGD(lr=-1e-2),
        lambda: m.WeightDecay(-1),
        lambda: m.LR(-1e-2),
        lambda: m.HeavyBall(momentum=-0.5),
        lambda: m.RMSprop(smoothing=-0.1),
        lambda: m.Rprop(nminus=1.0, nplus=0.5),
    ):
        with pytest.raises(ValueError, match=r"is out of range: \w+ must be in"):
            make()


def test_asgd_keeps_the_average():
    ours, theirs = make_params(SHAPES), make_params(SHAPES)
    optimizer = tz.Modular(ours, m.ASGD(lr=0.05, t0=3.0))
    reference = torch.optim.ASGD(theirs, lr=0.05, t0=3.0)
    trajectory(optimizer, ours)
    trajectory(reference, theirs)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(optimizer.state[p]["ASGD.average"], reference.state[q]["ax"], rtol=1e-12, atol=0)
        assert not torch.equal(optimizer.state[p]["ASGD.average"], p)


def test_adafactor_keeps_rows_and_columns():
    """Its state is that of a row and a column: some hundredths of Adam's, and torch's own numbers."""
    ours, theirs = make_params([(64, 32), (5,)]), make_params([(64, 32), (5,)])
    optimizer = tz.Modular(ours, m.Adafactor(eps1=2.0**-52))
    reference = torch.optim.Adafactor(theirs)
    for o, ps in ((optimizer, ours), (reference, theirs)):
        for _ in range(3):
            backward(ps)
            o.step()
    state = {name.split(".")[1]: s for name, s in optimizer.state[ours[0]].items() if "var" in name}
    assert {name: tuple(s.shape) for name, s in state.items()} == {
        "row_var": (64, 1),
        "col_var": (1, 32),
        "mean_var": (1, 1),
    }
    for name in ("row_var", "col_var"):
        torch.testing.assert_close(state[name], reference.state[theirs[0]][name], rtol=1e-12, atol=0)
    torch.testing.assert_close(
        optimizer.state[ours[1]]["Adafactor.col_var"], reference.state[theirs[1]]["variance"], rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["Adamax", "NAdam", "RAdam", "Adadelta", "ASGD", "Adafactor"])
def test_in_single_and_half_precision(name, dtype):
    """As near to float64 as torch is, or nearer than twice as far."""
    runs = {}
    for kind in ("exact", "ours", "theirs"):
        params = [p.detach().to(torch.float64 if kind == "exact" else dtype).requires_grad_() for p in make_params()]
        eps1 = {"eps1": torch.finfo(dtype).eps} if name == "Adafactor" else {}
        lr = {"lr": 0.01}
        chain = [getattr(m, name)(**eps1, **(lr if name in ("ASGD", "Adafactor") else {}))]
        if name not in ("ASGD", "Adafactor"):
            chain.append(m.LR(0.01))
        reference = getattr(torch.optim, name)
        optimizer = reference(params, **lr) if kind == "theirs" else tz.Modular(params, *chain)
        for _ in range(10):
            backward(params)
            optimizer.step()
        runs[kind] = torch.cat([p.detach().flatten().double() for p in params])
    ours, theirs = ((runs[kind] - runs["exact"]).abs().max() for kind in ("ours", "theirs"))
    assert ours <= 2 * theirs + 4 * torch.finfo(dtype).eps


# -- schedulers --------------------------------------------------------------------------------------------------------
class Halving(lr_scheduler.LRScheduler):
    """A scheduler of one's own."""

    def get_lr(self):
        return [base * 0.5 ** (self.last_epoch // 4) for base in self.base_lrs]


def sequential(o):
    return lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    )


def chained(o):
    return lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)])


def has_momentum(o):
    return not {"momentum", "betas"}.isdisjoint(o.defaults)


SCHEDULERS = {
    "LRScheduler": Halving,
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.95**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.97),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 11], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.25, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=7),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "SequentialLR": sequential,
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 9),
    "ChainedScheduler": chained,
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1, threshold=0.2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=4, cycle_momentum=has_momentum(o)),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=30, cycle_momentum=has_momentum(o)),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 12, 2.0),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.01, anneal_epochs=5),
}
#: Chains, and the optimizers that they are.
SCHEDULED = {
    "momentum": (lambda: [m.HeavyBall(0.9), m.LR(0.05)], lambda ps: torch.optim.SGD(ps, 0.05, momentum=0.9)),
    "NAdam": (lambda: [m.NAdam(), m.LR(0.05)], lambda ps: torch.optim.NAdam(ps, 0.05)),
    "ASGD": (lambda: [m.ASGD(0.05, lambd=0.01)], lambda ps: torch.optim.ASGD(ps, 0.05, lambd=0.01)),
    "Adafactor": (lambda: [m.Adafactor(0.05, eps1=2.0**-52)], lambda ps: torch.optim.Adafactor(ps, 0.05)),
    "decay": (
        lambda: [m.DirectWeightDecay(0.1), m.Adam(), m.LR(0.05)],
        lambda ps: torch.optim.AdamW(ps, 0.05, weight_decay=0.1),
    ),
}


def scheduled(optimizer, params, make):
    """Thirty steps under a scheduler: where they lead and the learning rates."""
    scheduler, rates = make(optimizer), []
    for i in range(30):
        rates.append(optimizer.param_groups[0]["lr"])
        backward(params, loss_of)
        optimizer.step()
        plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        scheduler.step(1 / (1 + i // 3)) if plateau else scheduler.step()
    return torch.cat([p.detach().flatten() for p in params]), rates


@pytest.mark.parity
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_every_scheduler_of_torch(schedule, compile):
    for name, (chain, reference) in SCHEDULED.items():
        ours, theirs = make_params(SHAPES), make_params(SHAPES)
        expected, rates = scheduled(reference(theirs), theirs, SCHEDULERS[schedule])
        seen, own_rates = scheduled(tz.Modular(ours, *chain(), compile=compile), ours, SCHEDULERS[schedule])
        assert own_rates == rates and len(set(rates)) > 1, name
        found(apart(seen, expected), f"chains under {schedule}", "torch.optim under the same")
        torch.testing.assert_close(
            seen, expected, rtol=1e-11, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_no_scheduler_of_torch_is_forgotten():
    assert set(lr_scheduler.__all__) | {"SWALR"} == set(SCHEDULERS)
    assert len(SCHEDULERS) == 17
