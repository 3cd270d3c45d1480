"""Several optimizers as one and the wrappers of other packages in Lightning, from code and from YAML."""

import sys

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from torch import nn

import torchzero_core as tz
from tests.lightning.problems import Log, Model, batches, m, mse, network, only_fit, same, trainer
from tests.lightning.test_cli import QUIET, Net, optimizer_of
from tz_lightning import ClosureOptimization, ModularCLI, SplitOptimizer, closure_step
from tz_lightning.closure import refuse_everywhere


def adam(params):
    return torch.optim.Adam(params, lr=1e-2)


def lbfgs(params):
    return tz.Modular(params, m.LBFGS(), m.StrongWolfe())


def torch_lbfgs(params):
    return torch.optim.LBFGS(params, lr=0.1, max_iter=3)


def scipy(params):
    return tz.optim.wrappers.ScipyMinimize(params, "l-bfgs-b", options={"maxiter": 2})


PAIRS = {
    "Adam and a search": (adam, lbfgs),
    "a search and Adam": (lbfgs, adam),
    "two searches": (lbfgs, lbfgs),
    "torch's L-BFGS": (torch_lbfgs, adam),
    "Adam and SGD": (adam, lambda params: torch.optim.SGD(params, lr=0.1)),
}


def halves(net, pair):
    return tz.optim.Split(*(make(list(net[i].parameters())) for make, i in zip(pair, (0, 2), strict=True)))


def by_hand(optimizer, net, epochs=2):
    """The losses at the start of each step of a plain loop."""
    losses = []
    for _ in range(epochs):
        for batch in batches():
            first = []

            def closure(backward=True, batch=batch, first=first):
                with torch.enable_grad():
                    loss = mse(net, batch)
                    if backward:
                        optimizer.zero_grad()
                        loss.backward()
                first.append(loss.item())
                return loss

            optimizer.step(closure)
            losses.append(first[0])
    return losses


class Halves(Model):
    def __init__(self, pair):
        super().__init__(list)
        self.pair = pair

    def configure_optimizers(self):
        return halves(self.net, self.pair)


class Wrapped(Model):
    def __init__(self, make):
        super().__init__(list)
        self.make = make

    def configure_optimizers(self):
        return self.make(self.net.parameters())


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_split_trains_as_by_hand_and_logs_once(pair):
    model, log, net = Halves(pair), Log(), network()
    run = trainer(log, ClosureOptimization())
    run.fit(model)
    assert log.outputs == by_hand(halves(net, pair), net)
    assert same(model.net, net)
    assert log.outputs == log.logged and log.steps == list(range(1, 9))
    assert model.calls == 8  # an attribute, so each batch counts once


def test_a_wrapper_trains_as_by_hand_and_logs_once():
    class Losses(Callback):
        outputs, logged = [], []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.outputs.append(outputs["loss"].item())
            self.logged.append(trainer.callback_metrics["loss"].item())

    model, log, net = Wrapped(scipy), Losses(), network()
    trainer(log, ClosureOptimization()).fit(model)
    optimizer = scipy(net.parameters())
    assert log.outputs == log.logged == by_hand(optimizer, net)
    assert same(model.net, net) and model.calls == 8
    assert optimizer.evaluations > 1


def test_a_wrapper_in_a_manual_step():
    class Manual(Wrapped):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            closure_step(self, self.optimizers(), lambda: super(Manual, self).training_step(batch, batch_idx))

    model, net = Manual(scipy), network()
    model.automatic_optimization = False
    trainer().fit(model)
    by_hand(scipy(net.parameters()), net)
    assert same(model.net, net) and model.calls == 8


def test_several_processes_are_refused():
    class Two:
        world_size = 2
        precision_plugin = None

    net = network()
    for optimizer in (scipy(net.parameters()), halves(net, (adam, lbfgs)), lbfgs(net.parameters())):
        with pytest.raises(MisconfigurationException, match="each would search along the loss of its own data"):
            refuse_everywhere(Two(), optimizer, "closure_step")
    refuse_everywhere(Two(), halves(net, (adam, adam)), "closure_step")  # whose gradients are averaged


# -- by kinds and names ------------------------------------------------------------------------------------------------
def layers():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 5), nn.Linear(5, 1))


