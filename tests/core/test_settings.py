"""Where settings come from, and what is refused (K4, K5)."""

import pytest
import torch

import torchzero_core as tz
from tests.problems import backward, bits, closure_of, make_params, run, same, squares
from torchzero_core.core import Module, Transform


def scale_of(optimizer, params, grad=1.0):
    """By how much each parameter moves against a gradient of ones."""
    for p in params:
        p.grad = torch.full_like(p, grad)
    start = bits(params)
    optimizer.step()
    moved = [(s - p.detach()) / grad for s, p in zip(start, params, strict=True)]
    assert all(torch.allclose(m, m.flatten()[0], atol=1e-14) for m in moved)
    return [round(float(m.flatten()[0]), 12) for m in moved]


class Scale(Transform):
    """A rule with one setting."""

    def __init__(self, factor: float = 2.0):
        super().__init__(dict(factor=factor))

    def rule(self, u, ctx):
        return u * ctx.settings.factor


class LoopScale(Module):
    """The same, which reads it for each tensor."""

    def __init__(self, factor: float = 2.0):
        super().__init__(dict(factor=factor))

    def step(self, var):
        for p, u in zip(var.params, var.get_update(), strict=True):
            u *= self.settings[p]["factor"]
        return var


# -- order -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("make", [Scale, LoopScale])
@pytest.mark.filterwarnings("ignore:compile=True has no effect on")
def test_own_groups_before_parameter_groups_before_constructor(make, compile):
    a, b, c, d = params = make_params([(1,), (2,), (3,), (2,)])
    module = make(2.0)
    groups = [{"params": [a]}, {"params": [b, c], "factor": 3.0}, {"params": [d]}]
    optimizer = tz.Modular(groups, module, tz.m.LR(1.0), compile=compile)
    module.set_param_groups([{"params": [c, d], "factor": 5.0}])
    assert scale_of(optimizer, params) == [2, 3, 5, 5]
    assert [module.settings[p]["factor"] for p in params] == [2, 3, 5, 5]
    assert module.settings[b] is module.settings[b]  # resolved once


@pytest.mark.parametrize("compile", [False, True])
def test_a_value_changed_between_steps_counts_at_once(compile):
    params = make_params([(2,), (3,)])
    optimizer = tz.Modular(
        [{"params": params[0]}, {"params": params[1], "factor": 3.0}], Scale(2.0), tz.m.LR(1.0), compile=compile
    )
    assert scale_of(optimizer, params) == [2, 3]
    optimizer.param_groups[1]["factor"] = 4.0
    assert scale_of(optimizer, params) == [2, 4]
    optimizer.param_groups[0]["factor"] = 7.0  # a key that was not there
    assert scale_of(optimizer, params) == [7, 4]
    optimizer.param_groups[0]["lr"] = 0.5
    assert scale_of(optimizer, params) == [3.5, 4]
    del optimizer.param_groups[0]["factor"]
    assert scale_of(optimizer, params) == [1, 4]


@pytest.mark.parametrize("compile", [False, True])
def test_paths_address_one_module(compile):
    params = make_params([(2,), (3,)])
    groups = [{"params": params[0], "Scale_2.factor": 5.0}, {"params": params[1], "factor": 3.0, "Scale.factor": 7.0}]
    optimizer = tz.Modular(groups, Scale(2.0), Scale(10.0), tz.m.LR(1.0), compile=compile)
    assert scale_of(optimizer, params) == [2 * 5, 7 * 3]


def test_paths_of_children_may_be_shortened_at_the_front():
    module = tz.m.RMSprop(0.5, inner=tz.m.EMA(0.9))
    p, q, r = make_params([(1,), (1,), (1,)])
    groups = [
        {"params": [p], "EMA.momentum": 0.25},
        {"params": [q], "RMSprop.inner.EMA.momentum": 0.5},
        {"params": [r], "inner.EMA.momentum": 0.75, "EMA.momentum": 0.1},  # the longer one counts
    ]
    optimizer = tz.Modular(groups, module, tz.m.LR(0.1))
    ema = optimizer.modules[0].children["inner"]
    assert [ema.settings[x]["momentum"] for x in (p, q, r)] == [0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match=r"inner\.RMSprop\.momentum"):
        tz.Modular(
            [{"params": make_params(), "inner.RMSprop.momentum": 0.5}], tz.m.RMSprop(inner=tz.m.EMA(0.9)), tz.m.LR(0.1)
        )


def test_torchs_betas_reach_beta1_and_beta2():
    p, q = make_params([(2,), (2,)])
    adam = tz.m.Adam()
    optimizer = tz.Modular([{"params": p, "betas": (0.5, 0.75)}, {"params": q}], adam, tz.m.LR(0.1))
    assert optimizer.param_groups[1]["betas"] == (0.9, 0.999)
    assert [adam.settings[p][k] for k in ("beta1", "beta2")] == [0.5, 0.75]
    assert [adam.settings[q][k] for k in ("beta1", "beta2")] == [0.9, 0.999]
    optimizer.param_groups[1]["betas"] = (0.25, 0.5)
    run(optimizer, [p, q], 1)
    assert [adam.settings[q][k] for k in ("beta1", "beta2")] == [0.25, 0.5]
    a, b = make_params([(2,), (2,)])
    expected = torch.optim.Adam([{"params": a, "betas": (0.5, 0.75)}, {"params": b, "betas": (0.25, 0.5)}], lr=0.1)
    backward([a, b])
    expected.step()
    assert max(float((x - y).detach().abs().max()) for x, y in zip((p, q), (a, b), strict=True)) < 1e-15


