"""Manual optimization as Lightning documents it."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins import MixedPrecision

import torchzero_core as tz
from tests.lightning.problems import Model, m, mse, network, plain, same, trainer
from tz_lightning import closure_step


def search():
    return [m.LBFGS(), m.StrongWolfe()]


def adam():
    return [m.Adam(), m.LR(1e-2)]


class Manual(Model):
    def __init__(self, chain):
        super().__init__(chain)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(mse(self.net, batch))
        optimizer.step()


class WithClosure(Manual):
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()

        def closure():
            optimizer.zero_grad()
            loss = mse(self.net, batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure)


class Stepped(Manual):
    def training_step(self, batch, batch_idx):
        return closure_step(self, self.optimizers(), lambda: mse(self.net, batch))


@pytest.mark.parametrize("kind", [Manual, WithClosure, Stepped])
def test_chains_without_a_search(kind):
    model, net = kind(adam), network()
    run = trainer()
    run.fit(model)
    plain(adam, net)
    assert same(model.net, net) and run.global_step == 8


class Gan(Manual):
    def __init__(self):
        super().__init__(None)
        self.second = network()

    def configure_optimizers(self):
        return [tz.Modular(n.parameters(), *adam()) for n in (self.net, self.second)]

    def training_step(self, batch, batch_idx):
        for optimizer, net in zip(self.optimizers(), (self.net, self.second), strict=True):
            optimizer.zero_grad()
            self.manual_backward(mse(net, batch))
            optimizer.step()


def test_several_optimizers():
    model, net = Gan(), network()
    run = trainer()
    run.fit(model)
    plain(adam, net)
    assert same(model.net, net) and same(model.second, net) and run.global_step == 16


@pytest.mark.parametrize("kind", [Manual, WithClosure])
def test_a_search_says_what_to_call(kind):
    with pytest.raises(RuntimeError, match=r"Call tz_lightning\.closure_step\(self, optimizer, fn\)"):
        trainer().fit(kind(search))


def test_closure_step_refuses_a_scaler():
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(MisconfigurationException, match="closure_step: float16 training scales the loss"):
        trainer(plugins=[plugin]).fit(Stepped(adam))


def test_closure_step_refuses_several_processes(monkeypatch):
    run = trainer()
    monkeypatch.setattr(type(run), "world_size", property(lambda self: 2))
    with pytest.raises(MisconfigurationException, match="closure_step: there are 2 processes"):
        run.fit(Stepped(search))


def test_a_function_that_takes_an_argument_is_refused():
    class Asks(Stepped):
        def training_step(self, batch, batch_idx):
            closure_step(self, self.optimizers(), lambda backward: mse(self.net, batch))

    model = Asks(search)
    with pytest.raises(MisconfigurationException, match=r"closure_step calls fn\(\) without arguments and computes"):
        trainer().fit(model)
    assert same(model.net, network())


def test_a_backward_pass_of_its_own_is_named():
    class Twice(Stepped):
        def training_step(self, batch, batch_idx):
            def fn():
                loss = mse(self.net, batch)
                self.manual_backward(loss)
                return loss

            closure_step(self, self.optimizers(), fn)

    model, net = Twice(search), network()
    with pytest.raises(MisconfigurationException, match="fn only returns the loss"):
        trainer().fit(model)
    assert same(model.net, net)


MISUSE = {
    "the loss itself": (
        lambda self, batch: closure_step(self, self.optimizers(), mse(self.net, batch)),
        "not a Tensor",
    ),
    "a list of optimizers": (
        lambda self, batch: closure_step(self, [self.optimizers()], lambda: mse(self.net, batch)),
        "closure_step steps one optimizer.*not a list",
    ),
    "a number": (
        lambda self, batch: closure_step(self, self.optimizers(), lambda: mse(self.net, batch).item()),
        "fn must return the loss",
    ),
}


@pytest.mark.parametrize(("step", "message"), MISUSE.values(), ids=MISUSE)
def test_a_wrong_call_says_how_it_is_called(step, message):
    class Wrong(Stepped):
        def training_step(self, batch, batch_idx):
            step(self, batch)

    model, net = Wrong(search), network()
    with pytest.raises(MisconfigurationException, match=message):
        trainer().fit(model)
    assert same(model.net, net)


def test_closure_step_in_automatic_optimization_is_refused():
    class Automatic(Model):
        def training_step(self, batch, batch_idx):
            return closure_step(self, self.optimizers(), lambda: mse(self.net, batch))

    with pytest.raises(MisconfigurationException, match="belongs into manual optimization"):
        trainer().fit(Automatic(adam))
