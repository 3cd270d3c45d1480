"""Gradient approximations against directional derivatives in closed form, recomputed with the same random numbers."""

import gc
import inspect
import math
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchzero_core as tz
from torchzero_core.core.evaluate import gradient as gradient_of
from torchzero_core.modules.grad_approximation.formulas import FORMULAS

F64 = torch.float64
KINDS = ["RandomizedFDM", "SPSA", "RDSA", "GaussianSmoothing", "MeZO"]
A = torch.diag(torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0], dtype=F64)) + 0.3
B = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0], dtype=F64)


def quadratic(params):
    x = torch.cat([p.reshape(-1) for p in params])
    return x @ A @ x / 2 - B @ x


def parameters():
    x = torch.tensor([0.3, -1.2, 0.7, 2.0, -0.4], dtype=F64)
    return [x[:4].view(2, 2).clone().requires_grad_(), x[4:].clone().requires_grad_()]


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


class Loss:
    """A closure without gradients that remembers its points."""

    def __init__(self, params, loss=quadratic):
        self.params, self.loss, self.points, self.backward = params, loss, [], 0

    def __call__(self, backward=True):
        self.points.append(tuple(flat(self.params).tolist()))
        self.backward += backward
        return self.loss(self.params)


class Look(tz.Module):
    """Evaluates the closure ``n`` times and keeps what it saw."""

    def __init__(self, n=1, backward=True):
        super().__init__()
        self.n, self.backward, self.seen, self.losses = n, backward, [], []

    needs_gradient = False

    def step(self, var):
        for _ in range(self.n):
            loss, grads = gradient_of(var.closure, var.params)
            self.seen.append(flat(grads))
            self.losses.append(loss.item())
        return var


class Stay(tz.Module):
    """An update of zero."""

    def step(self, var):
        var.update = [torch.zeros_like(p) for p in var.params]
        return var


def directions(kind, seed, n, distribution, shapes=((2, 2), (1,)), generator=None):
    """The directions of a step, drawn as the module should draw them."""
    generator = generator or torch.Generator().manual_seed(seed)

    def draw(g):
        out = []
        for shape in shapes:
            u = torch.empty(shape, dtype=F64)
            if distribution == "rademacher":
                u = torch.empty(shape, dtype=F64).bernoulli_(0.5, generator=g) * 2 - 1
            elif distribution == "uniform":
                u.uniform_(-math.sqrt(3), math.sqrt(3), generator=g)
            else:
                u.normal_(generator=g)
                if distribution == "sphere":
                    u *= math.sqrt(u.numel()) / u.norm()
            out.append(u)
        return flat(out)

    if kind in ("GaussianSmoothing", "MeZO"):
        seeds = torch.randint(2**62, (n,), generator=generator).tolist()
        return [draw(torch.Generator().manual_seed(s)) for s in seeds]
    return [draw(generator) for _ in range(n)]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("GradApproximator", "defaults=None, target='closure'"),
        *(
            (
                name,
                f"h={h}, n_samples={n}, formula='central2', distribution='{distribution}', beta=0, "
                "pre_generate=True, target='closure', seed=None",
            )
            for name, h, n, distribution in [
                ("RandomizedFDM", 0.001, 1, "rademacher"),
                ("SPSA", 0.001, 1, "rademacher"),
                ("RDSA", 0.001, 1, "gaussian"),
                ("GaussianSmoothing", 0.01, 100, "gaussian"),
            ]
        ),
        ("MeZO", "h=0.001, n_samples=1, formula='central2', distribution='rademacher', target='closure', seed=None"),
    ],
)
def test_signature(name, parameters):
    found = inspect.signature(getattr(tz.m, name)).parameters.values()
    assert ", ".join(f"{p.name}={p.default!r}" for p in found) == parameters


# -- the estimator -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "normal", "uniform", "sphere"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_it_is_the_mean_of_directional_differences(kind, distribution, formula):
    # on a quadratic the formulas with an odd error term have none; the first-order ones have ±½h·u'Au
    params, h, n = parameters(), 0.05, 3
    x, (g,) = flat(params), torch.autograd.grad(quadratic([t := flat(params).requires_grad_()]), t)
    optimizer = tz.Modular(params, getattr(tz.m, kind)(h, n, formula, distribution, seed=5), tz.m.LR(1.0))
    optimizer.step(Loss(params))
    error = {"forward2": 0.5 * h, "backward2": -0.5 * h}.get(formula, 0.0)
    expected = sum(u * (u @ g + error * (u @ A @ u)) for u in directions(kind, 5, n, distribution)) / n
    assert torch.allclose(x - flat(params), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("degree", range(6))
def test_formulas_are_exact_for_polynomials_of_their_order(formula, degree):
    exact = {"forward2": 1, "backward2": 1, "forward3": 2, "backward3": 2, "central2": 2, "central4": 4}[formula]
    p = torch.tensor([0.7], dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.SPSA(0.5, formula=formula, seed=0), tz.m.LR(1.0))
    optimizer.step(Loss([p], lambda ps: (ps[0] ** degree).sum()))
    error = abs(0.7 - p.item() - (degree * 0.7 ** (degree - 1) if degree else 0.0))
    assert (error < 1e-12) == (degree <= exact)
    weights = FORMULAS[formula]
    for k in range(exact + 1):  # Σ w·oᵏ = [k = 1]
        assert sum(w * o**k for o, w in weights) == pytest.approx(float(k == 1), abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "uniform", "sphere"])
