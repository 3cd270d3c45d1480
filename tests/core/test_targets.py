"""What a rule is applied to: update, gradient, closure, parameters, differences."""

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests import problems
from torchzero_core.core import Module

F64 = torch.float64
P, G = [3.0, -0.5, 0.2], [2.0, -0.25, 0.75]


def one(*modules, p=P, g=G, **options):
    param = torch.tensor(p, dtype=F64, requires_grad=True)
    param.grad = None if g is None else torch.tensor(g, dtype=F64)
    return param, tz.Modular([param], *modules, **options)


def loss_of(params):
    """Rosenbrock's function of two numbers, or a quadratic of any."""
    p = torch.cat([p.flatten() for p in params])
    return (1 - p[0]) ** 2 + 10 * (p[1] - p[0] ** 2) ** 2 if len(p) == 2 else (p**4).sum() + (p**2).sum()


def closure_of(params, calls=None):
    evaluate = problems.closure_of(params, loss_of)

    def closure(backward=True):
        if calls is not None:
            calls.append(backward)
        return evaluate(backward)

    return closure


class Look(Module):
    """Notes what a module at its place sees."""

    def __init__(self):
        super().__init__()
        self.grads, self.updates, self.params = [], [], []

    def step(self, var):
        self.params.append([p.tolist() for p in var.params])
        self.grads.append([g.tolist() for g in var.get_grad()])
        self.updates.append([u.tolist() for u in var.peek_update()])
        return var


both = pytest.mark.parametrize("compile", [False, True])
pytestmark = pytest.mark.filterwarnings("ignore:compile=True has no effect on (Look|Evaluate)")


@both
def test_the_gradient_of_later_modules_is_replaced(compile):
    look = Look()
    p, optimizer = one(tz.m.ClipValue(0.5, target="grad"), look, tz.m.Grad(), tz.m.LR(0.1), compile=compile)
    kept = p.grad
    optimizer.step()
    assert look.grads == [[[0.5, -0.25, 0.5]]] == look.updates
    assert p.grad is kept and kept.tolist() == G
    assert p.tolist() == pytest.approx([3 - 0.05, -0.5 + 0.025, 0.2 - 0.05], abs=1e-15)


@both
def test_a_new_gradient_leaves_an_update_that_was_there(compile):
    look = Look()
    p, optimizer = one(tz.m.Mul(10.0), tz.m.Sign(target="grad"), look, tz.m.Cautious(mode="grad"), compile=compile)
    optimizer.step()
    assert look.grads == [[[1, -1, 1]]]
    assert look.updates == [[[20, -2.5, 7.5]]]
    assert p.tolist() == pytest.approx([3 - 20, -0.5 + 2.5, 0.2 - 7.5])


@both
def test_parameters_are_changed_at_once(compile):
    look = Look()
    p, optimizer = one(tz.m.ClipValue(0.3, target="params_direct"), look, tz.m.LR(0.1), compile=compile)
    kept, memory = p, p.data_ptr()
    optimizer.step()
    assert look.params == [[[0.3, -0.3, 0.2]]]
    assert look.updates == [[G]]
    assert p.tolist() == pytest.approx([0.3 - 0.2, -0.3 + 0.025, 0.2 - 0.075], abs=1e-15)
    assert optimizer.param_groups[0]["params"][0] is kept and p.data_ptr() == memory


@both
def test_the_difference_of_the_parameters_becomes_the_update(compile):
    p, optimizer = one(tz.m.ClipValue(0.3, target="params_difference"), tz.m.LR(0.5), compile=compile)
    optimizer.step()
    # half of the way to the clipped values
    assert p.tolist() == pytest.approx([(3 + 0.3) / 2, (-0.5 - 0.3) / 2, 0.2], abs=1e-15)


@both
def test_the_difference_of_the_update_becomes_the_update(compile):
    p, optimizer = one(tz.m.Mul(2.0), tz.m.ClipValue(1.0, target="update_difference"), compile=compile)
    optimizer.step()
    # 2 g is (4, −0.5, 1.5), of which clipping takes away (3, 0, 0.5)
    assert p.tolist() == pytest.approx([0, -0.5, 0.2 - 0.5], abs=1e-15)
    assert p.grad.tolist() == G


