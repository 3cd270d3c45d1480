"""What a user types into ``tz.minimize``: fits of residuals, numbers, mistakes."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch
from scipy import optimize

import torchzero_core as tz

F64 = torch.float64
T = torch.linspace(0, 1, 50, dtype=F64)
DATA = 2 * torch.exp(-3 * T) + 0.5 + 0.01 * torch.sin(40 * T)


def residuals(x):
    return x[0] * torch.exp(-x[1] * T) + x[2] - DATA


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


# -- residuals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "method",
    ["lm", "levenberg-marquardt", "gauss-newton", [tz.m.TrustCG(hess=tz.m.GaussNewton())]],
    ids=["lm", "levenberg-marquardt", "gauss-newton", "chain"],
)
def test_a_fit_of_residuals_beside_scipys(method):
    calls = []

    def counted(x):
        calls.append(1)
        return residuals(x)

    result = tz.minimize(counted, torch.ones(3, dtype=F64), method)
    peer = optimize.least_squares(lambda x: residuals(torch.tensor(x)).numpy(), np.ones(3), method="lm", xtol=1e-12)
    assert result.success and result.nfev == len(calls) <= 30
    assert result.fun == pytest.approx(2 * peer.cost, abs=1e-9)
    torch.testing.assert_close(result.x, torch.tensor(peer.x), atol=1e-4, rtol=1e-4)
    x = result.x.clone().requires_grad_()
    gradient = torch.autograd.grad(residuals(x).square().sum(), x)[0]
    torch.testing.assert_close(result.jac, gradient)
    assert result.grad_norm == result.jac.abs().max().item() <= 1e-5


def test_a_fit_of_residuals_of_a_dict_and_of_a_model():
    start = {name: torch.tensor(1.0, dtype=F64) for name in ("scale", "rate", "offset")}
    fit = tz.minimize(lambda x: residuals([x["scale"], x["rate"], x["offset"]]), start, "lm")
    assert fit.success and abs(fit.x["rate"] - 3) < 0.1
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    result = tz.minimize(lambda net: net(T[:, None])[:, 0] - DATA, model, "lm", maxiter=50)
    assert result.fun < 0.02


def test_residuals_that_are_none():
    with pytest.raises(TypeError, match=r"one number of torch\.float64\. For a function that returns its value choose"):
        tz.minimize(rosenbrock, torch.zeros(2, dtype=F64), "lm")
    with pytest.raises(TypeError, match="and not float"):
        tz.minimize(lambda x: 1.0, torch.zeros(2, dtype=F64), "lm")
    with pytest.raises(TypeError, match=r"of shape \(50,\). For residuals, .*, say method='lm'"):
        tz.minimize(residuals, torch.ones(3, dtype=F64))


# -- numbers -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("x0", [0, 0.0, np.float64(0), torch.zeros(()), torch.zeros((), dtype=F64)], ids=repr)
def test_one_number(x0):
    result = tz.minimize(lambda x: (x - 3) ** 2, x0)
    assert result.success and abs(result.x.item() - 3) < 1e-4 and result.x.shape == ()


def test_whole_numbers_as_they_are_typed():
    assert tz.minimize(rosenbrock, [-1, 1]).x.dtype == torch.get_default_dtype()
    for x0 in (torch.tensor([-1, 1]), np.array([-1, 1])):
        with pytest.raises(TypeError, match="int64, which has no gradient"):
            tz.minimize(rosenbrock, x0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    result = tz.minimize(lambda x: (x - 3).square().sum(), torch.zeros(2, dtype=dtype))
    assert result.success and result.x.tolist() == [3, 3] and result.x.dtype == dtype


def test_in_inference_mode():
    with torch.inference_mode():
        inside = tz.minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=F64), "newton")
        assert torch.is_inference_mode_enabled()
    outside = tz.minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=F64), "newton")
    assert torch.equal(inside.x, outside.x) and not inside.x.is_inference()


def test_a_result_as_a_dict():
    found = tz.minimize(rosenbrock, torch.zeros(2, dtype=F64))
    assert found["x"] is found.x and found["nfev"] == found.nfev and dict(found) == vars(found)
    with pytest.raises(KeyError):
        found["hess_inv"]


def test_a_chain_within_a_list():
    whole = tz.minimize(rosenbrock, torch.zeros(2, dtype=F64), [[tz.m.LBFGS(), tz.m.StrongWolfe()]])
    assert torch.equal(whole.x, tz.minimize(rosenbrock, torch.zeros(2, dtype=F64)).x)


OUTSIDE = {"inf": np.inf, "a tensor": torch.tensor(np.inf), "nan": np.nan, "a penalty": 1e10, "below": -5.0}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("method", ["lbfgs", "cg", "newton", "trust-cg", "adam", [tz.m.BFGS(), tz.m.Backtracking()]])
def test_a_number_for_points_outside_of_the_domain(method, name):
    seen = []

    def fun(x):
        if bool((x <= 0).any()):
            seen.append(x.tolist())
            return OUTSIDE[name]
        return (x - 3 * x.log()).sum()

    found = tz.minimize(fun, torch.full((2,), 20.0, dtype=F64), method, lr=0.3 if method == "adam" else None)
    assert (found.success and seen) or method == "adam"
    torch.testing.assert_close(found.x, torch.full((2,), 3.0, dtype=F64), rtol=1e-4, atol=1e-4)
    bounded = tz.minimize(fun, torch.full((2,), 20.0, dtype=F64), bounds=(-10, 30))
    assert bounded.success and abs(bounded.fun - found.fun) < 1e-8


def test_residuals_outside_of_the_domain():
    def fun(x):
        return torch.full((2,), 7.0, dtype=F64) if bool((x <= 0).any()) else x.log() - 1

    found = tz.minimize(fun, torch.full((2,), 50.0, dtype=F64), "lm")
    assert found.success and abs(found.x[0].item() - np.e) < 1e-4


def test_a_run_that_leaves_the_domain_for_good():
    found = tz.minimize(lambda x: x.sum() if x[0] > 0 else 5.0, torch.ones(2, dtype=F64), "sgd", lr=0.3)
    assert found.status == 3 and not found.success and found.x[0] > 0


# -- mistakes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("x0", "text"),
    [
        (torch.zeros(2, dtype=torch.complex64), "torch.view_as_real"),
        (torch.nn.Linear(2, 2).parameters(), "not generator. For the parameters of a model give the model itself"),
        (None, "not NoneType"),
        (np.zeros(2, dtype=bool), "torch.bool, which has no gradient"),
        (torch.zeros(2).to_sparse(), r"sparse tensor: give it as x0\.to_dense\(\)"),
    ],
)
def test_what_is_no_x0(x0, text):
    with pytest.raises(TypeError, match=text):
        tz.minimize(rosenbrock, x0)


def test_a_value_of_other_tensors():
    net = torch.nn.Linear(2, 1)
    for method in (None, "adam", "newton"):
        with pytest.raises(ValueError, match=r"not depend on x, which is a copy of x0, .*give the model as x0"):
            tz.minimize(lambda x: net(torch.ones(2)).square().sum(), list(net.parameters()), method)
    other = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="does not depend on the parameters of the model, but on other tensors"):
        tz.minimize(lambda model: other.sum(), net)


def test_a_function_of_nothing():
    with pytest.raises(TypeError, match=r"fun takes no argument, and it is called with x.* give the model as x0"):
        tz.minimize(lambda: torch.zeros(()), torch.zeros(2))
    for fun in (lambda *x: rosenbrock(*x), lambda x=None: rosenbrock(x), lambda x, /, k=1: rosenbrock(x)):
        assert tz.minimize(fun, torch.zeros(2, dtype=F64)).success


@pytest.mark.parametrize("method", [None, "bfgs", "cg", [tz.m.BFGS(), tz.m.Backtracking()]])
def test_random_numbers_that_nobody_has_spoken_of(method):
    generator = torch.Generator().manual_seed(0)

    def fun(x):
        points = torch.rand(4, 3, generator=generator)
        return ((points @ (x - 1)) ** 2).mean() + 0.1

    found = tz.minimize(fun, torch.zeros(3), method, maxiter=500)
    assert found.status == 2 and not found.success
    assert "at the same point. Where it draws random numbers, say deterministic=False" in found.message
    generator.manual_seed(0)
    limited = tz.minimize(fun, torch.zeros(3), method, maxfev=found.nfev - 1)
    assert limited.nfev < found.nfev and "random" not in limited.message


@pytest.mark.parametrize("x0", [torch.zeros(2, device="meta"), torch.nn.Linear(2, 1, device="meta")], ids=["x", "net"])
def test_the_device_without_numbers(x0):
    with pytest.raises(ValueError, match="device 'meta', where tensors have a shape and no numbers"):
        tz.minimize(rosenbrock, x0)


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "not str"), ((torch.ones(()), 1), "not tuple"), (1j, "not complex"), (np.ones(2), r"shape \(2,\)")],
)
def test_what_is_no_value(value, text):
    with pytest.raises(TypeError, match=rf"fun\(x\) must return one real number, not .*{text}|{text}"):
        tz.minimize(lambda x: value, torch.zeros(2))


@pytest.mark.parametrize("value", [1.5, np.float64(1.5), np.float32(1.5), np.array(1.5), np.array([1.5]), 3])
def test_what_is_a_value(value):
    assert tz.minimize(lambda x: value, torch.zeros(2, dtype=F64)).fun == float(np.ravel(value)[0])


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (3, "no method 3. A method is a name such as 'lbfgs'"),
        (tz.m.LBFGS, r"Give an object: tz\.m\.LBFGS\(\)"),
        ([tz.m.LBFGS, tz.m.StrongWolfe()], r"Give an object: tz\.m\.LBFGS\(\)"),
        (torch.optim.Adam, r"give its modules, such as \[tz\.m\.Adam\(\), tz\.m\.LR\(1e-2\)\]"),
        (tz.Modular([torch.zeros(1, requires_grad=True)], tz.m.Adam()), "no method Modular.*parameters of its own"),
        (
            ["adam", "lbfgs"],
            r"list is one chain of modules; a name stands alone\. One method after another is tz\.m\.Swi",
        ),
        ([tz.m.LBFGS(), "strong-wolfe"], "a name stands alone"),
        ([[tz.m.Adam(), tz.m.LR(0.1)], [tz.m.LBFGS(), tz.m.StrongWolfe()]], "One method after another"),
    ],
)
def test_what_is_no_method(method, text):
    with pytest.raises(TypeError, match=text):
        tz.minimize(rosenbrock, torch.zeros(2), method)


@pytest.mark.parametrize("name", ["gtol", "xtol", "ftol", "maxiter", "maxfev", "maxtime"])
@pytest.mark.parametrize("value", [-1, "a", float("nan"), True, torch.tensor(3.0)], ids=repr)
def test_limits_are_numbers(name, value):
    with pytest.raises(ValueError, match=rf"minimize\({name}=.*must be a (whole )?number from [01] on"):
        tz.minimize(rosenbrock, torch.zeros(2), **{name: value})


def test_limits_of_numpy_and_whole_ones():
    assert tz.minimize(rosenbrock, [-1.2, 1.0], maxiter=np.int64(3), gtol=np.float32(1e-9)).nit == 3
    assert "(3)" in tz.minimize(rosenbrock, [-1.2, 1.0], maxiter=3.0).message
    with pytest.raises(ValueError, match="whole number"):
        tz.minimize(rosenbrock, [-1.2, 1.0], maxiter=2.5)


@pytest.mark.parametrize(("options", "text"), [(dict(fun=3), "fun must be"), (dict(callback=3), "callback must be")])
def test_what_is_no_function(options, text):
    with pytest.raises(TypeError, match=text):
        tz.minimize(**{"fun": rosenbrock, "x0": torch.zeros(2), **options})


@pytest.mark.parametrize("says", [True, np.bool_(True), torch.tensor(True)], ids=repr)
def test_a_callback_that_says_so_ends_it(says):
    assert tz.minimize(rosenbrock, [-1.2, 1.0], callback=lambda result: says).nit == 1


def test_a_callback_that_gives_something_else_does_not_end_it():
    assert tz.minimize(rosenbrock, [-1.2, 1.0], callback=lambda result: result.fun).success


# -- ends --------------------------------------------------------------------------------------------------------------
def test_a_stall_far_from_a_minimum_is_no_success():
    stalled = tz.minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=F64), "lion", lr=1e-3)
    assert (stalled.status, stalled.success) == (2, False) and "smaller learning rate" in stalled.message
    wanted = tz.minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=F64), "lion", lr=1e-3, ftol=1e-12)
    assert (wanted.status, wanted.success) == (0, True)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_an_error_at_any_call_comes_through(n):
    calls = []
    x0 = torch.tensor([-1.2, 1.0], dtype=F64)

    def fun(x):
        calls.append(1)
        if len(calls) == n:
            raise ArithmeticError(n)
        return rosenbrock(x)

    with pytest.raises(ArithmeticError):
        tz.minimize(fun, x0)
    assert x0.tolist() == [-1.2, 1.0] and len(calls) == n


def test_not_smooth():
    result = tz.minimize(lambda x: (x - 1).abs().sum(), torch.zeros(5, dtype=F64))
    assert result.fun < 1e-9 and result.status in (0, 2)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (dict(args=(1.0,)), "minimize takes no args=. Give fun as a function of x alone: minimize(lambda x: fun(x,"),
        (dict(jac=True), "minimize takes no jac=. Gradients come from autograd, so leave it out"),
        (dict(hess=len), "minimize takes no hess=. Hessians come from autograd, so leave it out; method='newton'"),
        (dict(hessp=len), "minimize takes no hessp=. Hessians come from autograd"),
        (dict(constraints=()), "minimize takes no constraints=. Only bounds= are kept."),
        (
            dict(options={"maxiter": 5, "gtol": 1e-8, "disp": True}),
            "minimize takes no options=: write what is in it as arguments, minimize(fun, x0, maxiter=5, gtol=1e-08, "
            "disp=True).",
        ),
        (
            dict(options={"maxfun": 5, "maxcor": 7}),
            "minimize(fun, x0, maxfev=5). There is no 'maxcor'; the settings of a method are those of its modules, "
            "such as [tz.m.LBFGS(history_size=20), tz.m.StrongWolfe(c2=0.5)].",
        ),
        (dict(options={}), "minimize(fun, x0, maxiter=...)."),
        (dict(options=3), "minimize takes no options=. Its arguments are fun, x0, method,"),
        (dict(max_iter=3), "minimize takes no max_iter=. Here it is maxiter=."),
        (dict(gtoll=1e-3), "minimize takes no gtoll=. Did you mean gtol"),
    ],
    ids=repr,
)
def test_arguments_of_scipys_minimize_are_refused_with_what_to_write(given, text):
    calls = []
    with pytest.raises(TypeError, match=re.escape(text)):
        tz.minimize(lambda x: calls.append(x) or x.square().sum(), torch.ones(2), **given)
    assert not calls


@pytest.mark.parametrize("method", ["Nelder-Mead", "COBYLA", "trust-constr"])
def test_a_method_of_scipy_that_is_not_here(method):
    with pytest.raises(
        ValueError, match=rf"scipy's runs as tz.optim.wrappers.ScipyMinimize\(\[x\], '{method.lower()}'\)"
    ):
        tz.minimize(rosenbrock, torch.zeros(2), method)


@pytest.mark.parametrize("method", ["lbfgs", "bfgs", "cg", "newton-cg", "trust-cg", "gd", "fdm"])
def test_tol_is_the_tolerance_of_the_gradient(method):
    begun, ends = torch.tensor([-1.2, 1.0], dtype=torch.float64), []
    for options in (dict(tol=1e-2), dict(gtol=1e-2), dict(tol=1.0, gtol=1e-2)):
        result = tz.minimize(rosenbrock, begun, method, **options)
        assert result.success and result.message == "The norm of the gradient is at most 0.01.", method
        ends.append((result.fun, result.nfev))
    assert len(set(ends)) == 1 and ends[0][0] > 1e-12


def test_tol_is_that_of_the_value_where_no_gradient_is_known():
    options = dict(method=[tz.m.SPSA(seed=0), tz.m.Adam(), tz.m.LR(0.01)], maxiter=5000)
    results = [tz.minimize(rosenbrock, [-1.2, 1.0], tol=1e-3, **options)]
    options["method"] = [tz.m.SPSA(seed=0), tz.m.Adam(), tz.m.LR(0.01)]
    results.append(tz.minimize(rosenbrock, [-1.2, 1.0], ftol=1e-3, **options))
    assert {r.message for r in results} == {"The loss has gone down by at most 0.001 in the last 100 steps."}
    assert results[0].success and results[0].nfev == results[1].nfev and results[0].fun == results[1].fun


@pytest.mark.parametrize("tol", [-1.0, math.nan, "small", True])
def test_a_tol_that_is_none(tol):
    with pytest.raises(ValueError, match=rf"minimize\(tol={tol!r}\) must be a number from 0 on"):
        tz.minimize(rosenbrock, [-1.2, 1.0], tol=tol)


def test_a_result_is_read_like_scipys():
    ours = tz.minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64))
    theirs = optimize.minimize(optimize.rosen, [-1.2, 1.0], jac=optimize.rosen_der, method="L-BFGS-B")
    assert set(theirs.keys()) - set(ours.keys()) == {"hess_inv"}
    assert ours["x"] is ours.x and dict(ours)["nfev"] == ours.nfev
    with pytest.raises(
        AttributeError, match=r"The result of minimize has no 'hess_inv'. Compute it at x: torch.linalg"
    ):
        _ = ours.hess_inv
    with pytest.raises(AttributeError, match=r"has no 'grad'. The gradient is jac."):
        _ = ours.grad
    with pytest.raises(AttributeError, match=r"has no 'nfevs'. Did you mean nfev"):
        _ = ours.nfevs
    with pytest.raises(KeyError, match=r"has no 'nhev'. Hessians are not counted"):
        _ = ours["nhev"]
    again = pickle.loads(pickle.dumps(ours))
    assert (again.fun, again.message, copy.deepcopy(ours).nit) == (ours.fun, ours.message, ours.nit)
    assert not hasattr(ours, "nhev")
