"""Projections against the same chains on vectors that were joined by hand."""

import inspect

import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, closure_of, same

F64 = torch.float64
SHAPES = [(2, 3), (), (4,), (0,), (1, 2, 1)]
N = 13


def start():
    return torch.sin(torch.arange(1, N + 1, dtype=F64) * 1.7)


def cut(x):
    out, i = [], 0
    for shape in SHAPES:
        n = torch.Size(shape).numel()
        out.append(x[i : i + n].view(shape))
        i += n
    return out


def parameters():
    return [t.clone().requires_grad_() for t in cut(start())]


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def loss(params):
    x = torch.cat([p.reshape(-1) for p in params])
    a = torch.linspace(0.5, 3.0, N, dtype=x.dtype)
    return (a * (x - 1) ** 2).sum() / 2 + 0.2 * ((x[1:] - x[:-1] ** 2) ** 2).sum()


CHAINS = {
    "Adam": lambda: [tz.m.Adam(), tz.m.LR(0.1)],
    "Adagrad with an inner chain": lambda: [tz.m.Adagrad(inner=[tz.m.EMA(0.5), tz.m.Cautious()]), tz.m.LR(0.1)],
    "norms": lambda: [tz.m.ClipNorm(0.3), tz.m.NormalizeByEMA(0.9), tz.m.LR(0.2)],
    "weight decay": lambda: [tz.m.RMSprop(), tz.m.WeightDecay(0.1), tz.m.LR(0.05)],
    "LBFGS": lambda: [tz.m.LBFGS(4), tz.m.LR(0.3)],
    "BFGS per tensor": lambda: [tz.m.BFGS(concat_params=False), tz.m.LR(0.3)],
    "grafting": lambda: [tz.m.GraftModules(tz.m.Adam(), tz.m.Identity()), tz.m.LR(0.1)],
}
SEARCHES = {
    "LBFGS, StrongWolfe": lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()],
    "BFGS, Backtracking": lambda: [tz.m.BFGS(), tz.m.Backtracking()],
    "PolakRibiere, AdaptiveBacktracking": lambda: [tz.m.PolakRibiere(), tz.m.AdaptiveBacktracking()],
    "NewtonCG, StrongWolfe": lambda: [tz.m.NewtonCG(hvp_method="central"), tz.m.StrongWolfe()],
    "SPSA": lambda: [tz.m.SPSA(n_samples=4, seed=0), tz.m.LR(0.02)],
}


def side_by_side(projection, chain, steps=12, **tolerance):
    """Run a projected chain and the chain on a vector; both must agree all along."""
    params, vector = parameters(), [start().requires_grad_()]
    a, b = tz.Modular(params, projection), tz.Modular(vector, *chain)
    for _ in range(steps):
        la, lb = a.step(closure_of(params, loss)), b.step(closure_of(vector, loss))
        assert torch.allclose(flat(params), vector[0].detach(), **tolerance)
        assert torch.allclose(la, lb, **tolerance)
        yield a, b


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Projection", "modules, project_update=True, project_params=False, project_grad=False, defaults=None"),
        ("VectorProjection", "modules, project_update=True, project_params=False, project_grad=False"),
    ],
)
def test_signature(name, parameters):
    found = inspect.signature(getattr(tz.m, name)).parameters.values()
    assert ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in found) == parameters


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("grad", [False, True])
def test_a_chain_on_the_vector_is_the_chain_on_a_vector_joined_by_hand(name, grad):
    projection = tz.m.VectorProjection(CHAINS[name](), project_grad=grad)
    for _ in side_by_side(projection, CHAINS[name](), rtol=1e-10, atol=1e-12):
        pass


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_on_the_vector(name):
    projection = tz.m.VectorProjection(SEARCHES[name](), project_params=True)
    assert projection.requires_closure
    for a, b in side_by_side(projection, SEARCHES[name](), rtol=1e-8, atol=1e-9):
        assert a.last_step.evaluations == b.last_step.evaluations
        assert a.last_step.backward_evaluations == b.last_step.backward_evaluations
        assert a.last_step.status == b.last_step.status
        if name != "SPSA":
            assert a.last_step.step_size == pytest.approx(b.last_step.step_size, rel=1e-7)


