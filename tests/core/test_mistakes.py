"""First mistakes, with chains and with modules of one's own: each is said in a sentence."""

import math
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.problems import bits, make_params, quadratic, run, same
from tests.registry import ENTRIES
from torchzero_core.core import Advice

m = tz.m


def params():
    return [nn.Parameter(torch.ones(3))]


def step(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()


def refused(make, error, text):
    with pytest.raises(error, match=text) as caught:
        make()
    assert len(str(caught.value)) < 500


class NoSuper(tz.Transform):
    """Forgets to call its base."""

    def __init__(self, beta=0.9):
        self.beta = beta

    def rule(self, u, ctx):
        return u


# -- constructors ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: m.Adam(1e-3), r"^Adam\(0\.001\) sets beta1.*tz\.m\.Adam\(\), tz\.m\.LR\(0\.001\)"),
        (lambda: m.RMSprop(0.01), r"^RMSprop\(0\.01\) sets smoothing.*tz\.m\.LR\(0\.01\)"),
        (lambda: m.Lion(np.float64(1e-4)), r"sets beta1.*tz\.m\.LR"),
        (lambda: m.Adagrad(0.01), r"sets lr_decay.*tz\.m\.LR"),
        (lambda: m.Muon(0.02), r"sets momentum.*tz\.m\.LR"),
    ],
)
def test_a_learning_rate_for_the_first_setting(make, text):
    with pytest.warns(UserWarning, match=text) as caught:
        make()
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_small_decays_by_name_and_usual_ones_by_position_are_taken():
    assert m.Adam(beta1=1e-3).defaults["beta1"] == 1e-3
    assert m.Adam(0.5, 0.9).defaults["beta1"] == 0.5
    assert m.HeavyBall(0.0).defaults["momentum"] == 0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: m.Adam(lr=1e-3), r"^Adam\(\): .*'lr'.*tz\.m\.Adam\(\.\.\.\), tz\.m\.LR\(0\.001\)"),
        (lambda: m.Adam(betas=(0.9, 0.99)), r"'betas'.*beta1 and beta2"),
        (lambda: m.Adam(weight_decay=0.1), r"tz\.m\.WeightDecay\(0\.1\)"),
        (lambda: m.Adam(beta_1=0.9), r"Did you mean 'beta1'\?"),
        (lambda: m.Adam(colour=0.9), r"It takes beta1, beta2, eps"),
        (lambda: m.Adam(*range(20)), r"^Adam\(\): too many positional arguments.*It takes beta1"),
        (lambda: m.Adam(nn.Linear(2, 2).parameters()), r"^Adam was given parameters.*tz\.Modular\(params, tz\.m\.Adam"),
        (lambda: m.Adam(nn.Linear(2, 2)), r"^Adam was given parameters"),
        (lambda: m.Adam([{"params": params()}]), r"^Adam was given parameters"),
        (lambda: m.RMSprop(inner=0.9), r"^RMSprop\.inner takes a module.*not 0\.9"),
        (lambda: m.RMSprop(inner=m.EMA), r"Did you mean EMA\(\)\?"),
        (lambda: m.RMSprop(inner=NoSuper()), r"NoSuper\.__init__ does not call super\(\)\.__init__"),
    ],
)
def test_constructors(make, text):
    refused(make, TypeError, text)


