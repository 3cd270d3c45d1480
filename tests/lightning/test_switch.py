"""From one optimizer to another in one fit, by a callback and by a chain."""

import sys

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import torchzero_core as tz
from tests.lightning.problems import SAFE, Log, Model, batches, m, mse, network, same, trainer
from tests.lightning.test_cli import cli
from tz_lightning import ClosureModule, ClosureOptimization, SwitchOptimizer, closure_step

s = tz.stopping


def adam():
    return [m.Adam(), m.LR(1e-2)]


def lbfgs(params):
    return tz.Modular(params, m.LBFGS(), m.StrongWolfe())


def by_hand(steps, total):
    """Adam for some steps, and then L-BFGS."""
    net = network()
    first, second = tz.Modular(net.parameters(), *adam()), lbfgs(list(net.parameters()))
    for i, batch in enumerate((batches() * total)[:total]):
        optimizer = first if i < steps else second

        def closure(backward=True, batch=batch, optimizer=optimizer):
            loss = mse(net, batch)
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)
    return net


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"epochs": 2}, 8), ({"rule": s.MaxSteps(6)}, 6), ({"epochs": 1, "rule": s.MaxSteps(6)}, 4)],
    ids=["epochs", "rule", "both"],
)
def test_equals_the_loop_by_hand(options, steps):
    model = Model(adam, lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0))
    callback = SwitchOptimizer(lbfgs, **options)
    run = trainer(ClosureOptimization(), callback, epochs=4)
    run.fit(model)
    assert same(model.net, by_hand(steps, 16))
    assert run.global_step == 16 and callback.switched
    assert run.lr_scheduler_configs == []
    again = Model(adam)
    trainer(ClosureOptimization(), callback, epochs=4).fit(again)  # another run begins anew
    assert same(again.net, model.net)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("options", [{"epochs": 2}, {"rule": s.MaxSteps(6)}], ids=["epochs", "rule"])
def test_every_checkpoint_goes_on_to_the_same_end(options, every, tmp_path):
    def callbacks():
        return ClosureOptimization(), SwitchOptimizer(lbfgs, **options)

    whole = Model(adam)
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(*callbacks(), save, epochs=4, enable_checkpointing=True).fit(whole)
    for epoch in range(0, 3, every):
        model = Model(adam)
        trainer(*callbacks(), epochs=4).fit(model, ckpt_path=tmp_path / f"epoch={epoch}.ckpt", **SAFE)
        assert same(whole.net, model.net), epoch


def test_the_learning_rate_monitor_goes_on(tmp_path):
    log = Log()
    run = trainer(
        LearningRateMonitor(),
        SwitchOptimizer(lambda params: torch.optim.SGD(params, 0.5), epochs=1),
        log,
        logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
    )
    run.fit(Model(adam))
    assert log.lrs == [1e-2] * 4 + [0.5] * 4


def test_manual_optimization():
    class Manual(Model):
        def __init__(self):
            super().__init__(adam)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            return closure_step(self, self.optimizers(), lambda: mse(self.net, batch))

    model = Manual()
    trainer(SwitchOptimizer(lbfgs, epochs=2), epochs=4).fit(model)
    assert same(model.net, by_hand(8, 16))


def test_the_chain_that_switches_itself():
    def chain():
        return [m.SwitchWhen(adam(), [m.LBFGS(), m.StrongWolfe()], rules=s.MaxSteps(8))]

    model = Model(chain)
    trainer(ClosureOptimization(), epochs=4).fit(model)
    for p, q in zip(model.net.parameters(), by_hand(8, 16).parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="SwitchOptimizer needs epochs or a rule"):
        SwitchOptimizer(lbfgs)

    class Two(Model):
        def __init__(self):
            super().__init__(adam)
            self.automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(self.net.parameters(), 0.1), torch.optim.SGD(self.net.parameters(), 0.1)]

    with pytest.raises(ValueError, match="SwitchOptimizer replaces one optimizer, and there are 2"):
        trainer(SwitchOptimizer(lbfgs, epochs=1)).fit(Two())


class Configured(Model, ClosureModule):
    def __init__(self):
        super().__init__(None)


def test_from_yaml(tmp_path, monkeypatch):
    def module(name, **arguments):
        return {"class_path": name, "init_args": arguments}

    second = module("ModularChain", modules=[module("LBFGS"), module("StrongWolfe")])
    switch = module("tz_lightning.SwitchOptimizer", optimizer=second, rule=module("MaxSteps", n=3))
    config = {
        "trainer": {"callbacks": [switch]},
        "optimizer": module("ModularChain", modules=[module("Adam"), module("LR", lr=0.1)]),
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(sys, "argv", ["fit"])
    command = cli(f"--config={path}", run=True)
    assert [type(module).__name__ for module in command.trainer.optimizers[0].modules] == ["LBFGS", "StrongWolfe"]


MISTAKES = {
    "a list of modules": (lambda: SwitchOptimizer(tz.recipes.lbfgs(), epochs=1), "and not a list"),
    "a name": (lambda: SwitchOptimizer("lbfgs", epochs=1), "and not 'lbfgs'"),
    "a negative number of epochs": (lambda: SwitchOptimizer(lbfgs, epochs=-1), r"epochs=-1\) must be a whole number"),
    "half an epoch": (lambda: SwitchOptimizer(lbfgs, epochs=0.5), r"epochs=0.5\) must be a whole number"),
    "a class of rules": (
        lambda: SwitchOptimizer(lbfgs, rule=s.MaxSteps),
        "A stopping rule is wanted, .* not <class '.*MaxSteps'>",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_refused_where_it_is_made(kind):
    make, message = MISTAKES[kind]
    with pytest.raises((TypeError, ValueError), match=message):
        make()


LATE = {
    "a function that makes modules": (lambda params: tz.recipes.lbfgs(), {}, "this one has made a list"),
    "a function that makes nothing": (lambda params: None, {}, "this one has made None"),
    "clipping": (lbfgs, {"gradient_clip_val": 1.0}, "gradient_clip_val would clip the gradient of the first"),
}


@pytest.mark.parametrize("kind", LATE)
def test_what_would_fail_at_the_switch_is_refused_before_the_first_batch(kind):
    make, options, message = LATE[kind]
    run = trainer(ClosureOptimization(), SwitchOptimizer(make, epochs=1), epochs=2, **options)
    with pytest.raises(Exception, match=message):
        run.fit(Model(adam))
    assert run.global_step == 0


def test_a_second_optimizer_whose_closure_nothing_runs_is_refused_before_the_first_batch():
    run = trainer(SwitchOptimizer(lbfgs, epochs=1), epochs=2)
    with pytest.raises(Exception, match=r"SwitchOptimizer: the second optimizer .* tz_lightning\.ClosureOptimization"):
        run.fit(Model(adam))
    assert run.global_step == 0


def test_the_trial_draws_no_random_numbers_and_gives_its_modules_back():
    chain = [m.Dropout(0.5), m.LR(1e-2)]

    def make(params):
        torch.rand(3)
        return tz.Modular(params, *chain)

    drawn = []
    for callbacks in ([], [SwitchOptimizer(make, epochs=2)]):
        torch.manual_seed(0)
        trainer(*callbacks, epochs=1).fit(Model(adam))
        drawn.append(torch.rand(1))
    assert torch.equal(*drawn)
    trainer(SwitchOptimizer(make, epochs=1), epochs=2).fit(Model(adam))
