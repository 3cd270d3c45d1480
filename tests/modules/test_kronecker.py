"""Shampoo and SOAP against numpy, against each other's limits, and on every shape."""

import inspect
import io

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests.parity import compared
from tests.problems import bits, make_params, run, same, values

F64 = torch.float64
METHODS = [tz.m.Shampoo, tz.m.SOAP]


def noise(shape, seed):
    """Gradients of full rank, so that bases are determined."""
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def feed(optimizer, params, seed):
    """Gradients and what the parameters move by, as arrays."""
    for i, p in enumerate(params):
        p.grad = noise(p.shape, seed + 100 * i).to(p.dtype)
    before = bits(params)
    optimizer.step()
    outs = [(b - p.detach()).numpy() for b, p in zip(before, params, strict=True)]
    return [p.grad.numpy().copy() for p in params], outs


def power(matrix, exponent):
    w, v = np.linalg.eigh(matrix)
    return (v * w**exponent) @ v.T


def unfolded(g, dim):
    return np.moveaxis(g, dim, 0).reshape(g.shape[dim], -1)


def along(x, matrix, dim):
    """x ×_dim matrix."""
    return np.moveaxis(np.tensordot(matrix, x, axes=(1, dim)), 0, dim)


def simple_shampoo(gs, shape, dims, *, old=1.0, new=1.0, p=None, update_freq=1, ema=None):
    """The steps for one tensor, seen in a shape of which some dimensions have matrices."""
    matrices, m, outs = {d: np.eye(shape[d]) for d in dims}, np.zeros(shape), []
    roots = {}
    for t, g in enumerate(gs):
        x = g.reshape(shape)
        for d in dims:
            matrices[d] = old * matrices[d] + new * unfolded(x, d) @ unfolded(x, d).T
            if t % update_freq == 0:
                roots[d] = power(matrices[d], -1 / (p or 2 * len(shape)))
        out = m = x if ema is None else ema * m + (1 - ema) * x
        for d in dims:
            out = along(out, roots[d], d)
        outs.append(out.reshape(g.shape))
    return outs


def check_shampoo(shape, seen, dims, expected, **settings):
    params = make_params([shape])
    optimizer = tz.Modular(params, tz.m.Shampoo(**settings))
    gs, outs = zip(*(feed(optimizer, params, seed) for seed in range(6)), strict=True)
    wanted = simple_shampoo([g for (g,) in gs], seen, dims, **expected)
    for (out,), want in zip(outs, wanted, strict=True):
        np.testing.assert_allclose(out, want, rtol=1e-9, atol=1e-12)


# -- Shampoo -----------------------------------------------------------------------------------------------------------
def test_signatures():
    shown = []
    for method in METHODS:
        found = inspect.signature(method).parameters.values()
        shown.append(", ".join(f"{p.name}={p.default!r}" for p in found))
    assert shown == [
        "decay=None, beta=None, update_freq=10, exp_override=None, merge_small=True, max_dim=2000, "
        "precondition_1d=True, adagrad_eps=1e-08, inner=None, eps=1e-12, stagger=False",
        "beta1=0.95, beta2=0.95, shampoo_beta=0.95, precond_freq=10, merge_small=True, max_dim=2000, "
        "precondition_1d=True, eps=1e-08, decay=None, alpha=1.0, bias_correction=True, stagger=False",
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(update_freq=1), {}),
        (dict(), dict(update_freq=10)),
        (dict(update_freq=2, beta=0.7), dict(update_freq=2, old=0.7, new=0.3)),
        (dict(update_freq=1, decay=0.7), dict(old=0.7)),
        (dict(update_freq=3, exp_override=2), dict(update_freq=3, p=2)),
    ],
    ids=str,
)
@compared("Shampoo", "powers of the sums by numpy's eigh")
def test_shampoo_by_eigendecomposition(settings, expected):
    check_shampoo((5, 4), (5, 4), (0, 1), expected, merge_small=False, **settings)


