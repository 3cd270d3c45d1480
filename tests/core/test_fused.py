"""Chain ends that torch has a kernel for run that kernel, with the identical result."""

import math
import warnings

import pytest
import torch

import torchzero_core as tz
from tests.problems import ALL_SHAPES, backward, bits, make_params, same, values
from torchzero_core.engine import kernels as fused
from torchzero_core.engine.backends import foreach as eager

#: torch's fused optimizer and the chain that is the same.
SAME = {
    "Adam": (
        lambda ps: torch.optim.Adam(ps, lr=0.1, fused=True),
        lambda: [tz.m.Adam(), tz.m.LR(0.1)],
    ),
    "Adam settings": (
        lambda ps: torch.optim.Adam(ps, lr=0.03, betas=(0.8, 0.95), eps=1e-4, fused=True),
        lambda: [tz.m.Adam(0.8, 0.95, 1e-4), tz.m.LR(0.03)],
    ),
    "AdamW": (
        lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.2, fused=True),
        lambda: [tz.m.Adam(), tz.m.WeightDecay(0.2), tz.m.LR(0.1)],
    ),
    "Adam L2": (
        lambda ps: torch.optim.Adam(ps, lr=0.1, weight_decay=0.2, fused=True),
        lambda: [tz.m.WeightDecay(0.2), tz.m.Adam(), tz.m.LR(0.1)],
    ),
    "amsgrad": (
        lambda ps: torch.optim.Adam(ps, lr=0.1, betas=(0.9, 0.5), amsgrad=True, fused=True),
        lambda: [tz.m.Adam(beta2=0.5, amsgrad=True), tz.m.LR(0.1)],
    ),
    "momentum": (
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, fused=True),
        lambda: [tz.m.HeavyBall(0.9), tz.m.LR(0.1)],
    ),
    "Nesterov": (
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, fused=True),
        lambda: [tz.m.NAG(0.9), tz.m.LR(0.1)],
    ),
    "Adagrad": (
        lambda ps: torch.optim.Adagrad(ps, lr=0.1, lr_decay=0.01, fused=True),
        lambda: [tz.m.Adagrad(lr_decay=0.01), tz.m.LR(0.1)],
    ),
}
KERNELS = ("_fused_adam_", "_fused_adamw_", "_fused_sgd_", "_fused_adagrad_")


@pytest.fixture
def calls(monkeypatch):
    """How often each kernel moved the parameters; under "inside", how often one computed an update."""
    count = dict.fromkeys([*KERNELS, "inside"], 0)

    def counted(name, kernel):
        def call(*args, **kwargs):
            count["inside" if kwargs["lr"] == -1 else name] += 1
            return kernel(*args, **kwargs)

        return call

    for name in KERNELS:
        monkeypatch.setattr(torch, name, counted(name, getattr(torch, name)))
    return count


def trajectory(optimizer, params, steps=6):
    for _ in range(steps):
        backward(params)
        optimizer.step()
    return bits(params)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["f64", "f32", "bf16"])
@pytest.mark.parametrize("name", SAME)
def test_identical_to_torchs_fused_optimizer(name, dtype, calls):
    if dtype is torch.bfloat16 and name in ("momentum", "Nesterov"):
        pytest.skip("torch's kernel leaves such parameters where they are, so none is called")
    reference, modules = SAME[name]
    theirs, ours = make_params(dtype=dtype), make_params(dtype=dtype)
    expected = reference(theirs)
    trajectory(expected, theirs)
    before = moves(calls)
    optimizer = tz.Modular(ours, *modules())
    trajectory(optimizer, ours)
    assert moves(calls) == before + 6
    assert same(bits(ours), bits(theirs))
    for p, q in zip(ours, theirs, strict=True):
        state = {k.split(".")[-1]: v for k, v in optimizer.state[p].items()}
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            if name.startswith(("Ad", "ams")) and key in expected.state[q]:
                assert same(state[key], expected.state[q][key])


