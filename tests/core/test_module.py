"""What a module may do and how it belongs to its optimizer (K2)."""

import copy
import warnings

import pytest
import torch

import torchzero_core as tz
from tests.problems import backward, bits, make_params, run, same
from torchzero_core.core import Module, Slot, Transform, Var


class OwnHeavyBall(Module):
    """The example of the reference, as a user would paste it."""

    def __init__(self, momentum: float = 0.9, dampening: float = 0):
        defaults = dict(momentum=momentum, dampening=dampening)
        super().__init__(defaults)

    def step(self, var: Var):
        params = var.params
        update = var.get_update()
        exp_avg_list = []
        for p, u in zip(params, update):  # noqa: B905
            state = self.state[p]
            settings = self.settings[p]
            momentum = settings["momentum"]
            dampening = settings["dampening"]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p)
            buf = state["momentum_buffer"]
            u *= 1 - dampening
            buf.mul_(momentum).add_(u)
            exp_avg_list.append(buf.clone())
        var.update = exp_avg_list
        return var


class OwnOnes(Module):
    """Replaces the update by ones times a setting."""

    def __init__(self, scale=1.0):
        super().__init__(dict(scale=scale))

    def step(self, var):
        var.update = [torch.full_like(p, self.settings[p]["scale"]) for p in var.params]
        return var


# -- the custom module of the reference --------------------------------------------------------------------------------
@pytest.mark.parametrize("compile", [False, True])
def test_the_references_custom_module_is_momentum(compile):
    ours, theirs = make_params(), make_params()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compile=True has no effect on")
        optimizer = tz.Modular(ours, OwnHeavyBall(0.9), tz.m.LR(0.1), compile=compile)
        expected = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
        for _ in range(10):
            backward(ours)
            grads = bits(p.grad for p in ours)
            optimizer.step()
            assert same(bits(p.grad for p in ours), grads)  # `u *= …` wrote to the chain's copy, not to p.grad
            backward(theirs)
            expected.step()
    assert max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True)) < 1e-14
    for i, p in enumerate(theirs):
        buffer = optimizer.state_dict()["state"][i]["OwnHeavyBall.momentum_buffer"]
        assert torch.allclose(buffer, expected.state[p]["momentum_buffer"], atol=1e-14, rtol=0)


def test_the_references_custom_module_takes_settings_per_group():
    p, q = make_params([(2,), (3,)])
    groups = [{"params": [p]}, {"params": [q], "momentum": 0.5, "dampening": 0.1}]
    optimizer = tz.Modular(groups, OwnHeavyBall(0.9), tz.m.LR(0.1))
    a, b = make_params([(2,), (3,)])
    plain = torch.optim.SGD([{"params": [a]}], lr=0.1, momentum=0.9)
    velocity = torch.zeros_like(b)
    for _ in range(4):
        backward([p, q])
        optimizer.step()
        backward([a, b])
        plain.step()
        velocity = 0.5 * velocity + 0.9 * b.grad
        with torch.no_grad():
            b -= 0.1 * velocity
    assert torch.allclose(p, a, atol=1e-15)
    assert torch.allclose(q, b, atol=1e-15)


def test_a_module_may_work_in_place_and_stand_anywhere():
    p = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.Mul(2.0), OwnHeavyBall(0.5), tz.m.ClipValue(7), OwnOnes(2.0), tz.m.LR(0.5))
    p.grad = p.detach().clone()
    optimizer.step()
    assert p.tolist() == [2.0, -5.0]


# -- ownership ---------------------------------------------------------------------------------------------------------
def test_a_module_has_one_owner():
    module = tz.m.Adam()
    first = tz.Modular(make_params(), module, tz.m.LR(0.1))
    with pytest.raises(ValueError, match=r"Adam\(.*already belongs to another Modular; make a new instance"):
        tz.Modular(make_params(), module, tz.m.LR(0.1))
    assert module.home is first
    params = first.param_groups[0]["params"]
    run(first, params, 1)  # the first owner is unharmed


