"""Operations, routing and accumulation: values by hand."""

import math

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.problems import backward, bits, make_params, run

m = tz.m


def update_of(modules, *grads, params=None, compile=False):
    """The update that a chain makes of gradients, one step each; for one parameter."""
    p = torch.zeros_like(grads[0]) if params is None else params.clone()
    p.requires_grad_()
    optimizer = tz.Modular([p], *modules, compile=compile)
    for grad in grads:
        before = p.detach().clone()
        p.grad = grad.clone()
        optimizer.step()
    return before - p.detach()


G = torch.tensor([3.0, -1.0, 0.5, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (lambda: m.Add(2), G + 2),
        (lambda: m.Add(2, alpha=3), G + 6),
        (lambda: m.Add(m.Sign(), alpha=3), G + 3 * G.sign()),
        (lambda: m.Add([m.Sign(), m.Mul(2)]), G + 2 * G.sign()),
        (lambda: m.Sub(2), G - 2),
        (lambda: m.Sub(m.Sign(), alpha=3), G - 3 * G.sign()),
        (lambda: m.Mul(-2), -2 * G),
        (lambda: m.Mul(m.Sign()), G.abs()),
        (lambda: m.Div(4), G / 4),
        (lambda: m.Div(m.Add(7)), G / (G + 7)),
        (lambda: m.Pow(2), G**2),
        (lambda: m.Pow(3), G**3),
        (lambda: [m.Pow(2), m.Pow(1.5)], G.abs() ** 3),
        (lambda: [m.Pow(2), m.Pow(m.Add(1))], (G**2) ** (G**2 + 1)),
        (lambda: [m.Pow(2), m.Sqrt()], G.abs()),
        (lambda: m.Sign(), G.sign()),
        (lambda: [m.Sign(), m.Clone()], G.sign()),
        (lambda: [m.Sign(), m.Identity(1, whatever=2)], G.sign()),
        (lambda: [m.Sign(), m.Grad()], G),
        (lambda: m.DivModules(m.Add(1), [m.Mul(2), m.Add(7)]), (G + 1) / (2 * G + 7)),
        (lambda: m.DivModules(1.0, m.Add(7)), 1 / (G + 7)),
        (lambda: m.Sum(m.Sign(), 2, [m.Mul(2), m.Add(1)]), G.sign() + 2 + 2 * G + 1),
        (lambda: m.GraftModules(m.Sign(), m.Mul(2)), G.sign() * (2 * G).norm() / G.sign().norm()),
        (lambda: m.GraftModules(m.Sign(), m.Mul(2), ord=1), G.sign() * (2 * G).norm(1) / G.sign().norm(1)),
        (
            lambda: m.GraftModules(m.Sign(), m.Identity(), ord=math.inf, strength=0.25),
            G.sign() * (0.75 + 0.25 * 3),
        ),
    ],
)
def test_values(module, expected, compile):
    modules = module()
    modules = modules if isinstance(modules, list) else [modules]
    torch.testing.assert_close(update_of(modules, G, compile=compile), expected, rtol=1e-15, atol=1e-15)


def test_graft_over_all_tensors():
    params = make_params([(2,), (3,)])
    for p in params:
        p.grad = p.detach().clone()
    before = bits(params)
    tz.Modular(params, m.GraftModules(m.Sign(), m.Identity(), tensorwise=False)).step()
    norm = torch.cat([b.flatten() for b in before]).norm()
    for p, b in zip(params, before, strict=True):
        torch.testing.assert_close(b - p.detach(), b.sign() * norm / math.sqrt(5))


def test_a_child_gets_a_copy():
    """What one operand does in place is not seen by the other, nor by what comes after."""

    class Spoil(tz.Module):
        def step(self, var):
            for u in var.get_update():
                u.fill_(7.0)
            return var

    assert update_of([m.Sum(Spoil(), m.Identity())], G).tolist() == (G + 7).tolist()
    assert update_of([m.Sum(m.Identity(), Spoil())], G).tolist() == (G + 7).tolist()
    assert update_of([m.Add(Spoil())], G).tolist() == (G + 7).tolist()


def test_accumulate_maximum():
    first, second, third = (torch.tensor(x) for x in ([-4.0, 2.0], [-5.0, 8.0], [-6.0, 1.0]))
    assert update_of([m.AccumulateMaximum()], first).tolist() == [-4, 2]
    assert update_of([m.AccumulateMaximum()], first, second, third).tolist() == [-4, 8]
    assert update_of([m.AccumulateMaximum(decay=0.5)], first, second, third).tolist() == [-1, 4]


def test_an_operation_without_operands_is_refused():
    with pytest.raises(ValueError, match="Sum needs at least one operand"):
        m.Sum()


def test_numbers_among_operands_are_settings_of_a_group():
    a, b = make_params([(2,), (2,)])
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    before = bits([a, b])
    tz.Modular([{"params": [a]}, {"params": [b], "Add.other": 5.0}], m.Add(1)).step()
    assert (before[0] - a.detach()).tolist() == pytest.approx([2, 2])
    assert (before[1] - b.detach()).tolist() == pytest.approx([6, 6])


# -- Split -------------------------------------------------------------------------------------------------------------
def test_split_of_line_searches_moves_each_part_once():
    """A part that has moved its parameters itself is not moved again, and the other part is."""
    params, others = make_params([(3,), (2, 2)]), make_params([(3,), (2, 2)])
    run(tz.Modular(params, m.Split(lambda p: p.ndim == 1, m.Backtracking(), m.LR(0.25))), params, 1)
    run(tz.Modular(others, m.LR(0.25)), others, 1)
    assert torch.equal(params[1], others[1])
    assert not torch.equal(params[0], others[0])