def _rule_only(monkeypatch):
    monkeypatch.setattr(fused, "find_tail", lambda modules: ())
    monkeypatch.setattr(fused, "adam_value", lambda u, ctx: None)


def moves(calls):
    """How often a kernel moved the parameters."""
    return sum(n for name, n in calls.items() if name != "inside")


@pytest.mark.parametrize("name", SAME)
def test_the_rule_without_the_kernel_is_the_same_up_to_rounding(name, monkeypatch, calls):
    _, modules = SAME[name]
    ours, plain = make_params(), make_params()
    trajectory(tz.Modular(ours, *modules()), ours)
    ran = moves(calls)
    _rule_only(monkeypatch)
    trajectory(tz.Modular(plain, *modules()), plain)
    assert moves(calls) == ran == 6
    assert calls["inside"] == 0
    assert max(float((a - b).detach().abs().max()) for a, b in zip(ours, plain, strict=True)) < 4e-15


@pytest.mark.parametrize("name", SAME)
def test_kernel_and_rule_share_their_state(name, monkeypatch, calls):
    """A chain may change between them at any step: the state is the module's own."""
    reference, modules = SAME[name]
    theirs, ours = make_params(), make_params()
    trajectory(reference(theirs), theirs, 9)
    calls.update(dict.fromkeys(calls, 0))
    monkeypatch.setattr(fused, "adam_value", lambda u, ctx: None)
    optimizer = tz.Modular(ours, *modules())
    trajectory(optimizer, ours, 3)
    handle = optimizer.watch(lambda path, update: None)  # a chain that is watched runs its rules
    trajectory(optimizer, ours, 3)
    handle.remove()
    trajectory(optimizer, ours, 3)
    assert moves(calls) == 6
    assert max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True)) < 1e-14


@pytest.mark.parametrize(
    ("modules", "kernel"),
    [
        (lambda: [tz.m.ClipValue(0.5), tz.m.Adam(), tz.m.LR(0.1)], "_fused_adamw_"),
        (lambda: [tz.m.ClipNorm(1, dim="global"), tz.m.Adam(), tz.m.WeightDecay(0.1), tz.m.LR(0.1)], "_fused_adamw_"),
        (lambda: [tz.m.Centralize(), tz.m.HeavyBall(0.9), tz.m.LR(0.1)], "_fused_sgd_"),
    ],
)
def test_what_stands_before_runs_by_itself(modules, kernel, calls, monkeypatch):
    ours, plain = make_params(), make_params()
    trajectory(tz.Modular(ours, *modules()), ours)
    assert calls[kernel] == 6
    _rule_only(monkeypatch)
    trajectory(tz.Modular(plain, *modules()), plain)
    assert max(float((a - b).detach().abs().max()) for a, b in zip(ours, plain, strict=True)) < 4e-15


@pytest.mark.parametrize(
    "modules",
    [
        lambda: [tz.m.Adam(pow=3), tz.m.LR(0.1)],
        lambda: [tz.m.Adam(alpha=0.5), tz.m.LR(0.1)],
        lambda: [tz.m.Adam(debiased=False), tz.m.LR(0.1)],
        lambda: [tz.m.Adam(), tz.m.WeightDecay(0.1, ord=1), tz.m.LR(0.1)],
        lambda: [tz.m.HeavyBall(0.9, lerp=True), tz.m.LR(0.1)],
        lambda: [tz.m.HeavyBall(0.0), tz.m.LR(0.1)],
        lambda: [tz.m.Adagrad(inner=tz.m.EMA(0.5)), tz.m.LR(0.1)],
        lambda: [tz.m.Adam(), tz.m.LR(0.1), tz.m.WeightDecay(0.1)],
        lambda: [tz.m.Adam(), tz.m.ClipValue(1), tz.m.LR(0.1)],
    ],
)
def test_settings_the_kernel_does_not_know_run_the_rule(modules, calls, monkeypatch):
    ours, plain = make_params(), make_params()
    trajectory(tz.Modular(ours, *modules()), ours)
    assert moves(calls) == 0
    assert (calls["inside"] == 6) == (repr(modules()[0]) == repr(tz.m.Adam()))
    _rule_only(monkeypatch)
    trajectory(tz.Modular(plain, *modules()), plain)
    assert max(float((a - b).detach().abs().max()) for a, b in zip(ours, plain, strict=True)) < 4e-15


