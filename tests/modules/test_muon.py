"""Muon as it is used: against torch's, coefficients, convolutions, scales, and which parameters it gets."""

import copy
import math

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.parity import compared
from tests.problems import backward, make_params
from torchzero_core.linalg import newton_schulz
from torchzero_core.linalg.orthogonalize import SCHEDULES

m = tz.m
F64 = torch.float64


def noise(*shape, seed=0):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


# -- the iteration -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("coefficients", SCHEDULES)
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (4, 40), (40, 4), (3, 5, 20)])
@pytest.mark.parametrize("steps", [1, 3, 5, 8])
@compared("Newton–Schulz on the Gram matrix", "Newton–Schulz on the matrix")
def test_the_gram_form_is_the_same_iteration(coefficients, shape, steps):
    x = noise(*shape)
    plain, gram = (newton_schulz(x, steps, coefficients=coefficients, dtype=F64, gram=g) for g in (False, True))
    torch.testing.assert_close(gram, plain, rtol=0, atol=1e-12)


def test_the_gram_form_in_float32_is_as_exact():
    u, _, vh = torch.linalg.svd(noise(32, 256), full_matrices=False)
    for x in (noise(32, 256), u * torch.logspace(0, -6, 32, dtype=F64) @ vh, u[:, :2] @ vh[:2]):
        exact = newton_schulz(x, dtype=F64, gram=False)
        errors = [(newton_schulz(x, dtype=torch.float32, gram=g) - exact).norm() / exact.norm() for g in (False, True)]
        assert errors[1] < 3 * errors[0] and errors[1] < 1e-4


@pytest.mark.parametrize(("dtype", "calls"), [(torch.float32, True), (torch.bfloat16, False)])
def test_where_the_gram_form_is_used(dtype, calls, monkeypatch):
    from torchzero_core.linalg import orthogonalize

    used = []
    true = orthogonalize._on_gram
    monkeypatch.setattr(orthogonalize, "_on_gram", lambda *args: (used.append(1), true(*args))[1])
    newton_schulz(noise(6, 8), dtype=dtype)
    assert not used  # hardly longer than wide
    newton_schulz(noise(4, 8), dtype=dtype)
    assert bool(used) is calls


def test_what_is_orthogonalised_is_the_sixth_argument():
    p = torch.zeros(2, 2, dtype=F64, requires_grad=True)
    p.grad = torch.tensor([[0.0, -2.0], [5.0, 0.0]], dtype=F64)
    chain = [m.Fill(7), m.Orthogonalize(5, False, False, "svd", None, "grad"), m.Grad()]
    tz.Modular([p], *chain).step()
    torch.testing.assert_close(p.detach(), torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64))
    with pytest.raises(TypeError):
        m.Orthogonalize(5, False, False, "svd", None, "grad", "quintic")


def test_polar_express_is_the_best_there_is():
    """Each polynomial is the best odd quintic on what the one before it leaves: its error is as large at both ends."""
    low, high = 1e-3, 1.0
    expected = [0.9917, 0.9660, 0.8657, 0.5604, 0.1236, 0.001185, 1e-9]
    for (a, b, c), error in zip(SCHEDULES["polar-express"], expected, strict=False):
        first = low == 1e-3
        scale = 1.01**2 if first else 1.01  # undo the safety that the schedule has built in
        x = torch.linspace(low, high, 100_001, dtype=F64) * scale
        y = a * x + b * x**3 + c * x**5
        low, high = float(y.min()), float(y.max())
        assert math.isclose(low + high, 2, abs_tol=1e-6) and math.isclose(1 - low, error, rel_tol=0.01, abs_tol=1e-8)


def test_coefficients_by_name_and_by_hand():
    x = noise(5, 8)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    s = s / s.norm()
    for triple in SCHEDULES["polar-express"][:3]:
        s = triple[0] * s + triple[1] * s**3 + triple[2] * s**5
    for given in ("polar-express", SCHEDULES["polar-express"]):
        torch.testing.assert_close(newton_schulz(x, 3, coefficients=given, dtype=F64), u * s @ vh)
    for name in SCHEDULES:
        out = newton_schulz(x, 12, coefficients=name, dtype=F64)
        error = (torch.linalg.svdvals(out) - 1).abs().max()
        assert error < 1e-10 if name == "polar-express" else 0.05 < error < 0.35
    with pytest.raises(ValueError, match="There are no coefficients 'cubic'; there are 'quintic', 'polar-express'"):
        newton_schulz(x, coefficients="cubic")