@pytest.mark.parametrize(
    ("shape", "settings", "seen", "dims"),
    [
        ((3, 4, 2), dict(merge_small=False), (3, 4, 2), (0, 1, 2)),
        ((3, 4, 2), dict(max_dim=8), (3, 8), (0, 1)),  # 4·2 fits, 3·4 does not
        ((3, 4, 2), dict(), (24,), (0,)),
        ((3, 1, 4), dict(merge_small=False), (3, 1, 4), (0, 2)),  # three dimensions, one of which has no matrix
        ((6, 4), dict(max_dim=5), (6, 4), (1,)),
        ((6, 7), dict(max_dim=5), (6, 7), ()),  # nothing to precondition
        ((6,), dict(max_dim=5), (6,), ()),
    ],
    ids=str,
)
@compared("Shampoo, of any shape", "powers of the sums by numpy's eigh")
def test_which_dimensions_shampoo_preconditions(shape, settings, seen, dims):
    check_shampoo(shape, seen, dims, {}, update_freq=1, **settings)


@compared("Shampoo of large matrices", "powers of the sums by numpy's eigh")
def test_shampoo_by_eigendecomposition_where_matrices_are_large(monkeypatch):
    """They are worked on alone, and of their sums only blocks of the lower triangles."""
    monkeypatch.setattr("torchzero_core.linalg.blocks.BLOCK", 4)
    monkeypatch.setattr("torchzero_core.core.preconditioner.ALONE", 30)
    check_shampoo((9, 7), (9, 7), (0, 1), dict(update_freq=2), merge_small=False, update_freq=2)


@compared("Shampoo(inner=EMA)", "powers of the sums by numpy's eigh")
def test_shampoo_multiplies_its_child_and_learns_from_the_plain_update():
    expected = dict(update_freq=2, ema=0.8)
    check_shampoo((3, 5), (3, 5), (0, 1), expected, merge_small=False, update_freq=2, inner=tz.m.EMA(0.8))