def test_it_is_unbiased_on_a_quadratic(kind, distribution):
    params = parameters()
    x = flat(params)
    (g,) = torch.autograd.grad(quadratic([t := x.clone().requires_grad_()]), t)
    look = Look()
    n = 400
    optimizer = tz.Modular(
        params, getattr(tz.m, kind)(0.1, n_samples=n, distribution=distribution, seed=11), look, tz.m.LR(0.0)
    )
    optimizer.step(Loss(params))
    samples = torch.stack([u * (u @ g) for u in directions(kind, 11, n, distribution)])
    assert torch.allclose(look.seen[0], samples.mean(0), rtol=1e-8, atol=1e-9)
    standard_error = samples.std(0) / math.sqrt(n)
    assert ((look.seen[0] - g).abs() < 5 * standard_error).all()


def test_smoothing_is_by_the_length_of_the_differences():
    # E u·(f(x + hu) − f(x − hu))/2h = ∇E f(x + hu) = 3x² + 3h² for f = x³
    p = torch.tensor([1.0], dtype=F64, requires_grad=True)
    look = Look()
    optimizer = tz.Modular([p], tz.m.GaussianSmoothing(0.5, n_samples=4000, seed=0), look, tz.m.LR(0.0))
    optimizer.step(Loss([p], lambda ps: (ps[0] ** 3).sum()))
    assert look.seen[0].item() == pytest.approx(3.75, abs=5 * 4.6 / math.sqrt(4000))


def test_h_may_differ_between_groups():
    params, h = parameters(), [0.3, 0.01]
    x = flat(params)
    groups = [dict(params=[p], h=hi) for p, hi in zip(params, h, strict=True)]
    tz.Modular(groups, tz.m.SPSA(seed=3, formula="forward2"), tz.m.LR(1.0)).step(Loss(params))
    (u,) = directions("SPSA", 3, 1, "rademacher")
    lengths = torch.tensor([h[0]] * 4 + [h[1]], dtype=F64)
    difference = quadratic([x + lengths * u]) - quadratic([x])
    assert torch.allclose(x - flat(params), u * difference / lengths, rtol=1e-10)


def test_a_difference_that_is_not_finite_counts_as_zero():
    p = torch.tensor([1.0, 1.0], dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.SPSA(n_samples=4, seed=0), tz.m.LR(1.0))
    optimizer.step(Loss([p], lambda ps: ps[0].sum() + math.inf * (ps[0][0] > 1)))
    assert p.tolist() == [1.0, 1.0]


# -- random numbers ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_everything(kind):
    def path(seed):
        params = parameters()
        optimizer = tz.Modular(params, getattr(tz.m, kind)(n_samples=2, seed=seed), tz.m.LR(0.01))
        for _ in range(5):
            optimizer.step(Loss(params))
        return flat(params)

    state = torch.random.get_rng_state()
    assert torch.equal(path(1), path(1)) and not torch.equal(path(1), path(2))
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is left alone
    torch.manual_seed(4)
    first = path(None)
    torch.manual_seed(4)
    assert torch.equal(first, path(None))
    assert not torch.equal(first, path(None))


@pytest.mark.parametrize("kind", ["RandomizedFDM", "SPSA", "RDSA", "GaussianSmoothing"])
def test_pre_generate_uses_the_directions_of_the_step_again(kind):
    for pre in (True, False):
        params = parameters()
        look = Look(3)
        module = getattr(tz.m, kind)(n_samples=2, pre_generate=pre, seed=8)
        optimizer = tz.Modular(params, module, look, tz.m.LR(0.0))
        for _ in range(2):
            optimizer.step(Loss(params))
        a, b = look.seen[:3], look.seen[3:]
        assert torch.equal(a[0], a[1]) == torch.equal(a[1], a[2]) == torch.equal(b[0], b[1]) == pre
        assert not torch.equal(a[0], b[0])