# -- the chain ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: tz.Modular(params(), m.Adam(), lr=1e-3), r"^Modular takes no 'lr'.*tz\.m\.LR\(0\.001\)"),
        (lambda: tz.Modular(params(), m.Adam(), betas=(0.9, 0.99)), r"'betas'.*tz\.m\.Adam\(beta1, beta2\)"),
        (lambda: tz.Modular(params(), m.Adam(), foo=1), r"^Modular takes no 'foo'"),
        (lambda: tz.Modular(m.Adam(), m.LR(1e-3)), r"^Parameters come first, then the modules"),
        (lambda: tz.Modular(m.Adam()), r"^Parameters come first"),
        (lambda: tz.Modular([m.Adam()], params()), r"^Parameters come first"),
        (lambda: tz.Modular(None, m.Adam()), r"^params must be a model or an iterable.*not None"),
        (lambda: tz.Modular({"params": params()}, m.Adam()), r"not one dict; put a group in a list"),
        (lambda: tz.Modular(torch.optim.SGD(params(), 0.1), m.Adam()), r"not a SGD"),
        (lambda: tz.Modular(params(), m.Adam), r"Did you mean Adam\(\)\?"),
        (lambda: tz.Modular(params(), torch.optim.NAdam), r"tz\.m\.Wrap\(NAdam, lr=\.\.\.\)"),
        (lambda: tz.Modular(params(), torch.optim.SGD(params(), 0.1)), r"tz\.m\.Wrap\(torch\.optim\.SGD, lr=\.\.\.\)"),
        (lambda: tz.Modular(params(), tz.Modular(params(), m.LR(0.1))), r"a list of its modules"),
        (lambda: tz.Modular(params(), m.Adam(), 1e-3), r"not 0\.001\. .*tz\.m\.LR\(0\.001\)"),
        (lambda: tz.Modular(params(), [m.Adam(), 1e-3]), r"In the list stands 0\.001\. .*tz\.m\.LR\(0\.001\)"),
        (lambda: tz.Modular(params(), []), r"The list is empty"),
        (lambda: tz.Modular(params(), "Adam"), r"as in tz\.m\.Adam\(\)"),
        (lambda: tz.Modular(params(), None), r"not None"),
        (lambda: tz.Modular(params(), torch.sign), r"deriving from tz\.Transform"),
        (lambda: tz.Modular(params(), params()), r"Parameters come first"),
        (lambda: tz.Modular(params(), NoSuper()), r"NoSuper\.__init__ does not call super\(\)\.__init__"),
        (lambda: tz.Modular(params(), m.LR(0.1)).step(torch.tensor(1.0)), r"^step takes a closure.*loss\.backward\(\)"),
        (lambda: tz.Modular(params(), m.LR(0.1)).step(1.0), r"^step takes a closure"),
    ],
)
def test_chains(make, text):
    refused(make, TypeError, text)


def test_a_generator_that_is_used_up():
    used = iter(params())
    list(used)
    refused(lambda: tz.Modular(used, m.Adam()), ValueError, "can be used only once")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("AdamW", r"tz\.m\.Adam\(\), tz\.m\.WeightDecay\(1e-2\), tz\.m\.LR\(1e-3\)"),
        ("SGD", r"tz\.m\.HeavyBall\(0\.9\), tz\.m\.LR"),
        ("sgd", r"tz\.m\.HeavyBall\(0\.9\), tz\.m\.LR"),
        ("adam", r"it is called tz\.m\.Adam\."),
        ("strong_wolfe", r"it is called tz\.m\.StrongWolfe\."),
        ("WeightDecy", r"Did you mean tz\.m\.WeightDecay"),
        ("GradClip", r"tz\.m\.ClipNorm\(1\)"),
        ("Armijo", r"tz\.m\.Backtracking\(\)"),
        ("qwertz", r"^tz\.m has no module 'qwertz'\. dir\(tz\.m\) has the names of all\.$"),
    ],
)
def test_names_that_are_not_there(name, text):
    with pytest.raises(AttributeError, match=text):
        getattr(m, name)
    assert not hasattr(m, name)


def test_chains_that_stand_for_other_optimizers_are_chains():
    from torchzero_core.modules import CHAINS

    for name, (chain, recipe) in CHAINS.items():
        first = chain.format(m="tz.m").split(", or ")[0]
        modules = eval(f"[tz.m.{first}]", {"tz": tz, "torch": torch})
        assert tz.Modular(params(), *modules), name
        if recipe and name != "GradientDescent":
            made = eval(f"tz.recipes.{recipe}", {"tz": tz})
            assert [type(module) for module in made] == [type(module) for module in modules], name