def test_no_point_is_evaluated_twice():
    params, points = parameters(), []

    def seen(ps):
        points.append(tuple(flat(ps).tolist()))
        return loss(ps)

    chain = [tz.m.LBFGS(), tz.m.StrongWolfe()]
    optimizer = tz.Modular(params, tz.m.VectorProjection(chain, project_params=True))
    for _ in range(8):
        points.clear()
        optimizer.step(closure_of(params, seen))
        assert len(points) == len(set(points)) == optimizer.last_step.evaluations
        assert tuple(flat(params).tolist()) in points  # to the last bit where the loss was seen


def test_the_gradient_instead_of_the_update():
    params, other = parameters(), parameters()
    a = tz.Modular(
        params,
        tz.m.ClipValue(0.1),
        tz.m.VectorProjection(tz.m.Identity(), project_update=False, project_grad=True),
        tz.m.LR(0.1),
    )
    b = tz.Modular(other, tz.m.LR(0.1))
    for _ in range(3):
        a.step(closure_of(params, loss))
        b.step(closure_of(other, loss))
    assert torch.equal(flat(params), flat(other))


def test_within_a_chain_it_works_on_the_update():
    params, vector = parameters(), [start().requires_grad_()]
    a = tz.Modular(params, tz.m.ClipValue(0.5), tz.m.VectorProjection(tz.m.Normalize()), tz.m.LR(0.1))
    b = tz.Modular(vector, tz.m.ClipValue(0.5), tz.m.Normalize(), tz.m.LR(0.1))
    for _ in range(4):
        a.step(closure_of(params, loss))
        b.step(closure_of(vector, loss))
        assert torch.allclose(flat(params), vector[0].detach(), rtol=1e-12)


def test_cautious_inside_sees_the_projected_gradient():
    params, vector = parameters(), [start().requires_grad_()]
    chain = [tz.m.HeavyBall(0.9), tz.m.Cautious(mode="grad"), tz.m.LR(0.1)]
    a = tz.Modular(params, tz.m.VectorProjection(chain))
    b = tz.Modular(vector, tz.m.HeavyBall(0.9), tz.m.Cautious(mode="grad"), tz.m.LR(0.1))
    for _ in range(10):
        a.step(closure_of(params, loss))
        b.step(closure_of(vector, loss))
    assert torch.allclose(flat(params), vector[0].detach(), rtol=1e-12)


def test_it_does_nothing_to_a_parameter_without_a_gradient():
    params = parameters()
    optimizer = tz.Modular(params, tz.m.VectorProjection([tz.m.Adam(), tz.m.LR(0.1)]))

    def partial(ps):
        return (ps[0] ** 2).sum() + (ps[2] ** 2).sum()

    for _ in range(3):
        optimizer.step(closure_of(params, partial))
    x = start()
    assert torch.equal(flat([params[1], params[4]]), torch.cat([x[6:7], x[11:]]))
    p = torch.cat([x[:6], x[7:11]]).requires_grad_()
    other = torch.optim.Adam([p], 0.1)
    for _ in range(3):
        other.step(closure_of([p], lambda ps: (ps[0] ** 2).sum()))
    assert torch.allclose(flat([params[0], params[2]]), p.detach(), rtol=1e-12)


# -- a projection of one's own -----------------------------------------------------------------------------------------
class Rotation(tz.m.Projection):
    """The worked example: an orthogonal matrix on the joined vector."""

    def __init__(self, modules, seed=0, **kwargs):
        super().__init__(modules, **kwargs)
        q = torch.randn(N, N, dtype=F64, generator=torch.Generator().manual_seed(seed))
        self.q = torch.linalg.qr(q)[0]

    def project(self, tensors, var, current):
        assert current in ("params", "grads", "update")
        return [self.q @ torch.cat([t.reshape(-1) for t in tensors])]

    def unproject(self, tensors, var, current):
        return cut(self.q.T @ tensors[0])


def rotated(q):
    return lambda ps: loss([q.T @ ps[0]])


@pytest.mark.parametrize("name", [*CHAINS, *SEARCHES])
def test_a_rotation_is_the_chain_on_the_rotated_problem(name):
    build, searches = (SEARCHES[name], True) if name in SEARCHES else (CHAINS[name], False)
    module = Rotation(build(), project_params=searches)
    if name == "weight decay":
        module.project_params = True  # the stand-ins hold the parameters either way
    params, vector = parameters(), [(module.q @ start()).requires_grad_()]
    a, b = tz.Modular(params, module), tz.Modular(vector, *build())
    for _ in range(8):
        a.step(closure_of(params, loss))
        b.step(closure_of(vector, rotated(module.q)))
        assert torch.allclose(module.q @ flat(params), vector[0].detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["PolakRibiere, AdaptiveBacktracking", "NewtonCG, StrongWolfe"])
