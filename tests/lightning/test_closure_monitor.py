"""ClosureMonitor: what it logs is what the optimizer says, and what a plain loop finds."""

import warnings

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from tests.lightning.loggers import Memory, hooks_of
from tests.lightning.problems import Model, batches, m, mse, network, trainer
from tests.lightning.test_update_norms import Two
from tz_lightning import ClosureMonitor, ClosureOptimization


class Infos(Callback):
    """Keeps the outcome of each step, and what the progress bar shows."""

    def __init__(self):
        self.infos, self.bar = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.infos.append(trainer.optimizers[0].last_step)
        self.bar.append(dict(trainer.progress_bar_metrics))


@pytest.mark.filterwarnings("ignore:.* changes 'evaluated'")  # which counts evaluations
@pytest.mark.parametrize(
    "chain",
    [
        lambda: [m.LBFGS(), m.StrongWolfe()],
        lambda: [m.NewtonCG(), m.Backtracking()],
        lambda: [m.TrustCG()],
    ],
    ids=["wolfe", "backtracking", "trust"],
)
def test_numbers(chain):
    memory, infos = Memory(), Infos()
    model = Model(chain)
    evaluated = []
    model.net.register_forward_hook(lambda *_: evaluated.append(1))
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    trainer(ClosureMonitor(1), ClosureOptimization(), infos, logger=memory, max_steps=3).fit(model)
    total, net = 0, network()
    for i, info in enumerate(infos.infos):
        row = memory.rows[i]
        total += info.evaluations
        assert row["evaluations"] == info.evaluations > 1
        assert row["evaluations_total"] == total
        assert row["step_size"] == pytest.approx(float(info.step_size)) and row["step_size"] > 0
        assert row["failed_searches"] == 0
        assert row["loss_before"] == pytest.approx(float(info.loss), rel=1e-14)
        assert row["loss_after"] < row["loss_before"]
        assert 0 < row["step_time"] < 60
        assert infos.bar[i]["evaluations"] == info.evaluations and infos.bar[i]["failed_searches"] == 0
    assert total == len(evaluated)
    # the loss after the last step, at the parameters that training has ended with
    torch.nn.utils.vector_to_parameters(start, net.parameters())
    assert memory.rows[0]["loss_before"] == pytest.approx(mse(net, batches()[0]).item(), rel=1e-14)
    with torch.no_grad():
        for p, q in zip(net.parameters(), model.net.parameters(), strict=True):
            p.copy_(q)
    assert memory.rows[2]["loss_after"] == pytest.approx(mse(net, batches()[2]).item(), rel=1e-12)


def test_an_approximation_has_no_step_size():
    memory = Memory()
    trainer(ClosureMonitor(1), ClosureOptimization(), logger=memory, max_steps=2).fit(
        Model(lambda: [m.SPSA(), m.LR(0.01)])
    )
    assert memory.rows[1]["evaluations"] == 3 and memory.rows[1]["evaluations_total"] == 6
    assert not {"step_size", "loss_after"} & set(memory.rows[1])


def test_interval_and_progress_bar():
    memory, infos = Memory(), Infos()
    model = Model(lambda: [m.LBFGS(), m.StrongWolfe()])
    trainer(ClosureMonitor(3, progress_bar=False), ClosureOptimization(), infos, logger=memory).fit(model)
    rows = {i: row for i, row in memory.rows.items() if "evaluations" in row}
    assert list(rows) == [2, 5]
    assert rows[5]["evaluations_total"] == sum(info.evaluations for info in infos.infos[:6])
    assert "evaluations" not in infos.bar[-1]


class Uphill(m.LineSearch):
    """A search that never finds anything."""

    def search(self, update, var):
        return self.fail("no sufficient decrease")


def test_failures_are_counted_and_warned_of_once():
    memory, monitor = Memory(), ClosureMonitor(1, patience=3)
    run = trainer(monitor, ClosureOptimization(), logger=memory)
    with pytest.warns(
        UserWarning, match="last 3 searches have failed.*'no sufficient decrease'.*larger batches"
    ) as seen:
        run.fit(Model(lambda: [Uphill()]))
    assert sum("ClosureMonitor" in str(w.message) for w in seen) == 1
    assert [row["failed_searches"] for row in memory.rows.values() if "failed_searches" in row] == list(range(1, 9))
    assert monitor.failures == {"": {"no sufficient decrease": 8}}
    assert memory.rows[0]["step_size"] == 0 and memory.rows[0]["loss_after"] == memory.rows[0]["loss_before"]


def test_a_loss_that_is_not_finite():
    class Infinite(Model):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (torch.nan if batch_idx else 1.0)

    with pytest.warns(UserWarning, match="'not finite'.*SkipNonFinite"):
        trainer(ClosureMonitor(1, patience=2), ClosureOptimization(), logger=Memory()).fit(
            Infinite(lambda: [m.LBFGS(), m.StrongWolfe()])
        )


def test_converged_is_no_failure():
    class Flat(Model):
        def training_step(self, batch, batch_idx):
            return sum((p * 0).sum() for p in self.net.parameters())

    monitor = ClosureMonitor(1, patience=1)
    for chain in (lambda: [m.TrustCG()], lambda: [m.StrongWolfe()]):
        trainer(monitor, ClosureOptimization(), logger=Memory(), epochs=1).fit(Flat(chain))
    assert not any(monitor.failures.values())


def test_no_warning_where_none_is_wanted_and_counts_are_saved():
    monitor = ClosureMonitor(1, patience=None)
    with warnings.catch_warnings():
        trainer(monitor, ClosureOptimization(), logger=Memory()).fit(Model(lambda: [Uphill()]))
    other = ClosureMonitor(1, patience=None)
    other.load_state_dict(monitor.state_dict())
    memory = Memory()
    trainer(other, ClosureOptimization(), logger=memory, epochs=1).fit(Model(lambda: [Uphill()]))
    assert memory.rows[3]["failed_searches"] == 12
    assert memory.rows[3]["evaluations_total"] == sum(monitor.state_dict()["evaluations"].values()) * 1.5


def test_other_optimizers_are_left_alone():
    memory = Memory()
    run = trainer(ClosureMonitor(1), logger=memory, epochs=1)
    run.fit(Two())
    assert not any("evaluations" in name for row in memory.rows.values() for name in row)
    run = trainer(ClosureMonitor(1), ClosureOptimization(), logger=memory, epochs=1)
    run.fit(Model(lambda: [m.LBFGS(), m.StrongWolfe()], net=nn.Sequential(nn.Linear(3, 1)).double()))
    assert hooks_of(run.optimizers[0]) == 0


@pytest.mark.parametrize("wrong", [dict(every_n_steps=0), dict(patience=0)])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"ClosureMonitor\({next(iter(wrong))}=0\) must be at least 1"):
        ClosureMonitor(**wrong)
