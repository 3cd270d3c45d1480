"""What users' training steps do, each beside a chain that needs no closure or a loop by hand."""

import functools
import gc
import itertools
import os
import signal
import time
import weakref

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from torch import nn
from torchmetrics.classification import BinaryAccuracy

import torchzero_core as tz
from tests.lightning.problems import Log, Model, adam, batches, m, mse, network, plain, same, search, trainer
from tz_lightning import ClosureModule, ClosureOptimization, closure_step, is_reevaluation

SEEN = []
pytestmark = pytest.mark.filterwarnings("ignore:.* changes the global 'SEEN'")  # where nothing puts it back


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


def seen_of(kind, chain=search, **options):
    SEEN.clear()
    model = kind(chain)
    run = trainer(ClosureOptimization(), epochs=1, **options)
    run.fit(model)
    return set(SEEN), model, run


# -- training_step in every form ---------------------------------------------------------------------------------------
def noted(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        SEEN.append(1)
        return fn(*args, **kwargs)

    return wrapper


class Decorated(Model):
    @noted
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)


class OnTheInstance(Model):
    def __init__(self, chain):
        super().__init__(chain)
        self.training_step = noted(functools.partial(Model.training_step, self))


class Keywords(Model):
    def training_step(self, batch, batch_idx, *args, **kwargs):
        SEEN.append(1)
        return {"loss": super().training_step(batch, batch_idx), "extra": [torch.zeros(1)]}


class InLists(Model):
    """Names that only exist for a while, and a batch that is looked at by a hook."""

    def on_train_batch_start(self, batch, batch_idx):
        batch[0].add_(0.0)
        SEEN.append(1)

    def training_step(self, batch, batch_idx):
        self.cache = batch[0].mean()
        loss = super().training_step(batch, batch_idx)
        del self.cache
        return loss


@pytest.mark.parametrize("kind", [Decorated, OnTheInstance, Keywords, InLists])
def test_training_steps_of_every_kind(kind):
    seen, model, run = seen_of(kind)
    net = network()
    plain(search, net, epochs=1)
    assert same(model.net, net) and run.global_step == model.calls == 4 and seen == {1}


@pytest.mark.parametrize("inside", ["net", "module"])
def test_a_compiled_model(inside):
    class Silent(Model):  # with self.log in it, torch 2.13 cannot compile it, whatever the optimizer
        def training_step(self, batch, batch_idx):
            return mse(self.net, batch)

    model, net = Silent(search), network()
    if inside == "net":
        model.net = torch.compile(model.net, backend="eager")
        trained = model.net._orig_mod
    else:
        model, trained = torch.compile(model, backend="eager"), model.net
    trainer(ClosureOptimization(), epochs=1).fit(model)
    plain(search, net, epochs=1)
    assert same(trained, net)


# -- what changes at each evaluation -----------------------------------------------------------------------------------
class Draws(Model):
    """Draws from iterators of its own: a generator, a cycle, a second loader that begins anew."""

    def __init__(self, chain):
        super().__init__(chain)
        self.numbers, self.endless = (i * i for i in range(100)), itertools.cycle("abc")
        self.count, self.second = itertools.count(), iter([1, 2])

    def training_step(self, batch, batch_idx):
        try:
            other = next(self.second)
        except StopIteration:
            self.second = iter([1, 2])
            other = next(self.second)
        SEEN.append((batch_idx, next(self.numbers), next(self.endless), next(self.count), other))
        return super().training_step(batch, batch_idx)


def test_iterators():
    expected, other, _ = seen_of(Draws, adam)
    ours, model, _ = seen_of(Draws)
    assert ours == expected and len(SEEN) > 4
    assert next(model.numbers) == next(other.numbers) == 16
    assert type(model.numbers) is type(other.numbers) and next(model.endless) == next(other.endless)


class Teacher(Model):
    """A momentum encoder, moved after the loss, and a queue of its keys."""

    def __init__(self, chain):
        super().__init__(chain)
        self.teacher = network().requires_grad_(False)
        self.register_buffer("queue", torch.zeros(16, 1, dtype=torch.float64))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def training_step(self, batch, batch_idx):
        SEEN.append((batch_idx, float(self.queue.sum()), sum(float(p.sum()) for p in self.teacher.parameters())))
        with torch.no_grad():
            for p, q in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                p.mul_(0.9).add_(q, alpha=0.1)
            keys, at = self.teacher(batch[0]), int(self.place)
            self.queue[at : at + 8] = keys
            self.place.copy_(torch.as_tensor((at + 8) % 16))
        return super().training_step(batch, batch_idx) + self.queue.mean().detach()