def test_modules_are_in_m():
    with pytest.raises(AttributeError, match=r"modules are in tz\.m: tz\.m\.Adam\."):
        _ = tz.Adam
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = tz.nothing
    assert tz.Value is not None
    assert tz.Context is not None


# -- steps of one's own ------------------------------------------------------------------------------------------------
def left(value):
    def fn(var):
        var.update = value
        return var

    return fn


@pytest.mark.parametrize(
    ("fn", "error", "text"),
    [
        (lambda var: None, TypeError, r"^The step of Mine returned None; it must return the var"),
        (lambda var: var.get_update(), TypeError, r"^The step of Mine returned .*it must return the var"),
        (left([]), TypeError, r"^The step of Mine left a list of 0"),
        (left([torch.ones(3)] * 2), TypeError, r"^The step of Mine left a list of 2"),
        (left([None]), ValueError, r"left None in var\.update for a parameter of shape \(3,\)"),
        (left([torch.ones(1)]), ValueError, r"left a tensor of shape \(1,\)"),
        (left([1.0]), ValueError, r"left 1\.0 in var\.update"),
    ],
)
def test_steps(fn, error, text):
    module = type("Mine", (tz.Module,), {"step": lambda self, var: fn(var)})
    optimizer = tz.Modular(params(), module(), m.LR(0.1))
    (p,) = optimizer.param_groups[0]["params"]
    refused(lambda: step(optimizer), error, text)
    assert p.tolist() == [1.0] * 3


# -- declarations ------------------------------------------------------------------------------------------------------
def declared(base=tz.Transform, **body):
    annotations = body.pop("annotations", {})
    return lambda: type("Mine", (base,), {"__annotations__": annotations, "rule": lambda self, u, ctx: u, **body})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (declared(annotations={"params": float}), r"^Mine\.params cannot be a setting"),
        (declared(annotations={"children": int}, children=3), r"^Mine\.children cannot be a setting"),
        (declared(annotations={"x": tz.Slot}, x=tz.Slot()), r"^Mine\.x is a state: .*x = Slot\(\)"),
        (declared(annotations={"x": tz.Module}, x=m.EMA()), r"^Mine\.x has a module as its default.*Child \| None"),
        (lambda: type("Mine", (tz.Module,), {"x": tz.Slot()}), r"^Mine\.x is a Slot, which only a rule can use"),
    ],
)
def test_declarations_that_mean_nothing(make, text):
    refused(make, TypeError, text)


