"""What preconditioners share: batches, turns, failures, dtypes; and that the base carries Shampoo and eigenbases."""

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, closure_of, make_params, run, same, values
from torchzero_core.core.preconditioner import Preconditioner, phases
from torchzero_core.linalg import gram, inverse_root, multiply_along, refresh_eigenbasis

F64 = torch.float64


class OwnShampoo(Preconditioner):
    """A factor for each dimension, A_i^(−1/2k) for k dimensions; dimensions of size 1 have none."""

    accumulator, factor = "accumulators", "preconditioners"

    def __init__(self, beta=None, update_freq=1, stagger=False, inner=None):
        super().__init__(dict(beta=beta, update_freq=update_freq, stagger=stagger), inner)

    def dims(self, shape):
        return [i for i, n in enumerate(shape) if n > 1]

    def sizes(self, shape, settings):
        return [shape[i] for i in self.dims(shape)]

    def accumulate(self, state, matrices, u, settings):
        for dim, matrix in zip(self.dims(u.shape), matrices, strict=True):
            if settings["beta"] is None:
                matrix.add_(gram(u.unsqueeze(0), dim)[0])
            else:
                matrix.lerp_(gram(u.unsqueeze(0), dim)[0], 1 - settings["beta"])

    def arguments(self, shape, settings):
        return (2 * len(self.dims(shape)),)

    def refresh(self, matrices, factors, p):
        return inverse_root(matrices, p)

    def precondition(self, state, factors, x, settings):
        for dim, factor in zip(self.dims(x.shape), factors, strict=True):
            x = multiply_along(x.unsqueeze(0), factor.unsqueeze(0), dim)[0]
        return x


class Rotation(Preconditioner):
    """Bases that follow the eigenvectors, as in SOAP; with one more state, a second moment in the basis."""

    more_states = ("exp_avg_sq",)

    def __init__(self, update_freq=1):
        super().__init__(dict(update_freq=update_freq))

    def init(self, like, settings):
        return {**super().init(like, settings), "exp_avg_sq": torch.zeros_like(like)}

    def sizes(self, shape, settings):
        return list(shape)

    def accumulate(self, state, matrices, u, settings):
        for dim, matrix in enumerate(matrices):
            matrix.add_(gram(u.unsqueeze(0), dim)[0])

    def refresh(self, matrices, factors):
        bases, _, ok = refresh_eigenbasis(matrices, torch.stack(factors))
        return bases, ok

    def precondition(self, state, factors, x, settings):
        for dim, q in enumerate(factors):
            x = multiply_along(x.unsqueeze(0), q.mT.unsqueeze(0), dim)[0]
        x = x / state["exp_avg_sq"].lerp_(x.square(), 0.1).sqrt().add(1e-8)
        for dim, q in enumerate(factors):
            x = multiply_along(x.unsqueeze(0), q.unsqueeze(0), dim)[0]
        return x


class Fails(OwnShampoo):
    """Refreshes that fail, or give what is not finite, when told to."""

    fails = ()
    raw = False

    def refresh(self, matrices, factors, p):
        self.calls = getattr(self, "calls", 0) + 1
        out, ok = super().refresh(matrices, factors, p)
        for i in self.fails:
            if self.raw:
                out[i] = torch.inf
            else:
                ok[i] = False
        return out, ok


def power(matrix, exponent):
    w, v = np.linalg.eigh(matrix)
    return (v * w**exponent) @ v.T


def feed(optimizer, params, seed):
    for i, p in enumerate(params):
        p.grad = values(p.shape, seed + 10 * i).to(p.dtype)
    before = bits(params)
    optimizer.step()
    return [b - p.detach() for b, p in zip(before, params, strict=True)]


# -- it carries Shampoo ------------------------------------------------------------------------------------------------
def test_shampoo_of_a_matrix():
    p = torch.zeros(3, 4, dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], OwnShampoo())
    left, right = np.eye(3), np.eye(4)
    for seed in range(5):
        (out,) = feed(optimizer, [p], seed)
        g = p.grad.numpy()
        left, right = left + g @ g.T, right + g.T @ g
        np.testing.assert_allclose(out, power(left, -1 / 4) @ g @ power(right, -1 / 4), rtol=1e-11)
    assert optimizer.state[p]["OwnShampoo.accumulators"].shape == (3 * 3 + 4 * 4,)