INSIDE = {
    "first": lambda: [tz.m.Adam(0.8, 0.97, 1e-3), tz.m.ClipValue(0.9), tz.m.LR(0.1)],
    "amsgrad": lambda: [tz.m.Adam(0.8, 0.6, amsgrad=True), tz.m.ClipValue(0.9), tz.m.LR(0.1)],
    "five": lambda: [tz.m.ClipValue(10), tz.m.Adam(), tz.m.NormalizeByEMA(), tz.m.WeightDecay(0.1), tz.m.LR(0.1)],
    "alone": lambda: [tz.m.Adam()],
    "twice": lambda: [tz.m.Adam(), tz.m.Adam(0.5), tz.m.ClipNorm(1, dim="global"), tz.m.LR(0.1)],
    "kept for later": lambda: [tz.m.Adam(), tz.m.AccumulateMaximum(), tz.m.ClipNorm(1, dim="global"), tz.m.LR(0.1)],
    "child": lambda: [tz.m.Sum(tz.m.Adam(0.5), tz.m.EMA(0.3)), tz.m.LR(0.1)],
    "scaled": lambda: [tz.m.Mul(0.0), tz.m.Add(0.5), tz.m.Adam(), tz.m.Mul(2.0), tz.m.LR(0.1)],
}


@pytest.mark.parametrize("piece", [1 << 17, 8])
@pytest.mark.parametrize("name", INSIDE)
def test_adam_inside_a_chain_is_the_kernel_too(name, piece, calls, monkeypatch):
    """In every layout, with gradients in another memory order, with tensors swept in pieces."""
    monkeypatch.setattr(eager, "CPU_PIECE", piece)

    def train():
        ps = make_params(ALL_SHAPES.values())
        ps.append(values((4, 6), 40).t().requires_grad_())
        ps.append(torch.zeros(6, 4, dtype=torch.float64)[::2, ::2].copy_(values((3, 2), 41)).requires_grad_())
        optimizer = tz.Modular(ps, *INSIDE[name]())
        for step in range(5):
            for i, p in enumerate(ps):
                p.grad = values(p.shape, i + 7 * step).clone(memory_format=torch.contiguous_format)
            kept = bits(p.grad for p in ps)
            optimizer.step()
            assert same(kept, bits(p.grad for p in ps))
        return ps, optimizer.state_dict()["state"]

    ours, state = train()
    assert calls["inside"] >= 5
    _rule_only(monkeypatch)
    before = dict(calls)
    plain, expected = train()
    assert calls == before
    for i, (p, q) in enumerate(zip(ours, plain, strict=True)):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)
        assert state[i].keys() == expected[i].keys()
        for key in expected[i]:
            torch.testing.assert_close(state[i][key], expected[i][key], rtol=0, atol=1e-14)


def test_a_subclass_with_a_rule_of_its_own_runs_its_rule(calls):
    class Doubled(tz.m.Adam):
        def rule(self, u, ctx):
            return 2 * super().rule(u, ctx)

    class Renamed(tz.m.Adam):
        """Adam by another name."""

    for module, factor in ((Doubled, 2), (Renamed, 1)):
        for last in ([], [tz.m.Mul(1.0)]):
            ours, plain = make_params(), make_params()
            calls.update(dict.fromkeys(calls, 0))
            trajectory(tz.Modular(ours, module(), *last, tz.m.LR(0.1)), ours)
            assert (sum(calls.values()) == 6) == (factor == 1)
            trajectory(tz.Modular(plain, tz.m.Adam(), tz.m.LR(0.1 * factor)), plain)
            assert max(float((a - b).detach().abs().max()) for a, b in zip(ours, plain, strict=True)) < 1e-14