# -- rules -------------------------------------------------------------------------------------------------------------
T = torch.ones(3)
BAD_RULES = {
    "torch.sqrt": (lambda u, ctx: torch.sqrt(u), r"write u\.sqrt\("),
    "torch.where": (lambda u, ctx: torch.where(u > 0, u, 0.0), r"mask\.where\(a, b\)"),
    "torch.erf": (lambda u, ctx: torch.erf(u), r"ctx\.call\(erf, u\)"),
    "relu": (lambda u, ctx: torch.nn.functional.relu(u), r"ctx\.call"),
    "u * tensor": (lambda u, ctx: u * T, r"a tensor or an array cannot stand in a formula"),
    "tensor * u": (lambda u, ctx: T * u, r"a tensor or an array cannot stand in a formula"),
    "tensor - u": (lambda u, ctx: torch.tensor(2.0) - u, r"a tensor or an array cannot stand in a formula"),
    "array * u": (lambda u, ctx: np.ones(3) * u, r"a tensor or an array cannot stand in a formula"),
    "math.sqrt": (lambda u, ctx: math.sqrt(u), r"u\.sqrt\(\) for math\.sqrt\(u\)"),
    "np.sqrt": (lambda u, ctx: np.sqrt(u), r"u\.sqrt\(\)"),
    "np.maximum": (lambda u, ctx: np.maximum(u, 0), r"symbols and numbers only"),
    "float": (lambda u, ctx: u * float(u), r"no number, length or elements"),
    "len": (lambda u, ctx: u / len(u), r"no number, length or elements"),
    "item": (lambda u, ctx: u[0], r"no number, length or elements"),
    "for": (lambda u, ctx: sum(x for x in u), r"no number, length or elements"),
    "if": (lambda u, ctx: u if u > 0 else -u, r"cannot branch.*mask\.where"),
    "max": (lambda u, ctx: max(u, 0), r"cannot branch"),
    "^": (lambda u, ctx: u ^ 2, r"u\*\*2"),
    "where": (lambda u, ctx: u.where(1.0, 0.0), r"where is a method of a mask"),
    "torch's where": (lambda u, ctx: u.where(u > 0, 0.0), r"where is a method of a mask"),
    "&": (lambda u, ctx: (u & (u > 0)).where(u, 0.0), r"is for masks, as in \(u > 0\) & \(v > 0\)"),
    "|": (lambda u, ctx: (u | u).where(u, 0.0), r"is for masks"),
    "~": (lambda u, ctx: ~u, r"is for masks, as in ~\(u > 0\)"),
    "in place": (lambda u, ctx: u.abs_(), r"u = u\.abs\("),
    "shape": (lambda u, ctx: u / u.shape[0], r"ctx\.of_shape\(fn\)"),
    "misspelt": (lambda u, ctx: u.sqroot(), r"Did you mean 'sqrt'\?"),
    "method": (lambda u, ctx: u.item(), r"has no 'item'"),
    "axis": (lambda u, ctx: u.sum(dim=0), r"unexpected keyword argument 'dim'"),
    "None": (lambda u, ctx: u * None, r"symbols and numbers only"),
    "child": (lambda u, ctx: ctx.child("iner", u), r"Mine has no child 'iner'"),
    "setting": (lambda u, ctx: u * ctx.settings.bata, r"Mine has no setting 'bata'.*Did you mean 'beta'\?"),
    "state": (lambda u, ctx: u + ctx.state.velocty, r"no state 'velocty'.*Did you mean 'velocity'\?"),
    "write": (lambda u, ctx: setattr(ctx.state, "velocty", u), r"no state 'velocty'"),
    "random": (lambda u, ctx: u * ctx.random("normel"), r"must be one of 'bernoulli', 'normal', 'uniform'"),
    "per": (lambda u, ctx: u * ctx.random("normal", per="elem"), r"must be one of 'element', 'tensor', 'all'"),
    "context": (lambda u, ctx: u + ctx.param, r"ctx has no 'param'. Did you mean 'params'\?"),
    "nothing": (lambda u, ctx: None, r"returned None"),
    "own": (lambda u, ctx: (_ for _ in ()).throw(ValueError("mine")), r"mine"),
}


