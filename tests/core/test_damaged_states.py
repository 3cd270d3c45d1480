"""State dicts that are damaged: every declared state is looked at when it is loaded, also inside projections."""

import copy

import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, same

m = tz.m
CHAINS = {
    "plain": lambda: [m.Adam(), m.MedianAveraging(3), m.ClipNormByEMA(tensorwise=False), m.LR(0.1)],
    "vector": lambda: [m.VectorProjection([m.Adam(), m.MedianAveraging(3), m.ClipNormByEMA()]), m.LR(0.1)],
    "velocity alone": lambda: [m.VectorProjection(m.HeavyBall()), m.LR(0.1)],
    "low rank": lambda: [m.GaLore(m.Adam(), rank=2), m.LR(0.1)],
    "blocks": lambda: [m.BlockPartition(m.Adam(), 5), m.LR(0.1)],
    "batch": lambda: [m.BlockPartition(m.HeavyBall(), 5, batched=True), m.LR(0.1)],
    "nested": lambda: [m.FFTProjection(m.BlockPartition(m.Adam(), 5)), m.LR(0.1)],
    "nested vector": lambda: [m.VectorProjection(m.TensorizeProjection(m.Adam(), 4)), m.LR(0.1)],
    "in a branch": lambda: [m.Split(lambda p: p.ndim > 1, m.VectorProjection(m.Adam()), m.Lion()), m.LR(0.1)],
    "in an operation": lambda: [m.Sum(m.VectorProjection(m.HeavyBall()), m.Identity()), m.LR(0.1)],
}


def make():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*s, generator=generator).requires_grad_() for s in ((4, 6), (5,), (2, 3))]


def run(optimizer, params, steps, missing=None):
    for _ in range(steps):
        for i, p in enumerate(params):
            p.grad = None if i == missing else p.detach() + 0.1
        optimizer.step()


def shorter(value):
    return value.flatten()[: value.numel() // 2].clone()


DAMAGES = {
    "half": (shorter, lambda v: v.numel() > 1),
    "longer": (lambda v: torch.cat([v.flatten(), v.flatten()]), lambda v: v.numel() > 1),
    "one number": (lambda v: v.flatten()[0].clone(), lambda v: v.ndim > 0),
    "more dimensions": (lambda v: v[None], lambda v: True),
    "text": (lambda v: "text", lambda v: True),
    "nothing": (lambda v: None, lambda v: True),
    "complex": (lambda v: v.to(torch.complex64), lambda v: v.numel() > 1),
}


@pytest.mark.filterwarnings("ignore:compile=True has no effect on")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", CHAINS)
def test_a_damaged_state_is_refused_and_nothing_changes(name, damage, compile):
    params, others = make(), make()
    optimizer = tz.Modular(params, *CHAINS[name]())
    run(optimizer, params, 4)
    saved = optimizer.state_dict()
    other = tz.Modular(others, *CHAINS[name](), compile=compile)
    run(other, others, 2)
    change, applies = DAMAGES[damage]
    tried = 0
    for i, state in saved["state"].items():
        for key, value in state.items():
            if not isinstance(value, torch.Tensor) or not applies(value):
                continue
            if damage == "more dimensions" and value.numel() == 1 and key.rsplit(".", 2)[1] == "global":
                continue  # still one number for all
            if damage == "complex" and key.endswith("basis"):
                continue
            tried += 1
            bad = copy.deepcopy(saved)
            bad["state"][i][key] = change(value)
            before = copy.deepcopy(other.state_dict())
            with pytest.raises(ValueError, match=r"damaged|belongs to another model"):
                other.load_state_dict(bad)
            assert same(before["state"], other.state_dict()["state"])
            assert same(before["param_groups"], other.state_dict()["param_groups"])
    assert tried
    other.load_state_dict(saved)
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    run(optimizer, params, 2)
    run(other, others, 2)
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CHAINS)
def test_counts_are_numbers(name):
    params, others = make(), make()
    optimizer = tz.Modular(params, *CHAINS[name]())
    run(optimizer, params, 3)
    saved, other = optimizer.state_dict(), tz.Modular(others, *CHAINS[name]())
    for i, state in saved["state"].items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                continue
            bad = copy.deepcopy(saved)
            bad["state"][i][key] = "x"
            with pytest.raises(ValueError, match="is a count and not 'x': the state dict is damaged"):
                other.load_state_dict(bad)


def test_a_vector_of_some_of_the_parameters_is_loaded():
    """One had no gradient when it was saved, so the vector is shorter than all of them."""
    params, others = make(), make()
    optimizer = tz.Modular(params, m.VectorProjection(m.Adam()), m.LR(0.1))
    run(optimizer, params, 2)
    run(optimizer, params, 3, missing=1)
    saved = optimizer.state_dict()
    other = tz.Modular(others, m.VectorProjection(m.Adam()), m.LR(0.1))
    other.load_state_dict(saved)
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    run(optimizer, params, 3, missing=1)
    run(other, others, 3, missing=1)
    assert same(bits(params), bits(others))


def test_a_state_of_another_model_is_refused():
    params = make()
    optimizer = tz.Modular(params, m.VectorProjection(m.Adam()), m.LR(0.1))
    run(optimizer, params, 2)
    others = [torch.zeros(s, requires_grad=True) for s in ((4, 6), (7,), (2, 3))]
    other = tz.Modular(others, m.VectorProjection(m.Adam()), m.LR(0.1))
    with pytest.raises(ValueError, match=r"VectorProjection\.modules\.Adam\.exp_avg' has shape \(35,\)"):
        other.load_state_dict(optimizer.state_dict())
