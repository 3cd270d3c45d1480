"""What settings may be: every kind of number works or is refused with a sentence, before anything has changed."""

import copy
import inspect
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, closure_of, make_params, run, same, tensors_in
from tests.registry import ENTRIES, FIRST, in_turn
from torchzero_core.core import Natural, Seed, Transform

both = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
TENTH = {
    "float32": np.float32(0.1),
    "float64": np.float64(0.1),
    "array": np.array(0.1),
    "array of one": np.array([0.1]),
    "tensor": torch.tensor(0.1),
    "double tensor": torch.tensor(0.1, dtype=torch.float64),
    "tensor of one": torch.tensor([0.1]),
    "parameter": torch.nn.Parameter(torch.tensor(0.1)),
    "decimal": Decimal("0.1"),
    "fraction": Fraction(1, 10),
}
#: What no learning rate may be.
BAD = {
    "negative": -1,
    "none": None,
    "word": "x",
    "bytes": b"0.1",
    "nan": math.nan,
    "inf": math.inf,
    "true": True,
    "numpy's true": np.bool_(True),
    "list": [0.1],
    "empty": [],
    "dict": {},
    "function": abs,
    "array": np.array([0.1, 0.2]),
    "numpy's nan": np.float64("nan"),
    "negative tensor": torch.tensor(-1.0),
    "nan tensor": torch.tensor(math.nan),
    "tensor of two": torch.ones(2),
    "complex tensor": torch.tensor(0.1j),
    "complex": 0.1j,
    "decimal": Decimal("NaN"),
    "negative decimal": Decimal(-1),
    "fraction": Fraction(-1, 2),
    "too large": 10**309,
}


def moved(lr, *, between=False, compile=False):
    (p,) = params = make_params([(3,)])
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.5 if between else lr), compile=compile)
    if between:
        optimizer.param_groups[0]["lr"] = lr
    for i in range(3):
        p.grad = torch.arange(3.0, dtype=p.dtype) + i
        optimizer.step()
    return p.detach()


# -- numbers of every kind ---------------------------------------------------------------------------------------------
@both
@pytest.mark.parametrize("between", [False, True], ids=["constructor", "assigned"])
@pytest.mark.parametrize("kind", TENTH)
def test_numbers_of_other_libraries_are_numbers(kind, between, compile):
    assert torch.allclose(moved(TENTH[kind], between=between, compile=compile), moved(0.1), rtol=1e-6)


def test_a_saved_run_holds_pythons_numbers(tmp_path):
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(np.float64(0.5)), tz.m.LR(np.float64(0.1)))
    run(optimizer, params, 1)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert type(saved["param_groups"][0]["lr"]) is float


def test_whole_numbers_may_come_as_floats():
    params = make_params()
    module = tz.m.MedianAveraging(history_size=3.0)
    optimizer = tz.Modular(params, module, tz.m.LR(0.1))
    assert type(module.defaults["history_size"]) is int
    optimizer.param_groups[0]["history_size"] = np.float32(2)
    run(optimizer, params, 2)
    assert type(module.settings[params[0]]["history_size"]) is int
    with pytest.raises(ValueError, match=r"history_size=2\.5\) must be a whole number"):
        tz.m.MedianAveraging(2.5)


def test_a_tensor_scheduled_in_place_is_followed():
    (p,) = params = make_params([(3,)])
    optimizer = tz.Modular(params, tz.m.LR(torch.tensor(1.0)))
    for lr in (0.5, 0.25):
        optimizer.param_groups[0]["lr"].fill_(lr)
        before = p.detach().clone()
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert torch.allclose(before - p.detach(), torch.full_like(before, lr))
    optimizer.param_groups[0]["lr"].fill_(-1)
    with pytest.raises(ValueError, match="lr=-1 is out of range"):
        optimizer.step()


# -- refused wherever it comes from ------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_learning_rate_in_a_constructor(bad):
    with pytest.raises(ValueError, match=r"^LR(\(lr=.*|: lr) must be "):
        tz.m.LR(BAD[bad])


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("chain", ["LR", "none"])
def test_a_bad_learning_rate_in_a_group(chain, bad):
    modules = lambda: [tz.m.Adam(), tz.m.Mul(0.1), *([tz.m.LR(0.1)] if chain == "LR" else [])]  # noqa: E731
    with pytest.raises(ValueError, match=r"a parameter group: lr.*must be"):
        tz.Modular([{"params": make_params(), "lr": BAD[bad]}], *modules())
    params, others = make_params(), make_params()
    optimizer, twin = tz.Modular(params, *modules()), tz.Modular(others, *modules())
    for o, ps in ((optimizer, params), (twin, others)):
        o.param_groups[0]["lr"] = 0.25  # True would equal the number one
        run(o, ps, 2)
    good, state = optimizer.param_groups[0]["lr"], copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.param_groups[0]["lr"] = BAD[bad]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a parameter group: lr.*must be"):
            run(optimizer, params, 1)
    assert same(bits(params), bits(others))
    assert same(optimizer.state_dict()["state"], state)
    optimizer.param_groups[0]["lr"] = good
    for o, ps in ((optimizer, params), (twin, others)):
        run(o, ps, 2)
    assert same(bits(params), bits(others))


