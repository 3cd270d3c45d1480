"""Wrap of optimizers that take only some shapes."""

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.problems import backward, make_params

m = tz.m


class Picky(torch.optim.SGD):
    """Takes parameters of some numbers of dimensions, and of some size."""

    def __init__(self, params, lr=0.1, *, dims, size=1, error=ValueError):
        super().__init__(params, lr)
        for p in self.param_groups[0]["params"]:
            if p.ndim not in dims or p.numel() < size:
                raise error(f"no {tuple(p.shape)}")


def test_torch_muon_follows_itself():
    ours, theirs = make_params([(4, 3), (3, 5)]), make_params([(4, 3), (3, 5)])
    mine, other = tz.Modular(ours, m.Wrap(torch.optim.Muon, lr=0.1)), torch.optim.Muon(theirs, lr=0.1)
    for _ in range(4):
        for params, optimizer in ((ours, mine), (theirs, other)):
            backward(params)
            optimizer.step()
    assert all(map(torch.equal, ours, theirs))


def test_torch_muon_for_the_matrices_of_a_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    optimizer = tz.Modular(model, m.Split("hidden_matrices", m.Wrap(torch.optim.Muon, lr=0.1), [m.Adam(), m.LR(0.1)]))
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.arange(5)).sum().backward()
    optimizer.step()
    assert all((p - b).any() for p, b in zip(model.parameters(), before, strict=True))
    with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
        tz.Modular(model, m.Wrap(torch.optim.Muon)).step(lambda: model(torch.arange(5)).sum())


@pytest.mark.parametrize(
    "settings",
    [dict(dims=[2]), dict(dims=[3]), dict(dims=[4]), dict(dims=[0]), dict(dims=[2], size=2)]
    + [dict(dims=[4], error=e) for e in (RuntimeError, AssertionError, NotImplementedError)],
    ids=str,
)
def test_shapes_that_are_refused(settings):
    shape = [3] * settings["dims"][0]
    (p,) = make_params([tuple(shape)])
    before = p.detach().clone()
    optimizer = tz.Modular([p], m.Wrap(Picky, **settings))
    p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(before - p.detach(), torch.full_like(before, 0.1))


def test_wrong_arguments_show_at_once():
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        m.Wrap(torch.optim.Adam, lr=-1)
    with pytest.raises(ValueError, match=r"[Ll]earning rate"):
        m.Wrap(torch.optim.Muon, lr=-1)
    with pytest.raises(TypeError, match="nesterovv"):
        m.Wrap(torch.optim.Muon, nesterovv=True)
    with pytest.raises(ValueError, match=r"no \(1,\)"):  # the first of what it says
        m.Wrap(Picky, dims=[7])
    with pytest.raises(TypeError, match="Wrap needs a torch optimizer"):
        m.Wrap(lambda params: 3)
