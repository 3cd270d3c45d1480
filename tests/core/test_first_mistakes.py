"""What people do wrong with modules of their own is said in a sentence, or does what they meant."""

import math
import re

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests.problems import make_params, run
from tests.registry import ENTRIES
from torchzero_core.core import Beta, Module

both = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def rule(fn, **slots):
    return type("Mine", (tz.Transform,), {"rule": lambda self, u, ctx: fn(u, ctx), **slots})()


@both
@pytest.mark.parametrize(
    ("returned", "error", "text"),
    [
        (lambda us: [u.sum() for u in us], ValueError, r"shape \(\) for a parameter of shape \(3, 2\)"),
        (lambda us: None, TypeError, "it returned a NoneType"),
        (lambda us: us[0], TypeError, "it returned a Tensor"),
        (lambda us: us[:1], TypeError, "it returned a list of 1"),
    ],
)
def test_what_an_opaque_function_returns_is_looked_at(returned, error, text, compile):
    params = make_params()
    before = [p.detach().clone() for p in params]
    optimizer = tz.Modular(params, rule(lambda u, ctx: ctx.call(returned, u) * 2.0), compile=compile)
    with pytest.raises(error, match=f"Mine: the function in ctx.call.*{text}"):
        run(optimizer, params, 1)
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


@both
def test_a_result_of_another_dtype_is_converted(compile):
    p = torch.zeros(3, requires_grad=True)
    double = lambda us: [2.0 * u.double() for u in us]  # noqa: E731
    optimizer = tz.Modular([p], rule(lambda u, ctx: ctx.call(double, u) + 1.0), compile=compile)
    p.grad = torch.ones(3)
    optimizer.step()
    assert p.tolist() == [-3.0] * 3


@both
@pytest.mark.parametrize("chain", [[tz.m.Adam], [tz.m.HeavyBall, tz.m.Cautious]], ids=["Adam", "HeavyBall"])
def test_a_state_that_was_exchanged_is_looked_at_again(chain, compile):
    name = f"{chain[0].__name__}.exp_avg"
    ours, theirs = (torch.ones(4, requires_grad=True) for _ in range(2))
    pair = [(tz.Modular([p], *(m() for m in chain), tz.m.LR(0.1), compile=compile), p) for p in (ours, theirs)]
    for i in range(3):
        for optimizer, p in pair:
            p.grad = torch.arange(4.0) + i
            if i == 2:
                state = optimizer.state[p]
                state[name] = state[name].double() if p is ours else state[name].clone()
            optimizer.step()
    assert torch.equal(ours, theirs)
    optimizer, p = pair[0]
    optimizer.state[p][name] = torch.zeros(2)
    p.grad = torch.ones(4)
    with pytest.raises(ValueError, match=r"has shape \(2,\) and its parameter \(4,\)"):
        optimizer.step()


@both
@pytest.mark.parametrize(
    ("make", "name"), [(tz.m.ClipNormByEMA, "max_ema_growth"), (lambda: tz.m.Debias(beta1=0.9), "beta1")]
)
def test_a_setting_may_become_none_between_steps(make, name, compile):
    ours, theirs = make_params(), make_params()
    optimizer = tz.Modular(ours, make(), tz.m.LR(0.1), compile=compile)
    run(optimizer, ours, 2)
    other = tz.Modular(theirs, make(), tz.m.LR(0.1))
    run(other, theirs, 2)
    for o, ps in ((optimizer, ours), (other, theirs)):
        o.param_groups[0][f"{o.modules[0].path}.{name}"] = None
        run(o, ps, 2)
    assert all(torch.allclose(p, q, rtol=0, atol=1e-14) for p, q in zip(ours, theirs, strict=True))