def test_a_group_may_take_the_kernel_away(calls):
    """Settings per group: a group that the kernel cannot serve, or ceases to serve."""
    ours, plain = make_params(), make_params()

    def make(ps):
        return tz.Modular([{"params": ps[:1]}, {"params": ps[1:], "beta1": 0.5}], tz.m.Adam(), tz.m.LR(0.1))

    optimizer, other = make(ours), make(plain)
    for step in range(6):
        optimizer.param_groups[1]["pow"] = other.param_groups[1]["pow"] = 3 if step in (2, 3) else 2
        trajectory(optimizer, ours, 1)
        handle = other.watch(lambda path, update: None)
        trajectory(other, plain, 1)
        handle.remove()
    assert calls["_fused_adamw_"] == 6 + 4  # the other group keeps its kernel
    assert max(float((a - b).detach().abs().max()) for a, b in zip(ours, plain, strict=True)) < 1e-14


@pytest.mark.parametrize("name", ["AdamW", "Nesterov"])
def test_every_shape_and_layout(name):
    reference, modules = SAME[name]

    def odd():
        ps = make_params(ALL_SHAPES.values())
        ps.append(values((4, 6), 40).t().requires_grad_())
        ps.append(values((2, 3, 2, 2), 41).contiguous(memory_format=torch.channels_last).requires_grad_())
        return ps

    theirs, ours = odd(), odd()
    optimizer, expected = tz.Modular(ours, *modules()), reference(theirs)
    for _ in range(4):
        for ps in (ours, theirs):
            for i, p in enumerate(ps):  # gradients in another memory order than their parameters
                p.grad = values(p.shape, i).clone(memory_format=torch.contiguous_format)
        if all(g.grad.stride() == g.stride() for g in theirs):
            expected.step()
        else:
            for p in theirs:  # torch's kernel would mix the orders up
                p.grad = torch.empty_like(p).copy_(p.grad).detach()
            expected.step()
        optimizer.step()
    assert max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True) if a.numel()) < 1e-15


@pytest.mark.parametrize("name", SAME)
def test_a_schedule_and_an_infinite_gradient(name):
    """What a kernel does with infinities is what torch's optimizer does with them."""
    reference, modules = SAME[name]
    theirs, ours = make_params(), make_params()
    optimizer, expected = tz.Modular(ours, *modules()), reference(theirs)
    for step in range(5):
        for o, ps in ((optimizer, ours), (expected, theirs)):
            o.param_groups[0]["lr"] = 0.1 * 0.7**step
            backward(ps)
            if step == 3:
                ps[0].grad[0, 0] = math.inf
            o.step()
    assert same(bits(ours), bits(theirs))
    assert all(p.isfinite().all() for p in ours[1:])


def test_float16_runs_too():
    theirs, ours = make_params(dtype=torch.float16), make_params(dtype=torch.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trajectory(torch.optim.Adam(theirs, lr=0.1, eps=1e-4, fused=True), theirs, 3)
        trajectory(tz.Modular(ours, tz.m.Adam(eps=1e-4), tz.m.LR(0.1)), ours, 3)
    assert same(bits(ours), bits(theirs))


@pytest.mark.parametrize("name", SAME)
def test_the_group_s_lr_scales_a_chain_whose_modules_differ(name, calls):
    """With several values of lr in the chain, the group's is none of them and scales the last update."""
    steps = []
    for lr in (1.0, 0.25):
        (p,) = make_params([(7,)])
        optimizer = tz.Modular([{"params": [p], "lr": lr}], tz.m.LR(2.0), *SAME[name][1]())
        start = p.detach().clone()
        p.grad = values((7,), 3)
        optimizer.step()
        steps.append((start - p.detach()).tolist())
    assert steps[1] == pytest.approx([0.25 * s for s in steps[0]], rel=1e-12, abs=1e-15)
    assert sum(calls.values()) == 2