def test_a_child_has_one_owner_too():
    inner = tz.m.EMA(0.9)
    first = tz.Modular(make_params(), tz.m.RMSprop(inner=inner), tz.m.LR(0.1))
    assert inner.home is first
    with pytest.raises(ValueError, match="already belongs to another Modular"):
        tz.Modular(make_params(), tz.m.RMSprop(inner=inner))
    module = tz.m.RMSprop()
    second = tz.Modular(make_params(), module)
    assert module.home is second
    with pytest.raises(ValueError, match="already belongs to another Modular"):
        module.set_child("inner", inner)


def test_the_same_instance_twice_is_refused():
    module = tz.m.ClipValue(1)
    for chain in ([module, tz.m.LR(0.1), module], [tz.m.RMSprop(inner=module), module]):
        with pytest.raises(ValueError, match="stands in the chain twice"):
            tz.Modular(make_params(), *chain)


@pytest.mark.parametrize(
    "params",
    [
        list,
        lambda: [{"params": make_params(), "no_such": 1}],
        lambda: [{"params": make_params(), "lr": -1}],
        lambda: make_params()[:1] * 2,
    ],
)
def test_a_failed_construction_frees_the_modules(params):
    modules = [tz.m.RMSprop(inner=tz.m.EMA(0.9)), [tz.m.Clone(), tz.m.ClipValue(1)], tz.m.LR(0.1)]
    with pytest.raises(ValueError):
        tz.Modular(params(), *modules)
    good = make_params()
    run(tz.Modular(good, *modules), good, 2)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"RMSprop\.inner takes a module or a list of modules, not 'EMA'"):
        tz.m.RMSprop(inner="EMA")


# -- children ----------------------------------------------------------------------------------------------------------
class Twice(Module):
    """Runs its child on the update and adds what comes out to it."""

    def __init__(self, child=None):
        super().__init__()
        if child is not None:
            self.set_child("child", child)

    def step(self, var):
        inner = self.children["child"].step(var.clone())
        torch._foreach_add_(var.get_update(), inner.get_update())
        var.absorb(inner)
        return var


@pytest.mark.parametrize("child", [lambda: OwnHeavyBall(0.5), lambda: [tz.m.Mul(2), tz.m.EMA(0.5, debiased=True)]])
def test_a_module_runs_its_children(child):
    p = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    module = Twice(child())
    optimizer = tz.Modular([p], module, tz.m.LR(0.25))
    p.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)
    optimizer.step()
    factor = 2 if isinstance(module.children["child"], OwnHeavyBall) else 3
    assert p.tolist() == [1 - factor * 0.25, -2 + factor * 0.5]
    assert p.grad.tolist() == [1.0, -2.0]


def test_set_child_on_a_module_in_use():
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    module = Twice(tz.m.Identity())
    optimizer = tz.Modular([p], module)
    p.grad = torch.ones(1, dtype=torch.float64)
    optimizer.step()
    assert p.item() == -2
    module.set_child("child", [tz.m.Mul(2), tz.m.Mul(5)])
    optimizer.step()
    assert p.item() == -13
    assert [m.path for m in optimizer.unrolled_modules] == ["Twice", "Twice.child.Mul", "Twice.child.Mul_2"]


def test_set_child_on_a_rule_in_use():
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    module = tz.m.RMSprop(0.5, init="zeros")
    optimizer = tz.Modular([p], module, tz.m.LR(1.0))
    p.grad = torch.full((1,), 4.0, dtype=torch.float64)
    optimizer.step()
    assert p.item() == pytest.approx(-(2**0.5), rel=1e-6)
    module.set_child("inner", tz.m.Mul(3))
    optimizer.step()
    assert p.item() == pytest.approx(-(2**0.5) - 3 * 4 / 12**0.5, rel=1e-6)


