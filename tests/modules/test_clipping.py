"""Clipping and normalisation along dimensions: values by hand."""

import math

import pytest
import torch

import torchzero_core as tz
from tests.modules.test_ops import update_of

m = tz.m
U = torch.arange(1.0, 25.0, dtype=torch.float64).view(2, 3, 4) - 7


@pytest.mark.parametrize("ord", [1, 2, 3, math.inf])
@pytest.mark.parametrize(
    ("dim", "inverse", "along"),
    [(0, False, 0), ((0, 2), False, (0, 2)), (1, True, (0, 2)), (-1, False, 2), (7, True, (0, 1, 2))],
)
def test_slices(ord, dim, inverse, along):
    norms = torch.linalg.vector_norm(U, ord, along, keepdim=True)
    clip = m.ClipNorm(5, ord=ord, dim=dim, inverse_dims=inverse)
    torch.testing.assert_close(update_of([clip], U), U * (5 / norms).clamp(max=1))
    torch.testing.assert_close(update_of([m.Normalize(3, ord, dim, inverse)], U), U * 3 / norms)
    mean = U.mean(along, keepdim=True)
    torch.testing.assert_close(update_of([m.Centralize(dim, inverse)], U), U - mean)


@pytest.mark.parametrize("ord", [1, 2, 3, math.inf])
@pytest.mark.parametrize("compile", [False, True])
def test_whole_tensors(ord, compile):
    norm = torch.linalg.vector_norm(U, ord)
    for dim in (None, "global"):
        torch.testing.assert_close(update_of([m.ClipNorm(5, ord, dim)], U, compile=compile), U * 5 / norm)
        assert torch.equal(update_of([m.ClipNorm(1e4, ord, dim)], U, compile=compile), U)
        torch.testing.assert_close(update_of([m.Normalize(5, ord, dim)], U, compile=compile), U * 5 / norm)
    torch.testing.assert_close(update_of([m.Centralize()], U, compile=compile), U - U.mean())


@pytest.mark.parametrize("other", [1, math.inf])
@pytest.mark.parametrize(
    "make",
    [
        lambda: m.ClipNorm(5, dim="global"),
        lambda: m.Normalize(dim="global"),
        lambda: m.Graft(m.Sign(), tensorwise=False),
        lambda: m.RGraft(m.Sign(), tensorwise=False),
        lambda: m.GraftModules(m.Sign(), m.Identity(), tensorwise=False),
    ],
)
def test_one_norm_of_all_tensors_has_one_order(make, other):
    p, q = (torch.ones(2, requires_grad=True) for _ in range(2))
    p.grad, q.grad = torch.ones(2), torch.ones(2)
    optimizer = tz.Modular([{"params": [p]}, {"params": [q], "ord": other}], make(), m.LR(1.0))
    with pytest.raises(ValueError, match=f"takes one ord for all parameters, .* set ord=2 and ord={other}"):
        optimizer.step()
    assert p.tolist() == q.tolist() == [1, 1]
    optimizer.param_groups[0]["ord"] = other
    optimizer.step()
    assert p.tolist() == q.tolist() != [1, 1]


def test_norms_of_each_tensor_may_have_their_own_order():
    p, q = (torch.zeros(2, 12, dtype=torch.float64, requires_grad=True) for _ in range(2))
    p.grad, q.grad = U.view(2, 12), U.view(2, 12)
    tz.Modular([{"params": [p]}, {"params": [q], "ord": 1}], m.Normalize(), m.LR(1.0)).step()
    torch.testing.assert_close(p.detach(), -p.grad / p.grad.norm())
    torch.testing.assert_close(q.detach(), -q.grad / q.grad.abs().sum())


def test_small_slices_are_left_alone():
    assert torch.equal(update_of([m.ClipNorm(0.1, dim=0, min_size=3)], U), U)
    assert not torch.equal(update_of([m.ClipNorm(0.1, dim=0, min_size=2)], U), U)
    assert torch.equal(update_of([m.Normalize(dim=None, min_size=25)], U), U)
    assert torch.equal(update_of([m.Normalize(dim="global", min_size=25)], U), U)
    one = torch.tensor([3.0])
    assert update_of([m.Centralize()], one).tolist() == [3]
    assert update_of([m.Centralize(min_size=1)], one).tolist() == [0]


@pytest.mark.parametrize("compile", [False, True])
def test_zero_stays_zero(compile):
    zero = torch.zeros(3)
    for module in (m.Normalize(), m.Normalize(dim="global"), m.ClipNorm(1), m.NormalizeByEMA(), m.ClipNormByEMA()):
        assert update_of([module], zero, compile=compile).tolist() == [0, 0, 0]
    for module in (m.Normalize(dim=0), m.ClipNorm(1, dim=0)):
        assert update_of([module], zero).tolist() == [0, 0, 0]


