"""What methods on one vector share: learning apart from applying, starting anew, dtypes, units, the child."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests.problems import backward, bits, closure_of, make_params, quadratic, run, same, values
from torchzero_core.core import Module
from torchzero_core.core.vector_method import VectorMethod

F64 = torch.float64


class Average(VectorMethod):
    """Adds the mean of all updates so far, and notes what it gets."""

    def __init__(self, unsure=False, concat_params=True, inner=None):
        super().__init__(dict(unsure=unsure, concat_params=concat_params), inner)
        self.seen = []

    def learn(self, unit, u):
        state = unit.state
        state["n"] = state.get("n", 0) + 1
        state["sum"] = state["sum"] + u if "sum" in state else u.clone()
        self.seen.append((u.dtype, u.numel(), unit.numel(), unit.concat))
        return unit.settings["unsure"]

    def apply(self, unit, x):
        return x + unit.state["sum"] / unit.state["n"]


def step(optimizer, params, grads):
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else torch.as_tensor(g, dtype=p.dtype)
    before = bits(params)
    optimizer.step()
    return [(b - p.detach()).tolist() for b, p in zip(before, params, strict=True)]


def pair(dtype=F64):
    return [torch.zeros(2, dtype=dtype, requires_grad=True), torch.zeros(1, dtype=dtype, requires_grad=True)]


# -- the step ----------------------------------------------------------------------------------------------------------
def test_learns_and_applies():
    params = pair()
    module = Average()
    optimizer = tz.Modular(params, module)
    assert step(optimizer, params, [[1.0, 2.0], [3.0]]) == [[2.0, 4.0], [6.0]]
    assert step(optimizer, params, [[3.0, 0.0], [3.0]]) == [[5.0, 1.0], [6.0]]
    assert module.seen == [(F64, 3, 3, True)] * 2


def test_each_parameter_for_itself():
    params = [*pair(), torch.zeros(0, dtype=F64, requires_grad=True)]
    module = Average(concat_params=False)
    optimizer = tz.Modular(params, module)
    step(optimizer, params, [[1.0, 2.0], [3.0], []])
    assert step(optimizer, params, [[3.0, 0.0], None, []]) == [[5.0, 1.0], [0.0], []]
    assert step(optimizer, params, [[2.0, 1.0], [1.0], []]) == [[4.0, 2.0], [3.0], []]  # its mean is that of 3 and 1
    assert [numel for _, numel, _, _ in module.seen] == [2, 1, 2, 2, 1]
    assert optimizer.state[params[1]]["Average.n"] == 2 and "Average.n" not in optimizer.state[params[2]]


def test_starts_anew_when_another_set_of_parameters_has_gradients():
    params = pair()
    optimizer = tz.Modular(params, Average())
    step(optimizer, params, [[1.0, 2.0], [3.0]])
    assert step(optimizer, params, [[3.0, 0.0], None]) == [[6.0, 0.0], [0.0]]
    assert step(optimizer, params, [[1.0, 0.0], None]) == [[3.0, 0.0], [0.0]]
    assert step(optimizer, params, [[1.0, 0.0], [1.0]]) == [[2.0, 0.0], [2.0]]


def test_does_not_start_anew_where_that_is_not_asked_for():
    class Goes(Average):
        starts_anew = False

        def learn(self, unit, u):
            unit.state["n"] = unit.state.get("n", 0) + 1
            return False

        def apply(self, unit, x):
            return x * unit.state["n"]

    params = pair()
    optimizer = tz.Modular(params, Goes())
    step(optimizer, params, [[1.0, 2.0], [3.0]])
    assert step(optimizer, params, [[1.0, 2.0], None]) == [[2.0, 4.0], [0.0]]
    assert set(optimizer.state[params[0]]) == {"Goes.global.n", "Modular.step"}


@pytest.mark.parametrize("unsure", [True, torch.tensor(True)], ids=["known", "on the device"])
def test_the_length_of_a_first_step(unsure):
    params = pair()
    optimizer = tz.Modular(params, Average(unsure))
    assert step(optimizer, params, [[1.0, -2.0], [5.0]]) == [[0.25, -0.5], [1.25]]  # 2u/‖u‖₁
    params = pair()
    optimizer = tz.Modular(params, Average(unsure))
    assert step(optimizer, params, [[0.25, 0.0], [0.25]]) == [[0.5, 0.0], [0.5]]
    params = pair()
    optimizer = tz.Modular(params, Average(torch.tensor(False)))
    assert step(optimizer, params, [[1.0, -2.0], [5.0]]) == [[2.0, -4.0], [10.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_a_vector_in_float32(dtype):
    params = pair(dtype)
    module = Average()
    optimizer = tz.Modular(params, module)
    step(optimizer, params, [[1.0, 2.0], [3.0]])
    assert module.seen[0][0] == torch.float32
    assert all(p.dtype == dtype for p in params)
    assert optimizer.state[params[0]]["Average.global.sum"].dtype == torch.float32


def test_the_child_replaces_what_is_transformed_and_not_what_is_learnt():
    params = pair()
    optimizer = tz.Modular(params, Average(inner=tz.m.Mul(10)))
    assert step(optimizer, params, [[1.0, 2.0], [3.0]]) == [[11.0, 22.0], [33.0]]


def test_without_any_gradient_nothing_happens():
    params = pair()
    optimizer = tz.Modular(params, Average())
    assert step(optimizer, params, [None, None]) == [[0.0, 0.0], [0.0]]
    empty = [torch.zeros(0, requires_grad=True)]
    assert step(tz.Modular(empty, Average()), empty, [[]]) == [[]]


def test_settings_of_a_vector_are_one():
    a, b = pair()
    optimizer = tz.Modular([{"params": [a]}, {"params": [b], "unsure": True}], Average())
    with pytest.raises(ValueError, match="unsure"):
        step(optimizer, [a, b], [[1.0, 2.0], [3.0]])
    optimizer = tz.Modular([{"params": [a]}, {"params": [b], "unsure": True}], Average(concat_params=False))
    assert step(optimizer, [a, b], [[1.0, 2.0], [4.0]]) == [[2.0, 4.0], [2.0]]


def test_bases_say_what_they_lack():
    for method in ("learn", "apply"):
        hooks = {"learn": lambda self, unit, u: False, "apply": lambda self, unit, x: x}
        del hooks[method]
        params = pair()
        with pytest.raises(NotImplementedError, match=method):
            step(tz.Modular(params, type("Half", (VectorMethod,), hooks)()), params, [[1.0, 2.0], [3.0]])


# -- learning apart from applying --------------------------------------------------------------------------------------
class Halving(Module):
    """A rude trust region: the direction of a method, halved until the loss goes down; or no step at all."""

    requires_closure = True

    def __init__(self, method, tries=1):
        super().__init__(dict(tries=tries))
        self.set_child("method", method)

    def step(self, var):
        method, loss = self.children["method"], float(var.get_loss(backward=True))
        (unit,) = method.learn_from(var)
        update, start, scale = unit.update.clone(), bits(var.params), 1.0
        for _ in range(self.defaults["tries"]):
            direction = unit.tensors(method.apply(unit, update.clone()))
            for p, x, d in zip(var.params, start, direction, strict=True):
                p.copy_(x - scale * d)
            if float(var.closure(False)) < loss:
                break
            scale /= 2
        else:
            torch._foreach_copy_(var.params, start)
            var.info.status = "rejected"
        var.skip_update = True
        return var


def wavy(params):
    x = torch.cat([p.reshape(-1) for p in params])
    return (x**2).sum() / 2 + torch.cos(3 * x).sum()


@pytest.mark.parametrize("make", [tz.m.BFGS, tz.m.LBFGS], ids=["bfgs", "lbfgs"])
def test_a_trust_region_can_apply_again_and_again(make):
    params, method = make_params(), make()
    optimizer = tz.Modular(params, Halving(method, 30))
    losses = run(optimizer, params, 30, wavy)
    assert all(b <= a for a, b in pairwise(losses)) and losses[-1] < losses[0]
    backward(params, wavy)
    assert max(float(p.grad.abs().max()) for p in params) < 1e-6
    assert method.global_state["step"] == 30


@pytest.mark.parametrize("make", [tz.m.BFGS, tz.m.LBFGS], ids=["bfgs", "lbfgs"])
def test_applying_changes_nothing_of_what_is_known(make):
    params, method = make_params(), make()
    optimizer = tz.Modular(params, method, tz.m.LR(0.1))
    run(optimizer, params, 4, wavy)

    class Probe(Module):
        def step(self, var):
            (unit,) = method.learn_from(var)
            before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in method.global_state.items()}
            u = unit.update.clone()
            first, second = (method.apply(unit, u.clone()) for _ in range(2))
            assert same(first, second)
            assert same({k: method.global_state[k] for k in before}, before)
            x, y = values((11,), 1), values((11,), 2)
            a, b = method.apply(unit, x.clone()), method.apply(unit, y.clone())
            c = method.apply(unit, 2 * x - y)  # it is linear, and symmetric
            np.testing.assert_allclose(c, 2 * a - b, rtol=1e-9, atol=1e-12)
            assert float(x @ b) == pytest.approx(float(y @ a), rel=1e-9)
            self.done = True
            return var

    probe = Probe()
    optimizer.chain.children.clear()
    optimizer.chain.set_child("0", probe)
    run(optimizer, params, 1, wavy)
    assert probe.done


def test_a_rejected_step_is_learnt_once():
    """At the same point again there is no difference to learn from: H stays as it is."""
    params = make_params()
    method = tz.m.BFGS(tol_reset=False)
    optimizer = tz.Modular(params, Halving(method))
    run(optimizer, params, 3, quadratic)
    kept = method.global_state["H"].clone()
    start = bits(params)

    def uphill(backward=True):
        loss = closure_of(params, quadratic)(backward)
        return loss if same(start, bits(params)) else loss + 1e3

    optimizer.step(uphill)  # learns from the last accepted step
    assert optimizer.last_step.status == "rejected" and same(start, bits(params))
    learnt = method.global_state["H"].clone()
    assert not same(kept, learnt)
    optimizer.step(uphill)
    assert same(method.global_state["H"], learnt) and same(start, bits(params))
