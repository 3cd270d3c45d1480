"""UpdateNormMonitor."""

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger

from tests.lightning.problems import Model, batches, m, mse, network, trainer
from tz_lightning import ClosureOptimization, UpdateNormMonitor


class Memory(Logger):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    name, version = "memory", 0

    def log_metrics(self, metrics, step=None):
        self.rows.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_values_by_hand():
    memory = Memory()
    model = Model(lambda: [m.Mul(3), m.ClipNorm(0.5, dim="global"), m.LR(0.1)])
    trainer(UpdateNormMonitor(1, layers=True), logger=memory, max_steps=1).fit(model)
    net = network()
    mse(net, batches()[0]).backward()
    grads = torch.cat([p.grad.flatten() for p in net.parameters()])
    row = memory.rows[0]
    assert row["norm/grad"] == pytest.approx(float(grads.norm()))
    assert row["norm/chain/Mul"] == pytest.approx(3 * float(grads.norm()))
    assert row["norm/chain/ClipNorm"] == pytest.approx(0.5)
    assert row["norm/chain/LR"] == pytest.approx(0.05)
    assert row["norm/update"] == pytest.approx(0.05)
    size = torch.cat([p.detach().flatten() for p in net.parameters()]).norm().item()
    assert row["norm/param"] == pytest.approx(size)
    assert row["norm/ratio"] == pytest.approx(0.05 / size)
    layers = [v for k, v in row.items() if k.startswith("norm/update/")]
    assert len(layers) == 4
    assert sum(v**2 for v in layers) ** 0.5 == pytest.approx(0.05)


def test_it_changes_nothing_and_looks_only_when_it_logs():
    memory = Memory()
    model, other = (Model(lambda: [m.Adam(), m.NormalizeByEMA(), m.LR(0.1)]) for _ in range(2))
    run = trainer(UpdateNormMonitor(3), logger=memory)
    run.fit(model)
    trainer().fit(other)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-14)
    assert [s for s, row in memory.rows.items() if "norm/update" in row] == [2, 5]
    assert not run.optimizers[0].watched


def test_line_searches_too():
    memory = Memory()
    model = Model(lambda: [m.LBFGS(), m.Backtracking()])
    trainer(UpdateNormMonitor(1), ClosureOptimization(), logger=memory, epochs=1).fit(model)
    assert len(memory.rows) == 4
    assert all(row["norm/chain/LBFGS"] > 0 and row["norm/update"] > 0 for row in memory.rows.values())


def test_writes_to_a_csv_log(tmp_path):
    model = Model(lambda: [m.Adam(), m.LR(0.1)])
    run = trainer(UpdateNormMonitor(), logger=CSVLogger(tmp_path), log_every_n_steps=2, epochs=1)
    run.fit(model)
    run.logger.save()
    lines = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert "norm/chain/Adam" in lines[0]


def test_a_wrong_interval_is_refused():
    with pytest.raises(ValueError, match=r"every_n_steps=0\) must be at least 1"):
        UpdateNormMonitor(0)
