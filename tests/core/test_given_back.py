"""Memory that has been given back, as fully sharded training does with ``untyped_storage().resize_(0)``."""

import pytest
import torch

import torchzero_core as tz
from tests.problems import backward, bits, make_params, same

m = tz.m
CHAINS = {
    "Adam": lambda: [m.Adam(), m.LR(0.1)],
    "rules": lambda: [m.ClipNorm(1.0), m.EMA(0.9), m.LR(0.1)],
    "momentum": lambda: [m.HeavyBall(0.9), m.LR(0.1)],
    "LBFGS": lambda: [m.LBFGS(), m.LR(0.1)],
    "SOAP": lambda: [m.SOAP(), m.LR(0.1)],
    "projection": lambda: [m.VectorProjection(m.Adam()), m.LR(0.1)],
    "Wrap": lambda: [m.Wrap(torch.optim.AdamW, lr=0.1)],
    "Split": lambda: [m.Split(lambda p: p.ndim > 1, m.Lion(), m.Adam()), m.LR(0.1)],
}
SHAPES = [(30, 20), (0,), (40,), ()]


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("first", [False, True], ids=["later", "at first"])
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_a_parameter_without_memory_is_refused(name, first, compile):
    params = make_params(SHAPES)
    optimizer = tz.Modular(params, *CHAINS[name](), compile=compile)
    if not first:
        for _ in range(3):
            backward(params)
            optimizer.step()
    backward(params)
    storage, kept = params[0].data.untyped_storage(), params[0].detach().clone()
    size = storage.nbytes()
    storage.resize_(0)
    before, state = bits(params[1:]), optimizer.state_dict()["state"]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"The memory of parameter 0, of shape \(30, 20\), has been given back"):
            optimizer.step()
    assert same(bits(params[1:]), before) and optimizer.state_dict()["state"].keys() == state.keys()
    storage.resize_(size)
    with torch.no_grad():
        params[0].copy_(kept)
    optimizer.step()
    assert not torch.equal(params[0], kept) or name == "SOAP"


@pytest.mark.parametrize("what", ["grad", "state"])
def test_other_memory_is_refused_by_compiled_code(what):
    params = make_params(SHAPES)
    optimizer = tz.Modular(params, m.ClipNorm(1.0), m.EMA(0.9), m.LR(0.1), compile=True)
    for _ in range(3):
        backward(params)
        optimizer.step()
    backward(params)
    given = params[0].grad if what == "grad" else optimizer.state[params[0]]["EMA.exp_avg"]
    given.untyped_storage().resize_(0)
    before = bits(params)
    with pytest.raises(RuntimeError, match="has been given back"):
        optimizer.step()
    assert same(bits(params), before)


#: What is left of so many bytes.
CUTS = {"nothing": lambda n: 0, "half": lambda n: n // 2, "all but one byte": lambda n: n - 1}
MORE = {
    **CHAINS,
    "numbers": lambda: [m.ClipNormByEMA(tensorwise=False), m.ClipValueGrowth(), m.LR(0.1)],
    "ring": lambda: [m.MedianAveraging(3), m.LR(0.1)],
    "nested": lambda: [m.Sum(m.RMSprop(), m.BlockPartition(m.Lion(), 16)), m.LR(0.1)],
}


def tensors_of(optimizer):
    """Each tensor that is kept and read: by the number of its parameter, and its name."""
    for i, state in enumerate(optimizer.state.values()):
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.numel():
                yield i, key


def made(name, compile):
    params = make_params(SHAPES)
    optimizer = tz.Modular(params, *MORE[name](), compile=compile)
    for _ in range(3):
        backward(params)
        optimizer.step()
    backward(params)
    return params, optimizer


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", MORE)
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_each_state_without_some_of_its_memory_is_refused(name, cut, compile):
    for i, key in list(tensors_of(made(name, compile)[1])):
        params, optimizer = made(name, compile)
        value = list(optimizer.state.values())[i][key]
        storage, kept = value.untyped_storage(), value.clone()
        size = storage.nbytes()
        if not storage.resizable():  # numpy has a view of it
            continue
        storage.resize_(CUTS[cut](size))
        before = bits(params)
        with pytest.raises(RuntimeError, match=r"The memory of .*has been given back"):
            optimizer.step()
        assert same(bits(params), before), key
        list(optimizer.state.values())[i][key] = kept
        if size == kept.numel() * kept.element_size():  # otherwise others have lost theirs too
            optimizer.step()
            assert optimizer.current_step == 4


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", MORE)
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_a_gradient_or_a_parameter_without_some_of_its_memory_is_refused(name, cut, compile):
    for k, what in ((2, "gradient"), (2, "parameter"), (3, "gradient")):
        params, optimizer = made(name, compile)
        if what == "gradient":  # memory of before is free again, and may be what it gets
            params[k].grad = params[k].grad.clone()
        given = params[k].data if what == "parameter" else params[k].grad
        storage, kept = given.untyped_storage(), given.clone()
        size = storage.nbytes()
        storage.resize_(CUTS[cut](size))
        others = [p for i, p in enumerate(params) if i != k]
        before = bits(others)
        with pytest.raises(RuntimeError, match=rf"The memory of {what} \d, of shape .*has been given back"):
            optimizer.step()
        assert same(bits(others), before)
        storage.resize_(size)
        given.copy_(kept)
        optimizer.step()
        assert optimizer.current_step == 4