@compared("Shampoo of vectors", "FullMatrixAdagrad")
def test_shampoo_of_a_vector_is_full_matrix_adagrad():
    for settings in (dict(), dict(beta=0.9), dict(decay=0.8)):
        ours, theirs = make_params([(7,), (4,)]), make_params([(7,), (4,)])
        mine = tz.Modular(ours, tz.m.Shampoo(update_freq=2, **settings))
        other = tz.Modular(theirs, tz.m.FullMatrixAdagrad(update_freq=2, **settings))
        for seed in range(7):
            outs = feed(mine, ours, seed)[1], feed(other, theirs, seed)[1]
            for a, b in zip(*outs, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [((), {}), ((1,), {}), ((1, 1), {}), ((5,), dict(precondition_1d=False))],
    ids=str,
)
@compared("Shampoo without matrices", "Adagrad's formula")
def test_shampoo_without_matrices_is_diagonal_adagrad(shape, settings):
    ours, theirs = make_params([shape] * 2), make_params([shape] * 2)
    mine = tz.Modular(ours, tz.m.Shampoo(**settings), tz.m.LR(0.1))
    other = torch.optim.Adagrad(theirs, lr=0.1, eps=1e-8)
    for seed in range(5):
        outs = feed(mine, ours, seed)[1], feed(other, theirs, seed)[1]
        for a, b in zip(*outs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_beta_and_decay_of_shampoo_are_one_or_the_other():
    with pytest.raises(ValueError, match=r"Shampoo\(beta=0\.9, decay=0\.5\): give beta or decay, not both"):
        tz.m.Shampoo(beta=0.9, decay=0.5)


# -- SOAP --------------------------------------------------------------------------------------------------------------
class SimpleSOAP:
    """The authors' algorithm for one tensor, as their paper has it, with eps outside of the bias correction."""

    def __init__(self, shape, dims, b1=0.95, b2=0.95, shampoo=0.95, eps=1e-8, every=10, correct=True):
        self.dims, self.b1, self.b2, self.shampoo = dims, b1, b2, shampoo
        self.eps, self.every, self.correct = eps, every, correct
        self.m, self.v = np.zeros(shape), np.zeros(shape)
        self.covariance = {d: np.zeros((shape[d], shape[d])) for d in dims}
        self.q, self.t = None, 0

    def learn(self, g):
        for d in self.dims:
            outer = unfolded(g, d) @ unfolded(g, d).T
            self.covariance[d] = self.shampoo * self.covariance[d] + (1 - self.shampoo) * outer

    def rotate(self, x, back=False):
        for d in self.dims:
            x = along(x, self.q[d] if back else self.q[d].T, d)
        return x

    def step(self, g):
        if self.q is None:
            self.learn(g)
            self.q = {d: np.linalg.eigh(self.covariance[d])[1][:, ::-1] for d in self.dims}
            return np.zeros_like(g)
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g  # in the space of the parameters, projected anew at each step
        self.v = self.b2 * self.v + (1 - self.b2) * self.rotate(g) ** 2
        m, v = self.rotate(self.m), self.v
        if self.correct:
            m, v = m / (1 - self.b1**self.t), v / (1 - self.b2**self.t)
        out = self.rotate(m / (np.sqrt(v) + self.eps), back=True)
        self.learn(g)
        if self.t % self.every == 0:
            for d in self.dims:
                order = np.argsort(-np.diag(self.q[d].T @ self.covariance[d] @ self.q[d]))
                self.v = np.take(self.v, order, axis=d)
                self.q[d] = np.linalg.qr(self.covariance[d] @ self.q[d][:, order])[0]
        return out


@pytest.mark.parametrize(
    ("shape", "dims", "settings", "simple"),
    [
        ((5, 5), (0, 1), dict(), dict()),
        ((5, 5), (0, 1), dict(precond_freq=3), dict(every=3)),
        ((5, 5), (0, 1), dict(precond_freq=1, beta1=0.8, beta2=0.99), dict(every=1, b1=0.8, b2=0.99)),
        ((4, 4), (0, 1), dict(precond_freq=2, bias_correction=False, eps=1e-3), dict(every=2, correct=False, eps=1e-3)),
        ((4, 4, 4), (0, 1, 2), dict(precond_freq=2, shampoo_beta=0.5), dict(every=2, shampoo=0.5)),
        ((7, 4), (1,), dict(precond_freq=2, max_dim=5), dict(every=2)),
        ((4, 7), (0,), dict(precond_freq=2, max_dim=5), dict(every=2)),
        ((4, 1, 6), (0,), dict(precond_freq=2, max_dim=5), dict(every=2)),
    ],
    ids=str,
)
@compared("SOAP, square, or one basis", "the authors' algorithm in numpy")
def test_soap_follows_its_authors(shape, dims, settings, simple):
    params = make_params([shape, shape])  # two of a shape go through one batch
    optimizer = tz.Modular(params, tz.m.SOAP(merge_small=False, **settings))
    theirs = [SimpleSOAP(shape, dims, **simple) for _ in params]
    for seed in range(24):
        gs, outs = feed(optimizer, params, seed)
        for other, g, out in zip(theirs, gs, outs, strict=True):
            np.testing.assert_allclose(out, other.step(g), rtol=1e-7, atol=1e-9)


@compared("SOAP of large matrices", "the authors' algorithm in numpy")
def test_soap_follows_its_authors_where_matrices_are_large(monkeypatch):
    """They are worked on alone, of their sums only blocks of the lower triangles, and the turn goes by panels."""
    monkeypatch.setattr("torchzero_core.linalg.blocks.BLOCK", 4)
    monkeypatch.setattr("torchzero_core.linalg.qr.LARGE", 8)
    monkeypatch.setattr("torchzero_core.linalg.qr.PANEL", 3)
    monkeypatch.setattr("torchzero_core.core.preconditioner.ALONE", 30)
    shapes = [(10, 10), (10, 10), (9, 9), (3, 3, 4)]
    params = make_params(shapes)
    optimizer = tz.Modular(params, tz.m.SOAP(merge_small=False, precond_freq=3))
    theirs = [SimpleSOAP(shape, range(len(shape)), every=3) for shape in shapes]
    for seed in range(14):
        gs, outs = feed(optimizer, params, seed)
        for other, g, out in zip(theirs, gs, outs, strict=True):
            np.testing.assert_allclose(out, other.step(g), rtol=1e-7, atol=1e-9)
    sums = optimizer.state[params[0]]["SOAP.GG"].view(2, 10, 10)
    assert not torch.equal(sums, sums.mT)  # what is above the diagonal does not count


@pytest.mark.parametrize(
    ("shapes", "settings"),
    [
        ([(), (1,), (1, 1)], dict()),
        ([(5,), (3,)], dict(precondition_1d=False)),
        ([(4, 3), (5, 2, 4), (3,)], dict(max_dim=1, eps=1e-3, beta1=0.8, beta2=0.99)),
    ],
    ids=str,
)
@compared("SOAP without a basis", "torch.optim.Adam")
def test_soap_with_no_basis_is_adam(shapes, settings):
    ours, theirs = make_params(shapes), make_params(shapes)
    mine = tz.Modular(ours, tz.m.SOAP(**settings), tz.m.LR(0.1))
    betas = settings.get("beta1", 0.95), settings.get("beta2", 0.95)
    other = torch.optim.Adam(theirs, lr=0.1, betas=betas, eps=settings.get("eps", 1e-8))
    for seed in range(25):
        outs = feed(mine, ours, seed)[1], feed(other, theirs, seed)[1]
        for a, b in zip(*outs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@compared("SOAP with Q = I", "torch.optim.Adam")
def test_soap_with_identities_is_adam_from_its_second_step_on(monkeypatch):
    def identity(matrices):
        return torch.eye(matrices.shape[-1], dtype=matrices.dtype).expand_as(matrices), torch.ones(len(matrices)) > 0

    def still(matrices, bases):
        return bases, torch.arange(bases.shape[-1]).expand(len(bases), -1), torch.ones(len(bases)) > 0

    monkeypatch.setattr("torchzero_core.modules.optimizers.soap.eigenbasis", identity)
    monkeypatch.setattr("torchzero_core.modules.optimizers.soap.refresh_eigenbasis", still)
    ours, theirs = make_params([(4, 3)]), make_params([(4, 3)])
    mine = tz.Modular(ours, tz.m.SOAP(merge_small=False, precond_freq=2), tz.m.LR(0.1))
    other = torch.optim.Adam(theirs, lr=0.1, betas=(0.95, 0.95))
    assert not feed(mine, ours, 0)[1][0].any()
    for seed in range(1, 9):
        outs = feed(mine, ours, seed)[1], feed(other, theirs, seed)[1]
        np.testing.assert_allclose(outs[0][0], outs[1][0], rtol=1e-12)


@pytest.mark.parametrize(("shape", "settings"), [((4,), dict(max_dim=1)), ((4, 3), dict(merge_small=False))], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_multiplied_is_not_written_to(method, shape, settings):
    params = make_params([shape])
    module = method(**settings)
    tz.Modular(params, module)
    x, own = noise(shape, 0), module.settings[params[0]]
    state, before = {**module.init(x, own), "step": 2}, x.clone()
    module.apply([x], [state], [own])
    assert same(x, before)


def test_soap_weighs_its_matrices():
    for settings, old, new in [
        (dict(shampoo_beta=0.5), 0.5, 0.5),
        (dict(shampoo_beta=None), 1.0, 1.0),
        (dict(shampoo_beta=None, decay=0.25), 0.25, 1.0),
        (dict(shampoo_beta=0.5, decay=0.5), 0.25, 0.5),
    ]:
        params = make_params([(3,)])
        optimizer = tz.Modular(params, tz.m.SOAP(**settings))
        expected = np.zeros((3, 3))
        for seed in range(3):
            ((g,), _) = feed(optimizer, params, seed)
            expected = old * expected + new * np.outer(g, g)
        np.testing.assert_allclose(optimizer.state[params[0]]["SOAP.GG"], expected, rtol=1e-13)


def test_a_failed_turn_keeps_basis_and_averages(monkeypatch):
    params = make_params([(4, 4)])
    optimizer = tz.Modular(params, tz.m.SOAP(merge_small=False, precond_freq=2))
    feed(optimizer, params, 0)
    feed(optimizer, params, 1)
    state = optimizer.state[params[0]]
    basis = state["SOAP.Q"].clone()
    other = SimpleSOAP((4, 4), (0, 1), every=10**9)
    for seed in range(2):
        other.step(noise((4, 4), seed).numpy())
    monkeypatch.setattr(
        "torchzero_core.modules.optimizers.soap.refresh_eigenbasis",
        lambda a, q: (
            torch.full_like(q, torch.nan),
            torch.zeros(q.shape[:2], dtype=torch.long),
            torch.zeros(len(q)) > 0,
        ),
    )
    for seed in range(2, 5):
        (g,), (out,) = feed(optimizer, params, seed)
        np.testing.assert_allclose(out, other.step(g), rtol=1e-9)
    assert same(state["SOAP.Q"], basis) and int(state["SOAP.failures"]) == 2
    assert optimizer.last_step.status == "decomposition failed"


# -- both --------------------------------------------------------------------------------------------------------------
SHAPES = [(), (1,), (6,), (1, 1), (1, 5), (3, 0), (0,), (2, 1, 3, 1, 2, 1, 2), (8, 4, 3, 3), (40, 3), (60, 50)]


@pytest.mark.parametrize(
    "settings", [{}, dict(merge_small=False), dict(max_dim=7), dict(precondition_1d=False)], ids=str
)
@pytest.mark.parametrize("method", METHODS)
def test_every_shape_learns(method, settings):
    params = [torch.full(s, 1.0, requires_grad=True) for s in SHAPES]
    optimizer = tz.Modular(params, method(**settings), tz.m.LR(0.01))

    def closure(backward=True):
        losses = [(p**2).sum() for p in params]
        if backward:
            optimizer.zero_grad()
            sum(losses).backward()
        return sum(losses)

    first = [(p**2).sum().item() for p in params]
    for _ in range(12):
        optimizer.step(closure)
    for p, before in zip(params, first, strict=True):
        assert p.isfinite().all() and ((p**2).sum() < before or not p.numel())


@pytest.mark.parametrize("method", METHODS)
def test_an_embedding_beside_biases(method):
    """A matrix of 50257² would have 10 GB."""
    embedding = torch.zeros(50257, 8, requires_grad=True)
    bias = torch.zeros(3, requires_grad=True)
    optimizer = tz.Modular([embedding, bias], method())
    for seed in range(2):
        embedding.grad, bias.grad = values(embedding.shape, seed).float(), values((3,), seed).float()
        optimizer.step()
    sizes = {name: t.numel() for name, t in optimizer.state[embedding].items() if isinstance(t, torch.Tensor)}
    assert max(sizes.values()) <= embedding.numel()
    assert sizes[f"{method.__name__}.{method.accumulator}"] == 64
    assert embedding.isfinite().all() and embedding.any() and bias.any()


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_tensors_one_by_one(method, monkeypatch):
    shapes = [(5, 5)] * 3 + [(4, 4)] * 2  # of full rank
    ours, theirs = make_params(shapes), make_params(shapes)
    settings = dict(merge_small=False)
    together = tz.Modular(ours, method(**settings))
    alone = [tz.Modular([p], method(**settings)) for p in theirs]
    for seed in range(13):
        _, outs = feed(together, ours, seed)
        for i, optimizer in enumerate(alone):
            theirs[i].grad = ours[i].grad.clone()
            before = theirs[i].detach().clone()
            optimizer.step()
            np.testing.assert_allclose(before - theirs[i].detach(), outs[i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(method, dtype):
    shapes = [(4, 4), (5,), ()]
    params = make_params(shapes, dtype)
    full = [p.detach().float().requires_grad_() for p in params]
    half, exact = tz.Modular(params, method(), tz.m.LR(0.01)), tz.Modular(full, method(), tz.m.LR(0.01))
    for seed in range(4):
        for i, (p, q) in enumerate(zip(params, full, strict=True)):
            p.grad = values(p.shape, seed + i).to(dtype)
            q.grad = p.grad.float()
        half.step()
        exact.step()
    for p, q in zip(params, full, strict=True):
        for name, t in half.state[p].items():
            if isinstance(t, torch.Tensor) and t.is_floating_point():
                assert t.dtype == torch.float32, name
                assert same(t, exact.state[q][name]), name
        assert p.dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_of_plain_tensors_goes_on(method):
    def make():
        params = make_params([(4, 3), (5,), (2, 3, 2), ()])
        return tz.Modular(params, method(merge_small=False, stagger=True), tz.m.LR(0.1)), params

    (optimizer, params), (other, copies) = make(), make()
    run(optimizer, params, 13)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for p, q in zip(params, copies, strict=True):
        q.data.copy_(p.data)
    run(optimizer, params, 12)
    run(other, copies, 12)
    assert same(bits(params), bits(copies))


@pytest.mark.parametrize("method", METHODS)
def test_parameters_that_change_dtype_or_shape(method):
    p = torch.zeros(3, 4, requires_grad=True)
    optimizer = tz.Modular([p], method(merge_small=False))
    feed(optimizer, [p], 0)
    p.data = p.data.double()
    p.grad = None
    feed(optimizer, [p], 1)
    assert optimizer.state[p][f"{method.__name__}.{method.accumulator}"].dtype == F64
    p.data, p.grad = p.data[:2].clone(), None
    with pytest.raises(ValueError, match=rf"{method.__name__} keeps matrices for another shape than \(2, 4\)"):
        feed(optimizer, [p], 2)
    optimizer.reset()
    feed(optimizer, [p], 2)


@pytest.mark.parametrize("method", METHODS)
def test_memory_formats(method):
    x = values((3, 4, 2, 2), 0)
    p = torch.zeros_like(x).to(memory_format=torch.channels_last).requires_grad_()
    q = torch.zeros_like(x).requires_grad_()
    ours, theirs = tz.Modular([p], method(max_dim=8)), tz.Modular([q], method(max_dim=8))
    for seed in range(12):
        q.grad = values(x.shape, seed)
        p.grad = q.grad.to(memory_format=torch.channels_last)
        ours.step()
        theirs.step()
    np.testing.assert_allclose(p.detach(), q.detach(), rtol=1e-9, atol=1e-12)


def test_staggered_steps_share_the_work():
    params = make_params([(4, 4)] * 6)
    optimizer = tz.Modular(params, tz.m.SOAP(merge_small=False, precond_freq=3, stagger=True))
    turned = []
    for seed in range(8):
        before = [optimizer.state[p]["SOAP.Q"].clone() if seed else None for p in params]
        feed(optimizer, params, seed)
        turned.append(
            sum(not same(b, optimizer.state[p]["SOAP.Q"]) for b, p in zip(before, params, strict=True) if seed)
        )
    assert turned[1:] == [2] * 7


@compared("FullMatrixAdagrad(beta=0.999, inner=EMA(0.9)) of a vector", "full-matrix Adam in numpy")
def test_full_matrix_adam_in_closed_form():
    params = make_params([(4,)])
    optimizer = tz.Modular(params, tz.m.FullMatrixAdagrad(beta=0.999, inner=tz.m.EMA(0.9)))
    matrix, m = np.eye(4), np.zeros(4)
    for seed in range(9):
        (g,), (out,) = feed(optimizer, params, seed)
        matrix, m = 0.999 * matrix + 0.001 * np.outer(g, g), 0.9 * m + 0.1 * g
        np.testing.assert_allclose(out, power(matrix, -0.5) @ m, rtol=1e-11)


def test_grafting_and_caution_around_them():
    p = torch.tensor([[3.0, -2.0], [1.0, 2.0]], requires_grad=True)
    optimizer = tz.Modular([p], tz.m.SOAP(), tz.m.Cautious(), tz.m.LR(0.3))
    for _ in range(40):
        optimizer.zero_grad()
        (p**2).sum().backward()
        optimizer.step()
    assert p.detach().norm() < 1
