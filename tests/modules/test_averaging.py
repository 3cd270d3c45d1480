"""Averages over the last updates: values by hand, and what a ring costs."""

import math

import pytest
import torch

import torchzero_core as tz
from tests.modules.test_ops import update_of
from tests.problems import segments, values

m = tz.m
both = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
GRADS = [values((3, 4), 7 * i) for i in range(41)]


@both
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_averaging_is_the_mean_of_the_last(n, compile):
    for t in (1, n, n + 1, 2 * n + 3):
        wanted = torch.stack(GRADS[max(t - n, 0) : t]).mean(0)
        torch.testing.assert_close(update_of([m.Averaging(n)], *GRADS[:t], compile=compile), wanted)


@both
@pytest.mark.parametrize("n", [*range(1, 18), 20])
def test_median_is_the_quantile_of_the_last(n, compile):
    p = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], m.MedianAveraging(n), compile=compile)
    for t, grad in enumerate(GRADS, 1):
        before, p.grad = p.detach().clone(), grad.clone()
        optimizer.step()
        wanted = torch.stack(GRADS[max(t - n, 0) : t]).quantile(0.5, 0)
        torch.testing.assert_close(before - p.detach(), wanted)
    (segment,) = segments(optimizer)
    assert len(segment.programs) == (2 if 1 < n <= 16 else 1)


@both
@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("n", [3, 17])
def test_median_of_nan_is_nan(n, steps, compile):
    grads = [torch.tensor([1.0, float(i), math.inf]) for i in range(steps)]
    grads[-2][0] = math.nan
    got = update_of([m.MedianAveraging(n)], *grads, params=torch.zeros(3), compile=compile)
    assert got[0].isnan()
    assert torch.equal(got[1], torch.stack(grads[-n:]).quantile(0.5, 0)[1])


@both
def test_median_agrees_in_the_two_ways_it_is_taken(compile):
    """A pass of comparisons, and a sort: the same numbers to the last bit."""
    for n in (2, 5, 16):
        sorts = update_of([m.MedianAveraging(17)], *GRADS[:n], compile=compile)
        assert torch.equal(update_of([m.MedianAveraging(n)], *GRADS[:n], compile=compile), sorts)


@pytest.mark.parametrize("module", [m.Averaging, m.MedianAveraging])
def test_history_is_one_tensor_for_each_parameter(module):
    p = torch.zeros(3, 4, requires_grad=True)
    p.grad = torch.ones(3, 4)
    optimizer = tz.Modular([p], module(5))
    optimizer.step()
    assert optimizer.state[p][f"{module.__name__}.history"].shape == (5, 3, 4)
    with pytest.raises(ValueError, match=r"history_size=0\) is out of range"):
        module(0)


def test_coordinate_momentum_is_the_same_whatever_the_groups():
    def train(groups, compile=False):
        params = [torch.zeros(50), torch.zeros(7, 3), torch.zeros(20)]
        params = [p.requires_grad_() for p in params]
        made = [{"params": [params[i] for i in g]} for g in groups]
        optimizer = tz.Modular(made, m.CoordinateMomentum(0.3, seed=1), compile=compile)
        for _ in range(3):
            for i, p in enumerate(params):
                p.grad = values(p.shape, i).float()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in params])

    one = train([[0, 1, 2]])
    assert 0 < (one == 0).sum() < one.numel()
    assert torch.equal(train([[0, 1], [2]]), one)
    assert torch.equal(train([[0, 1], [2]], compile=True), one)
