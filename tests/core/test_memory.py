"""Memory of a step: what is written, what is kept, what is allocated (K8)."""

import copy
import gc

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.problems import backward, bits, make_params, run, same, tensors_in
from torchzero_core.engine.backends import foreach as eager

COMPILE = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def five():
    return [
        tz.m.ClipValue(10),
        tz.m.Adam(),
        tz.m.NormalizeByEMA(max_ema_growth=1.1),
        tz.m.WeightDecay(1e-4),
        tz.m.LR(1e-1),
    ]


#: Chains that run as one kernel of torch, in eager.
FUSED = {
    "Adam": lambda: [tz.m.Adam(), tz.m.LR(1e-3)],
    "AdamW": lambda: [tz.m.Adam(), tz.m.WeightDecay(0.1), tz.m.LR(1e-3)],
    "Adam L2": lambda: [tz.m.WeightDecay(0.1), tz.m.Adam(), tz.m.LR(1e-3)],
    "amsgrad": lambda: [tz.m.Adam(amsgrad=True), tz.m.LR(1e-3)],
    "HeavyBall": lambda: [tz.m.HeavyBall(0.9), tz.m.LR(1e-3)],
    "NAG": lambda: [tz.m.NAG(0.9), tz.m.LR(1e-3)],
    "Adagrad": lambda: [tz.m.Adagrad(), tz.m.LR(1e-3)],
}
#: Chains without a kernel.
OTHERS = {
    "five": five,
    "clip": lambda: [tz.m.ClipNorm(1.0, dim="global"), tz.m.HeavyBall(0.9), tz.m.LR(1e-3)],
    "clipped Adam": lambda: [tz.m.ClipValue(1), tz.m.Adam(), tz.m.LR(1e-3)],
    "Lion": lambda: [tz.m.Lion(), tz.m.LR(1e-3)],
    "RMSprop": lambda: [tz.m.RMSprop(), tz.m.LR(1e-3)],
}


