"""What random chains have shown to be wrong, each as a case that is small enough to read."""

import copy
import warnings

import pytest
import torch

import torchzero_core as tz
from tests.problems import backward, bits, closure_of, make_params, quadratic, run, same

m = tz.m
F64 = torch.float64


# -- where evaluations are made ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("behind", [lambda: m.LastGradDifference(), lambda: m.Grad(), lambda: m.Ones()])
@pytest.mark.parametrize("front", [lambda: m.SophiaH(hvp_method="forward", seed=0), lambda: m.MatrixMomentum()])
def test_evaluations_are_made_before_an_update_that_does_not_wait_for_them(front, behind, compiled):
    # the rule behind makes its update of gradients alone, which may not move the parameters first
    params = make_params()
    optimizer = tz.Modular(params, front(), behind(), m.LR(0.1), compile=compiled)
    start, seen, steps = bits(params), [], 2
    closure = closure_of(params)

    def watched(backward=True):
        seen.append(max(float((p.detach() - s).abs().max()) for p, s in zip(params, start, strict=True)))
        return closure(backward)

    for _ in range(steps):
        start = bits(params)
        optimizer.step(watched)
    assert len(seen) > steps
    assert max(seen) < 0.02  # a difference of gradients looks that far; the step is longer
    assert max(float((p.detach() - s).abs().max()) for p, s in zip(params, start, strict=True)) > 0.05


@pytest.mark.parametrize("grouped", [False, True])
def test_a_refusal_by_an_evaluation_comes_before_the_parameters_move(grouped):
    params = make_params()
    groups = [{"params": params[:1]}, {"params": params[1:], "precond_scale": 2.0}] if grouped else params
    optimizer = tz.Modular(groups, m.SPSA(), m.SophiaH(), m.LastGradDifference())
    before = bits(params)
    with pytest.raises(RuntimeError, match="SophiaH needs a loss that can be differentiated"):
        optimizer.step(closure_of(params))
    assert same(before, bits(params))


@pytest.mark.parametrize(
    "behind", [lambda: m.Newton(), lambda: m.NewtonCG(hvp_method="autograd"), lambda: m.HigherOrderNewton()]
)
def test_the_graph_of_dropped_weights_is_refused_in_a_sentence(behind):
    params = make_params()
    optimizer = tz.Modular(params, m.WeightDropout(seed=0), behind())
    before = bits(params)
    with pytest.raises(RuntimeError, match="needs a loss that can be differentiated"):
        optimizer.step(closure_of(params))
    assert same(before, bits(params))


# -- whose gradients ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "front", [lambda: m.FDM(), lambda: m.SPSA(), lambda: m.MeZO(), lambda: [m.FDM(), m.WeightDropout(graft=False)]]
)
def test_a_flat_buffer_of_gradients_is_the_users_again_after_an_approximation(front):
    # a closure that clears its buffer would otherwise add its gradients to those of the approximation
    flat = torch.zeros(5, dtype=F64)
    params = [torch.ones(2, dtype=F64).requires_grad_(), torch.full((3,), 2.0, dtype=F64).requires_grad_()]
    params[0].grad, params[1].grad = flat[:2], flat[2:]
    views = [p.grad for p in params]

    def closure(backward=True):
        loss = quadratic(params)
        if backward:
            flat.zero_()
            loss.backward()
        return loss

    front = front()
    chain = front if isinstance(front, list) else [front]
    optimizer = tz.Modular(params, m.Switch([*chain, m.Mul(0.0)], m.Identity(), steps=1), m.LR(0.1))
    optimizer.step(closure)
    assert all(p.grad is view for p, view in zip(params, views, strict=True))
    before = bits(params)
    optimizer.step(closure)
    for b in before:
        b.requires_grad_()
    quadratic(before).backward()
    for p, b in zip(params, before, strict=True):
        assert torch.allclose(p, b - 0.1 * b.grad, rtol=1e-14)


# -- hands that cast, cut and delete -----------------------------------------------------------------------------------
MATRIX_METHODS = {
    "BFGS": lambda: [m.BFGS(), m.LR(0.1)],
    "BFGS alone": lambda: [m.BFGS(concat_params=False), m.LR(0.1)],
    "PSB": lambda: [m.PSB(), m.LR(0.1)],
    "ProjectedNewtonRaphson": lambda: [m.ProjectedNewtonRaphson(), m.LR(0.1)],
    "LBFGS": lambda: [m.LBFGS(), m.LR(0.1)],
    "LBFGS z": lambda: [m.LBFGS(z_beta=0.5), m.LR(0.1)],
    "LSR1": lambda: [m.LSR1(), m.LR(0.1)],
    "OnlineLBFGS": lambda: [m.OnlineLBFGS(), m.LR(0.1)],
    "projected": lambda: [m.VectorProjection([m.LBFGS(), m.Backtracking()], project_params=True)],
    "blocks": lambda: [m.BlockPartition(m.BFGS(concat_params=False), 4), m.LR(0.1)],
    "NewtonCG": lambda: [m.NewtonCG(warm_start=True), m.LR(0.5)],
    "GaLore": lambda: [m.GaLore(m.Adam(), 2, 100, 1.0), m.LR(0.1)],
    "gathered": lambda: [m.GradientAccumulation([m.Adam(), m.LR(0.1)], 2)],
    "RandomizedFDM": lambda: [m.RandomizedFDM(beta=0.5, seed=0), m.LR(0.01)],
}