def test_a_momentum_encoder_with_a_queue():
    ours, model, _ = seen_of(Teacher)
    assert len(ours) == 4 < len(SEEN) and int(model.place) == 0


class Recurrent(Model):
    """A hidden state that is handed from batch to batch, and detached."""

    def __init__(self, chain):
        super().__init__(chain)
        self.hidden = None

    def on_train_epoch_start(self):
        self.hidden = torch.zeros(8, 1, dtype=torch.float64)

    def training_step(self, batch, batch_idx):
        SEEN.append((batch_idx, float(self.hidden.sum())))
        out = self.net(batch[0]) + 0.5 * self.hidden
        self.hidden = out.detach()
        loss = nn.functional.mse_loss(out, batch[1])
        self.log("loss", loss)
        return loss


def test_a_hidden_state():
    ours, _, _ = seen_of(Recurrent)
    assert len(ours) == 4 < len(SEEN)


class Metric(Model):
    def __init__(self, chain):
        super().__init__(chain)
        self.accuracy, self.scores = BinaryAccuracy(), []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.accuracy((self.net(batch[0]) > 0).int(), (batch[1] > 0).int())
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.scores.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        SEEN.append((len(self.scores), int(self.accuracy._update_count)))
        self.scores.clear()


def test_metrics_and_lists():
    ours, _, run = seen_of(Metric)
    assert ours == {(4, 4)} and "accuracy" in run.callback_metrics


# -- exceptions and signals --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", [False, True])
def test_ctrl_c_leaves_the_parameters_of_the_last_step(first):
    class Stop(Model):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 2 and is_reevaluation() != first:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            return loss

    model, run = Stop(search), trainer(ClosureOptimization())
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run.fit(model)
    short, rest = network(), batches()[:2]
    optimizer = tz.Modular(short.parameters(), *search())
    for batch in rest:

        def closure(backward=True, batch=batch):
            loss = mse(short, batch)
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)
    assert same(model.net, short)
    assert not is_reevaluation() and "training_step" not in vars(model)
    assert type(run.fit_loop.epoch_loop.automatic_optimization).__name__ == "_AutomaticOptimization"


def test_a_fit_after_one_that_failed():
    class Once(Model):
        broken = False

        def training_step(self, batch, batch_idx):
            if batch_idx == 1 and not type(self).broken:
                type(self).broken = True
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    model, run = Once(search), trainer(ClosureOptimization())
    with pytest.raises(ZeroDivisionError):
        run.fit(model)
    again, net = Model(search), network()
    trainer(ClosureOptimization()).fit(again)
    plain(search, net)
    assert same(again.net, net)


# -- memory ------------------------------------------------------------------------------------------------------------
def test_graphs_and_batches_are_let_go():
    class Watched(Model):
        def training_step(self, batch, batch_idx):
            hidden = self.net[0](batch[0])
            SEEN.append((batch_idx, weakref.ref(hidden), weakref.ref(batch[0])))
            loss = nn.functional.mse_loss(self.net[1:](hidden), batch[1])
            self.log("loss", loss)
            return loss

    class Look(Callback):
        def __init__(self):
            self.alive = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            gc.collect()
            graphs = {i for i, r, _ in SEEN if r() is not None}
            data = {i for i, _, r in SEEN if r() is not None}
            self.alive.append((batch_idx, graphs, data))

    found = []
    for chain in (adam, search):
        SEEN.clear()
        look = Look()
        trainer(ClosureOptimization(), look, epochs=1).fit(Watched(chain))
        found.append(look.alive)
    assert found[0] == found[1] and len(SEEN) > 4 and not any(graphs for _, graphs, _ in found[1])


