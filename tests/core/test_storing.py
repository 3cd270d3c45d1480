"""What states hold after a step, and what opaque functions get, where memory is read and written in one pass."""

import warnings

import pytest
import torch

import torchzero_core as tz
from torchzero_core.core import Slot, Transform

COMPILE = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def stepped(rule, compile, *more, shape=(3,), steps=1):
    """How far the parameter has moved after steps with the gradient 1, 2, 3, …, and its state by slot."""
    p = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], rule, *more, tz.m.LR(1.0), compile=compile)
    for _ in range(steps):
        p.grad = torch.arange(1.0, p.numel() + 1, dtype=torch.float64).view(shape)
        optimizer.step()
    return (-p.detach()).flatten().tolist(), {k.rsplit(".", 1)[-1]: v for k, v in optimizer.state[p].items()}


class Constants(Transform):
    slots = {"a": Slot(1.0), "b": Slot(1.0), "c": Slot(mask=True)}

    def rule(self, u, ctx):
        ctx.state.a, ctx.state.b, ctx.state.c = 0.25, u.sum(), 0.5
        return u


@COMPILE
def test_a_state_may_become_one_number(compile):
    _, state = stepped(Constants(), compile)
    assert [state[k].tolist() for k in "abc"] == [[0.25] * 3, [6.0] * 3, [True] * 3]


class Masked(Transform):
    slots = {"mask": Slot(mask=True), "number": Slot(1.0)}

    def rule(self, u, ctx):
        s = ctx.state
        out = s.mask.where(u, 0.5) * s.number
        s.mask, s.number = u > 1.5, s.number + 1
        return out


@COMPILE
def test_numbers_beside_a_state_of_truth_values(compile):
    moved, state = stepped(Masked(), compile, steps=2)
    assert moved == [1.5, 4.5, 6.5]
    assert state["mask"].tolist() == [False, True, True]


class Exchange(Transform):
    slots = {
        **{name: Slot(float(i)) for i, name in enumerate("ab")},
        **{name: Slot(float(i), scalar=True) for i, name in enumerate("xy")},
        **{name: Slot(float(i), dims=0) for i, name in enumerate("rs")},
    }

    def rule(self, u, ctx):
        s = ctx.state
        s.a, s.b = s.b, s.a
        s.x, s.y = s.y, s.x
        s.r, s.s = s.s, s.r
        return u


@COMPILE
def test_states_take_one_anothers_old_values(compile):
    _, state = stepped(Exchange(), compile)
    assert [set(state[k].flatten().tolist()) for k in "abxyrs"] == [{1.0}, {0.0}] * 3


class Shift(Transform):
    slots = {"last": Slot(), "before": Slot(7.0)}

    def rule(self, u, ctx):
        s = ctx.state
        s.last, s.before = u, s.last
        return u


@COMPILE
def test_a_state_is_handed_on_before_it_is_written(compile):
    _, state = stepped(Shift(), compile)
    assert state["last"].tolist() == [1.0, 2.0, 3.0] and state["before"].tolist() == [0.0] * 3


class Largest(Transform):
    slots = {"rows": Slot(dims=0)}

    def rule(self, u, ctx):
        ctx.state.rows = u.amax(0)
        return u


@COMPILE
def test_the_largest_of_empty_slices(compile):
    _, state = stepped(Largest(), compile, shape=(0, 3))
    assert state["rows"].shape == (1, 3) and bool((state["rows"] == -torch.inf).all())


class Called(Transform):
    def rule(self, u, ctx):
        return ctx.call(lambda us, sums: [a * b for a, b in zip(us, sums, strict=True)], u * 2.0, u.sum())


@COMPILE
def test_an_opaque_function_gets_a_number_per_tensor(compile):
    assert stepped(Called(), compile)[0] == [12.0, 24.0, 36.0]


class Transposing(tz.Module):
    """Returns updates that do not lie in memory like the parameters."""

    def step(self, var):
        var.update = [torch.empty_strided(t.shape, t.stride()[::-1], dtype=t.dtype).copy_(t) for t in var.get_update()]
        return var


@COMPILE
def test_an_update_in_another_memory_order_is_written(compile):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compile=True has no effect on Transposing")
        moved, _ = stepped(Transposing(), compile, tz.m.Mul(2.0), Transposing(), shape=(2, 3))
    assert moved == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]


@pytest.mark.filterwarnings("ignore:compile=True has no effect")
@pytest.mark.parametrize(
    "behind", [lambda: tz.m.VectorProjection(tz.m.Identity()), lambda: tz.m.LBFGS()], ids=["projection", "LBFGS"]
)
@pytest.mark.parametrize("layout", ["channels_last", "transposed"])
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_large_tensors_in_another_memory_order_than_their_update(behind, layout, compile):
    """Swept in pieces of memory, an update that lies otherwise must come back to where the next module finds it."""
    moved = []
    for other in (False, True):
        p = torch.linspace(-1.0, 1.0, 256 * 128 * 9, dtype=torch.float64).reshape(256, 128, 3, 3)
        if other:
            p = p.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else p.mT.contiguous().mT
        p.requires_grad_()
        start = p.detach().clone()
        chain = [behind(), tz.m.ClipNorm(1e-3), tz.m.Split(lambda p: True, None, None)]
        optimizer = tz.Modular([p], *chain, compile=compile)
        p.grad = torch.sin(100 * start)
        optimizer.step()
        moved.append(p.detach() - start)
    assert float(moved[0].norm()) == pytest.approx(1e-3, rel=1e-9)
    torch.testing.assert_close(moved[1], moved[0], rtol=0, atol=1e-14)
