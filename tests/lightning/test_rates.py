"""Lightning's LearningRateMonitor beside chains with a weight decay, without one, and with several."""

import csv
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

import torchzero_core as tz
from tests.lightning.problems import Model, m, network, search, trainer
from tz_lightning import ClosureOptimization

CHAINS = {
    "one": (lambda: [m.Adam(), m.WeightDecay(0.1), m.LR(1e-2)], 0.1),
    "none": (lambda: [m.Adam(), m.LR(1e-2)], None),
    "none, with a search": (search, None),
    "several": (lambda: [m.WeightDecay(0.1), m.Adam(), m.WeightDecay(0.2), m.LR(1e-2)], None),
}


@pytest.fixture(autouse=True)
def no_momentum():
    """Lightning says that a search has none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You have set log_momentum=True")
        yield


def logged(model, folder, name):
    monitor = LearningRateMonitor("step", log_momentum=True, log_weight_decay=True)
    logger = CSVLogger(folder, name="", version="")
    run = trainer(monitor, ClosureOptimization(), logger=logger, log_every_n_steps=1)
    run.fit(model)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row[name]) for row in rows if row.get(name)], run


@pytest.mark.parametrize(("chain", "decay"), CHAINS.values(), ids=CHAINS)
def test_weight_decay_is_logged_where_there_is_one(chain, decay, tmp_path):
    values, run = logged(Model(chain), tmp_path, "lr-Modular-weight_decay")
    assert values == [] if decay is None else values == [decay] * 8
    assert ("weight_decay" in run.optimizers[0].param_groups[0]) == (decay is not None)
    lr = chain()[-1].defaults.get("lr", 1.0)
    (tmp_path / "metrics.csv").unlink()
    assert logged(Model(chain), tmp_path, "lr-Modular")[0] == [lr] * 8


def test_groups_with_and_without(tmp_path):
    class Two(Model):
        def configure_optimizers(self):
            groups = [{"params": [p], "name": name} for name, p in self.net.named_parameters()]
            groups[1]["weight_decay"] = 0.5
            return tz.Modular(groups, m.Adam(), m.WeightDecay(0.1), m.LR(1e-2))

    values, _ = logged(Two(list, net=network()), tmp_path, "lr-Modular/0.bias-weight_decay")
    assert values == [0.5] * 8
    with (tmp_path / "metrics.csv").open() as file:
        assert float(next(csv.DictReader(file))["lr-Modular/0.weight-weight_decay"]) == 0.1


def test_optimizers_of_torch_log_what_they_did(tmp_path):
    class Torch(Model):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.net.parameters(), weight_decay=0.3)

    assert logged(Torch(list), tmp_path, "lr-AdamW-weight_decay")[0] == [0.3] * 8


def test_an_optimizer_without_a_learning_rate(tmp_path):
    class Scipy(Model):
        def configure_optimizers(self):
            return tz.optim.wrappers.ScipyMinimize(self.net.parameters(), "cg", options={"maxiter": 1})

    assert logged(Scipy(list), tmp_path, "lr-ScipyMinimize")[0] == []