def test_paths():
    optimizer = tz.Modular(
        make_params(),
        tz.m.EMA(0.5),
        tz.m.RMSprop(inner=[tz.m.EMA(0.9), tz.m.ClipValue(1), tz.m.EMA(0.8)]),
        tz.m.DivModules(tz.m.EMA(0.7), [tz.m.Clone(), tz.m.Add(1)]),
        [tz.m.EMA(0.6), tz.m.LR(0.1)],
    )
    paths = [m.path for m in optimizer.unrolled_modules]
    assert len(set(paths)) == len(paths)
    assert paths[:5] == ["EMA", "RMSprop", "RMSprop.inner.EMA", "RMSprop.inner.ClipValue", "RMSprop.inner.EMA_2"]


# -- settings of one module --------------------------------------------------------------------------------------------
def test_set_param_groups_of_a_module():
    p, q = make_params([(2,), (2,)])
    module = OwnOnes(1.0)
    optimizer = tz.Modular([p, q], module)
    module.set_param_groups([{"params": [q], "scale": 3.0}])
    start = bits([p, q])
    backward([p, q])
    optimizer.step()
    assert torch.equal(p, start[0] - 1)
    assert torch.equal(q, start[1] - 3)
    module.set_param_groups([{"params": p, "scale": 5.0}])  # replaces the former groups
    optimizer.step()
    assert torch.allclose(p, start[0] - 6, atol=1e-14, rtol=0)
    assert torch.allclose(q, start[1] - 4, atol=1e-14, rtol=0)


def test_set_param_groups_reaches_a_fused_rule():
    p, q = make_params([(2,), (2,)])
    clip = tz.m.ClipValue(1.0)
    optimizer = tz.Modular([p, q], clip, tz.m.LR(1.0))
    clip.set_param_groups([{"params": [q], "value": 0.25}])
    p.grad, q.grad = (torch.full((2,), 9.0, dtype=torch.float64) for _ in range(2))
    start = bits([p, q])
    optimizer.step()
    assert torch.equal(p, start[0] - 1)
    assert torch.equal(q, start[1] - 0.25)


def test_set_param_groups_refuses():
    module = tz.m.Adam()
    p = torch.zeros(1)
    with pytest.raises(ValueError, match="Adam has no setting 'momentum'; it has 'beta1', 'beta2', 'eps'"):
        module.set_param_groups([{"params": [p], "momentum": 0.5}])
    with pytest.raises(ValueError, match=r"a parameter group of Adam: beta1=1\.5 is out of range"):
        module.set_param_groups([{"params": [p], "beta1": 1.5}])


# -- state -------------------------------------------------------------------------------------------------------------
class Remember(Module):
    """Keeps all kinds of state."""

    def step(self, var):
        for p, u in zip(var.params, var.get_update(), strict=True):
            s = self.state[p]
            s["calls"] = s.get("calls", 0) + 1
            s["last"] = u.clone()
            s["history"] = [*s.get("history", []), float(u.sum())]
        self.global_state["steps"] = self.global_state.get("steps", 0) + 1
        return var


def test_state_is_a_mapping_and_lives_in_the_optimizer():
    params = make_params()
    module = Remember()
    optimizer = tz.Modular(params, module, tz.m.LR(0.1))
    run(optimizer, params, 3)
    state = module.state[params[1]]
    assert set(state) == {"calls", "last", "history"}
    assert len(state) == 3
    assert dict(state)["calls"] == 3
    assert "calls" in state
    assert "momentum" not in state
    assert optimizer.state[params[1]]["Remember.last"] is state["last"]
    assert module.global_state["steps"] == 3
    assert not any(name.endswith("steps") for p in params[1:] for name in optimizer.state[p])
    del state["history"]
    assert "Remember.history" not in optimizer.state[params[1]]
    with pytest.raises(KeyError):
        state["history"]


def test_module_wide_state_has_names_of_its_own():
    """It sits with the first parameter, but is not the first parameter's."""

    class Counts(Module):
        def step(self, var):
            for p in var.params:
                self.state[p]["calls"] = self.state[p].get("calls", 0) + 1
            self.global_state["calls"] = self.global_state.get("calls", 0) + 100
            return var

    params = make_params()
    module = Counts()
    optimizer = tz.Modular(params, module, tz.m.LR(0.1))
    run(optimizer, params, 3)
    assert [module.state[p]["calls"] for p in params] == [3, 3, 3]
    assert module.global_state["calls"] == 300


