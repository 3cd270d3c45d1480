"""What state is kept in, what arithmetic is done in, and how new parameters are rounded."""

import copy
import io
import pickle
import warnings

import pytest
import torch

import torchzero_core as tz
from tests.problems import backward, bits, make_params, run, same
from tests.registry import ENTRIES

BF16 = torch.bfloat16
#: One of each kind of declared state: elements, rings, numbers of tensors and slices, masks, factored moments.
KINDS = ["Adam", "EMA", "MedianAveraging", "NormalizeByEMA", "Rprop", "Adafactor", "NAdam", "Lion", "RMSprop", "Muon"]
RULES = [e for e in ENTRIES if e.compiles and not e.closure and e.bfloat16 is True]
FEW = [e for e in RULES if e.name in KINDS and not e.variant]


def states(optimizer):
    return {name: v for s in optimizer.state.values() for name, v in s.items() if isinstance(v, torch.Tensor)}


def declared(optimizer):
    """The slots of a chain by the names of their states."""
    return {m.prefix + n: slot for m in optimizer.unrolled_modules for n, slot in getattr(m, "slots", {}).items()}


def optimizer_of(entry, params, **options):
    return tz.Modular(params, *entry.build(), **options)


# -- state_dtype -------------------------------------------------------------------------------------------------------
def check_dtypes(entry, compile):
    ends = []
    for options in ({}, {"state_dtype": BF16, "compile": compile}):
        params = make_params(dtype=torch.float32)
        optimizer = optimizer_of(entry, params, **options)
        run(optimizer, params, 5)
        ends.append(bits(params))
    slots = declared(optimizer)
    for name, value in states(optimizer).items():
        bare = name.rsplit("/", 1)[-1]
        if bare in slots and value.is_floating_point():
            assert value.dtype is (BF16 if slots[bare].free else slots[bare].dtype_for(params[0])), name
            assert value.dtype is BF16 or value.dtype.itemsize >= 4
    if entry.float32 is not None:  # where rounding decides, it decides otherwise
        for a, b in zip(*ends, strict=True):
            assert (a - b).abs().max() <= 0.05 * max(1.0, float(a.abs().max()))


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("entry", FEW, ids=lambda e: e.id)
def test_state_is_kept_in_the_dtype_that_was_asked_for(entry, compile):
    check_dtypes(entry, compile)


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("entry", RULES, ids=lambda e: e.id)
def test_state_of_every_rule_is_kept_in_the_dtype_that_was_asked_for(entry, compile):
    check_dtypes(entry, compile)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_half_of_the_state_is_a_rounded_copy_of_the_whole(compile):
    """After one step the averages are those of float32, rounded to the nearest, ties to even."""
    found = {}
    for dtype in (None, "bfloat16"):
        p = torch.zeros(4096, requires_grad=True)
        p.grad = torch.cat(
            [
                torch.randn(4090, generator=torch.Generator().manual_seed(0)),
                torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e38]),
            ]
        )
        optimizer = tz.Modular([p], tz.m.EMA(0.5), tz.m.ClipValue(1), tz.m.LR(0.1), state_dtype=dtype, compile=compile)
        optimizer.step()
        found[dtype] = optimizer.state[p]["EMA.exp_avg"], p.detach()
    assert same(found["bfloat16"][0], found[None][0].to(BF16))
    assert same(found["bfloat16"][1], found[None][1])  # the step itself does not see it


def test_by_module_and_by_state():
    params = make_params(dtype=torch.float32)
    some = {"Adam": "bfloat16", "Adam.exp_avg_sq": torch.float64, "EMA_2.exp_avg": "float16"}
    optimizer = tz.Modular(params, tz.m.EMA(0.9), tz.m.Adam(), tz.m.EMA(0.5), tz.m.LR(0.1), state_dtype=some)
    run(optimizer, params, 2)
    found = {name: v.dtype for name, v in states(optimizer).items()}
    assert found == {
        "EMA.exp_avg": torch.float32,
        "Adam.exp_avg": BF16,
        "Adam.exp_avg_sq": torch.float64,
        "EMA_2.exp_avg": torch.float16,
    }