@both
def test_states_on_every_target(compile):
    """An average is the same numbers whatever it is an average of."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 3))
    expected, average = [], np.zeros(3)
    for v in values:
        average = 0.75 * average + 0.25 * v
        expected.append(average)

    for target in ("update", "grad", "closure"):
        look = Look()
        p, optimizer = one(tz.m.EMA(0.75, target=target), look, compile=compile)
        for v in values:
            p.grad = torch.tensor(v)
            optimizer.step()
        assert np.array(look.updates)[:, 0] == pytest.approx(np.array(expected), abs=1e-15)

    for target in ("params_direct", "params_difference"):
        p, optimizer = one(tz.m.EMA(0.75, target=target), tz.m.Mul(0.0 if target == "params_direct" else 1.0))
        for v, e in zip(values, expected, strict=True):
            with torch.no_grad():
                p.copy_(torch.tensor(v))
            optimizer.step()
            assert p.tolist() == pytest.approx(list(e), abs=1e-15)

    p, optimizer = one(tz.m.EMA(0.75, target="update_difference"))
    for v, e in zip(values, expected, strict=True):
        with torch.no_grad():
            p.zero_()
        p.grad = torch.tensor(v)
        optimizer.step()
        assert p.tolist() == pytest.approx(list(e - v), abs=1e-15)


@both
def test_the_closure_of_later_modules_computes_the_new_gradient(compile):
    seen = []

    class Evaluate(Module):
        requires_closure = True

        def step(self, var):
            seen.append((var.get_loss().item(), var.get_grad()[0].tolist()))
            with torch.no_grad():
                var.params[0].add_(1.0)
            with torch.enable_grad():
                loss = var.closure(True)
            seen.append((loss.item(), var.params[0].grad.tolist()))
            with torch.no_grad():
                var.params[0].sub_(1.0)
            return var

    p, optimizer = one(tz.m.ClipValue(3.0, target="closure"), Evaluate(), p=[0.5, -1.0], g=None, compile=compile)
    loss = optimizer.step(lambda backward=True: quartic(p, backward))
    # f = Σ p⁴, ∇f = 4 p³
    assert loss.item() == 0.0625 + 1.0
    assert seen == [(1.0625, [0.5, -3.0]), (1.5**4, [3.0, 0.0])]
    assert p.tolist() == [0.0, 2.0]


def quartic(p, backward):
    loss = (p**4).sum()
    if backward:
        p.grad = None
        loss.backward()
    return loss


def test_without_a_closure_its_target_is_the_gradient():
    look = Look()
    p, optimizer = one(tz.m.Sign(target="closure"), look, tz.m.LR(0.5))
    optimizer.step()
    assert look.grads == [[[1, -1, 1]]]
    assert p.tolist() == pytest.approx([2.5, 0, -0.3])


TARGETS = ("update", "grad", "closure", "params_direct", "params_difference", "update_difference")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rule", [lambda t: tz.m.WeightDecay(0.1, target=t), lambda t: tz.m.ClipNorm(0.2, target=t)])
def test_with_and_without_a_closure_is_the_same(target, rule):
    results = []
    for closed in (False, True):
        params = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (P, G)]
        optimizer = tz.Modular(params, tz.m.HeavyBall(0.9), rule(target), tz.m.LR(0.01))
        for _ in range(5):
            closure = closure_of(params)
            if closed:
                calls = []
                start = loss_of(params).item()
                assert optimizer.step(closure_of(params, calls)).item() == start
                assert calls == [True]
            else:
                closure()
                optimizer.step()
        results.append([p.tolist() for p in params])
    assert results[0] == results[1]
    if target != "update_difference":
        assert results[0] != [P, G]


@pytest.mark.parametrize("target", TARGETS)
@both
def test_parameters_without_a_gradient_are_left_alone(target, compile):
    for closed in (False, True):
        p, q = (torch.tensor(P, dtype=F64, requires_grad=True) for _ in range(2))
        optimizer = tz.Modular([p, q], tz.m.ClipValue(0.1, target=target), tz.m.LR(1.0), compile=compile)

        def closure(backward=True, p=p):
            loss = (p**2).sum()
            if backward:
                p.grad = None
                loss.backward()
            return loss

        if closed:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        assert q.tolist() == P and q.grad is None
        assert p.tolist() != P


@pytest.mark.parametrize("target", TARGETS)
@both
def test_settings_of_groups(target, compile):
    """Each parameter gets what it would alone with its group's value."""

    def run(groups):
        params = [p for group in groups for p in group["params"]]
        optimizer = tz.Modular(groups, tz.m.ClipValue(0.7, target=target), tz.m.LR(0.1), compile=compile)
        for _ in range(3):
            for p in params:
                p.grad = 2 * p.detach()
            optimizer.step()
        return [p.tolist() for p in params]

    def param():
        return torch.tensor(P, dtype=F64, requires_grad=True)

    (a,), (b,) = run([{"params": [param()], "value": 0.1}]), run([{"params": [param()]}])
    assert run([{"params": [param()], "value": 0.1}, {"params": [param()]}]) == [a, b]
    assert a != b


