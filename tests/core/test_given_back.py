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