def test_shampoo_of_more_dimensions_and_of_one():
    params = make_params([(2, 3, 1, 4), (5,), (1,), ()])
    optimizer = tz.Modular(params, OwnShampoo(beta=0.5))
    matrices = [np.eye(2), np.eye(3), np.eye(4)]
    vector = np.eye(5)
    for seed in range(4):
        outs = feed(optimizer, params, seed)
        g = params[0].grad[:, :, 0].numpy()
        for i in range(3):
            unfolded = np.moveaxis(g, i, 0).reshape(g.shape[i], -1)
            matrices[i] = 0.5 * matrices[i] + 0.5 * unfolded @ unfolded.T
        a, b, c = (power(m, -1 / 6) for m in matrices)
        np.testing.assert_allclose(outs[0][:, :, 0], np.einsum("ai,bj,ck,ijk->abc", a, b, c, g), rtol=1e-11)
        v = params[1].grad.numpy()
        vector = 0.5 * vector + 0.5 * np.outer(v, v)
        np.testing.assert_allclose(outs[1], power(vector, -1 / 2) @ v, rtol=1e-11)
        for i in (2, 3):  # nothing to precondition
            np.testing.assert_allclose(outs[i], params[i].grad, rtol=1e-14)


def test_shampoo_minimises_and_resumes():
    params = make_params()
    losses = run(tz.Modular(params, OwnShampoo(update_freq=3, stagger=True), tz.m.LR(0.5)), params, 60)
    assert losses[-1] < 0.05 * losses[0]
    params = make_params()
    optimizer = tz.Modular(params, OwnShampoo(update_freq=3, stagger=True), tz.m.LR(0.5))
    run(optimizer, params, 5)
    copies = [p.detach().clone().requires_grad_() for p in params]
    other = tz.Modular(copies, OwnShampoo(update_freq=3, stagger=True), tz.m.LR(0.5))
    other.load_state_dict(optimizer.state_dict())
    run(optimizer, params, 7)
    run(other, copies, 7)
    assert same(bits(params), bits(copies))


def test_bases_that_follow_eigenvectors():
    p = torch.zeros(3, 4, dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], Rotation())
    g = values((3, 4), 1)
    for _ in range(30):
        p.grad = g.clone()
        optimizer.step()
    factors = optimizer.state[p]["Rotation.factor"]
    for q, a in ((factors[:9].view(3, 3), g @ g.T), (factors[9:].view(4, 4), g.T @ g)):
        rotated = q.T @ a @ q
        np.testing.assert_allclose(rotated, torch.diag(rotated.diagonal()), atol=1e-9)
    assert optimizer.state[p]["Rotation.exp_avg_sq"].shape == (3, 4)


# -- batches -----------------------------------------------------------------------------------------------------------
def test_matrices_of_one_size_are_decomposed_together(monkeypatch):
    true, shapes = torch.linalg.eigh, []
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: (shapes.append(tuple(a.shape)), true(a))[1])
    params = make_params([(3, 4), (4, 3), (4,), (4, 4), (2,), (2,), (2,)])
    feed(tz.Modular(params, OwnShampoo()), params, 0)
    # powers −1/4 of the matrices' sides, −1/2 of the vectors'
    assert sorted(shapes) == [(1, 4, 4), (2, 3, 3), (3, 2, 2), (4, 4, 4)]


def test_together_is_as_alone():
    params, others = make_params([(3, 4)] * 3), make_params([(3, 4)] * 3)
    together = tz.Modular(params, OwnShampoo())
    alone = [tz.Modular([p], OwnShampoo()) for p in others]
    for seed in range(4):
        out = feed(together, params, seed)
        for i, optimizer in enumerate(alone):
            others[i].grad = params[i].grad.clone()
            before = others[i].detach().clone()
            optimizer.step()
            np.testing.assert_allclose(before - others[i].detach(), out[i], rtol=1e-12)