def chains(*names):
    return pytest.mark.parametrize(
        "chain", [MATRIX_METHODS[n] for n in names or MATRIX_METHODS], ids=names or MATRIX_METHODS
    )


@chains()
@pytest.mark.parametrize("deterministic", [False, True])
def test_parameters_that_are_cast(chain, deterministic):
    """float64 to float32 and back in the middle: what is known stays, and the steps are nearly those of float64."""
    exact, params = make_params(), make_params()
    plain = tz.Modular(exact, *chain())
    optimizer = tz.Modular(params, *chain(), deterministic=deterministic)
    for dtype in (F64, torch.float32, F64):
        for p in params:
            p.data, p.grad = p.data.to(dtype), None
        run(plain, exact, 3)
        run(optimizer, params, 3)
    far = max(float((p.detach() - q.detach()).abs().max()) for p, q in zip(params, exact, strict=True))
    sensitive = any(isinstance(x, (m.RandomizedFDM, m.LSR1)) for x in optimizer.unrolled_modules)
    assert far < (0.1 if sensitive else 1e-3)  # LSR1 divides by differences of what it has learnt


@chains()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_that_is_cast(chain, dtype):
    params, exact = make_params(), make_params()
    optimizer, plain = tz.Modular(params, *chain()), tz.Modular(exact, *chain())
    run(plain, exact, 6)
    run(optimizer, params, 3)
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                state[name] = value.to(dtype)
    run(optimizer, params, 3)
    far = max(float((p.detach() - q.detach()).abs().max()) for p, q in zip(params, exact, strict=True))
    sensitive = any(isinstance(x, m.LSR1) for x in optimizer.unrolled_modules)
    assert far < (1.0 if dtype is torch.bfloat16 else 0.1 if sensitive else 1e-4)


@chains("BFGS", "PSB", "LBFGS", "LSR1", "projected", "gathered")
def test_parameters_that_are_cut_are_refused_in_a_sentence(chain):
    params = make_params()
    optimizer = tz.Modular(params, *chain())
    run(optimizer, params, 3)
    for p in params:
        p.data, p.grad = p.data[:1].clone(), None
    before = bits(params)
    with pytest.raises(ValueError, match=r"forget it with the module's reset\(\)"):
        run(optimizer, params, 2)
    assert same(before, bits(params))
    optimizer.reset()
    run(optimizer, params, 2)


@pytest.mark.parametrize(
    "chain",
    [MATRIX_METHODS["blocks"], lambda: [m.Shampoo(), m.LR(0.1)], lambda: [m.SOAP(), m.LR(0.1)],
     lambda: [m.FullMatrixAdagrad(), m.LR(0.1)], MATRIX_METHODS["LBFGS"], MATRIX_METHODS["BFGS"]],
)  # fmt: skip
def test_any_part_of_the_state_may_be_deleted(chain):
    params = make_params()
    whole = tz.Modular(params, *chain())
    run(whole, params, 3)
    for name in {n for state in whole.state.values() for n in state}:
        others, optimizer = copy.deepcopy((params, whole))
        for state in optimizer.state.values():
            state.pop(name, None)
        run(optimizer, others, 2)
        assert all(bool(p.isfinite().all()) for p in others), name


# -- numbers -----------------------------------------------------------------------------------------------------------
def test_least_squares_are_not_asked_for_a_matrix_that_is_not_finite():
    from torchzero_core.linalg import solve_symmetric

    matrix = torch.tensor([[torch.nan, 0.0], [0.0, 1.0]], dtype=F64)
    assert solve_symmetric(matrix, torch.ones(2, dtype=F64)).isnan().all()


@pytest.mark.parametrize(
    "module",
    [lambda: m.EMA(ema_init="update", dampening=1), lambda: m.HeavyBall(lerp=True, ema_init="zeros", debiased=True)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_of_a_step_leave_the_dtype_of_a_parameter_without_dimensions(module, dtype):
    params, rows = make_params([()], dtype=dtype), make_params([(1,)], dtype=dtype)
    run(tz.Modular(params, module(), m.LR(0.01)), params, 5)
    run(tz.Modular(rows, module(), m.LR(0.01)), rows, 5)
    assert params[0].dtype is dtype
    assert params[0].item() == pytest.approx(rows[0].item(), rel=4 * torch.finfo(dtype).eps)


# -- settings ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "settings",
    [dict(method="brent", bounds=[0.0, 1.0]), dict(method="golden", bounds=[0.0, 1.0]), dict(method="bounded")],
)
def test_bounds_of_scipy_are_for_one_method(settings):
    with pytest.raises(ValueError, match="bounds"):
        m.ScipyMinimizeScalar(**settings)


def test_bounds_of_scipy_with_a_tolerance_give_no_warning():
    params = make_params()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tz.Modular(params, m.ScipyMinimizeScalar(bounds=[0.0, 2.0], tol=1e-6)), params, 2)
    backward(params)