def test_inside_others():
    p = torch.zeros(3, 4, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.VectorProjection(tz.m.EMA(0.9)), tz.m.LR(0.1), state_dtype=BF16)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert {v.dtype for v in states(optimizer).values()} == {BF16}


def test_float32_state_for_bfloat16_parameters_remembers_small_changes():
    """1 − β = 0.001 of a square is lost in eight bits."""
    kept = {}
    for dtype in (None, torch.float32):
        p = torch.zeros(1, dtype=BF16, requires_grad=True)
        optimizer = tz.Modular([p], tz.m.EMASquared(0.999), tz.m.LR(0.0), state_dtype=dtype)
        for _ in range(2000):
            p.grad = torch.ones_like(p)
            optimizer.step()
        kept[dtype] = float(optimizer.state[p]["EMASquared.exp_avg_sq"])
    assert abs(kept[torch.float32] - (1 - 0.999**2000)) < 1e-4
    assert kept[None] < 0.6


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("int8", "state_dtype='int8' is no dtype that state can be kept in: bfloat16, float16, float32 or float64."),
        (torch.complex64, "state_dtype=torch.complex64 is no dtype"),
        ({"Adm": "bfloat16"}, "state_dtype: no module or state of the chain is 'Adm'. Did you mean 'Adam'?"),
        ({"LR": "bfloat16"}, "state_dtype: 'LR' declares no state like its parameters"),
        ({"Adam.exp_avg_s": "bfloat16"}, "Did you mean 'Adam.exp_avg_sq'"),
    ],
)
def test_what_cannot_be_is_refused(given, error):
    with pytest.raises(ValueError) as info:
        tz.Modular(make_params(), tz.m.Adam(), tz.m.LR(0.1), state_dtype=given)
    assert error in str(info.value)


def chain():
    return [tz.m.ClipNorm(1.0), tz.m.Adam(), tz.m.EMA(0.5), tz.m.LR(0.01)]


def resumed(optimizer, params, **options):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = [p.detach().clone().requires_grad_() for p in params]
    other = tz.Modular(others, *chain(), **options)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other, others


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("options", [{"state_dtype": BF16}, {"state_dtype": "float32", "stochastic_rounding": True}])
def test_a_resumed_run_goes_on_bit_for_bit(options, compile):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bfloat16 parameters run uncompiled on the CPU
        dtype = BF16 if "stochastic_rounding" in options else torch.float32
        params = make_params([(30, 20), (7,), ()], dtype=dtype)
        optimizer = tz.Modular(params, *chain(), compile=compile, **options)
        run(optimizer, params, 3)
        copies = [resumed(optimizer, params, compile=compile, **options)]
        for make in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
            other = make(optimizer)
            copies.append((other, other.param_groups[0]["params"]))
        run(optimizer, params, 3)
        for other, others in copies:
            run(other, others, 3)
            assert same(bits(params), bits(others))
            assert same(optimizer.state_dict()["state"], other.state_dict()["state"])


def test_a_state_of_another_dtype_is_taken_over():
    params = make_params(dtype=torch.float32)
    optimizer = tz.Modular(params, *chain())
    run(optimizer, params, 3)
    other, others = resumed(optimizer, params, state_dtype=BF16)
    run(other, others, 1)
    run(optimizer, params, 1)
    assert {v.dtype for n, v in states(other).items() if "exp_avg" in n} == {BF16}
    assert max(float((a - b).detach().abs().max()) for a, b in zip(params, others, strict=True)) < 1e-3


