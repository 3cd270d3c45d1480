"""UpdateNormMonitor: every number computed by hand."""

import copy
import csv
import math

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

import torchzero_core as tz
from tests.lightning.loggers import Memory, hooks_of
from tests.lightning.problems import Model, batches, loader, m, mse, network, trainer
from tz_lightning import ClosureOptimization, UpdateNormMonitor, closure_step


def norm(tensors):
    return math.sqrt(sum(float(t.detach().double().pow(2).sum()) for t in tensors))


class Steps(Model):
    """Notes the parameters before and after each batch, and the gradient where each batch begins."""

    def on_train_batch_start(self, batch, batch_idx):
        if not hasattr(self, "before"):
            self.before, self.after, self.grads = [], [], []
        self.before.append([p.detach().clone() for p in self.net.parameters()])
        net = copy.deepcopy(self.net)
        net.zero_grad()
        mse(net, batch).backward()
        self.grads.append([p.grad for p in net.parameters()])

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.after.append([p.detach().clone() for p in self.net.parameters()])


class Manual(Steps):
    automatic_optimization = False

    def __init__(self, *args):
        super().__init__(*args)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        if optimizer.optimizer.requires_closure:
            return closure_step(self, optimizer, lambda: mse(self.net, batch))
        optimizer.zero_grad()
        loss = mse(self.net, batch)
        self.manual_backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()


CHAINS = {
    "rules": lambda: [m.ClipNorm(0.5), m.Adam(), m.NormalizeByEMA(), m.WeightDecay(0.1), m.LR(0.1)],
    "search": lambda: [m.LBFGS(), m.StrongWolfe()],
    "newton": lambda: [m.NewtonCG(), m.Backtracking()],
    "trust": lambda: [m.TrustCG()],
}


@pytest.mark.parametrize("per_module", [False, True])
@pytest.mark.parametrize("kind", [Steps, Manual], ids=["automatic", "manual"])
@pytest.mark.parametrize("chain", CHAINS)
def test_the_four_numbers(chain, kind, per_module):
    memory, model = Memory(), kind(CHAINS[chain])
    trainer(UpdateNormMonitor(1, per_module), ClosureOptimization(), logger=memory).fit(model)
    assert len(model.after) == 8
    assert sum("update_norm" in row for row in memory.rows.values()) == 8
    for i, (before, after, grads) in enumerate(zip(model.before, model.after, model.grads, strict=True)):
        row, moved = memory.rows[i], norm(b - a for a, b in zip(before, after, strict=True))
        assert row["update_norm"] == pytest.approx(moved, rel=1e-12)
        assert row["param_norm"] == pytest.approx(norm(before), rel=1e-14)
        assert row["update_ratio"] == pytest.approx(moved / norm(before), rel=1e-12)
        assert row["grad_norm"] == pytest.approx(norm(grads), rel=1e-12)
        assert moved > 0


@pytest.mark.parametrize("compile", [False, True])
def test_modules_in_the_order_of_the_chain(compile):
    class Compiled(Model):
        def configure_optimizers(self):
            return tz.Modular(self.net.parameters(), *self.chain(), compile=compile)

    memory = Memory()
    model = Compiled(lambda: [m.Mul(3), m.ClipValue(0.2), m.Add(0.1), m.LR(0.1)])
    trainer(UpdateNormMonitor(1, per_module=True), logger=memory, max_steps=1).fit(model)
    net = network()
    mse(net, batches()[0]).backward()
    g = torch.cat([p.grad.flatten() for p in net.parameters()])
    expected, u = {}, g
    for i, (name, rule) in enumerate(
        {
            "Mul": lambda u: 3 * u,
            "ClipValue": lambda u: u.clamp(-0.2, 0.2),
            "Add": lambda u: u + 0.1,
            "LR": lambda u: 0.1 * u,
        }.items()
    ):
        expected[f"module/{i}.{name}/in"] = u.norm().item()
        u = rule(u)
        expected[f"module/{i}.{name}/out"] = u.norm().item()
        expected[f"module/{i}.{name}/cosine"] = torch.cosine_similarity(u, g, dim=0).item()
    found = {k: v for k, v in memory.rows[0].items() if k.startswith("module/")}
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-12)
    assert memory.rows[0]["update_norm"] == pytest.approx(u.norm().item(), rel=1e-12)


def test_modules_inside_modules():
    memory = Memory()
    split = lambda: [m.Mul(2), m.Split(lambda p: p.ndim > 1, [m.Sign(), m.LR(0.1)], m.Mul(0.5)), m.Mul(0.1)]  # noqa: E731
    trainer(UpdateNormMonitor(1, per_module=True), logger=memory, max_steps=1).fit(Model(split))
    row = memory.rows[0]
    weights = 3 * 6 + 6
    assert row["module/2.Split.true.Sign/out"] == pytest.approx(math.sqrt(weights))
    assert row["module/3.Split.true.LR/out"] == pytest.approx(0.1 * math.sqrt(weights))
    net = network()
    mse(net, batches()[0]).backward()
    assert row["module/2.Split.true.Sign/in"] == pytest.approx(
        2 * norm([p.grad for p in net.parameters() if p.ndim > 1])
    )
    biases = norm([p.grad for p in net.parameters() if p.ndim == 1])
    assert row["module/1.Split/out"] == pytest.approx(math.hypot(0.1 * math.sqrt(weights), biases))
    assert row["module/5.Mul_2/in"] == row["module/1.Split/out"]