def named(optimizer, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for g in inner.param_groups for p in g["params"]] for inner in optimizer.optimizers]


def test_parts_are_kinds_names_and_the_rest():
    model = layers()
    optimizer = SplitOptimizer(model, {"rest": adam, "hidden_matrices": lbfgs, "0.*": adam})
    assert [type(inner).__name__ for inner in optimizer.optimizers] == ["Adam", "Modular", "Adam"]
    assert named(optimizer, model) == [
        ["1.weight", "1.bias", "2.bias", "3.weight", "3.bias"],
        ["2.weight"],
        ["0.weight", "0.bias"],
    ]
    assert named(SplitOptimizer(model.named_parameters(), {"biases": adam, "*weight": adam}), model) == [
        ["0.bias", "1.bias", "2.bias", "3.bias"],
        ["0.weight", "1.weight", "2.weight", "3.weight"],
    ]


WRONG = {
    "nothing": ({}, r"SplitOptimizer\(parts=\.\.\.\) needs an optimizer"),
    "no rest": ({"biases": adam}, r"no part has 0\.weight, 1\.weight, 2\.weight and 1 more: .* under 'rest'"),
    "a name": ({"heads": adam, "rest": adam}, r"SplitOptimizer: parts: no parameter has a name like 'heads'"),
    "nothing left": ({"biases": adam, "*": adam}, r"no parameter is left for 'biases'; the other keys have all"),
    "rest of nothing": ({"*": adam, "rest": adam}, r"no parameter is left for 'rest'"),
}


@pytest.mark.parametrize(("parts", "message"), WRONG.values(), ids=WRONG)
def test_what_fits_nothing_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        SplitOptimizer(layers(), parts)


# -- YAML --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ModularCLI, "subcommands", staticmethod(only_fit))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.chdir(tmp_path)

    def run(config, *words):
        (tmp_path / "c.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
        return ModularCLI(
            Net,
            run=False,
            args=[*QUIET, "--config=c.yaml", *words],
            save_config_callback=None,
            seed_everything_default=0,
        )

    return run


PARTS = """
optimizer:
  class_path: SplitOptimizer
  init_args:
    parts:
      "net.2.*": {class_path: lbfgs, init_args: {history_size: 3}}
      rest:
        class_path: adamw
        init_args: {lr: 0.02, groups: {biases: {weight_decay: 0}}}
"""


def test_parts_from_yaml_train_and_are_printed(command, capsys):
    made = command(PARTS)
    optimizer = optimizer_of(made)
    assert [type(inner).__name__ for inner in optimizer.optimizers] == ["lbfgs", "adamw"]
    assert named(optimizer, made.model) == [["net.2.weight", "net.2.bias"], ["net.0.weight", "net.0.bias"]]
    assert [g["weight_decay"] for g in optimizer.optimizers[1].param_groups] == [0.01, 0]
    made.trainer.fit(made.model)
    net = network()

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

    twin = SplitOptimizer(
        Named(),
        {
            "net.2.*": lambda params: tz.Modular(params, *tz.recipes.lbfgs(history_size=3)),
            "rest": lambda params: tz.Modular(
                [{"params": [params[0]]}, {"params": [params[1]], "weight_decay": 0}], *tz.recipes.adamw(lr=0.02)
            ),
        },
    )
    by_hand(twin, net)
    assert same(made.model.net, net)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        command(PARTS, "--print_config")
    printed = capsys.readouterr().out
    again = optimizer_of(command(printed))
    assert repr(again) == repr(optimizer_of(made))


def test_a_wrapper_from_yaml(command):
    made = command({"optimizer": {"class_path": "ScipyMinimize", "init_args": {"method": "cg", "tol": 1e-2}}})
    made.trainer.fit(made.model)
    net = network()
    by_hand(tz.optim.wrappers.ScipyMinimize(net.parameters(), "cg", tol=1e-2), net)
    assert same(made.model.net, net)


@pytest.mark.parametrize("part", ["lbfgs", m.Adam()], ids=["name", "module"])
def test_a_part_that_makes_no_optimizer_is_named(part):
    with pytest.raises(TypeError, match="'rest' takes a function that makes an optimizer of parameters"):
        SplitOptimizer(network(), {"rest": part})
