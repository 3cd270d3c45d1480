"""What later evaluations of a step change beyond the model is said, once and by its name."""

import functools
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from tests.lightning import problems
from tests.lightning.problems import Model, adam, m, mse, network, search, trainer
from tests.quiet import ignore_lightning
from tz_lightning import ClosureOptimization, closure_step, is_reevaluation
from tz_lightning.outside import Outside
from tz_lightning.reach import Reach


class Tracker:
    """Of a user."""

    total = 0

    def __init__(self):
        self.values = []

    def update(self, value):
        self.values.append(value)
        del self.values[:-2]


class Slotted:
    __slots__ = ("n",)

    def __init__(self):
        self.n = 0


LIST = []
COUNT = 0
TABLE = {"n": 0}
SET = set()
TENSOR = torch.zeros(2)
LARGE = torch.zeros(200, 200)
ARRAY = np.zeros(3)
WIDE = [{"n": 0} for _ in range(1000)]
NESTED = {"a": [{"b": [0]}]}
TRACKER = Tracker()
SLOTTED = Slotted()
RANDOM = random.Random(0)
GENERATOR = torch.Generator().manual_seed(0)
ITERATOR = iter([0] * 100_000)
STREAM = (i for i in range(100_000))
TEACHER = nn.BatchNorm1d(3).double()
CONSTANT = {"scale": 1.0, "names": ["a", "b"], "tensor": torch.ones(3)}


@pytest.fixture(autouse=True)
def anew():
    LIST.clear()


def counted(loss):
    global COUNT
    COUNT += 1
    return loss


def remember(cache, loss):
    cache.append(1)
    return loss


def decorated(step):
    calls = []

    @functools.wraps(step)
    def wrapper(self, batch, batch_idx):
        calls.append(batch_idx)
        return step(self, batch, batch_idx)

    return wrapper


def replaced(x):
    """The other way of a change: not in place."""
    global TENSOR
    TENSOR = TENSOR + 1
    return x


def through_data(x):
    LARGE.data[0, 0] += 1
    return x


#: What a training step does beside its loss, and what the warning calls it.
CHANGES = {
    "list": (lambda model, batch: LIST.append(1), "the global 'LIST'"),
    "number": (lambda model, batch: counted(0), "the global 'COUNT'"),
    "dict": (lambda model, batch: TABLE.update(n=TABLE["n"] + 1), "the global 'TABLE'"),
    "set": (lambda model, batch: SET.add(len(SET)), "the global 'SET'"),
    "tensor": (lambda model, batch: TENSOR.add_(1), "the global 'TENSOR'"),
    "tensor assigned": (lambda model, batch: replaced(0), "the global 'TENSOR'"),
    "tensor, by .data": (lambda model, batch: through_data(0), "the global 'LARGE'"),
    "array": (lambda model, batch: np.add(ARRAY, 1, out=ARRAY), "the global 'ARRAY'"),
    "long list": (lambda model, batch: WIDE[501].update(n=WIDE[501]["n"] + 1), "the global 'WIDE'"),
    "nested": (lambda model, batch: NESTED["a"][0]["b"].append(1), "the global 'NESTED'"),
    "object": (lambda model, batch: TRACKER.update(object()), "the global 'TRACKER'"),
    "slots": (lambda model, batch: setattr(SLOTTED, "n", SLOTTED.n + 1), "the global 'SLOTTED'"),
    "class": (lambda model, batch: setattr(Tracker, "total", Tracker.total + 1), "the global 'Tracker'"),
    "random": (lambda model, batch: RANDOM.random(), "the global 'RANDOM'"),
    "generator": (lambda model, batch: torch.rand(1, generator=GENERATOR), "the global 'GENERATOR'"),
    "iterator": (lambda model, batch: next(ITERATOR), "the global 'ITERATOR'"),
    "stream": (lambda model, batch: next(STREAM), "the global 'STREAM'"),
    "network": (lambda model, batch: TEACHER(batch[0]), "the global 'TEACHER'"),
    "another module's": (
        lambda model, batch: problems.SAFE.update(n=problems.SAFE.get("n", 0) + 1),
        "the global 'tests.lightning.problems.SAFE'",
    ),
}