@pytest.mark.parametrize("kind", ["RandomizedFDM", "SPSA", "RDSA", "GaussianSmoothing"])
def test_beta_mixes_the_directions_with_those_of_the_last_step(kind):
    params, beta, n = parameters(), 0.7, 2
    x = flat(params)
    (g,) = torch.autograd.grad(quadratic([t := x.clone().requires_grad_()]), t)
    look = Look()
    distribution = inspect.signature(getattr(tz.m, kind)).parameters["distribution"].default
    module = getattr(tz.m, kind)(n_samples=n, beta=beta, seed=8)
    optimizer = tz.Modular(params, module, look, tz.m.LR(0.0))
    generator, old = torch.Generator().manual_seed(8), None
    for k in range(3):
        optimizer.step(Loss(params))
        new = directions("RandomizedFDM", None, n, distribution, generator=generator)
        old = new if old is None else [beta * o + (1 - beta) * u for o, u in zip(old, new, strict=True)]
        assert torch.allclose(look.seen[k], sum(u * (u @ g) for u in old) / n, rtol=1e-6, atol=1e-8)


# -- what it costs -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["closure", "grad", "update"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_evaluations(kind, target, formula):
    params = parameters()
    closure = Loss(params)
    optimizer = tz.Modular(params, getattr(tz.m, kind)(n_samples=3, formula=formula, target=target, seed=0), tz.m.LR(0))
    loss = optimizer.step(closure)
    centre = any(offset == 0 for offset, _ in FORMULAS[formula])
    elsewhere = 3 * sum(offset != 0 for offset, _ in FORMULAS[formula])
    assert len(closure.points) == elsewhere + (centre or target == "closure") == optimizer.last_step.evaluations
    assert closure.backward == optimizer.last_step.backward_evaluations == 0
    assert len(set(closure.points)) >= len(closure.points) - 2  # directions of ±1 may come twice
    if centre or target == "closure":
        assert loss.item() == quadratic(params).item()
    else:
        assert loss.item() == pytest.approx(quadratic(params).item(), abs=0.05)


def test_the_start_is_not_evaluated_again_for_a_line_search():
    params = parameters()
    closure = Loss(params)
    optimizer = tz.Modular(params, tz.m.GaussianSmoothing(n_samples=20, seed=0), tz.m.Backtracking())
    optimizer.step(closure)
    alpha, tried = optimizer.last_step.step_size, len(closure.points) - 41
    assert alpha == 0.5 ** (tried - 1) and len(set(closure.points)) == len(closure.points)


class Memory(TorchDispatchMode):
    """The largest number of elements that tensors made inside held at one time."""

    def __init__(self):
        super().__init__()
        self.now, self.most = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._schema.name.split("::")[1].split(".")[0] in ("empty", "clone", "zeros", "empty_like", "mul", "add"):
            size = out.numel()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(out, self._free, size)
        return out

    def _free(self, size):
        self.now -= size


@pytest.mark.parametrize("kind", ["MeZO", "GaussianSmoothing", "SPSA"])
def test_memory_does_not_grow_with_the_number_of_directions(kind):
    most = []
    for n in (2, 20):
        params = [torch.zeros(1000, requires_grad=True), torch.zeros(500, requires_grad=True)]
        optimizer = tz.Modular(params, getattr(tz.m, kind)(n_samples=n, seed=0), tz.m.LR(0.1))
        gc.collect()
        gc.disable()  # references are enough; what is freed late is counted as held
        try:
            with Memory() as memory:
                optimizer.step(lambda backward=True, params=params: sum((p.detach() ** 2).sum() for p in params))
        finally:
            gc.enable()
        most.append(memory.most)
    if kind == "SPSA":  # holds its directions: the measure sees them
        assert most[1] > 20 * 1500
    else:
        assert most[1] < 3 * 1500 and most[1] - most[0] < 200


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_come_back_bit_for_bit(kind):
    start = torch.tensor([1e17, 1e-17, 0.1, -0.0, 3.0], dtype=F64)
    p = start.clone().requires_grad_()
    look = Look()
    tz.Modular([p], getattr(tz.m, kind)(0.1, n_samples=7, seed=0), look, Stay()).step(
        Loss([p], lambda ps: ps[0].sin().sum())
    )
    assert look.seen[0].abs().max() > 0
    assert p.detach().numpy().tobytes() == start.numpy().tobytes()

    def broken(ps):
        raise KeyError("no")

    optimizer = tz.Modular([p], getattr(tz.m, kind)(0.1, target="update", seed=0))
    with pytest.raises(KeyError):
        optimizer.step(Loss([p], broken))
    assert p.detach().numpy().tobytes() == start.numpy().tobytes()