@pytest.mark.parametrize("bad", BAD_RULES)
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_rules(bad, compile):
    fn, text = BAD_RULES[bad]
    body = {"__annotations__": {"beta": float}, "beta": 0.5, "velocity": tz.Slot()}
    module = type("Mine", (tz.Transform,), {"rule": lambda self, u, ctx: fn(u, ctx), **body})
    optimizer = tz.Modular(params(), module(), m.LR(0.1), compile=compile)
    with pytest.raises((TypeError, ValueError, AttributeError), match=rf"^The rule of Mine.*{text}"):
        step(optimizer)
    assert optimizer.param_groups[0]["params"][0].tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("fn", "result"),
    [
        (lambda u: +u, [1.0, -2.5, 3.0]),
        (lambda u: u // 2, [0.0, -2.0, 1.0]),
        (lambda u: 3 // u, [3.0, -2.0, 1.0]),
        (lambda u: u.clamp(max=2), [1.0, -2.5, 2.0]),
        (lambda u: u.clamp(min=0.0), [1.0, 0.0, 3.0]),
        (lambda u: u.clamp(-1, 2), [1.0, -1.0, 2.0]),
        (lambda u: math.floor(u), [1.0, -3.0, 3.0]),
        (lambda u: math.ceil(u), [1.0, -2.0, 3.0]),
        (lambda u: math.trunc(u), [1.0, -2.0, 3.0]),
        (lambda u: round(u), [1.0, -2.0, 3.0]),
    ],
)
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_what_python_spells_otherwise(fn, result, compile):
    module = type("Mine", (tz.Transform,), {"rule": lambda self, u, ctx: fn(u)})
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.tensor([1.0, -2.5, 3.0])
    tz.Modular([p], module(), compile=compile).step()
    assert (-p).tolist() == result


def test_a_child_that_may_be_absent_is_no_mistake():
    class ByHand(tz.Transform):
        def __init__(self, inner=None):
            super().__init__()
            if inner is not None:
                self.set_child("inner", inner)

        def rule(self, u, ctx):
            return ctx.child("inner", u)

    for module in (ByHand(), ByHand(m.Mul(2)), m.RMSprop()):
        step(tz.Modular(params(), module, m.LR(0.1)))


# -- advice ------------------------------------------------------------------------------------------------------------
def advice(*modules, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = tz.Modular(params(), *modules, **options)
        if not optimizer.requires_closure:
            for _ in range(3):
                step(optimizer)
    assert all(isinstance(w.message, Advice) for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: [m.Adam()], "no learning rate.*Adam.*tz.m.LR"),
        (lambda: [m.ClipNorm(1), m.RMSprop(), m.WeightDecay(0.1)], "no learning rate.*RMSprop"),
        (lambda: [m.LR(1e-3), m.Adam()], "^LR has no effect: what Adam behind it.*end of the chain.*tz.m.LR"),
        (lambda: [m.HeavyBall(0.9), m.LR(1e-3), m.Normalize()], "^LR has no effect: what Normalize"),
        (lambda: [[m.LR(1e-3), m.EMA()], m.Sign(), m.LR(0.1)], "^LR has no effect: what Sign"),
        (lambda: [m.Adam(), m.ClipNorm(1), m.LR(1e-3)], "^ClipNorm stands behind Adam.*before Adam"),
        (lambda: [m.Adam(), m.LR(1e-3), m.ClipValue(1)], "^ClipValue stands behind Adam"),
        (lambda: [m.LBFGS(), m.StrongWolfe(), m.LR(0.1)], "^StrongWolfe has found.*LR.*before StrongWolfe"),
        (lambda: [m.Backtracking(), m.Adam(), m.LR(0.1)], "^Backtracking has found"),
        (lambda: [m.StrongWolfe(), m.LBFGS()], "^StrongWolfe has found.*Put LBFGS before StrongWolfe"),
        (lambda: [m.Backtracking(), m.Newton()], "^Backtracking has found.*Put Newton before Backtracking"),
    ],
)
def test_an_order_that_makes_a_module_useless_gets_one_piece_of_advice(make, text):
    (said,) = advice(*make())
    assert re.search(text, said)
    assert not advice(*make(), advice=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [m.ClipValue(10), m.Adam(), m.NormalizeByEMA(max_ema_growth=1.1), m.WeightDecay(1e-4), m.LR(0.1)],
        lambda: [m.ClipNorm(1), m.Adam(), m.ClipNorm(1), m.LR(0.1)],
        lambda: [m.LR(0.1), m.ClipNorm(1)],
        lambda: [m.LR(0.1), m.WeightDecay(1e-2), m.Adam(), m.LR(0.1)],
        lambda: [m.HeavyBall(0.9)],
        lambda: [m.Adam(alpha=1e-3)],
        lambda: [m.Adam(), m.Mul(1e-3)],
        lambda: [m.Adam(), m.Warmup(), m.LR(0.1)],
        lambda: [m.LBFGS(), m.StrongWolfe()],
        lambda: [m.LBFGS(), m.StrongWolfe(), m.ClipValue(1, target="params_direct")],
        lambda: [m.Rprop()],
    ],
)
def test_usual_chains_get_no_advice(make):
    assert not advice(*make())


