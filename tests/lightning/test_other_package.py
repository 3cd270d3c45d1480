"""Lightning without tz_lightning's callback, and Lightning under its other name, ``pytorch_lightning``."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

import torchzero_core as tz
from tests.lightning.problems import Model, loader, mse, network, trainer
from torchzero_core.core.closure import made_by, warn_of_lightning
from tz_lightning import ClosureOptimization, closure_step

m = tz.m


def search():
    return [m.LBFGS(), m.StrongWolfe()]


def adam():
    return [m.Adam(), m.LR(1e-2)]


@pytest.fixture
def other():
    return pytest.importorskip("pytorch_lightning")


def fit_other(other, chain, *callbacks, step=None):
    """Four steps of a model and a Trainer of the other package."""

    class Plain(other.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.automatic_optimization = network(), step is None

        def training_step(self, batch, batch_idx):
            return mse(self.net, batch) if step is None else step(self, batch)

        def configure_optimizers(self):
            return tz.Modular(self.net.parameters(), *chain())

    run = other.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    model = Plain()
    run.fit(model, loader())
    return model


def test_a_chain_without_a_closure_trains_there_as_here(other):
    model = Model(adam)
    run = trainer(max_epochs=1)
    run.fit(model)
    there = fit_other(other, adam)
    assert all(torch.equal(a, b) for a, b in zip(model.net.parameters(), there.net.parameters(), strict=True))


def test_a_search_there_is_refused_as_here(other):
    with pytest.raises(RuntimeError, match=r"Lightning's automatic .* write import lightning\.pytorch as pl\."):
        fit_other(other, search)
    with pytest.raises(RuntimeError, match=r"Call tz_lightning\.closure_step.* write import lightning\.pytorch as pl"):
        fit_other(other, search, step=lambda self, batch: self.optimizers().step(lambda: mse(self.net, batch)))


def test_callback_and_closure_step_name_the_package(other):
    with pytest.raises(MisconfigurationException, match="ClosureOptimization: tz_lightning works inside lightning"):
        fit_other(other, search, ClosureOptimization())
    with pytest.raises(MisconfigurationException, match="closure_step: tz_lightning works inside lightning"):
        fit_other(
            other,
            search,
            step=lambda self, batch: closure_step(self, self.optimizers(), lambda: mse(self.net, batch)),
        )


def test_without_tz_lightning_a_search_in_lightning_warns_once(monkeypatch):
    monkeypatch.setattr(tz.Modular, "closure_guards", [warn_of_lightning])
    model = Model(search)
    with pytest.warns(UserWarning, match="each time Lightning logs and counts the batch again") as seen:
        trainer(max_epochs=1).fit(model)
    assert len([w for w in seen if "counts the batch again" in str(w.message)]) == 1 and model.calls > 4


def test_whose_closure_it_is():
    assert made_by(lambda: 0) is None and made_by(torch.nn.Linear(1, 1)) is None