# -- targets -----------------------------------------------------------------------------------------------------------
def test_later_modules_see_the_approximate_gradient():
    # forward differences of length 1 with directions of ±1 have a slope that a search can only have from them
    for search in (tz.m.Backtracking(c=0.5), tz.m.StrongWolfe(c1=0.4)):
        p = torch.tensor([1.0], dtype=F64, requires_grad=True)
        seen = []

        class Spy(tz.Module):
            def step(self, var, seen=seen):
                seen.append((var.get_grad()[0].item(), var.get_loss().item()))
                seen.append(gradient_of(var.closure, var.params)[1][0].item())
                return var

        optimizer = tz.Modular([p], tz.m.SPSA(1.0, formula="forward2", seed=0), Spy(), search)
        optimizer.step(Loss([p], lambda ps: (ps[0] ** 2).sum()))
        u = directions("SPSA", 0, 1, "rademacher", ((1,),))[0].item()
        assert seen == [(u * ((1 + u) ** 2 - 1), 1.0), u * ((1 + u) ** 2 - 1)]
        assert p.grad is None  # which is the user's again


@pytest.mark.parametrize("kind", KINDS)
def test_targets_replace_gradient_or_update(kind):
    results = {}
    for target in ("grad", "update"):
        params = parameters()
        x = flat(params)

        def closure(backward=True, params=params):
            loss = quadratic(params)
            if backward:
                for p in params:
                    p.grad = None
                loss.backward()
            return loss

        look = {}

        class Spy(tz.Module):
            def step(self, var, look=look):
                look["update"] = flat(var.get_update())
                look["grad"] = flat(var.get_grad())
                return var

        optimizer = tz.Modular(params, tz.m.LR(2.0), getattr(tz.m, kind)(target=target, n_samples=2, seed=1), Spy())
        optimizer.step(closure)
        (g,) = torch.autograd.grad(quadratic([t := x.clone().requires_grad_()]), t)
        results[target] = look
        distribution = inspect.signature(getattr(tz.m, kind)).parameters["distribution"].default
        estimate = sum(u * (u @ g) for u in directions(kind, 1, 2, distribution)) / 2
        assert torch.allclose(look[target], estimate, rtol=1e-6)
        other = {"grad": ("update", 2 * g), "update": ("grad", g)}[target]
        assert torch.allclose(look[other[0]], other[1], rtol=1e-12)


def test_a_quasi_newton_method_on_approximate_gradients_reaches_the_minimum():
    params = parameters()
    optimizer = tz.Modular(
        params, tz.m.SPSA(1e-4, n_samples=60, formula="central4", seed=0), tz.m.BFGS(), tz.m.Backtracking()
    )
    for _ in range(60):
        optimizer.step(Loss(params))
    assert torch.allclose(flat(params), torch.linalg.solve(A, B), atol=1e-2)


# -- the base ----------------------------------------------------------------------------------------------------------
class Forward(tz.m.GradApproximator):
    """The worked example: a difference for each coordinate."""

    def __init__(self, h: float = 1e-3, target="closure"):
        super().__init__(dict(h=h), target=target)
        self.prepared = 0

    def pre_step(self, var):
        self.prepared += 1

    def approximate(self, closure, params, loss, var):
        loss = closure(False) if loss is None else loss
        grads = [torch.zeros_like(p) for p in params]
        for p, g in zip(params, grads, strict=True):
            h = self.settings[p]["h"]
            for i in range(p.numel()):
                before = p.view(-1)[i].clone()
                p.view(-1)[i] += h
                g.view(-1)[i] = (closure(False) - loss) / h
                p.view(-1)[i] = before
        return grads, loss, None


@pytest.mark.parametrize("target", ["closure", "grad", "update"])
def test_an_approximation_of_ones_own(target):
    params = parameters()
    x = flat(params)
    (g,) = torch.autograd.grad(quadratic([t := x.clone().requires_grad_()]), t)
    module = Forward(0.01, target)
    closure = Loss(params)
    optimizer = tz.Modular(params, module, tz.m.LR(0.5))
    loss = optimizer.step(closure)
    assert torch.allclose(x - flat(params), 0.5 * (g + 0.005 * A.diagonal()), rtol=1e-9)
    assert loss.item() == quadratic([x]).item() and module.prepared == 1
    assert len(closure.points) == 6 == len(set(closure.points))


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_parameters_are_left_alone(kind):
    p = torch.ones(2)
    tz.Modular([p], getattr(tz.m, kind)(), tz.m.LR(0.1)).step(lambda backward=True: (p**2).sum())
    assert p.tolist() == [1, 1]


def test_unknown_targets_formulas_and_distributions_are_refused():
    for kind in KINDS:
        build = getattr(tz.m, kind)
        with pytest.raises(ValueError, match="target='loss'"):
            build(target="loss")
        with pytest.raises(ValueError, match="formula='central3'"):
            build(formula="central3")
        with pytest.raises(ValueError, match="distribution='cauchy'"):
            build(distribution="cauchy")
        with pytest.raises(ValueError, match="h"):
            build(h=0.0)
    p = torch.zeros(1, requires_grad=True)
    with pytest.raises(RuntimeError, match="closure"):
        tz.Modular([p], tz.m.SPSA()).step()