# -- bfloat16 parameters: arithmetic in float32 ------------------------------------------------------------------------
def check_arithmetic(entry):
    """Each step is the float32 rule's on the same numbers, but for the rounding of what is kept."""
    params = make_params([(6, 5), (4,)], dtype=BF16)
    optimizer = entry.optimizer(params)
    for _ in range(4):
        twins = [p.detach().float().requires_grad_() for p in params]
        twin = entry.optimizer(twins)
        twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        before = bits(params)
        backward(params)
        for p, q in zip(params, twins, strict=True):
            q.grad = p.grad.float()
        optimizer.step()
        twin.step()
        for p, q, old in zip(params, twins, before, strict=True):
            u = (q.detach() - old.float()).abs()
            # half a unit of the parameter, and what a workspace between two passes rounds of the update
            room = 2**-8 * q.detach().abs() + 2**-6 * u.amax() + 1e-30
            assert ((p.float() - q).abs() <= room).all()


OPTIMIZERS = [e for e in RULES if (e.module().__class__.__module__.split(".")[2] in ("optimizers", "momentum"))]


@pytest.mark.parametrize("entry", [e for e in OPTIMIZERS if e.float32 is not None], ids=lambda e: e.id)
def test_bfloat16_parameters_get_the_step_of_the_float32_rule(entry):
    check_arithmetic(entry)


@pytest.mark.parametrize("module", [tz.m.HeavyBall(0.9), tz.m.NAG(0.9), tz.m.HeavyBall(0.9, dampening=0.5)], ids=repr)
@pytest.mark.parametrize("n", [8, 16, 40])
def test_the_first_step_of_momentum_moves_every_element(module, n):
    p = torch.ones(n, dtype=BF16, requires_grad=True)
    optimizer = tz.Modular([p], copy.deepcopy(module), tz.m.LR(0.25))
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(p, p[:1].expand(n)) and float(p.detach()[0]) < 0.8


# -- stochastic rounding -----------------------------------------------------------------------------------------------
def steps(count, *, n=20_000, size=2.0**-11, start=1.0, lr=1.0, **options):
    """Steps of one size from one number in bfloat16, whose neighbours are 1/128 above and 1/256 below."""
    p = torch.full((n,), start, dtype=BF16, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.LR(lr), **options)
    for _ in range(count):
        p.grad = torch.full_like(p, size)
        optimizer.step()
    return p.detach().float(), optimizer


def test_to_the_nearest_a_small_step_is_lost():
    assert torch.equal(steps(50)[0], torch.ones(20_000))


@pytest.mark.parametrize("count", [1, 40])
def test_on_average_it_is_the_step_of_float32(count):
    p, _ = steps(count, stochastic_rounding=0)
    spread = p.std() / p.numel() ** 0.5
    assert spread > 0
    assert abs(p.mean() - (1 - count * 2.0**-11)) < 4 * spread


@pytest.mark.parametrize("value", [1.0, -3.1415, 1e-30, 1e30, 257.0])
def test_the_neighbours_come_as_often_as_they_are_near(value):
    rounding = tz.core.StochasticRounding(seed=1)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        low = torch.tensor(value).to(BF16).float()
        high = (low.view(torch.int32) + (1 << 16)).view(torch.float32)
        x = (low + share * (high - low)).expand(40_000).contiguous()
        out = torch.empty(40_000, dtype=BF16)
        rounding.store([out], [x])
        assert ((out.float() == low) | (out.float() == high)).all()
        up = float((out.float() == high).float().mean())
        assert abs(up - share) <= 4 * (share * (1 - share) / 40_000) ** 0.5 + 2**-15


def test_what_is_not_finite_stays_so():
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0]).repeat(100)
    out = torch.empty(500, dtype=BF16)
    tz.core.StochasticRounding(0).store([out], [x])
    assert same(out.float(), x)


