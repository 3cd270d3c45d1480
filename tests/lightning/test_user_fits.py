"""What else a training step may change in a program: each evaluation starts alike, and Adam's numbers come out."""

import collections
import functools
import itertools

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.lightning.problems import Model, m, mse, network, trainer
from tz_lightning import ClosureOptimization

SEEN = []
pytestmark = pytest.mark.filterwarnings("ignore:.* changes the global 'SEEN'")  # where nothing puts it back


class Look(tz.Module):
    """Evaluates the loss twice more, and changes nothing."""

    requires_closure = True

    def step(self, var):
        var.get_grad()
        var.closure(False)
        var.closure(False)
        return var


class Fit(Model):
    def training_step(self, batch, batch_idx):
        SEEN.append((batch_idx, *self.changed()))
        return mse(self.net, batch)

    def end(self):
        return ()


class Average:
    """Averages of parameters, as an object that is called."""

    def __init__(self, net):
        self.calls, self.values = 0, [p.detach().clone() for p in net.parameters()]

    def __call__(self, net):
        self.calls += 1
        for value, p in zip(self.values, net.parameters(), strict=True):
            value.lerp_(p.detach(), 0.1)
        return self.calls, float(sum(v.sum() for v in self.values))


class Called(Fit):
    def __init__(self, chain):
        super().__init__(chain)
        self.average = Average(self.net)

    def changed(self):
        return self.average(self.net)

    def end(self):
        return self.average.calls, *map(torch.Tensor.tolist, self.average.values)


class Bound(Called):
    def __init__(self, chain):
        super().__init__(chain)
        self.log_of, self.write = [], functools.partial(list.append, [])
        self.method, self.average = Average(self.net).__call__, None

    def changed(self):
        self.write(1)
        return len(self.write.args[0]), *self.method(self.net)

    def end(self):
        return len(self.write.args[0]), self.method.__self__.calls


class InTheClass(Fit):
    """A list and a number that all objects of the class have in common."""

    history, total = [], 0

    def __init__(self, chain):
        super().__init__(chain)
        self.history.clear()
        type(self).total = 0

    def changed(self):
        self.history.append(1)
        type(self).total += 1
        return len(self.history), self.total

    def end(self):
        return len(self.history), self.total


class Slotted:
    __slots__ = ("count", "later", "sums")

    def __init__(self):
        self.count, self.sums = 0, torch.zeros(2)


class Slots(Fit):
    def __init__(self, chain):
        super().__init__(chain)
        self.slots = Slotted()

    def changed(self):
        first = not hasattr(self.slots, "later")
        self.slots.count += 1
        self.slots.sums += 1
        self.slots.later = None
        return self.slots.count, float(self.slots.sums[0]), first

    def end(self):
        return self.slots.count, self.slots.sums.tolist(), self.slots.later


class Iterators(Fit):
    """Several iterators, in a list, a dict and a tuple."""

    def __init__(self, chain):
        super().__init__(chain)
        self.many = [itertools.count(), iter([])]
        self.named = {"a": itertools.cycle("abc"), "none": None}
        self.pair = (itertools.count(5), (i * i for i in range(99)), 3)

    def changed(self):
        try:
            item = next(self.many[1])
        except StopIteration:
            self.many[1] = iter([7, 8, 9])
            item = next(self.many[1])
        return item, next(self.many[0]), next(self.named["a"]), next(self.pair[0]), next(self.pair[1])

    def end(self):
        kinds = [type(i).__name__ for i in (*self.many, *self.named.values(), *self.pair)]
        return *kinds, *self.changed()


class Modes(Fit):
    """Layers of torch that a step leaves in another mode, or with other numbers."""

    def __init__(self, chain):
        super().__init__(chain, net=network(nn.BatchNorm1d(6), nn.Dropout(0.5)))

    def training_step(self, batch, batch_idx):
        loss = mse(self.net, batch)
        SEEN.append((batch_idx, self.net[1].training, self.net[2].p, float(loss.detach()) > 0))
        self.net[1].train(batch_idx % 2 == 1)
        self.net[2].p *= 0.5
        return loss

    def end(self):
        return self.net[1].training, self.net[2].p


class Inner(Fit):
    """A helper that is trained within the training step, with an optimizer and a schedule of its own."""

    def __init__(self, chain, make=torch.optim.Adam):
        super().__init__(chain)
        self.helper = nn.Linear(3, 1).double()
        self.inner = make(self.helper.parameters(), lr=0.1)
        self.decay = torch.optim.lr_scheduler.ExponentialLR(self.inner, 0.9)

    def training_step(self, batch, batch_idx):
        self.inner.zero_grad()
        loss = mse(self.helper, batch)
        SEEN.append((batch_idx, float(loss.detach()), self.inner.param_groups[0]["lr"]))
        loss.backward()
        self.inner.step()
        self.decay.step()
        return mse(self.net, batch) + mse(self.helper, batch).detach()

    def end(self):
        states = self.inner.state_dict()["state"]
        return states, self.decay.last_epoch, self.inner.param_groups[0]["lr"]


class InnerChain(Inner):
    def __init__(self, chain):
        super().__init__(chain, lambda params, lr: tz.Modular(params, m.Adam(), m.LR(lr)))


class OwnSchedule(Fit):
    """The schedule of the optimizer itself, stepped within the training step."""

    def training_step(self, batch, batch_idx):
        self.decay.step()
        SEEN.append((batch_idx, self.trainer.optimizers[0].param_groups[0]["lr"]))
        return mse(self.net, batch)

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return optimizer

    def end(self):
        return self.trainer.optimizers[0].param_groups[0]["lr"]


KINDS = [Called, Bound, InTheClass, Slots, Iterators, Modes, Inner, InnerChain, OwnSchedule]


def fit(kind, looks):
    SEEN.clear()
    torch.manual_seed(0)
    model = kind(lambda: [*([Look()] if looks else []), m.Adam(), m.LR(1e-2)])
    trainer(ClosureOptimization()).fit(model)
    return list(SEEN), model, str(model.end())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_each_evaluation_starts_alike_and_only_the_first_one_stays(kind):
    expected, plain, end = fit(kind, looks=False)
    ours, model, found = fit(kind, looks=True)
    assert ours == [seen for seen in expected for _ in range(3)] and len(expected) == 8
    assert found == end
    for (name, value), other in zip(plain.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_nothing_is_left_in_the_containers_and_none_of_it_counts_as_a_change():
    """A step that draws nothing is still one that does nothing but log, as far as a deterministic loss goes."""

    class Idle(Model):
        def __init__(self, chain):
            super().__init__(chain)
            self.unused = [itertools.count()], (itertools.count(),), collections.deque([1])

        def training_step(self, batch, batch_idx):
            SEEN.append(batch_idx)
            return mse(self.net, batch)

        def configure_optimizers(self):
            return tz.Modular(self.net.parameters(), *self.chain(), deterministic=True)

    SEEN.clear()
    model = Idle(lambda: [m.LBFGS(), m.StrongWolfe()])
    run = trainer(ClosureOptimization(), epochs=6, overfit_batches=1)
    run.fit(model)
    evaluations = len(SEEN)
    assert next(model.unused[0][0]) == next(model.unused[1][0]) == 0
    SEEN.clear()
    Idle.__init__ = Model.__init__
    trainer(ClosureOptimization(), epochs=6, overfit_batches=1).fit(Idle(model.chain))
    assert len(SEEN) == evaluations