# -- precision ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("precision", "dtype"), [("64-true", torch.float64), ("32-true", torch.float32), ("bf16-true", torch.bfloat16)]
)
def test_true_precision(precision, dtype):
    class Typed(Model):
        def __init__(self, chain):
            super().__init__(chain, net=network().float())

        def training_step(self, batch, batch_idx):
            loss = super().training_step([t.to(dtype) for t in batch], batch_idx)
            SEEN.append((loss.dtype, self.net[0].weight.dtype))
            return loss

    log = Log()
    model = Typed(lambda: [m.Backtracking(), m.Mul(1.0)])
    trainer(ClosureOptimization(), log, precision=precision).fit(model)
    assert set(SEEN) == {(dtype, dtype)}
    assert log.outputs[-1] < log.outputs[0]


# -- manual optimization -----------------------------------------------------------------------------------------------
class Gan(Model):
    """Each of two networks has an optimizer; one of them is a search."""

    def __init__(self, chain):
        super().__init__(chain)
        self.critic = nn.Linear(1, 1).double()
        self.automatic_optimization = False

    def configure_optimizers(self):
        critic = tz.Modular(self.critic.parameters(), m.Adam(), m.LR(1e-2))
        schedules = [torch.optim.lr_scheduler.ExponentialLR(critic, 0.5)]
        return [tz.Modular(self.net.parameters(), *self.chain()), critic], schedules

    def training_step(self, batch, batch_idx):
        generator, critic = self.optimizers()
        self.toggle_optimizer(critic)
        critic.zero_grad()
        self.manual_backward((self.critic(self.net(batch[0]).detach()) - batch[1]).square().mean())
        critic.step()
        self.untoggle_optimizer(critic)
        self.toggle_optimizer(generator)
        loss = closure_step(self, generator, lambda: self.generator_loss(batch))
        self.untoggle_optimizer(generator)
        self.lr_schedulers().step()
        return loss

    def generator_loss(self, batch):
        SEEN.append(1)
        loss = mse(self.net, batch) + 0.01 * self.critic(self.net(batch[0])).square().mean()
        self.log("loss", loss)
        return loss


def test_a_gan_with_a_search_on_one_side():
    torch.manual_seed(7)
    model, log = Gan(search), Log()
    torch.manual_seed(7)
    other = Gan(search)
    run = trainer(log, epochs=1)
    run.fit(model)
    assert run.global_step == 8 and len(SEEN) > 4
    assert run.lr_scheduler_configs[0].scheduler.get_last_lr() == [1e-2 / 16]

    (generator, critic), (schedule,) = other.configure_optimizers()
    losses = []
    for x, y in batches():
        critic.zero_grad()
        (other.critic(other.net(x).detach()) - y).square().mean().backward()
        critic.step()

        def closure(backward=True, x=x, y=y):
            loss = mse(other.net, (x, y)) + 0.01 * other.critic(other.net(x)).square().mean()
            if backward:
                generator.zero_grad()
                loss.backward()
            return loss

        losses.append(float(generator.step(closure)))
        schedule.step()
    assert same(model, other) and log.outputs == losses


def test_two_searches_in_one_step():
    class Two(Model):
        def __init__(self, chain):
            super().__init__(chain)
            self.second = network()
            self.automatic_optimization = False

        def configure_optimizers(self):
            return [tz.Modular(n.parameters(), *self.chain()) for n in (self.net, self.second)]

        def training_step(self, batch, batch_idx):
            for optimizer, net in zip(self.optimizers(), (self.net, self.second), strict=True):
                closure_step(self, optimizer, lambda net=net: mse(net, batch))

    model, net = Two(search), network()
    run = trainer()
    run.fit(model)
    plain(search, net)
    assert same(model.net, net) and same(model.second, net) and run.global_step == 16


# -- several processes -------------------------------------------------------------------------------------------------
class ByModule(Model, ClosureModule):
    pass


class ByStep(Model):
    def __init__(self, chain):
        super().__init__(chain)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        SEEN.append(1)
        return closure_step(self, self.optimizers(), lambda: mse(self.net, batch))


@pytest.mark.parametrize(
    ("kind", "callbacks"),
    [(Model, [ClosureOptimization]), (ByModule, []), (ByStep, [])],
    ids=["callback", "base", "step"],
)
def test_several_processes_are_refused_by_every_door(kind, callbacks, monkeypatch):
    run, model = trainer(*(c() for c in callbacks)), kind(search)
    monkeypatch.setattr(type(run), "world_size", property(lambda self: 2))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(MisconfigurationException, match=r"there are 2 processes.*devices=1"):
        run.fit(model)
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True)) and len(SEEN) <= 1
