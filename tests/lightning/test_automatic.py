"""Chains without a closure in automatic optimization."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import torchzero_core as tz
from tests.lightning.problems import SAFE, Log, Model, loader, m, network, plain, same, trainer
from tz_lightning import ClosureModule, ClosureOptimization, ModularChain


def five():
    return [
        m.ClipValue(10),
        m.Adam(),
        m.NormalizeByEMA(max_ema_growth=1.1),
        m.WeightDecay(1e-4),
        m.LR(1e-2),
    ]


def test_equals_a_plain_loop_bit_for_bit():
    model, log, net = Model(five), Log(), network()
    run = trainer(log, ClosureOptimization())  # which has nothing to do here
    run.fit(model)
    assert log.outputs == plain(five, net)
    assert same(model.net, net)
    assert model.calls == run.global_step == 8
    assert model.automatic_optimization


@pytest.mark.parametrize("compiled", [False, True])
def test_schedulers_and_monitors_see_torch_s_values(compiled):
    def schedule(optimizer):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=8)
        return {"scheduler": scheduler, "interval": "step"}

    class Torch(Model):
        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-2)
            return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}

    class Compiled(Model):
        def configure_optimizers(self):
            optimizer = ModularChain(self.net.parameters(), self.chain(), compile=compiled)
            return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}

    ours, theirs = Log(), Log()
    model, other = Compiled(lambda: [m.Adam(), m.LR(1e-2)], schedule), Torch(None, schedule)
    trainer(ours).fit(model)
    trainer(theirs).fit(other)
    assert ours.lrs == theirs.lrs
    assert ours.outputs == pytest.approx(theirs.outputs, rel=1e-12)


def test_a_run_resumed_from_a_checkpoint_ends_the_same(tmp_path):
    def parts():
        return Model(five, lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9))

    whole = parts()
    trainer(epochs=4).fit(whole)
    first = parts()
    save = ModelCheckpoint(tmp_path, filename="half")
    trainer(save, epochs=2, enable_checkpointing=True).fit(first)
    second = parts()
    trainer(epochs=4).fit(second, ckpt_path=tmp_path / "half.ckpt", **SAFE)
    assert same(whole.net, second.net)


class Chained(Model):
    def configure_optimizers(self):
        return ModularChain(self.net.parameters(), self.chain())


@pytest.mark.parametrize("kind", [Model, Chained])
def test_a_chain_that_needs_a_closure_says_what_to_do(kind):
    model = kind(lambda: [m.LBFGS(), m.Backtracking()])
    with pytest.raises(RuntimeError, match=r"Backtracking evaluates the loss several times .*ClosureOptimization"):
        trainer().fit(model)


def test_a_closure_module_with_a_plain_chain_stays_automatic():
    class Both(Model, ClosureModule):
        pass

    model, net = Both(five), network()
    trainer().fit(model, loader())
    plain(five, net)
    assert same(model.net, net)
    assert model.automatic_optimization


def test_modules_that_are_given_as_modular_takes_them():
    params = [torch.zeros(1, requires_grad=True)]
    with pytest.raises(TypeError, match=r"as a list, ModularChain\(params, \[tz\.m\.Adam\(\)"):
        ModularChain(params, tz.m.Adam(), tz.m.LR(0.1))
    for make in (ModularChain, tz.Modular):
        with pytest.raises(
            TypeError, match=r"A recipe is a function that makes the modules: call it, tz\.recipes\.adamw"
        ):
            make(params, tz.recipes.adamw)
    assert len(ModularChain(params, tz.recipes.adamw()).modules) == 3


def test_a_closure_module_whose_callbacks_leave_the_closure_out():
    class Forgetful(ClosureModule, Model):
        def configure_callbacks(self):
            return []

    with pytest.raises(RuntimeError, match=r"Forgetful\.configure_callbacks leaves out .* \[\*super\(\)\.configure_c"):
        trainer().fit(Forgetful(lambda: [m.LBFGS(), m.StrongWolfe()]))