def heard(fit):
    """The sentences about a fit."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ignore_lightning()
        fit()
    return [str(w.message) for w in caught]


def step_of(change):
    class Changes(Model):
        def training_step(self, batch, batch_idx):
            change(self, batch)
            return mse(self.net, batch)

    return Changes


def fit(model, **kwargs):
    trainer(ClosureOptimization(), epochs=3, **kwargs).fit(model)


@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_said_once_by_its_name(change, name, monkeypatch):
    monkeypatch.setattr(problems, "SAFE", dict(problems.SAFE))
    said = heard(lambda: fit(step_of(change)(search)))
    assert len(said) == 1
    assert said[0].startswith(f"training_step changes {name} each time the loss is evaluated")
    assert "keep it in an attribute of the model" in said[0] and "is_reevaluation() is false" in said[0]


@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES)
def test_nothing_is_said_where_the_loss_is_evaluated_once(change, name, monkeypatch):
    monkeypatch.setattr(problems, "SAFE", dict(problems.SAFE))
    assert heard(lambda: fit(step_of(change)(adam))) == []


def test_variables_of_functions_around_it():
    inner, count, cache = [], 0, []

    class Appends(Model):
        def training_step(self, batch, batch_idx):
            inner.append(1)
            return mse(self.net, batch)

    class Counts(Model):
        def training_step(self, batch, batch_idx):
            nonlocal count
            count += 1
            return mse(self.net, batch)

    class Default(Model):
        def training_step(self, batch, batch_idx, memo=cache):
            memo.append(1)
            return mse(self.net, batch)

    class Both(Model):
        def training_step(self, batch, batch_idx):
            inner.append(1)
            return counted(mse(self.net, batch))

    class Forward(Model):
        def __init__(self, chain):
            class Net(nn.Sequential):
                def forward(self, x):
                    inner.append(1)
                    return super().forward(x)

            super().__init__(chain, net=Net(*network()))

    class Hooked(Model):
        def __init__(self, chain):
            super().__init__(chain)
            self.net.register_forward_hook(lambda *_: inner.append(1))

    class Decorated(Model):
        training_step = decorated(Model.training_step)

    class Method(Model):
        def training_step(self, batch, batch_idx):
            return self.loss_of(batch)

        def loss_of(self, batch):
            return remember(inner, mse(self.net, batch))

    expected = {
        Appends: "'inner' of the function around it",
        Counts: "'count' of the function around it",
        Default: "the default of 'memo'",
        Both: "'inner' of the function around it and the global 'COUNT'",
        Forward: "'inner' of the function around it",
        Hooked: "'inner' of the function around it",
        Decorated: "'calls' of the function around it",
        Method: "'inner' of the function around it",
    }
    for cls, name in expected.items():
        model = cls(search)
        (said,) = heard(functools.partial(fit, model))
        assert said.startswith(f"training_step changes {name} each time"), cls
        assert heard(functools.partial(fit, cls(adam))) == []
    bound = Model(search)
    bound.training_step = functools.partial(Appends.training_step, bound)
    (said,) = heard(functools.partial(fit, bound))
    assert said.startswith("training_step changes 'inner' of the function around it")


def test_what_lies_in_large_attributes():
    class Records(Model):
        def __init__(self, chain):
            super().__init__(chain)
            self.records = [{"n": 0} for _ in range(1000)]
            self.bank = np.zeros((300, 100))

        def training_step(self, batch, batch_idx):
            self.records[501]["n"] += self.grows
            self.bank[17, 3] += not self.grows
            return mse(self.net, batch)

    for Records.grows, name in ((True, "'records' (1000 entries)"), (False, "'bank' (an array of 234 KB)")):
        (said,) = heard(functools.partial(fit, Records(search)))
        assert said.startswith(f"training_step changes what lies in {name} each time the loss is evaluated")
        assert "is not put back: keep it in a buffer" in said


def test_what_is_put_back_or_only_read_is_not_said():
    unused = []

    class Quiet(Model):
        """Whose attributes change, and are put back; a constant, a function and this class are only read."""

        calls = 0

        def __init__(self, chain):
            super().__init__(chain)
            self.seen, self.long, self.tracker, self.net2 = [], [0] * 1000, Tracker(), nn.BatchNorm1d(3).double()
            self.entries = LIST  # the same object as a global

        def training_step(self, batch, batch_idx):
            type(self).calls += 1
            Quiet.calls += 0
            self.seen.append(len(unused))
            LIST.append(1)
            self.long.append(batch_idx)
            self.tracker.update(1)
            scale = CONSTANT["scale"]
            counter = [0]
            counter.append(1)
            return scale * mse(self.net, (self.net2(batch[0]), batch[1]))

    class Asks(Model):
        def training_step(self, batch, batch_idx):
            if not is_reevaluation():
                unused.append(1)
            return mse(self.net, batch)

    assert heard(lambda: fit(Quiet(search))) == []
    assert len(LIST) == 12 and Quiet.calls == 12
    assert heard(lambda: fit(Asks(search))) == [] and len(unused) == 12


def test_a_change_now_and_then_is_noticed_too():
    class Rare(Model):
        def training_step(self, batch, batch_idx):
            if is_late(self):
                TABLE["n"] += 1
            return mse(self.net, batch)

    def is_late(model):
        return model.trainer.global_step == 9

    (said,) = heard(lambda: fit(Rare(search)))
    assert said.startswith("training_step changes the global 'TABLE'")


class Manual(Model):
    def __init__(self, chain):
        super().__init__(chain)
        self.automatic_optimization = False


def test_closure_step():
    class Counts(Manual):
        def training_step(self, batch, batch_idx):
            count = 0

            def loss():
                nonlocal count
                count += 1
                return mse(self.net, batch)

            closure_step(self, self.optimizers(), loss)

    class Fine(Manual):
        def training_step(self, batch, batch_idx):
            LIST.append(1)  # the step itself is made once
            closure_step(self, self.optimizers(), lambda: mse(self.net, batch))

    (said,) = heard(lambda: trainer(epochs=2).fit(Counts(search)))
    assert said.startswith("The function given to closure_step changes 'count' of the function around it each time")
    assert heard(lambda: trainer(epochs=2).fit(Fine(search))) == [] and len(LIST) == 8


def test_functions_of_other_packages_are_not_looked_into():
    names = {place.name for place in Reach([torch.nn.functional.mse_loss, random.choice], nn.Linear(1, 1)).places}
    assert names == set()
    found = Reach([Model(adam).training_step], Model(adam)).places
    assert {place.name for place in found} == {"the global 'mse'"}


def test_a_fit_in_which_nothing_changes_looks_at_little(monkeypatch):
    """Constants of any size cost no more than some hundred looks in an ordinary evaluation."""
    wide = {str(i): [i] for i in range(100_000)}

    class Reads(Model):
        def training_step(self, batch, batch_idx):
            return mse(self.net, batch) + 0 * wide["3"][0]

    sizes, look = [], Outside._look

    def noted(self, *args, **kwargs):
        found = look(self, *args, **kwargs)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Outside, "_look", noted)
    assert heard(lambda: fit(Reads(search))) == []
    assert max(sizes) < 110_000
    assert sorted(sizes)[len(sizes) // 2] < 200


# -- requires_grad -----------------------------------------------------------------------------------------------------
class Freezes(Model):
    """From the second evaluation on the first layer is found frozen, unless that is put back."""

    def __init__(self, chain):
        super().__init__(chain)
        self.found = []

    def training_step(self, batch, batch_idx):
        self.found.append(self.net[0].weight.requires_grad)
        FOUND.append((batch_idx, self.net[0].weight.requires_grad, self.net[2].bias.requires_grad))
        loss = mse(self.net, batch)
        if is_reevaluation():
            self.net[2].bias.requires_grad_(False)
        self.net[0].weight.requires_grad_(not self.net[0].weight.requires_grad)
        return loss


FOUND = []


def test_requires_grad_is_put_back():
    FOUND.clear()
    model = Freezes(lambda: [m.Backtracking()])
    trainer(ClosureOptimization(), epochs=1).fit(model)
    by_batch = [{row for row in FOUND if row[0] == i} for i in range(4)]
    assert [len(rows) for rows in by_batch] == [1, 1, 1, 1]  # each evaluation of a batch finds the same
    assert [rows.pop()[1] for rows in by_batch] == [True, False, True, False] == model.found
    assert model.net[2].bias.requires_grad  # what only a later evaluation did is gone
    assert model.net[0].weight.requires_grad
    assert len(FOUND) > 4