def test_a_learning_rate_of_the_groups_is_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(tz.Modular([{"params": params(), "lr": 1e-3}], m.Adam()))
        optimizer = tz.Modular(params(), m.Adam())
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1e-3)
        step(optimizer)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
def test_chains_of_the_registry_get_no_advice(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Advice)
        entry.optimizer(make_params())


# -- loading -----------------------------------------------------------------------------------------------------------
def chain(beta1=0.9, decay=0.5, lr=0.1, history=5):
    return [m.Adam(beta1=beta1), m.MedianAveraging(history), m.WeightDecay(decay), m.LR(lr)]


def test_all_settings_come_from_the_file():
    ours, theirs = make_params(), make_params()
    saved, other = tz.Modular(ours, *chain()), tz.Modular(theirs, *chain(0.5, 0.0, 0.2, 2))
    run(saved, ours, 2)
    with torch.no_grad():
        for p, q in zip(theirs, ours, strict=True):
            p.copy_(q)
    with pytest.warns(
        UserWarning, match=r"Adam\.beta1=0\.9 \(code: 0\.5\).*WeightDecay\.weight_decay=0\.5 \(code: 0\.0\)"
    ) as w:
        other.load_state_dict(saved.state_dict())
    assert len(w) == 1
    assert w[0].filename == __file__
    for optimizer, ps in ((saved, ours), (other, theirs)):
        run(optimizer, ps, 3)
    assert same(bits(ours), bits(theirs))
    assert "weight_decay=0.5" in repr(other)


def test_the_same_settings_load_without_a_word():
    ours, theirs = make_params(), make_params()
    saved, other = tz.Modular(ours, *chain()), tz.Modular(theirs, *chain())
    saved.param_groups[0]["weight_decay"] = 0.25
    run(saved, ours, 2)
    other.load_state_dict(saved.state_dict())
    assert other.param_groups[0]["weight_decay"] == 0.25


@pytest.mark.parametrize("where", ["settings", "group"])
def test_a_file_with_settings_that_no_module_takes(where):
    ours = make_params()
    optimizer = tz.Modular(ours, *chain())
    run(optimizer, ours, 2)
    state = optimizer.state_dict()
    if where == "settings":
        state["param_groups"][0]["settings"]["Adam"]["beta1"] = 2.0
    else:
        state["param_groups"][0]["eps"] = "x"
    before = repr(optimizer)
    with pytest.raises(ValueError, match=r"beta1=2 is out of range|eps='x' must be a number"):
        optimizer.load_state_dict(state)
    assert repr(optimizer) == before
    assert quadratic(ours) > 0
    run(optimizer, ours, 1)


@pytest.mark.parametrize(
    ("name", "way"), [("Adam", r"it is a module of a chain, tz\.m\.Adam"), ("SGD", r"it is a chain: tz\.m\.HeavyBall")]
)
def test_optimizers_are_not_in_optim(name, way):
    with pytest.raises(AttributeError, match=rf"tz\.optim has no '{name}'; {way}"):
        getattr(tz.optim, name)


def test_what_completion_shows_is_what_a_user_may_use():
    assert {"Adam", "LBFGS"} <= set(dir(tz.m)) and not {"Any", "CHAINS"} & set(dir(tz.m))
    assert {"adamw", "get"} <= set(dir(tz.recipes)) and not {"inspect", "m"} & set(dir(tz.recipes))
    assert {"MaxSteps"} <= set(dir(tz.stopping)) and not {"math", "torch"} & set(dir(tz.stopping))