@pytest.mark.parametrize("compile", [False, True])
def test_a_rule_has_numbers_per_tensor_and_one_for_all(compile):

    class Both(Transform):
        slots = {"mine": Slot(scalar=True), "ours": Slot(scalar=True)}

        def rule(self, u, ctx):
            ctx.state.mine = ctx.state.mine + 1
            ctx.global_state.ours = ctx.global_state.ours + 10
            return u * ctx.state.mine + ctx.global_state.ours

    params = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizer = tz.Modular(params, Both(), tz.m.LR(1.0), compile=compile)
    for p in params:
        p.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    optimizer.step()
    assert [p.tolist() for p in params] == [[-33.0] * 2] * 2
    both = optimizer.modules[0]
    assert both.global_state["ours"].item() == 20
    assert [both.state[p]["mine"].item() for p in params] == [2, 2]
    assert not any("ours" in name for name in optimizer.state[params[1]])


@pytest.mark.parametrize("compile", [False, True])
def test_reset_of_one_module_and_its_children(compile):
    params, others = make_params(), make_params()

    def build(ps):
        rms = tz.m.RMSprop(0.9, inner=tz.m.EMA(0.5))
        return rms, tz.Modular(ps, tz.m.Adam(), rms, tz.m.LR(0.1), compile=compile)

    module, optimizer = build(params)
    run(optimizer, params, 3)
    module.reset()
    names = {n.split(".")[0] for s in optimizer.state.values() for n in s}
    assert names == {"Adam", "Modular"}
    fresh, other = build(others)
    state = copy.deepcopy(optimizer.state_dict())
    other.load_state_dict(state)
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    run(optimizer, params, 3)
    run(other, others, 3)
    assert same(bits(params), bits(others))
    assert fresh.state[others[0]]["step"] == 3
    assert other.modules[0].state[others[0]]["step"] == 6


def test_optimizer_reset():
    params, others = make_params(), make_params()
    optimizer = tz.Modular(params, Remember(), tz.m.Adam(), tz.m.LR(0.1))
    run(optimizer, params, 3)
    optimizer.reset()
    assert not {n for s in optimizer.state.values() for n in s} - {"Modular.step"}
    with torch.no_grad():
        torch._foreach_copy_(params, others)
    run(optimizer, params, 2)
    run(tz.Modular(others, Remember(), tz.m.Adam(), tz.m.LR(0.1)), others, 2)
    assert same(bits(params), bits(others))


def test_post_step_comes_after_the_parameters_have_moved():
    seen = []

    class After(Module):
        def step(self, var):
            seen.append(var.params[0].item())
            return var

        def post_step(self, var):
            seen.append(var.params[0].item())

    p = torch.zeros(1, requires_grad=True)
    optimizer = tz.Modular([p], After(), tz.m.LR(0.5))
    p.grad = torch.ones(1)
    optimizer.step()
    assert seen == [0.0, -0.5]


def test_a_module_without_step_says_so():
    p = torch.zeros(1, requires_grad=True)
    p.grad = torch.ones(1)
    with pytest.raises(NotImplementedError, match=r"Module has no step\(var\)"):
        tz.Modular([p], Module()).step()
    with pytest.raises(NotImplementedError, match=r"Transform has no rule\(u, ctx\)"):
        tz.Modular([p], Transform()).step()


def test_a_rule_names_what_it_does_not_have():
    class Wrong(Transform):
        def __init__(self, name):
            super().__init__(dict(here=1.0))
            self.name = name

        def rule(self, u, ctx):
            return u * getattr(getattr(ctx, self.name), "absent")  # noqa: B009

    p = torch.zeros(1, requires_grad=True)
    p.grad = torch.ones(1)
    with pytest.raises(AttributeError, match=r"Wrong declares no state 'absent'; add it as absent = Slot\(\)"):
        tz.Modular([p], Wrong("state")).step()
    with pytest.raises(AttributeError, match="Wrong has no setting 'absent'"):
        tz.Modular([p], Wrong("settings")).step()