# -- the modules -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (4, 20), (8, 8)])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
@compared("Muon", "torch.optim.Muon")
def test_muon_follows_torch_to_rounding(shape, nesterov, adjust, monkeypatch):
    """torch rounds the products to bfloat16; here it is kept from it, so that the two are the same to float64."""
    from torch.optim import _muon

    monkeypatch.setattr(
        _muon,
        "_zeropower_via_newtonschulz",
        lambda grad, coefficients, steps, eps: newton_schulz(
            grad, steps, coefficients=coefficients, dtype=F64, eps=eps, gram=False
        ),
    )
    ours, theirs = make_params([shape, shape]), make_params([shape, shape])
    mine = tz.Modular(
        ours, m.Muon(0.9, nesterov, adjust_lr=adjust is not None, ns_dtype="float64"), m.WeightDecay(0.1), m.LR(0.01)
    )
    other = torch.optim.Muon(
        theirs, lr=0.01, momentum=0.9, nesterov=nesterov, weight_decay=0.1, adjust_lr_fn=adjust or "original"
    )
    # "original" multiplies by √max(1, rows/columns)
    factor = 1.0 if adjust else math.sqrt(max(1, shape[0] / shape[1]))
    other.param_groups[0]["lr"] /= factor
    other.param_groups[0]["weight_decay"] *= factor
    for _ in range(10):
        for params, optimizer in ((ours, mine), (theirs, other)):
            backward(params)
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_modules_spell_out_the_options(compile):
    shapes = [(3, 4), (5, 2), (4, 3, 2, 2), (3,), ()]
    options = dict(method="svd", dual_norm_correction=True, adjust_lr=True)
    chains = [
        [m.Orthogonalize(**options), m.LR(0.1)],
        [m.Orthogonalize(method="svd"), m.DualNormCorrection(), m.MuonAdjustLR(), m.LR(0.1)],
        [m.Orthogonalize(method="svd"), m.DualNormCorrection(), m.MuonAdjustLR(2.0), m.LR(0.05)],
    ]
    outs = []
    for chain in chains:
        params = [torch.zeros(s, dtype=F64, requires_grad=True) for s in shapes]
        for i, p in enumerate(params):
            p.grad = noise(*p.shape, seed=i)
        tz.Modular(params, *chain, compile=compile).step()
        outs.append([p.detach() for p in params])
    for i, shape in enumerate(shapes):
        g = noise(*shape, seed=i)
        if g.ndim < 2:
            assert torch.equal(outs[0][i], -0.1 * g) and torch.equal(outs[1][i], -0.1 * g)
            continue
        u, s, vh = torch.linalg.svd(g.reshape(len(g), -1), full_matrices=False)
        expected = (u @ vh).view_as(g) * s.sum() * 0.2 * math.sqrt(max(len(g), g[0].numel())) * -0.1
        for out in outs:
            torch.testing.assert_close(out[i], expected, rtol=1e-12, atol=1e-14)


def test_adjusted_updates_have_the_size_of_those_of_adam():
    for shape in [(16, 64), (64, 16), (8, 4, 3, 3)]:
        p = torch.zeros(shape, dtype=F64, requires_grad=True)
        p.grad = noise(*shape)
        tz.Modular([p], m.Muon(method="svd", adjust_lr=True)).step()
        assert math.isclose(p.detach().square().mean().sqrt(), 0.2, rel_tol=1e-9)


@compared("OrthoGrad", "formula of the paper")
def test_ortho_grad():
    for renormalize in (True, False):
        params = make_params([(3, 2), (4,)])
        for i, p in enumerate(params):
            p.grad = noise(*p.shape, seed=i)
        before = torch.cat([p.detach().flatten() for p in params])
        g = torch.cat([p.grad.flatten() for p in params])
        tz.Modular(params, m.OrthoGrad(eps=0.25, renormalize=renormalize)).step()
        out = before - torch.cat([p.detach().flatten() for p in params])
        expected = g - before * (before @ g) / (before @ before + 0.25)
        if renormalize:
            expected *= g.norm() / expected.norm()
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-14)


def test_ortho_grad_of_a_gradient_along_the_parameters():
    p = torch.tensor([3.0, 4.0], requires_grad=True)
    p.grad = torch.zeros(2)
    tz.Modular([p], m.OrthoGrad()).step()
    assert p.tolist() == [3.0, 4.0]