def test_places_have_as_many_digits_as_they_need():
    memory = Memory()
    trainer(UpdateNormMonitor(1, True), logger=memory, max_steps=1).fit(Model(lambda: [m.Mul(0.9) for _ in range(11)]))
    names = [k for k in memory.rows[0] if k.endswith("/out")]
    assert names == sorted(names) and names[0] == "module/00.Mul/out" and names[-1] == "module/10.Mul_11/out"


def test_layers_add_up():
    memory, model = Memory(), Steps(CHAINS["search"])
    trainer(UpdateNormMonitor(1, per_layer=True), ClosureOptimization(), logger=memory, max_steps=2).fit(model)
    row = memory.rows[1]
    first = dict(zip(("weight", "bias"), model.before[1][:2], strict=True))
    assert row["layer/net.0/param_norm"] == pytest.approx(norm(first.values()))
    assert row["layer/net.0/grad_norm"] == pytest.approx(norm(model.grads[1][:2]))
    moved = [a - b for a, b in zip(model.before[1][2:], model.after[1][2:], strict=True)]
    assert row["layer/net.2/update_norm"] == pytest.approx(norm(moved), rel=1e-12)
    for number in ("update_norm", "param_norm", "grad_norm"):
        parts = [row[f"layer/net.{i}/{number}"] for i in (0, 2)]
        assert math.hypot(*parts) == pytest.approx(row[number])
    assert not any(k.startswith("layer/net.1") for k in row)


def test_an_approximated_gradient():
    memory = Memory()
    trainer(UpdateNormMonitor(1), ClosureOptimization(), logger=memory, max_steps=1).fit(
        Model(lambda: [m.SPSA(seed=0), m.LR(0.01)])
    )
    row = memory.rows[0]
    assert row["grad_norm"] == pytest.approx(row["update_norm"] / 0.01, rel=1e-12)


class Two(LightningModule):
    """Two optimizers; the second one steps at every other batch."""

    def __init__(self, second=2):
        super().__init__()
        self.a, self.b, self.second = network(), network(), second
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for i, (net, optimizer) in enumerate(zip((self.a, self.b), self.optimizers(), strict=True)):
            if i == 0 or batch_idx % self.second:
                optimizer.zero_grad()
                self.manual_backward(mse(net, batch))
                optimizer.step()

    def configure_optimizers(self):
        return [tz.Modular(self.a, m.LR(0.1)), tz.Modular(self.b, m.Sign(), m.LR(0.5))]

    def train_dataloader(self):
        return loader()


def test_several_optimizers_are_told_apart():
    memory = Memory()
    trainer(UpdateNormMonitor(1, per_module=True), logger=memory, epochs=1).fit(Two())
    net = network()
    mse(net, batches()[0]).backward()
    g = norm([p.grad for p in net.parameters()])
    assert memory.rows[0]["Modular/update_norm"] == pytest.approx(0.1 * g)
    assert memory.rows[0]["Modular/grad_norm"] == pytest.approx(g)
    n = sum(p.numel() for p in net.parameters())
    rows = {i: row["Modular-1/update_norm"] for i, row in memory.rows.items() if "Modular-1/update_norm" in row}
    assert rows == pytest.approx({1: 0.5 * math.sqrt(n), 3: 0.5 * math.sqrt(n)})
    assert memory.rows[1]["Modular-1/module/0.Sign/out"] == pytest.approx(math.sqrt(n))
    assert not any("/update_norm" not in k for k in memory.rows[1] if k.endswith("update_norm"))


def test_an_optimizer_that_rests_is_logged_when_it_steps():
    memory = Memory()
    trainer(UpdateNormMonitor(3), logger=memory, epochs=1).fit(Two())
    assert [i for i, row in memory.rows.items() if "Modular/update_norm" in row] == [2]
    assert [i for i, row in memory.rows.items() if "Modular-1/update_norm" in row] == [3]