@pytest.mark.parametrize("value", [(), None, 0.9, "x", (0.9, None), (0.9, 2.0), ("x", 0.9), (math.nan, 0.9)])
def test_bad_betas(value):
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    optimizer.param_groups[0]["betas"] = value
    with pytest.raises(ValueError, match=r"a parameter group: beta"):
        run(optimizer, params, 1)


def test_a_misspelt_key_assigned_between_steps():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.WeightDecay(0.1), tz.m.LR(0.1))
    for _ in range(2):  # before the first step and later
        before = bits(params)
        for key in ("weight_deacy", "Adam.weight_decay", 7):
            optimizer.param_groups[0][key] = 0.0
            with pytest.raises(ValueError, match=f"has the key {key!r}, which no module of this chain knows"):
                run(optimizer, params, 1)
            del optimizer.param_groups[0][key]
        assert same(bits(params), before)
        run(optimizer, params, 1)
    optimizer.param_groups[0].update(initial_lr=0.1, initial_weight_decay=0.1, WeightDecay_note=1)
    with pytest.raises(ValueError, match="WeightDecay_note"):
        run(optimizer, params, 1)


@pytest.mark.parametrize("group", [{"beta1": 2.0}, {"beta1": "x"}, {"beta1": None}, {"bata1": 0.5}, {"eps": math.nan}])
def test_bad_values_in_a_modules_own_groups(group):
    params = make_params()
    module = tz.m.Adam()
    optimizer = tz.Modular(params, module, tz.m.LR(0.1))
    with pytest.raises(ValueError, match=next(iter(group))):
        module.set_param_groups([{"params": params[:1], "beta1": 0.5}, {"params": params[1:], **group}])
    assert module.settings[params[0]]["beta1"] == 0.9
    with pytest.raises(ValueError, match=r"Adam\.set_param_groups is a dict with 'params'"):
        module.set_param_groups([{"beta1": 0.5}])
    run(optimizer, params, 1)


def test_a_wrapped_optimizer_is_given_numbers():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Wrap(torch.optim.AdamW, lr=0.1))
    before = bits(params)
    for name, value in (("weight_decay", "x"), ("weight_decay", None), ("amsgrad", "no"), ("eps", -1.0)):
        kept = optimizer.param_groups[0].get(name)
        optimizer.param_groups[0][name] = value
        with pytest.raises(ValueError, match=f"{name}="):
            run(optimizer, params, 1)
        optimizer.param_groups[0].pop(name) if kept is None else optimizer.param_groups[0].update({name: kept})
    assert same(bits(params), before)
    run(optimizer, params, 1)


def test_kinds_of_a_constructor_by_hand():
    class Scaled(Transform):
        def __init__(self, factor: float, power: int = None, kind=1.0):  # noqa: RUF013
            super().__init__(dict(factor=factor, power=power, kind=kind))

        def rule(self, u, ctx):
            return u * ctx.settings.factor

    Scaled(2)
    Scaled(2, 3.0, kind="x")
    for bad in (None, "x", math.nan, True):
        with pytest.raises(ValueError, match=r"^Scaled\(factor="):
            Scaled(bad)
    with pytest.raises(ValueError, match=r"^Scaled\(power=2\.5\) must be a whole number or None"):
        Scaled(1, 2.5)


def test_not_a_number_is_no_number_where_no_range_is_given():
    class Wide(Transform):
        limit: float = math.inf
        n: Natural = 0
        seed: Seed | None = None

        def rule(self, u, ctx):
            return u

    Wide(-3)
    with pytest.raises(ValueError, match=r"^Wide\(limit=nan\) is out of range: limit must be in \[-inf, inf\]"):
        Wide(math.nan)
    with pytest.raises(ValueError, match=r"^Wide\(n=-1\) is out of range"):
        Wide(n=-1)
    with pytest.raises(ValueError, match=r"^Wide\(seed=1e\+30\) is out of range"):
        Wide(seed=10**30)


# -- every setting of every module -------------------------------------------------------------------------------------
HOSTILE = [-1, 0, 2.0, 0.5, math.nan, math.inf, -math.inf, None, "x", [], True, 10**309, torch.tensor(1.0), Decimal(1)]


#: What constructors take that is neither a number nor a word.
NO_SETTINGS = {"fn", "names", "weights", "modules", "inputs", "print_fn"}
#: A power of a negative number is none, and 0/0 is none.
NATURAL = {("Pow", "exponent"), ("PowModules", "exponent"), ("RPow", "other"), ("Rescale", "eps"), ("SOAP", "eps")}


def settings_of(entry):
    """What a group may change, and what only the constructor takes."""
    module = entry.module()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    taken = [n for n, p in inspect.signature(type(module)).parameters.items() if p.kind not in several]
    taken = [n for n in taken if n not in module.children and n != "defaults"]
    others = [n for n in taken if n not in module.defaults and entry.make is None and n not in NO_SETTINGS]
    return [n for n in module.defaults if n in taken], others