@both
def test_equality_is_a_mask(compile):
    p = torch.zeros(3, requires_grad=True)
    optimizer = tz.Modular([p], rule(lambda u, ctx: (u == 2).where(10.0, u) + (u != 2).float()), compile=compile)
    p.grad = torch.tensor([1.0, 2.0, 3.0])
    optimizer.step()
    assert p.tolist() == [-2.0, -10.0, -4.0]
    with pytest.raises(TypeError, match="cannot branch"):
        run(tz.Modular([p], rule(lambda u, ctx: u if u.sum() == 0 else -u), compile=compile), [p], 1)


@pytest.mark.parametrize("returned", [None, "x", [1.0], torch.ones(3)], ids=["None", "text", "list", "tensor"])
def test_a_rule_that_returns_something_else(returned):
    p = torch.zeros(3, requires_grad=True)
    with pytest.raises(TypeError, match=r"The rule of Mine returned .* it must return the new update"):
        run(tz.Modular([p], rule(lambda u, ctx: returned)), [p], 1)


def test_settings_are_not_assigned_to_modules():
    class Mine(tz.Transform):
        beta: Beta = 0.9

        def rule(self, u, ctx):
            return u * ctx.settings.beta

    with pytest.raises(AttributeError, match=r"param_groups\[0\]\['beta'\] = 0.3"):
        Mine().beta = 0.3
    with pytest.raises(TypeError, match=r"Half.beta is a setting of Mine; declare it anew"):
        type("Half", (Mine,), {"beta": 0.5})
    assert issubclass(Mine, Module)


@pytest.mark.parametrize("target", ["params_direct", "params_difference", "update_difference"])
def test_a_step_without_gradients_does_nothing(target):
    p = torch.ones(3, requires_grad=True)
    tz.Modular([p], tz.m.ClipValue(1, target=target), tz.m.LR(0.1)).step()
    assert p.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: tz.m.Adam("x"), r"Adam\(beta1='x'\) must be a number\."),
        (lambda: tz.m.Adam(True), r"Adam\(beta1=True\) must be a number\."),
        (lambda: tz.m.LR(None), r"LR\(lr=None\) must be a number\."),
        (lambda: tz.m.LR([0.1]), r"LR\(lr=\[0.1\]\) must be a number\."),
        (lambda: tz.m.Warmup(steps=2.5), r"Warmup\(steps=2.5\) must be a whole number\."),
        (lambda: tz.m.Adam(amsgrad="no"), r"Adam\(amsgrad='no'\) must be True or False\."),
        (lambda: tz.m.EMA(ema_init=3), r"EMA\(ema_init=3\) must be 'zeros' or 'update'\."),
    ],
)
def test_values_of_another_kind(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_values_of_another_kind_in_groups():
    (p,) = make_params([(3,)])
    optimizer = tz.Modular([p], tz.m.Adam(), tz.m.LR(0.1))
    before = p.detach().clone()
    for key, value in (("beta1", "x"), ("eps", None), ("amsgrad", "no")):
        kept = dict(optimizer.param_groups[0])
        optimizer.param_groups[0][key] = value
        with pytest.raises(ValueError, match=f"a parameter group: {key}={value!r} must be"):
            run(optimizer, [p], 1)
        optimizer.param_groups[0].clear()
        optimizer.param_groups[0].update(kept)
    assert torch.equal(p, before)
    run(optimizer, [p], 1)
    assert not torch.equal(p, before)


# -- options of the optimizer ----------------------------------------------------------------------------------------
SWITCH = ("yes", 3, 1.5, "True", [], torch.tensor(True))
BAD_OPTIONS = [
    *(("compile", v, "must be True or False") for v in (*SWITCH, None)),
    *(("advice", v, "must be True or False") for v in (*SWITCH, None)),
    *(("deterministic", v, "must be True, False or None") for v in SWITCH),
    *(
        ("stochastic_rounding", v, "must be True, False or a whole number, the seed")
        for v in ("a", 1.5, None, [], math.nan, "3", 2**64)
    ),
    *(("state_dtype", v, "bfloat16, float16, float32 or float64") for v in ("bf16", 3, torch.int32, float, True)),
    *(("state_dtype", {k: "bfloat16"}, "Adam.exp_avg") for k in (3, "Nope")),
    ("state_dtype", {"adam": "bfloat16"}, "Did you mean 'Adam'"),
]


@pytest.mark.parametrize(("name", "value", "text"), BAD_OPTIONS, ids=lambda v: str(v)[:20])
def test_an_option_of_another_kind_is_refused(name, value, text):
    params = [torch.zeros(2, requires_grad=True)]
    with pytest.raises(ValueError, match=rf"{name}.*{text}"):
        tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1), **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("compile", np.True_, True),
        ("compile", 1, True),
        ("advice", 0, False),
        ("deterministic", np.False_, False),
        ("deterministic", None, None),
    ],
)
def test_an_option_of_numpy_is_one(name, value, expected):
    optimizer = tz.Modular([torch.zeros(2, requires_grad=True)], tz.m.Adam(), tz.m.LR(0.1), **{name: value})
    assert getattr(optimizer, name) is expected