def test_split_with_one_side():
    params, others = make_params([(3,), (2, 2)]), make_params([(3,), (2, 2)])
    backward(params)
    backward(others)
    tz.Modular(params, m.Split(lambda p: p.ndim == 1, m.Mul(2), None), m.LR(0.1)).step()
    tz.Modular(others[:1], m.LR(0.2)).step()
    tz.Modular(others[1:], m.LR(0.1)).step()
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


def test_split_refuses_what_is_no_filter():
    with pytest.raises(TypeError, match="must be a function of a parameter, 'hidden_matrices'"):
        m.Split(2, None, None)
    (p,) = make_params([(2, 2)])
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"Modular\(model, \.\.\.\)"):
        tz.Modular([p], m.Split("hidden_matrices", m.Muon(), m.Adam())).step()


class Language(nn.Module):
    """A small language model whose head shares the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.position = nn.Embedding(5, 4)
        self.mix = nn.Linear(4, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight


def test_hidden_matrices():
    model = Language()
    accepts = m.hidden_matrices(model)
    assert [n for n, p in model.named_parameters() if accepts(p)] == ["mix.weight", "conv.weight"]
    optimizer = tz.Modular(model, m.Split("hidden_matrices", m.Muon(), m.Adam()), m.LR(0.02))
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    inside = {n for n, p in model.named_parameters() for key in optimizer.state[p] if "Muon.exp_avg" in key}
    assert inside == {"mix.weight", "conv.weight"}


# -- GradientAccumulation ----------------------------------------------------------------------------------------------
def test_the_mean_of_gathered_gradients_is_the_gradient_inside():
    """So gathering over parts of a batch is the same as the whole batch, also for what compares with the gradient."""
    torch.manual_seed(0)
    grads = torch.randn(4, 3, 5, dtype=torch.float64)
    chains = (
        lambda: [m.Adam(0.5), m.Cautious(normalize=True), m.LR(0.1)],
        lambda: [m.Split(lambda p: True, [m.Adam(0.5), m.Cautious()], None), m.LR(0.1)],
        lambda: [m.VectorProjection([m.HeavyBall(), m.Cautious()]), m.LR(0.1)],
        lambda: [m.AccumulateMaximum(0.1), m.Grad(), m.LR(0.1)],
    )
    for chain in chains:
        (p, q) = (torch.zeros(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
        gathered, whole = tz.Modular([p], m.GradientAccumulation(chain(), n=3)), tz.Modular([q], *chain())
        outside = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        in_split = tz.Modular([outside], m.Split(lambda p: True, m.GradientAccumulation(chain(), n=3), None))
        for parts in grads:
            for g in parts:
                p.grad, outside.grad = g.clone(), g.clone()
                gathered.step()
                in_split.step()
            q.grad = parts.mean(0)
            whole.step()
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0)
        assert torch.equal(p, outside)


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_modules_after_it_wait_also_where_it_is_an_operand(watched, compile):
    (p,) = make_params([(3,)])
    chain = [m.Add(m.GradientAccumulation(m.Clone(), n=2)), m.Sum(m.Clone(), m.Adam()), m.NAG(0.5), m.LR(0.1)]
    optimizer = tz.Modular([p], *chain, compile=compile)
    if watched:
        optimizer.watch(lambda path, update: None)
    start = p.detach().clone()
    p.grad = torch.tensor([1.0, 2.0, -4.0], dtype=torch.float64)
    optimizer.step()
    assert torch.equal(p, start)
    assert not [name for name in optimizer.state[p] if "Adam" in name or "NAG" in name]
    optimizer.step()
    u = 2 * p.grad  # of Add
    u = u + u / (u.abs() + 1e-8)  # with Adam's first step
    torch.testing.assert_close(p.detach(), start - 0.1 * 1.5 * u, rtol=1e-12, atol=0)


def test_nothing_inside_advances_between():
    (p,) = make_params([(3,)])
    optimizer = tz.Modular([p], m.GradientAccumulation([m.Adam(), m.LR(0.1)], n=3), m.WeightDecay(0.1))
    for i in range(7):
        before = p.detach().clone()
        backward([p])
        optimizer.step()
        assert torch.equal(p, before) == (i % 3 != 2)
        assert optimizer.state[p].get("GradientAccumulation.modules.Adam.step", 0) == (i + 1) // 3


def test_sum_and_mean():
    for mean, expected in ((True, 2.0), (False, 4.0)):
        p = torch.zeros(1, requires_grad=True)
        optimizer = tz.Modular([p], m.GradientAccumulation(m.Identity(), n=2, mean=mean))
        for grad in (1.0, 3.0):
            p.grad = torch.tensor([grad])
            optimizer.step()
        assert p.item() == -expected


def test_a_gradient_that_came_only_in_between_counts():
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = tz.Modular([a, b], m.GradientAccumulation(m.Identity(), n=2))
    a.grad, b.grad = torch.tensor([2.0]), torch.tensor([4.0])
    optimizer.step()
    a.grad, b.grad = torch.tensor([2.0]), None
    optimizer.step()
    assert (a.item(), b.item()) == (-2, -2)


def test_without_stop_later_modules_see_zeros():
    p = torch.ones(1, requires_grad=True)
    optimizer = tz.Modular([p], m.GradientAccumulation(m.Identity(), n=2, stop=False), m.WeightDecay(0.5))
    p.grad = torch.tensor([3.0])
    optimizer.step()
    assert p.item() == 0.5
