"""StopWhen, and chains one after another from YAML."""

import sys

import pytest
import torch
import yaml

import torchzero_core as tz
from tests.lightning.problems import Log, Model, m, trainer
from tests.lightning.test_cli import cli, optimizer_of
from tz_lightning import ClosureOptimization, StopWhen

s = tz.stopping
ADAM = lambda: [m.Adam(), m.LR(0.01)]  # noqa: E731


@pytest.mark.parametrize("search", [False, True])
def test_it_stops_where_the_rule_says(search):
    chain = (lambda: [m.LBFGS(), m.Backtracking()]) if search else ADAM
    log, callbacks = Log(), [ClosureOptimization()] if search else []
    trainer(log, *callbacks, epochs=3).fit(Model(chain))
    reach = sorted(log.outputs)[3]
    step = next(i for i, loss in enumerate(log.outputs, 1) if loss <= reach)
    assert step < len(log.outputs)
    again, callback = Log(), StopWhen(s.LossBelow(reach))
    run = trainer(again, callback, *([ClosureOptimization()] if search else []), epochs=3)
    run.fit(Model(chain))
    assert again.outputs == log.outputs[:step] and run.should_stop
    assert callback.rule.memory["steps"] == step


def test_accumulated_batches_are_one_step():
    log, callback = Log(), StopWhen(s.MaxSteps(3))
    trainer(log, callback, epochs=5, accumulate_grad_batches=2).fit(Model(ADAM))
    assert len(log.outputs) == 6 and callback.rule.memory["steps"] == 3


def test_it_goes_on_from_a_checkpoint(tmp_path):
    callback = StopWhen(s.MaxSteps(6))
    run = trainer(callback, epochs=1)
    run.fit(Model(ADAM))
    run.save_checkpoint(tmp_path / "run.ckpt")
    log, resumed = Log(), StopWhen(s.MaxSteps(6))
    trainer(log, resumed, epochs=5).fit(Model(ADAM), ckpt_path=tmp_path / "run.ckpt")
    assert len(log.outputs) == 2
    again = Log()
    trainer(again, resumed, epochs=5).fit(Model(ADAM))  # another run with the same callback begins anew
    assert len(again.outputs) == 6


def module(name, **arguments):
    return {"class_path": name, "init_args": arguments}


FIVE, STALLED = module("MaxSteps", n=5), module("LossChange", tol=1e-3, patience=3)


@pytest.mark.parametrize(
    "rules", [FIVE, [FIVE], [[FIVE, STALLED]], module("AnyOf", rules=[FIVE, STALLED])], ids=["one", "1", "2", "any"]
)
def test_switch_when_from_yaml(rules, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fit"])
    turns = [[module("Adam"), module("LR", lr=0.1)], [module("LBFGS"), module("StrongWolfe")]]
    chain = [module("SwitchWhen", modules=turns, rules=rules)]
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump({"optimizer": module("ModularChain", modules=chain)}))
    first = optimizer_of(cli(f"--config={path}"))
    with pytest.raises(SystemExit):
        cli(f"--config={path}", "--print_config")
    path.write_text(capsys.readouterr().out)
    command = cli(f"--config={path}")
    optimizer = optimizer_of(command)
    assert repr(optimizer) == repr(first) and "MaxSteps(n=5)" in repr(optimizer)
    params = list(command.model.parameters())

    def closure(backward=True):
        loss = sum((p - 1).square().sum() for p in params)
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
    assert optimizer.modules[0].turn == 1 and closure(False) < 1e-8


def test_stop_when_from_yaml(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fit"])
    config = {
        "trainer": {"callbacks": [module("tz_lightning.StopWhen", rule=module("MaxSteps", n=3))]},
        "optimizer": module("ModularChain", modules=[module("Adam"), module("LR", lr=0.1)]),
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    command = cli(f"--config={path}", run=True)
    assert command.trainer.global_step == 3


def test_several_optimizers_are_refused():
    class Two(Model):
        automatic_optimization = False

        def __init__(self):
            super().__init__(ADAM)
            self.automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(self.net.parameters(), 0.1), torch.optim.SGD(self.net.parameters(), 0.1)]

    with pytest.raises(ValueError, match="StopWhen watches one optimizer, and there are 2"):
        trainer(StopWhen(s.MaxSteps(1))).fit(Two())


@pytest.mark.parametrize(
    ("rule", "shown"), [(5, "5"), ("MaxSteps", "'MaxSteps'"), (s.MaxSteps, "<class .*MaxSteps'>")], ids=str
)
def test_what_is_no_rule_is_refused(rule, shown):
    with pytest.raises(TypeError, match=rf"A stopping rule is wanted, .* not {shown}\."):
        StopWhen(rule)