# -- who gets it -------------------------------------------------------------------------------------------------------
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Conv1d(4, 4, 1), nn.Linear(4, 9)
    )


def recipe(**options):
    muon = [m.Muon(method="svd", adjust_lr=True), m.WeightDecay(0.5), m.LR(0.02)]
    return m.Split("hidden_matrices", muon, [m.Adam(), m.LR(0.001)], **options)


def test_the_choice_is_shown_and_names_override_it():
    split = recipe()
    with pytest.raises(RuntimeError, match="not part of an optimizer"):
        split.choice()
    assert repr(split).startswith("Split(true=")
    optimizer = tz.Modular(network(), split)
    hidden, rest = ["1.weight", "2.weight", "3.weight"], ["0.weight", "1.bias", "3.bias", "4.weight", "4.bias"]
    assert split.choice() == {"true": hidden, "false": rest}
    assert (
        "Split(filter=hidden_matrices; true: 1.weight, 2.weight, 3.weight, "
        "false: 0.weight, 1.bias, 3.bias, 4.weight, 4.bias)" in repr(optimizer)
    )
    split = recipe(names={"*.weight": True, "0.*": False, "2.weight": False})
    optimizer = tz.Modular(network(), split)
    assert split.choice()["true"] == ["1.weight", "3.weight", "4.weight"]


def test_many_names_are_cut_short():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    optimizer = tz.Modular(model, recipe())
    assert "false: 0.bias, 1.bias, 2.bias, 3.bias, 4.weight, 4.bias)" in repr(optimizer)
    params = [torch.zeros(2, requires_grad=True) for _ in range(9)]
    optimizer = tz.Modular(params, m.Split(lambda p: p.ndim > 1, m.Sign(), None))
    assert "true: none, false: shape (2,), " in repr(optimizer) and "shape (2,) and 3 more)" in repr(optimizer)


@pytest.mark.parametrize("named", [True, False])
def test_names_that_nothing_has(named):
    model = network()
    optimizer = tz.Modular(
        list(model.named_parameters() if named else model.parameters()),
        m.Split(lambda p: True, m.Sign(), None, {"head": False}),
    )
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    why = r"it has 0\.weight, 1\.weight" if named else "it was given none"
    with pytest.raises(ValueError, match=rf"Split: no parameter of the optimizer has a name like 'head'; {why}"):
        optimizer.step()
    assert "names={'head': False})" in repr(optimizer)


def test_each_branch_has_its_own_rates_and_schedules_scale_both():
    model = network()
    optimizer = tz.Modular(model, recipe())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (t + 1))
    for t in range(2):
        before = copy.deepcopy(model)
        for i, p in enumerate(model.parameters()):
            p.grad = noise(*p.shape, seed=i).float()
        optimizer.step()
        schedule.step()
        for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True):
            moved = (q - p).detach() * (t + 1)
            if name in ("1.weight", "2.weight", "3.weight"):
                moved = moved / 0.02 - 0.5 * q.detach()
                assert math.isclose(moved.square().mean().sqrt(), 0.2, rel_tol=1e-4)
            elif t == 0:
                torch.testing.assert_close(moved, 0.001 * p.grad.sign(), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("shape", [(64, 256), (256, 64)])
def test_products_are_written_to_contiguous_memory(shape, monkeypatch):
    """Products in bfloat16 that are written to transposed memory are a thousand times slower on a CPU."""
    true, written = torch.baddbmm, []

    def recorded(*args, out=None, **kwargs):
        written.append(out)
        return true(*args, out=out, **kwargs)

    monkeypatch.setattr(torch, "baddbmm", recorded)
    newton_schulz(noise(*shape), dtype=torch.bfloat16)
    assert len(written) == 10 and all(out.is_contiguous() for out in written)


def test_names_come_from_a_model_that_is_known_later():
    """As in Lightning, which gives an optimizer the bare parameters."""
    model = network()
    split = recipe(names={"2.weight": False})
    optimizer = tz.Modular(model.parameters(), split)
    optimizer.model = model
    assert split.choice()["true"] == ["1.weight", "3.weight"]
    optimizer = tz.Modular(model.parameters(), m.Split(lambda p: p.ndim > 1, m.Sign(), None))
    assert "true: shape (9, 4), shape (4, 4)" in repr(optimizer)