@pytest.mark.parametrize(("value", "seed"), [(True, None), (np.True_, None), (0, 0), (np.int64(3), 3)])
def test_the_seed_of_rounding(value, seed):
    optimizer = tz.Modular([torch.zeros(2, requires_grad=True)], tz.m.Lion(), tz.m.LR(0.1), stochastic_rounding=value)
    assert optimizer.rounding is not None and optimizer.rounding.defaults["seed"] == seed


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("Compile", "Did you mean compile?"),
        ("dtype", "Did you mean state_dtype?"),
        ("fused", "It is compile=True here"),
        ("foreach", "It is not needed"),
        ("amsgrad", r"tz.m.Adam\(amsgrad=True\)"),
        ("capturable", "Modular itself takes compile, deterministic, advice, state_dtype, stochastic_rounding"),
    ],
)
def test_an_option_that_there_is_not(option, text):
    with pytest.raises(TypeError, match=rf"Modular takes no '{option}'.*{text}"):
        tz.Modular([torch.zeros(2, requires_grad=True)], tz.m.Adam(), tz.m.LR(0.1), **{option: True})


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ([{}], ValueError, "no key 'params'. A group is a dict"),
        ([{"parms": []}], ValueError, "no key 'params'. Did you mean it by 'parms'?"),
        ([{"params": 3}], TypeError, "must be a tensor or a list of tensors, not 3"),
        ([{"params": "abc"}], TypeError, "must be a tensor or a list of tensors, not 'abc'"),
        ([("weight",)], TypeError, "A parameter with its name is a pair"),
        ({"weight": torch.zeros(1)}, TypeError, r"give params.items\(\)"),
        ({"params": []}, TypeError, "put a group in a list"),
    ],
)
def test_parameters_of_another_form(params, error, text):
    with pytest.raises(error, match=text):
        tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))


@pytest.mark.parametrize("entry", [e for e in ENTRIES if "seed" in e.module().defaults], ids=lambda e: e.id)
def test_a_seed_that_torch_does_not_take_is_refused(entry):
    with pytest.raises(ValueError, match="seed must be in"):
        entry.module(seed=2**64)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
@pytest.mark.filterwarnings("ignore")
def test_a_misspelt_key_of_a_group_names_the_right_one(entry):
    params = [torch.zeros(2, 3, requires_grad=True)]
    modules = tz.Modular(params, *entry.build()).unrolled_modules
    known = {name for module in modules for name in module.defaults}
    for module in modules:
        for name, value in module.defaults.items():
            for key, right in (
                (name.upper(), name),
                (f"{name}x", name),
                (f"{module.path}.{name}x", f"{module.path}.{name}"),
                (f"{module.path.lower()}.{name}", f"{module.path}.{name}"),
            ):
                if key in known or key == right:
                    continue
                with pytest.raises(ValueError, match=f"key {re.escape(repr(key))}, which no module") as caught:
                    tz.Modular([{"params": params, key: value}], *entry.build())
                assert f"Did you mean {right!r}?" in str(caught.value) or right.upper() != key.upper(), key
                assert "Did you mean" in str(caught.value), key