# -- combinations that a user may try first ----------------------------------------------------------------------------
COMBINATIONS = {
    "smoothing": lambda: [m.GaussianSmoothing(seed=0), m.NewtonCG(hvp_method="forward"), m.AdaptiveBacktracking()],
    "SPSA": lambda: [m.SPSA(seed=0), m.LBFGS(), m.StrongWolfe()],
    "clipped": lambda: [m.ClipNorm(1.0), m.BFGS(), m.StrongWolfe(), m.LR(0.5)],
    "gathered search": lambda: [m.GradientAccumulation([m.LBFGS(), m.StrongWolfe()], 2)],
    "Split Newton": lambda: [m.Split(is_matrix, [m.Newton(), m.Backtracking()], [m.Adam(), m.LR(0.1)])],
    "blocks": lambda: [m.BlockPartition(m.BFGS(concat_params=False), 4), m.Backtracking()],
    "Alternate": lambda: [m.Alternate([m.BFGS(), m.StrongWolfe()], [m.LBFGS(), m.Backtracking()], steps=[2, 1])],
    "Switch": lambda: [m.Switch([m.NewtonCG(), m.Backtracking()], [m.PolakRibiere(), m.StrongWolfe()], steps=2)],
    "GaLore SOAP": lambda: [m.GaLore(m.SOAP(), 2, 3, 1.0), m.LR(0.1)],
    "Multistep": lambda: [m.Multistep([m.LBFGS(), m.StrongWolfe()], 3)],
    "Projection in Split in Sum": lambda: [
        m.Sum(m.Split(is_matrix, m.VectorProjection(m.Adam()), m.EMA(0.5)), m.Mul(1e-3)),
        m.LR(0.1),
    ],
}


def is_matrix(p):
    return p.ndim > 1


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_lower_the_loss_and_resume(name):
    params = make_params()
    optimizer = tz.Modular(params, *COMBINATIONS[name]())
    first = quadratic(params).item()
    run(optimizer, params, 6)
    assert quadratic(params).item() < 0.9 * first
    others, other = make_params(), None
    other = tz.Modular(others, *COMBINATIONS[name]())
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, params, 3)
    run(other, others, 3)
    assert same(bits(params), bits(others))


# -- gradients that are missing where nobody has asked for them yet ----------------------------------------------------
@pytest.mark.parametrize("inner", [lambda: m.SOAP(), lambda: [m.WeightDecay(0.1), m.Clip(-1, 1)], lambda: m.BFGS()])
@pytest.mark.parametrize(
    "around",
    [lambda c: m.BlockPartition(c, 4, project_params=True), lambda c: m.VectorProjection(c, project_params=True)],
)
def test_a_gradient_that_is_missing_in_a_projection_behind_an_approximations_turn(around, inner):
    """Alternate asks for no gradient first, since one of its modules makes its own."""
    params = make_params()
    optimizer = tz.Modular(params, around(m.Alternate(m.RDSA(seed=0), inner(), steps=[1, 2])), m.LR(0.1))

    def closure(backward=True):
        loss = quadratic(params[:2])
        if backward:
            for p in params:
                p.grad = None
            loss.backward()
        return loss

    optimizer.step(closure)
    before = bits(params)
    for _ in range(2):  # the first step of SOAP is empty
        optimizer.step(closure)
    assert not any(map(torch.equal, params[:2], before[:2]))
    assert torch.equal(params[2], before[2]) and params[2].grad is None


class Residuals(tz.Module):
    """Gives the modules behind it residuals of the real parameters: in a projection nothing in them is projected."""

    requires_closure = True

    def __init__(self, params):
        super().__init__()
        self.real = params

    def step(self, var):
        var.closure = lambda backward=True: torch.cat([p.reshape(-1) for p in self.real])
        return var


PROJECTIONS = [
    lambda inner: m.BlockPartition(inner, 4, project_params=True),
    lambda inner: m.VectorProjection(inner, project_params=True),
    lambda inner: m.TensorNormsProjection(inner, project_params=True),
]


@pytest.mark.parametrize("around", PROJECTIONS)
def test_projected_tensors_that_are_dropped_are_refused_in_a_sentence(around):
    params = make_params()
    optimizer = tz.Modular(params, around([Residuals(params), m.GaussNewton()]), m.LR(0.1))
    before = bits(params)
    with pytest.raises(RuntimeError, match=r"give an update for 0 of \d projected tensors"):
        optimizer.step(closure_of(params))
    assert same(bits(params), before)