@pytest.mark.parametrize("compile", [False, True])
def test_learning_rates_per_group_and_as_tensors(compile):
    params = make_params([(2,), (3,)])
    lr = torch.tensor(0.5)
    optimizer = tz.Modular(
        [{"params": params[0]}, {"params": params[1], "lr": lr}], Scale(1.0), tz.m.LR(0.25), compile=compile
    )
    assert scale_of(optimizer, params) == [0.25, 0.5]
    lr.fill_(0.125)  # changed in place, as a capturable schedule does
    assert scale_of(optimizer, params) == [0.25, 0.125]
    optimizer.param_groups[0]["lr"] = torch.tensor(2.0, dtype=torch.float64)
    assert scale_of(optimizer, params) == [2, 0.125]


def test_a_tensor_scales_the_final_update_too():
    params = make_params([(2,), (3,)])
    optimizer = tz.Modular(params, Scale(2.0))
    optimizer.param_groups[0]["lr"] = lr = torch.tensor(0.5)
    assert scale_of(optimizer, params) == [1, 1]
    lr.fill_(0.25)
    assert scale_of(optimizer, params) == [0.5, 0.5]


@pytest.mark.parametrize("compile", [False, True])
def test_words_and_flags_differ_per_group(compile):
    p, q = make_params([(3,), (3,)])
    groups = [{"params": [p]}, {"params": [q], "amsgrad": True}]
    optimizer = tz.Modular(groups, tz.m.Adam(beta2=0.5), tz.m.LR(0.1), compile=compile)
    run(optimizer, [p, q], 3)
    names = [set(s) for s in optimizer.state_dict()["state"].values()]
    assert "Adam.max_exp_avg_sq" not in names[0]
    assert "Adam.max_exp_avg_sq" in names[1]


def test_resolved_once_not_at_every_step(monkeypatch):
    """Thousands of tensors cost no Python for their settings as long as nothing changes."""
    from torchzero_core.core.settings import Settings

    params = make_params([(1,)] * 50)
    optimizer = tz.Modular(params, tz.m.ClipValue(1), tz.m.Adam(), tz.m.ClipNorm(1), tz.m.LR(0.1))
    run(optimizer, params, 3)
    calls, original = [], Settings.__getitem__
    monkeypatch.setattr(Settings, "__getitem__", lambda self, p: calls.append(1) or original(self, p))
    run(optimizer, params, 3)
    assert not calls
    optimizer.param_groups[0]["lr"] = 0.01
    run(optimizer, params, 1)
    assert 0 < len(calls) <= 8


# -- refused -----------------------------------------------------------------------------------------------------------
def chain():
    return [tz.m.Adam(), tz.m.WeightDecay(0.1), tz.m.LR(0.1)]


BAD = {
    "unknown": ({"momentun": 0.5}, r"has the key 'momentun', which no module of this chain knows"),
    "near": ({"weight_decy": 0.5}, r"Did you mean 'weight_decay'\?"),
    "known": ({"xyz": 0.5}, r"Known settings: .*beta1, beta2, .*weight_decay; address one module with its path"),
    "path": ({"SGD.lr": 0.5}, r"the key 'SGD\.lr', which no module"),
    "path setting": ({"Adam.lr_": 0.5}, r"the key 'Adam\.lr_', which no module"),
    "lr": ({"lr": -0.1}, r"lr=-0\.1 is out of range: lr must be in \[0, inf\)"),
    "lr tensor": ({"lr": torch.tensor(-1.0)}, r"lr=-1 is out of range"),
    "lr shape": ({"lr": torch.ones(3)}, r"lr must be a number or a tensor with one element, not of shape \(3,\)"),
    "lr nan": ({"lr": float("nan")}, r"lr=nan is out of range"),
    "beta": ({"beta1": 1.0}, r"beta1=1 is out of range: beta1 must be in \[0, 1\)"),
    "betas": ({"betas": (0.9, 1.5)}, r"beta2=1\.5 is out of range"),
    "by path": ({"Adam.beta2": -0.5}, r"beta2=-0\.5 is out of range"),
    "eps": ({"eps": -1e-8}, r"eps=-1e-08 is out of range"),
}


@pytest.mark.parametrize("bad", BAD)
def test_refused_at_construction(bad):
    values, words = BAD[bad]
    with pytest.raises(ValueError, match=words):
        tz.Modular([{"params": make_params(), **values}], *chain())