def test_a_seed_gives_the_same_again_and_another_seed_others():
    a, b, c = (steps(5, stochastic_rounding=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    p, optimizer = steps(1, stochastic_rounding=3)
    optimizer.reset()
    q = optimizer.param_groups[0]["params"][0]
    q.data.fill_(1.0)
    optimizer.step()
    assert torch.equal(q.float(), p)


def test_float32_parameters_are_left_alone():
    ends = []
    for options in ({}, {"stochastic_rounding": True}):
        params = make_params(dtype=torch.float32)
        optimizer = tz.Modular(params, *chain(), **options)
        run(optimizer, params, 5)
        ends.append(bits(params))
    assert same(*ends)
    assert not any("generator" in name for name in states(optimizer))


@pytest.mark.parametrize(
    "modules",
    [
        lambda: [tz.m.EMA(0.0), tz.m.LR(2.0**-11)],
        lambda: [tz.m.Adam(), tz.m.LR(2.0**-11)],  # a kernel of torch, which rounds to the nearest, must not run
        lambda: [tz.m.HeavyBall(0.0), tz.m.LR(2.0**-11)],
        lambda: [tz.m.LR(2.0**-11), tz.m.Shampoo(precondition_1d=False, max_dim=1, merge_small=False)],
    ],
    ids=["rules", "kernel", "momentum", "no rule"],
)
def test_however_the_chain_ends(modules):
    p = torch.full((100, 100), 1.0, dtype=BF16, requires_grad=True)
    optimizer = tz.Modular([p], *modules(), stochastic_rounding=0)
    for _ in range(20):
        p.grad = torch.ones_like(p)
        optimizer.step()
    q = p.detach().float()
    assert abs(q.mean() - (1 - 20 * 2.0**-11)) < 4 * q.std() / 100
    assert q.std() > 0


def test_the_lr_of_groups_without_a_module_for_it():
    p = torch.full((20_000,), 1.0, dtype=BF16, requires_grad=True)
    optimizer = tz.Modular([{"params": [p], "lr": 2.0**-11}], tz.m.EMA(0.0), stochastic_rounding=0)
    p.grad = torch.ones_like(p)
    optimizer.step()
    q = p.detach().float()
    assert abs(q.mean() - (1 - 2.0**-11)) < 4 * q.std() / 20_000**0.5


def test_a_step_that_fails_draws_nothing():
    class Fails(tz.Module):
        fails = False

        def post_step(self, var):
            if self.fails:
                raise KeyError("on purpose")

        def step(self, var):
            return var

    ends = []
    for fails in (False, True):
        p = torch.full((1000,), 1.0, dtype=BF16, requires_grad=True)
        module = Fails()
        optimizer = tz.Modular([p], tz.m.LR(2.0**-11), module, stochastic_rounding=5)
        for k in range(4):
            p.grad = torch.ones_like(p)
            if fails and k == 2:
                module.fails = True
                before = p.detach().clone()
                with pytest.raises(KeyError):
                    optimizer.step()
                assert torch.equal(before, p)
                module.fails = False
            optimizer.step()
        ends.append(p.detach().clone())
    assert torch.equal(*ends)


def test_float16_is_refused():
    for make in (
        lambda: tz.Modular(
            [torch.zeros(2, dtype=torch.float16).requires_grad_()], tz.m.LR(0.1), stochastic_rounding=True
        ),
    ):
        with pytest.raises(ValueError, match="is for bfloat16 parameters, and there are some of float16"):
            make()


def test_compiled_says_that_it_runs_uncompiled():
    p = torch.ones(4, dtype=BF16, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.LR(0.1), stochastic_rounding=True, compile=True)
    p.grad = torch.ones_like(p)
    with pytest.warns(UserWarning, match="compile=True has no effect on LR"):
        optimizer.step()


def test_the_chain_of_yaml_takes_both():
    chains = pytest.importorskip("tz_lightning")
    p = torch.ones(4, dtype=BF16, requires_grad=True)
    optimizer = chains.ModularChain(
        [p], [tz.m.EMA(0.9), tz.m.LR(0.1)], state_dtype={"EMA": "float32"}, stochastic_rounding=True
    )
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[p]["EMA.exp_avg"].dtype is torch.float32
    assert optimizer.rounding is not None