def test_tensors_without_the_dimension_are_left_alone():
    params = [
        torch.zeros(2, 3, requires_grad=True),
        torch.zeros(3, requires_grad=True),
        torch.zeros((), requires_grad=True),
    ]
    for p in params:
        p.grad = torch.ones_like(p)
    tz.Modular(params, m.Normalize(dim=1)).step()
    assert params[0][0, 0].item() == pytest.approx(-(3**-0.5))
    assert params[1].tolist() == [-1, -1, -1]
    assert params[2].item() == -1


def test_what_is_no_dimension_is_refused():
    for make in (lambda **kw: m.ClipNorm(1, **kw), m.Normalize, m.Centralize):
        for dim in ("everything", 0.5, [0, "1"]):
            with pytest.raises(ValueError, match='must be None, "global", an int or a list of ints'):
                make(dim=dim)


@pytest.mark.parametrize("tensorwise", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_by_average_follows_the_formula(tensorwise, normalize):
    """Ten steps of two tensors beside the rule in plain torch."""
    torch.manual_seed(1)
    params = [
        torch.zeros(3, dtype=torch.float64, requires_grad=True),
        torch.zeros(2, 2, dtype=torch.float64, requires_grad=True),
    ]
    cls = m.NormalizeByEMA if normalize else m.ClipNormByEMA
    optimizer = tz.Modular(params, cls(beta=0.8, max_ema_growth=1.2, tensorwise=tensorwise))
    emas = [torch.zeros_like(p) for p in params]
    previous = [None, None]
    for _ in range(10):
        grads = [torch.randn_like(p) * 3 for p in params]
        before = [p.detach().clone() for p in params]
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        emas = [0.8 * e.detach() + 0.2 * g for e, g in zip(emas, grads, strict=True)]
        if tensorwise:
            norms, sizes = [e.norm() for e in emas], [g.norm() for g in grads]
        else:
            norms = [torch.cat([e.flatten() for e in emas]).norm()] * 2
            sizes = [torch.cat([g.flatten() for g in grads]).norm()] * 2
        scales = [1.0 if q is None else min(1.0, max(1.2 * q, 1e-6) / n) for n, q in zip(norms, previous, strict=True)]
        emas = [e * scale for e, scale in zip(emas, scales, strict=True)]  # what has grown too fast is forgotten
        norms = previous = [n * scale for n, scale in zip(norms, scales, strict=True)]
        for p, b, g, n, s in zip(params, before, grads, norms, sizes, strict=True):
            factor = n / s if normalize else min(1, n / s)
            torch.testing.assert_close(b - p.detach(), g * factor, rtol=1e-12, atol=1e-12)


def grown(sizes, add, mul, min_value, max_decay):
    """What the sizes of successive updates become."""
    out, prev = [], None
    for size in sizes:
        if prev is not None:
            size = size if add is None else min(size, prev + add)
            size = size if mul is None else min(size, mul * (prev if min_value is None else max(prev, min_value)))
        out.append(size)
        prev = size if prev is None or max_decay is None else max(size, prev / max_decay)
    return out


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("limits", [(None, 1.5, 1e-4, 2), (0.5, None, None, None), (1.0, 2.0, 0.25, 1.25)])
@pytest.mark.parametrize("kind", ["value", "norm", "global"])
def test_growth(kind, limits, compile):
    names = dict(zip(("add", "mul", "min_value", "max_decay"), limits, strict=True))
    module = m.ClipValueGrowth(**names) if kind == "value" else m.ClipNormGrowth(**names, parameterwise=kind == "norm")
    scales = torch.tensor([[1, -2], [3, 3], [-0.1, 0], [2, 5], [0, 0], [0, 9], [4, -4.0]], dtype=torch.float64)
    base = torch.tensor([3.0, -4.0], dtype=torch.float64) / (1 if kind == "value" else 5)
    params = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizer = tz.Modular(params, module, compile=compile)
    wanted = [[scale * base for scale in step] for step in scales]
    if kind == "value":
        sizes = torch.stack([torch.stack(step) for step in wanted]).abs().flatten(1)
        sizes = torch.tensor([grown(column.tolist(), *limits) for column in sizes.T], dtype=torch.float64).T
        wanted = [list(s.view(2, 2).copysign(torch.stack(w))) for s, w in zip(sizes, wanted, strict=True)]
    else:
        norms = scales.abs() if kind == "norm" else scales.norm(dim=1, keepdim=True).expand(-1, 2)
        limited = torch.tensor([grown(column.tolist(), *limits) for column in norms.T], dtype=torch.float64).T
        factors = torch.where(norms > 0, limited / norms, 1.0)
        wanted = [[f * w for f, w in zip(fs, ws, strict=True)] for fs, ws in zip(factors, wanted, strict=True)]
    for step, expected in zip(scales, wanted, strict=True):
        before = [p.detach().clone() for p in params]
        for p, scale in zip(params, step, strict=True):
            p.grad = scale * base
        optimizer.step()
        for p, b, w in zip(params, before, expected, strict=True):
            torch.testing.assert_close(b - p.detach(), w, rtol=1e-12, atol=1e-12)