@pytest.mark.parametrize("bad", BAD)
def test_refused_in_add_param_group_and_nothing_has_changed(bad):
    values, words = BAD[bad]
    params, others, new = make_params(), make_params(), make_params([(2,)], seed=9)
    optimizer, twin = tz.Modular(params, *chain()), tz.Modular(others, *chain())
    run(optimizer, params, 2)
    run(twin, others, 2)
    before = repr(optimizer)
    with pytest.raises(ValueError, match=words):
        optimizer.add_param_group({"params": new, **values})
    assert len(optimizer.param_groups) == 1
    assert repr(optimizer) == before
    run(optimizer, params, 2)
    run(twin, others, 2)
    assert same(bits(params), bits(others))
    optimizer.add_param_group({"params": new})  # and it may still come


def test_duplicates_in_add_param_group():
    params = make_params()
    optimizer = tz.Modular(params, *chain())
    for group in ([params[0]], make_params([(1,)]) * 2):
        with pytest.raises(ValueError, match="appears in the optimizer twice"):
            optimizer.add_param_group({"params": group})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tz.m.LR(-1), r"^LR\(lr=-1\) is out of range: lr must be in \[0, inf\)\.$"),
        (lambda: tz.m.Adam(beta1=1.0), r"^Adam\(beta1=1\) is out of range: beta1 must be in \[0, 1\)\.$"),
        (lambda: tz.m.Adam(beta2=-0.1), r"^Adam\(beta2=-0\.1\) is out of range"),
        (lambda: tz.m.Adam(eps=-1), r"^Adam\(eps=-1\) is out of range"),
        (lambda: tz.m.HeavyBall(1.1), r"^HeavyBall\(momentum=1\.1\) is out of range: momentum must be in \[0, 1\]\.$"),
    ],
)
def test_a_constructor_refuses_what_is_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_words_outside_the_annotated_ones_are_refused():
    with pytest.raises(ValueError, match=r"RMSprop\(init='one'\) must be one of 'zeros', 'update'"):
        tz.m.RMSprop(init="one")
    with pytest.raises(ValueError, match="must be one of 'zeros', 'update'"):
        tz.Modular([{"params": make_params(), "init": "one"}], tz.m.RMSprop(), tz.m.LR(0.1))
    with pytest.raises(ValueError, match="target='gradient' is not one of 'update', 'grad', 'closure'"):
        Transform(target="gradient")


def test_a_module_may_have_ranges_of_its_own():
    class Wide(Module):
        ranges = {"lr": (-1, 1, "[]")}

        def __init__(self, lr):
            super().__init__(dict(lr=lr))

    Wide(-0.5)
    with pytest.raises(ValueError, match=r"Wide\(lr=-2\) is out of range: lr must be in \[-1, 1\]"):
        Wide(-2)


def test_keys_of_schedulers_are_no_settings():
    keys = dict(initial_lr=1.0, max_lr=1.0, min_lr=0.0, base_momentum=0.8, max_momentum=0.9, name="head", swa_lr=0.1)
    optimizer = tz.Modular([{"params": make_params(), **keys}], tz.m.Adam(), tz.m.LR(0.1))
    assert optimizer.param_groups[0]["name"] == "head"


def test_a_setting_whose_name_begins_like_those_of_schedules_may_differ_per_group():
    a, b = params = make_params([(2,), (2,)])
    groups = [{"params": [a]}, {"params": [b], "initial_accumulator_value": 8.0, "initial_lr_decay": 0.0}]
    optimizer = tz.Modular(groups, tz.m.Adagrad(eps=0), tz.m.LR(1.0))
    assert scale_of(optimizer, params) == [1, round(1 / 3, 12)]
    with pytest.raises(ValueError, match="the key 'initial_beta', which no module of this chain knows"):
        tz.Modular([{"params": make_params(), "initial_beta": 0.9}], tz.m.Adagrad(), tz.m.LR(1.0))


def test_a_subclass_is_held_to_the_words_of_its_base():
    class Mine(tz.m.Cautious):
        def __init__(self, mode):
            super().__init__(mode=mode)

    with pytest.raises(ValueError, match=r"^Mine\(mode='off'\) must be one of 'zero', 'grad', 'backtrack'\.$"):
        Mine("off")
    with pytest.raises(ValueError, match=r"^BFGS\(init_scale='big'\) must be 'auto' or a number\.$"):
        tz.m.BFGS(init_scale="big")


@pytest.mark.parametrize(("module", "name"), [(tz.m.Cautious, "mode"), (tz.m.SPSA, "distribution")])
def test_a_word_assigned_between_steps_is_checked(module, name):
    p = torch.ones(2, requires_grad=True)
    optimizer, closure = tz.Modular([p], module(), tz.m.LR(0.1)), closure_of([p], squares)
    optimizer.step(closure)
    before = p.detach().clone()
    optimizer.param_groups[0][name] = "nonsense"
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{name}='nonsense' must be one of"):
            optimizer.step(closure)
    assert torch.equal(p, before)
    del optimizer.param_groups[0][name]
    optimizer.step(closure)