def allocated(fn):
    """Bytes that ``fn`` has allocated at most at a time, by the profiler's record of the allocator."""
    gc.collect()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, record_shapes=False
    ) as profile:
        fn()
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def big(dtype=torch.float32, n=1 << 20, pieces=4):
    """Parameters much larger than any cache the engine works in, with gradients."""
    params = [torch.randn(n // pieces, dtype=dtype).requires_grad_() for _ in range(pieces)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def temporaries(modules, *, compile=False, n=1 << 22):
    """Peak bytes of new memory in a step after warm-up, and bytes that stay beyond state: both for each parameter."""
    params = big(n=n)
    optimizer = tz.Modular(params, *modules, compile=compile)
    for _ in range(3):
        optimizer.step()
    step = allocated(optimizer.step)
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in scratch(optimizer)}
    return step / n, sum(kept.values()) / n


def scratch(optimizer):
    """Memory that an optimizer holds on to between steps."""
    return optimizer.all_params.memory()


#: Scratch that fits in a cache, whatever the number of parameters: three temporaries for the largest piece.
CACHE = 3 * 2 * eager.CPU_PIECE * 4 + 65536


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_chain_allocates_nothing(name):
    step, kept = temporaries(FUSED[name]())
    assert step * (1 << 22) < 64  # a counter of steps
    assert kept == 0


@COMPILE
@pytest.mark.parametrize("name", OTHERS)
def test_other_chains_keep_at_most_four_bytes_a_parameter(name, compile):
    step, kept = temporaries(OTHERS[name](), compile=compile)
    assert kept <= 4
    assert step * (1 << 22) <= (64 if compile else CACHE)


@pytest.mark.parametrize("name", FUSED)
def test_a_compiled_chain_allocates_nothing(name):
    step, kept = temporaries(FUSED[name](), compile=True)
    assert step * (1 << 22) < 64
    assert kept == 0


def test_the_measure_sees_a_temporary():
    params = big()
    assert allocated(lambda: [p * 2 for p in params]) >= 4 << 20

    class Copies(tz.Module):
        def step(self, var):
            var.update = [u.clone() for u in var.get_update()]
            return var

    step, kept = temporaries([Copies(), tz.m.LR(0.1)])
    assert step >= 4
    assert kept >= 4


def test_the_peak_does_not_grow_with_the_number_of_parameters():
    for modules in OTHERS.values():
        small, large = (temporaries(modules(), n=1 << k)[0] * (1 << k) for k in (21, 23))
        assert large <= small + 4096


# -- what is not written -----------------------------------------------------------------------------------------------
@COMPILE
@pytest.mark.parametrize("name", [*FUSED, *OTHERS])
def test_gradients_are_neither_written_nor_kept(name, compile):
    params = make_params()
    optimizer = tz.Modular(params, *{**FUSED, **OTHERS}[name](), compile=compile)
    for _ in range(3):
        backward(params)
        kept = bits(p.grad for p in params)
        versions = [p.grad._version for p in params]
        optimizer.step()
        assert same(kept, bits(p.grad for p in params))
        assert [p.grad._version for p in params] == versions
    pointers = {p.grad.untyped_storage().data_ptr() for p in params}
    held = [*tensors_in([dict(s) for s in optimizer.state.values()]), *scratch(optimizer)]
    assert not pointers & {t.untyped_storage().data_ptr() for t in held}


@COMPILE
@pytest.mark.parametrize("name", ["Adam", "five"])
def test_gradients_are_let_go(name, compile):
    """After zero_grad the memory of the gradients is free: nobody holds on to it."""
    import weakref

    params = make_params()
    optimizer = tz.Modular(params, *{**FUSED, **OTHERS}[name](), compile=compile)
    for _ in range(2):
        backward(params)
        optimizer.step()
    alive = [weakref.ref(p.grad) for p in params]
    optimizer.zero_grad()
    gc.collect()
    assert not any(ref() is not None for ref in alive)


@COMPILE
def test_parameters_keep_their_memory_and_know_that_they_changed(compile):
    params = make_params()
    for modules in (FUSED["Adam"], five, lambda: [tz.m.LBFGS(), tz.m.Backtracking()]):
        if compile and modules not in (FUSED["Adam"], five):
            continue
        optimizer = tz.Modular(params, *modules(), compile=compile)
        before = [(p.data_ptr(), p.stride()) for p in params]
        for _ in range(2):
            versions = [p._version for p in params]
            run(optimizer, params, 1)
            assert all(p._version > v for p, v in zip(params, versions, strict=True))
        assert [(p.data_ptr(), p.stride()) for p in params] == before


@COMPILE
def test_a_graph_from_before_the_step_refuses_to_run(compile):
    for modules in (FUSED["Adam"], five):
        (p,) = make_params([(3,)])
        optimizer = tz.Modular([p], *modules(), compile=compile)
        loss = p.square().sum()
        p.grad = torch.ones_like(p)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


# -- memory that others exchange ---------------------------------------------------------------------------------------
def _clone(model):
    for p in model.parameters():
        p.data = p.data.clone()


def _vector(model):
    vector = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    nn.utils.vector_to_parameters(vector, model.parameters())


EXCHANGES = {
    "data": _clone,
    "vector": _vector,
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
}


@COMPILE
@pytest.mark.parametrize("name", ["Adam", "five", "clip"])
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_parameters_whose_memory_is_exchanged(exchange, name, compile):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Conv2d(3, 2, 2)).double()
    twin = copy.deepcopy(model)
    modules = {**FUSED, **OTHERS}[name]
    optimizer, expected = (tz.Modular(m, *modules(), compile=compile) for m in (model, twin))
    for m, o in ((model, optimizer), (twin, expected)):
        run(o, list(m.parameters()), 2)
    EXCHANGES[exchange](model)
    for m, o in ((model, optimizer), (twin, expected)):
        run(o, list(m.parameters()), 3)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-13)


def test_a_model_that_changes_its_dtype():
    model = nn.Linear(3, 2)
    optimizer = tz.Modular(model, *five())
    run(optimizer, list(model.parameters()), 2)
    model.double()
    start = bits(model.parameters())
    run(optimizer, list(model.parameters()), 2)
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True))