# -- turns -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("costs", "every", "expected"),
    [
        ([1] * 4, 4, [0, 1, 2, 3]),
        ([1] * 2, 10, [0, 5]),
        ([1] * 7, 3, [0, 1, 2, 0, 1, 2, 0]),
        ([1, 8, 1, 8], 2, [0, 0, 1, 1]),
        ([1, 1, 9, 5, 1], 2, [1, 1, 0, 1, 1]),  # what is dearer than all others together has a step for itself
        ([3, 2, 2, 3, 2], 2, [0, 0, 1, 1, 0]),
        ([], 3, []),
        ([2, 3], 1, [0, 0]),
    ],
)
def test_phases(costs, every, expected):
    assert phases(costs, every) == expected


def refreshed(optimizer, params, steps, name="OwnShampoo.preconditioners"):
    """Which tensors' factors change at which step."""
    out = []
    for seed in range(steps):
        before = [optimizer.state[p][name].clone() if name in optimizer.state[p] else None for p in params]
        feed(optimizer, params, seed)
        out.append(
            [i for i, (b, p) in enumerate(zip(before, params, strict=True)) if not same(b, optimizer.state[p][name])]
        )
    return out


def test_without_stagger_all_are_refreshed_at_once():
    params = make_params([(2, 2)] * 3)
    assert refreshed(tz.Modular(params, OwnShampoo(update_freq=3)), params, 7) == [
        [0, 1, 2],
        [],
        [],
        [0, 1, 2],
        [],
        [],
        [0, 1, 2],
    ]


def test_with_stagger_they_take_turns():
    params = make_params([(2, 2)] * 3)
    found = refreshed(tz.Modular(params, OwnShampoo(update_freq=3, stagger=True)), params, 8)
    assert found == [[0, 1, 2], [1], [2], [0], [1], [2], [0], [1]]


def test_no_step_has_more_than_its_share():
    params = make_params([(n, n) for n in (2, 2, 3, 3, 4, 4, 4, 4)])
    found = refreshed(tz.Modular(params, OwnShampoo(update_freq=4, stagger=True)), params, 13)
    for step in found[1:]:
        assert len(step) == 2 and sum(i >= 4 for i in step) == 1  # one of the four large ones
    assert sorted(i for step in found[1:5] for i in step) == list(range(8))


def test_a_tensor_that_comes_later_is_refreshed_at_once_and_keeps_its_turn():
    params = make_params([(2, 2)] * 2)
    optimizer = tz.Modular(params, OwnShampoo(update_freq=4, stagger=True))
    for step in range(12):
        params[0].grad = values((2, 2), step)
        params[1].grad = values((2, 2), step + 50) if step in (2, 3, 7, 8, 9) else None
        name = "OwnShampoo.preconditioners"
        before = optimizer.state[params[1]].get(name)
        before = None if before is None else before.clone()
        optimizer.step()
        after = optimizer.state[params[1]].get(name)
        assert (not same(before, after)) is (step in (2, 9))  # at its own first and fifth step
    assert optimizer.state[params[1]]["OwnShampoo.step"] == 5


# -- failures ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("raw", [False, True], ids=["reported", "not finite"])
def test_a_failed_refresh_keeps_the_last_good_factor(raw):
    params = make_params([(3, 3), (3, 3)])
    module = Fails()
    module.raw = raw
    optimizer = tz.Modular(params, module)
    feed(optimizer, params, 0)
    assert optimizer.last_step.status == "ok"
    state = [optimizer.state[p] for p in params]
    good = [s["Fails.preconditioners"].clone() for s in state]
    module.fails = (2,)  # of the four matrices the first of the second tensor
    out = feed(optimizer, params, 1)
    assert optimizer.last_step.status == "decomposition failed"
    assert [int(s["Fails.failures"]) for s in state] == [0, 1]
    now = [s["Fails.preconditioners"].clone() for s in state]
    assert not same(now[0], good[0])
    assert same(now[1][:9], good[1][:9]) and not same(now[1][9:], good[1][9:])
    left, right = now[1].view(2, 3, 3)
    np.testing.assert_allclose(out[1], left @ params[1].grad @ right, rtol=1e-13)
    module.fails = ()
    feed(optimizer, params, 2)
    assert [int(s["Fails.failures"]) for s in state] == [0, 0]


def test_before_there_is_a_good_factor_it_is_the_identity():
    params = make_params([(3, 2)])
    module = Fails()
    module.fails = (0,)
    out = feed(tz.Modular(params, module), params, 0)
    np.testing.assert_allclose(out[0], params[0].grad, rtol=1e-13)