CHAINS = {
    "LBFGS": lambda: (tz.m.LBFGS(), tz.m.StrongWolfe()),
    "BFGS": lambda: (tz.m.BFGS(), tz.m.Backtracking()),
    "PolakRibiere": lambda: (tz.m.PolakRibiere(), tz.m.StrongWolfe(c2=0.1)),
    "Adam": lambda: (tz.m.Adam(), tz.m.LR(0.1)),
    "GradientAccumulation": lambda: (tz.m.GradientAccumulation([tz.m.HeavyBall(0.5), tz.m.LR(0.001)], 2),),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("target", TARGETS[:4])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_rule_that_changes_nothing(chain, target, deterministic):
    """Clipping at a value that is never reached must not show, whatever keeps gradients over evaluations."""
    results = []
    for first in ((), (tz.m.ClipValue(1e30, target=target),)):
        params = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (-1.2, 1.0)]
        calls = []
        closure = closure_of(params, calls)
        optimizer = tz.Modular(params, *first, *CHAINS[chain](), deterministic=deterministic)
        losses = [optimizer.step(closure).item() for _ in range(12)]
        results.append((losses, calls, [p.item() for p in params]))
    assert results[0] == results[1]
    assert results[0][0][-1] < results[0][0][0]


def test_a_transformed_closure_is_minimised_by_its_own_gradient():
    """Centralized gradients project out the mean, so BFGS finds the minimum among points with the same mean."""
    torch.manual_seed(0)
    p = torch.randn(6, dtype=F64, requires_grad=True)
    scale = torch.arange(1.0, 7.0, dtype=F64)
    mean = p.mean().item()
    optimizer = tz.Modular([p], tz.m.Centralize(target="closure"), tz.m.BFGS(), tz.m.StrongWolfe())

    def closure(backward=True):
        loss = (scale * (p - 1) ** 2).sum()
        if backward:
            p.grad = None
            loss.backward()
        return loss

    for _ in range(14):
        optimizer.step(closure)
    # minimum of Σ s (p − 1)² with Σ p fixed: p − 1 ∝ 1/s
    expected = 1 + 6 * (mean - 1) / (1 / scale).sum() / scale
    assert p.mean().item() == pytest.approx(mean, abs=1e-12)
    assert p.tolist() == pytest.approx(expected.tolist(), abs=1e-7)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_an_exception_after_parameters_were_changed_puts_them_back(fails_at, deterministic):
    params = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (-1.2, 1.0)]
    optimizer = tz.Modular(
        params,
        tz.m.ClipValue(0.5, target="params_direct"),
        tz.m.BFGS(),
        tz.m.Sign(target="params_direct"),
        tz.m.StrongWolfe(),
        deterministic=deterministic,
    )
    start = [p.item() for p in params]
    calls = []

    def closure(backward=True):
        calls.append(backward)
        if len(calls) == fails_at:
            raise KeyError("the loss")
        return closure_of(params)(backward)

    with pytest.raises(KeyError):
        optimizer.step(closure)
    assert [p.item() for p in params] == start
    if fails_at == 1:
        assert not optimizer.state_dict()["state"]
    assert optimizer.step(closure).item() == pytest.approx(2.2**2 + 10 * (1 - 1.44) ** 2)
    assert [p.item() for p in params] != start


@pytest.mark.parametrize("target", TARGETS)
def test_state_resumes(target):
    def build():
        params = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (P, G)]
        return params, tz.Modular(params, tz.m.EMA(0.9, debiased=True, target=target), tz.m.LR(0.01))

    a, first = build()
    for _ in range(3):
        first.step(closure_of(a))
    b, second = build()
    with torch.no_grad():
        torch._foreach_copy_(b, a)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        first.step(closure_of(a))
        second.step(closure_of(b))
    assert [p.tolist() for p in a] == [p.tolist() for p in b]


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="target='gradient' is not one of 'update', 'grad', 'closure'"):
        tz.m.ClipValue(1.0, target="gradient")


def test_a_target_shows():
    assert repr(tz.m.ClipValue(1.0, target="grad")) == "ClipValue(value=1.0, target='grad')"
    assert repr(tz.m.Sign(target="params_direct")) == "Sign(target='params_direct')"