class Odd(LightningModule):
    """Parameters of all kinds."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.ones(2))
        self.empty, self.frozen = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.ones(2), requires_grad=False)
        self.ints = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
        self.low = nn.Parameter(torch.full((4,), 300.0, dtype=torch.float16))
        self.complex = nn.Parameter(torch.tensor([3 + 4j]))

    def training_step(self, batch, batch_idx):
        return self.used.sum() + self.low.float().sum() + self.complex.abs().sum() + self.empty.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(list(self.parameters()), lr=0.5)

    def train_dataloader(self):
        return loader()


def test_parameters_of_all_kinds():
    memory = Memory()
    trainer(UpdateNormMonitor(1, per_layer=True), logger=memory, max_steps=1).fit(Odd())
    row = memory.rows[0]
    assert row["param_norm"] == pytest.approx(math.sqrt(25 + 2 + 2 + 4 * 90000 + 25))
    assert row["grad_norm"] == pytest.approx(math.sqrt(2 + 4 + 1))
    assert row["update_norm"] == pytest.approx(0.5 * math.sqrt(7))
    assert row["layer/idle/update_norm"] == 0 and "layer/idle/grad_norm" not in row
    assert row["layer/empty/update_norm"] == 0 and "layer/empty/update_ratio" not in row
    assert not any("ints" in name for name in row)
    assert row["layer/low/param_norm"] == pytest.approx(600)


class Embedded(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Embedding(10, 3, sparse=True)

    def training_step(self, batch, batch_idx):
        return self.net(torch.tensor([1, 1, 4])).sum()

    def configure_optimizers(self):
        return torch.optim.SparseAdam(list(self.net.parameters()), lr=0.1)

    def train_dataloader(self):
        return loader()


def test_sparse_gradients():
    memory = Memory()
    trainer(UpdateNormMonitor(1), logger=memory, max_steps=1).fit(Embedded())
    assert memory.rows[0]["grad_norm"] == pytest.approx(math.sqrt(3 * 4 + 3))
    assert memory.rows[0]["update_norm"] == pytest.approx(0.1 * math.sqrt(6), rel=1e-5)


def test_accumulation_and_clipping():
    memory, model = Memory(), Model(lambda: [m.LR(1.0)])
    options = dict(accumulate_grad_batches=2, gradient_clip_val=0.01, epochs=1)
    trainer(UpdateNormMonitor(2), logger=memory, **options).fit(model)
    assert {i: sorted(row) for i, row in memory.rows.items() if "grad_norm" in row} == {
        1: ["grad_norm", "param_norm", "update_norm", "update_ratio"]
    }
    assert memory.rows[1]["grad_norm"] == pytest.approx(0.01, rel=1e-4)
    memory = Memory()
    trainer(UpdateNormMonitor(1), logger=memory, accumulate_grad_batches=4, epochs=1).fit(Model(lambda: [m.LR(1.0)]))
    net = network()
    (sum(mse(net, batch) for batch in batches()) / 4).backward()
    assert memory.rows[0]["grad_norm"] == pytest.approx(norm([p.grad for p in net.parameters()]), rel=1e-12)


@pytest.mark.parametrize("chain", ["rules", "search"])
def test_it_changes_nothing_and_leaves_nothing(chain):
    class Count(UpdateNormMonitor):
        at = []

        def on_train_batch_end(self, trainer, *args):
            super().on_train_batch_end(trainer, *args)
            self.at.append(hooks_of(trainer.optimizers[0]))

    memory, count = Memory(), Count(3, True, True)
    model, other = (Model(CHAINS[chain]) for _ in range(2))
    run = trainer(count, ClosureOptimization(), logger=memory)
    run.fit(model)
    trainer(ClosureOptimization()).fit(other)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
    assert [s for s, row in memory.rows.items() if "update_norm" in row] == [2, 5]
    assert count.at == [0] * 8


def test_nothing_is_left_after_an_exception():
    class Fails(Model):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                raise RuntimeError("no")
            return super().training_step(batch, batch_idx)

    model, monitor = Fails(CHAINS["rules"]), UpdateNormMonitor(1, True)
    run = trainer(monitor, logger=Memory())
    with pytest.raises(RuntimeError, match=r"^no$"):
        run.fit(model)
    assert hooks_of(run.optimizers[0]) == 0


def test_it_does_nothing_where_nothing_is_logged():
    monitor = UpdateNormMonitor(1, True, True)
    monitor._looks = None  # would fail at the first look
    run = trainer(monitor)
    monitor._looks = []
    run.fit(Model(CHAINS["rules"]))
    assert "update_norm" not in run.callback_metrics
    assert hooks_of(run.optimizers[0]) == 0


def test_all_loggers_at_once(tmp_path):
    memory, folder = Memory(), CSVLogger(tmp_path)
    board = TensorBoardLogger(tmp_path, name="board")
    model = Model(CHAINS["rules"])
    run = trainer(UpdateNormMonitor(per_module=True), logger=[memory, folder, board], log_every_n_steps=2, epochs=1)
    run.fit(model)
    run.logger.save()
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file) if row["update_norm"]}
    assert list(rows) == [1, 3] == [i for i, row in memory.rows.items() if "update_norm" in row]
    assert float(rows[3]["module/1.Adam/out"]) == pytest.approx(memory.rows[3]["module/1.Adam/out"])
    assert list((tmp_path / "board").rglob("events.out.tfevents.*"))
    assert float(run.callback_metrics["update_norm"]) == pytest.approx(memory.rows[3]["update_norm"], rel=1e-6)


def test_a_wrong_interval_is_refused():
    with pytest.raises(ValueError, match=r"UpdateNormMonitor\(every_n_steps=0\) must be at least 1"):
        UpdateNormMonitor(0)