def test_too_many_failures_in_a_row_are_an_error():
    params = make_params([(4,), (3, 2)])
    module = Fails(update_freq=2)
    module.fails = (0,)  # of every group
    optimizer = tz.Modular(params, module)
    for seed in range(2 * module.max_failures - 2):
        feed(optimizer, params, seed)
    before = bits(params)
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"^Fails could not .* shape \(4,\) 5 times in a row; a larger eps or"):
        optimizer.step()
    assert same(before, bits(params))
    module.fails = ()
    feed(optimizer, params, 0)  # not due
    feed(optimizer, params, 0)
    assert all(int(optimizer.state[p]["Fails.failures"]) in (0, 5) for p in params)
    assert all(p.isfinite().all() for p in params)


def test_matrices_that_are_not_finite_are_named():
    params = make_params([(3, 2), (4,)])
    optimizer = tz.Modular(params, OwnShampoo())
    feed(optimizer, params, 0)
    optimizer.state[params[0]]["OwnShampoo.accumulators"][0] = torch.nan
    good = optimizer.state[params[0]]["OwnShampoo.preconditioners"][:9].clone()
    for count in range(1, OwnShampoo.max_failures):
        feed(optimizer, params, count)
        assert int(optimizer.state[params[0]]["OwnShampoo.failures"]) == count
        assert optimizer.last_step.status == "decomposition failed"
    assert same(optimizer.state[params[0]]["OwnShampoo.preconditioners"][:9], good)
    assert int(optimizer.state[params[1]]["OwnShampoo.failures"]) == 0
    with pytest.raises(
        RuntimeError, match=r"shape \(3, 2\) 5 times .* not finite, because an update was not.*reset\(\)"
    ):
        feed(optimizer, params, 9)
    optimizer.reset()
    feed(optimizer, params, 0)
    assert optimizer.last_step.status == "ok"


# -- the rest ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    params = make_params([(3, 4), (5,)], dtype)
    full = [p.detach().float().requires_grad_() for p in params]
    module, other = OwnShampoo(), OwnShampoo()
    half, exact = tz.Modular(params, module, tz.m.LR(0.5)), tz.Modular(full, other, tz.m.LR(0.5))
    for seed in range(3):
        for i, (p, q) in enumerate(zip(params, full, strict=True)):
            p.grad = values(p.shape, seed + i).to(dtype)
            q.grad = p.grad.float()
        half.step()
        exact.step()
    for p, q in zip(params, full, strict=True):
        a, b = half.state[p], exact.state[q]
        assert a["OwnShampoo.accumulators"].dtype == torch.float32
        assert same(a["OwnShampoo.accumulators"], b["OwnShampoo.accumulators"])
        assert same(a["OwnShampoo.preconditioners"], b["OwnShampoo.preconditioners"])
        assert p.dtype == dtype and torch.allclose(p.float(), q, atol=4 * torch.finfo(dtype).eps)


def test_a_child_is_multiplied_and_the_matrices_see_the_plain_update():
    p = torch.zeros(3, 2, dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], OwnShampoo(inner=tz.m.EMA(0.5)))
    left, right, m = np.eye(3), np.eye(2), np.zeros((3, 2))
    for seed in range(4):
        (out,) = feed(optimizer, [p], seed)
        g = p.grad.numpy()
        left, right, m = left + g @ g.T, right + g.T @ g, 0.5 * m + 0.5 * g
        np.testing.assert_allclose(out, power(left, -1 / 4) @ m @ power(right, -1 / 4), rtol=1e-11)


def test_bases_say_what_they_lack():
    for method in ("sizes", "accumulate", "refresh", "precondition"):
        hooks = {
            "sizes": lambda self, shape, h: [2],
            "accumulate": lambda self, *args: None,
            "refresh": lambda self, a, factors: (a, torch.ones(len(a), dtype=torch.bool)),
            "precondition": lambda self, state, factors, x, h: x,
        }
        del hooks[method]
        p = torch.ones(2, requires_grad=True)
        cls = type("Half", (Preconditioner,), hooks)
        with pytest.raises(NotImplementedError, match=method):
            tz.Modular([p], cls(dict(update_freq=1))).step(closure_of([p]))
