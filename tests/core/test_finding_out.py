"""Without a word about it a chain finds out whether the closure is the same function at every step."""

import functools
import itertools
import warnings

import pytest
import torch
from torch import nn

import torchzero_core as tz
from torchzero_core.core.sight import look

F64 = torch.float64
X = torch.linspace(-1, 1, 40, dtype=F64).reshape(20, 2)
Y = (3 * X[:, :1] - X[:, 1:]).sin()


def model(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 1)).double()


def run(data, steps=12, deterministic=None, dropout=0.0, closure_of=None):
    """Evaluations in all, and for each step whether loss and gradient were those of its data."""
    net = model(dropout)
    optimizer = tz.Modular(net, tz.m.LBFGS(), tz.m.StrongWolfe(), deterministic=deterministic)
    total, right = 0, []
    for step in range(steps):
        x, y = data(step)

        def closure(backward=True, x=x, y=y):
            loss = nn.functional.mse_loss(net(x), y)
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        with torch.no_grad():
            expected = nn.functional.mse_loss(net(x), y)
        loss = optimizer.step(closure if closure_of is None else closure_of(net, optimizer, x, y))
        total += optimizer.last_step.evaluations
        right.append(torch.equal(loss, expected))
    return total, right, list(net.parameters())


def test_all_of_the_data_costs_one_evaluation_less_a_step():
    plain, right, params = run(lambda step: (X, Y), deterministic=False)
    told, _, _ = run(lambda step: (X, Y), deterministic=True)
    found, also_right, same = run(lambda step: (X, Y))
    assert plain - told == 11 and found == told + 1
    assert all(right) and all(also_right) and all(map(torch.equal, params, same))


def batches(step):
    return X[step % 4 :: 4], Y[step % 4 :: 4]


def held(step):
    """A batch for five steps."""
    return X[step // 5 :: 4], Y[step // 5 :: 4]


def jumping(step):
    """Data that stays the same for eight steps, and then does not."""
    return (X, Y) if step < 8 else (X[:5], Y[:5])


@pytest.mark.parametrize("data", [batches, held, jumping])
def test_a_loss_is_never_that_of_other_data(data):
    _, right, params = run(data, deterministic=False)
    _, found, same = run(data)
    assert all(right) and all(found) and all(map(torch.equal, params, same))


class Source:
    """Somebody's object that the closure takes its data from."""

    def __init__(self):
        self.step = 0

    def get(self):
        return jumping(self.step)


def unseen(kind):
    """Closures whose data changes after eight steps, each in another way."""
    source, x, y = Source(), X[:10].clone(), Y[:10].clone()
    array = x.numpy()

    def closure_of(net, optimizer, *_):
        def closure(backward=True):
            if kind == "object":
                xs, ys = source.get()
            else:
                xs, ys = x, y
            loss = nn.functional.mse_loss(net(xs), ys)
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        return closure

    def change():
        source.step = 8
        if kind == "in place":
            x.neg_()
        elif kind == "data":
            x.data.neg_()
        elif kind == "numpy":
            array[:] *= -1

    return closure_of, change


@pytest.mark.parametrize("kind", ["object", "in place", "data", "numpy"])
def test_data_that_changes_behind_the_back_of_the_closure(kind):
    closure_of, change = unseen(kind)
    net = model()
    optimizer = tz.Modular(net, tz.m.LBFGS(), tz.m.StrongWolfe())
    closure = closure_of(net, optimizer)
    for step in range(12):
        if step == 8:
            change()
        with torch.no_grad():
            expected = closure(False)
        assert torch.equal(optimizer.step(closure), expected)


def test_dropout_is_never_remembered():
    plain, _, params = run(lambda step: (X, Y), deterministic=False, dropout=0.5)
    found, _, same = run(lambda step: (X, Y), dropout=0.5)
    assert found == plain and all(map(torch.equal, params, same))


def test_a_wrong_word_about_dropout_is_noticed_at_once():
    with pytest.warns(UserWarning, match="deterministic=True, but the closure gave a loss of"):
        told, _, params = run(lambda step: (X, Y), deterministic=True, dropout=0.5)
    plain, _, same = run(lambda step: (X, Y), deterministic=False, dropout=0.5)
    assert told == plain and all(map(torch.equal, params, same))


def test_a_wrong_word_about_batches_is_not_obeyed_for_ever():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        _, right, _ = run(batches, steps=60, deterministic=True)
    assert sum("deterministic=True, but" in str(w.message) for w in seen) == 1
    assert not all(right[:30]) and all(right[45:])


def test_a_seed_inside_makes_dropout_deterministic():
    def closure_of(net, optimizer, x, y):
        def closure(backward=True):
            torch.manual_seed(3)
            loss = nn.functional.mse_loss(net(x), y)
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        return closure

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = run(lambda step: (X, Y), deterministic=True, dropout=0.5, closure_of=closure_of)[0]
    assert told < run(lambda step: (X, Y), deterministic=False, dropout=0.5, closure_of=closure_of)[0]


def test_nothing_of_a_batch_is_kept():
    import weakref

    net = model()
    optimizer = tz.Modular(net, tz.m.LBFGS(), tz.m.StrongWolfe())
    x = torch.randn(9, 2, dtype=F64)
    gone = weakref.ref(x)

    def closure(backward=True):
        loss = net(x).square().mean()  # noqa: F821
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    optimizer.step(closure)
    del closure, x
    assert gone() is None


# -- what is seen ------------------------------------------------------------------------------------------------------
def test_what_is_seen():
    x, box, net = torch.ones(3), {"a": [1, 2.0]}, model()

    def inner(z):
        return z * box["a"][0]

    def function(backward=True, *, power=2):
        return (net(inner(x)) ** power).sum()

    def changed(change, undo=lambda: None):
        before = look(function, [])
        assert before.same(look(function, []))
        change()
        same = before.same(look(function, []))
        undo()
        return not same

    assert changed(lambda: x.add_(1))
    assert changed(lambda: box["a"].append(3), box["a"].pop)
    assert changed(lambda: box.update(a=[7]))
    assert changed(net.eval)
    assert changed(lambda: net[0].register_buffer("mean", torch.zeros(1)))
    assert changed(lambda: net[0].bias.data.add_(1))
    assert not changed(lambda: None)


@pytest.mark.parametrize(
    "thing",
    [Source(), iter([1]), torch.Generator(), open, itertools.count(), {"a": object()}, torch.ones(2).to_sparse()],
    ids=lambda thing: type(thing).__name__,
)
def test_what_cannot_be_seen(thing):
    def function():
        return thing

    assert look(function, []) is None
    assert look(functools.partial(print, thing), []) is None