def test_what_does_not_care_for_rotations_is_not_changed_by_one(name):
    params, other = parameters(), parameters()
    a = tz.Modular(params, Rotation(SEARCHES[name](), project_params=True))
    b = tz.Modular(other, *SEARCHES[name]())
    for _ in range(6):
        a.step(closure_of(params, loss))
        b.step(closure_of(other, loss))
        assert torch.allclose(flat(params), flat(other), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("target", ["closure", "grad", "update"])
def test_an_approximation_inside_takes_the_place_of_the_gradient(target):
    def derivative_free(ps):
        with torch.no_grad():
            return loss(ps)

    def chain():
        return [tz.m.SPSA(n_samples=2, seed=0, target=target), tz.m.Grad(), tz.m.LR(0.02)][
            :: 1 if target == "grad" else 2
        ]

    params, vector = parameters(), [start().requires_grad_()]
    a = tz.Modular(params, tz.m.VectorProjection(chain(), project_params=True))
    b = tz.Modular(vector, *chain())
    for _ in range(5):
        la = a.step(lambda backward=True: derivative_free(params))
        lb = b.step(lambda backward=True: derivative_free(vector))
        assert torch.allclose(flat(params), vector[0].detach(), rtol=1e-9)
        assert torch.allclose(la, lb, rtol=1e-9) and a.last_step.evaluations == b.last_step.evaluations
    assert not torch.equal(flat(params), start())


# -- state -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [tz.m.VectorProjection, Rotation], ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", [*CHAINS, *SEARCHES])
def test_state_is_saved_and_restored(make, name):
    build, searches = (SEARCHES[name], True) if name in SEARCHES else (CHAINS[name], False)

    def fresh():
        params = parameters()
        return params, tz.Modular(params, make(build(), project_params=searches))

    params, optimizer = fresh()
    for _ in range(4):
        optimizer.step(closure_of(params, loss))
    saved = optimizer.state_dict()
    again, other = fresh()
    with torch.no_grad():
        for p, q in zip(again, params, strict=True):
            p.copy_(q)
    other.load_state_dict(saved)
    assert same(other.state_dict()["state"], saved["state"]) and len(saved["state"]) >= 1
    for _ in range(4):
        optimizer.step(closure_of(params, loss))
        other.step(closure_of(again, loss))
        assert same(bits(params), bits(again))


def test_state_of_the_vector_sits_with_a_real_parameter():
    params = parameters()
    optimizer = tz.Modular(params, tz.m.VectorProjection(tz.m.Adam()))
    optimizer.step(closure_of(params, loss))
    names = [name for state in optimizer.state.values() for name in state]
    assert [n for n in names if n.endswith("exp_avg")] and set(map(id, optimizer.state)) <= set(map(id, params))


# -- errors ------------------------------------------------------------------------------------------------------------
def test_errors():
    p = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="has to project something"):
        tz.m.VectorProjection(tz.m.Adam(), project_update=False)
    with pytest.raises(RuntimeError, match="closure"):
        tz.Modular([p], tz.m.VectorProjection(tz.m.Adam(), project_params=True)).step()
    with pytest.raises(TypeError, match="Did you mean Adam"):
        tz.m.VectorProjection(tz.m.Adam)
    for bare in (tz.m.Projection(tz.m.Adam()),):
        p.grad = torch.ones(2)
        with pytest.raises(NotImplementedError, match="has no project"):
            tz.Modular([p], bare).step()


def test_parameters_are_put_back_when_the_closure_raises():
    params = parameters()
    optimizer = tz.Modular(params, tz.m.VectorProjection([tz.m.LBFGS(), tz.m.StrongWolfe()], project_params=True))
    before, calls = bits(params), []

    def broken(ps):
        calls.append(0)
        if len(calls) == 2:
            raise KeyError("no")
        return loss(ps)

    with pytest.raises(KeyError):
        optimizer.step(closure_of(params, broken))
    assert same(bits(params), before)
    optimizer.step(closure_of(params, loss))
    assert not same(bits(params), before)