def finite(params):
    return all(bool(p.isfinite().all()) for p in params)


def steps(optimizer, params):
    closure = closure_of(params)
    for _ in range(3):
        optimizer.step(closure)


def says_so(error, entry, name):
    """It names the module, or the group, and the setting, and what that may be."""
    text = str(error)
    where = (entry.name in text) or type(entry.module()).__name__ in text or "a parameter group" in text
    return isinstance(error, (ValueError, TypeError)) and where and name in text


def chosen(at, name, *, all_values):
    """All hostile values, or three of them, other ones for each setting; and those that a group is given."""
    if all_values:
        return HOSTILE, HOSTILE
    start = 3 * at + sum(map(ord, name))
    few = [HOSTILE[(start + 5 * k) % len(HOSTILE)] for k in range(3)]
    return few, few[at % 3 :][:1]


@pytest.mark.parametrize("all_values", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("entry", FIRST, ids=lambda e: e.id)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_setting_of_every_module_with_hostile_values(entry, all_values):
    settings, others = settings_of(entry)
    params = make_params()
    steps(entry.optimizer(params), params)
    usual, wrong = finite(params), []
    for name in settings + others:
        built, grouped = chosen(FIRST.index(entry), name, all_values=all_values)
        for value in built:
            params, start = make_params(), bits(make_params())
            try:
                optimizer = entry.optimizer(params, **{name: value})
            except Exception as error:
                if not says_so(error, entry, name):
                    wrong.append(f"{entry.id}({name}={value!r}) refused: {type(error).__name__}: {error}"[:300])
            else:
                try:
                    steps(optimizer, params)
                    if usual and not finite(params) and (entry.name, name) not in NATURAL:
                        wrong.append(f"{entry.id}({name}={value!r}) made NaN")
                except Exception as error:
                    if isinstance(error, RuntimeError) and name in str(error):
                        continue  # what the others need it for
                    wrong.append(f"{entry.id}({name}={value!r}) raises later: {type(error).__name__}: {error}"[:300])
        for value in grouped if name in settings else ():
            params, start = make_params(), bits(make_params())
            optimizer = entry.optimizer(params)
            optimizer.param_groups[0][name] = value
            try:
                steps(optimizer, params)
            except Exception as error:
                if not says_so(error, entry, name) or not same(bits(params), start):
                    wrong.append(f"{entry.id} {name}={value!r} in a group: {type(error).__name__}: {error}"[:300])
    assert not wrong, "\n".join(wrong)


# -- in what numbers are kept ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(  # but of Wrap, which has torch's own step count
    ("entry", "default"),
    in_turn([e for e in FIRST if e.name != "Wrap"], [torch.float64, torch.bfloat16, torch.float16]),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_default_dtype_changes_nothing(entry, default):
    results = []
    for dtype in (torch.float32, default):
        torch.manual_seed(0)
        params = make_params(dtype=torch.float32)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            optimizer = entry.optimizer(params)
            steps(optimizer, params)
        finally:
            torch.set_default_dtype(before)
        results.append((bits(params), optimizer.state_dict()["state"]))
    assert same(*results)


#: State of the parameters' own shape may be in their dtype; a number that stands for many may not.
@pytest.mark.parametrize(
    ("entry", "dtype"), in_turn([e for e in ENTRIES if e.bfloat16 is True], [torch.bfloat16, torch.float16])
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_counts_and_norms_are_kept_in_float32(entry, dtype):
    params = make_params([(3, 2), (4,), (5,)], dtype=dtype)
    optimizer = entry.optimizer(params, **entry.coarse)
    steps(optimizer, params)
    for state in optimizer.state_dict()["state"].values():
        for name, value in state.items():
            for tensor in tensors_in(value) if "/" not in name else ():  # a stand-in may be smaller
                if tensor.dtype in (torch.bfloat16, torch.float16):
                    assert tensor.numel() >= 4, (name, tensor.dtype, tuple(tensor.shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [lambda: tz.m.ClipNorm(1.0), lambda: tz.m.ClipNorm(1.0, dim="global")])
def test_a_norm_of_many_halves_is_summed_in_float32(make, dtype):
    p = torch.zeros(100_000, dtype=dtype, requires_grad=True)
    p.grad = torch.full_like(p, 0.5)  # a sum of squares in bfloat16 would stop at 64
    tz.Modular([p], make(), tz.m.LR(1.0)).step()
    assert torch.allclose(p.detach().double().norm(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-2)


# -- the default device ------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
def test_the_default_device_is_not_that_of_the_parameters(entry):
    """What a step works with is on the host or where the parameters are, whatever the default device is."""
    for compile in (False, True) if entry.compiles else (False,):
        ends = []
        for device in ("cpu", "meta"):
            torch.manual_seed(0)
            params = make_params()
            inner = closure_of(params)

            def closure(backward=True, inner=inner):
                with torch.device("cpu"):
                    return inner(backward)

            optimizer = entry.optimizer(params, compile=compile)
            with torch.device(device):
                for _ in range(3):
                    optimizer.step(closure)
            ends.append(bits(params))
        assert same(*ends)
