"""SkipNonFinite: a step that is left out leaves everything as it was."""

import copy

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.lightning.loggers import Memory, hooks_of
from tests.lightning.problems import Model, batches, loader, m, mse, network, plain, same, trainer
from tz_lightning import ClosureOptimization, SkipNonFinite, closure_step, is_reevaluation
from tz_lightning.callbacks.skip_non_finite import NonFiniteError

CHAINS = {
    "rules": lambda: [m.Adam(), m.WeightDecay(0.1), m.LR(0.1)],
    "search": lambda: [m.LBFGS(), m.StrongWolfe()],
    "newton": lambda: [m.NewtonCG(), m.Backtracking()],
    "approximation": lambda: [m.SPSA(seed=0), m.LR(0.01)],
}


class Broken(Model):
    """The loss of one batch, or only its gradient, is not finite."""

    def __init__(self, chain, at=(1,), how="loss", net=None, schedule=None):
        super().__init__(chain, schedule, net)
        self.at, self.how = at, how

    def loss(self, batch, batch_idx):
        loss = mse(self.net, batch)
        if batch_idx in self.at:
            if self.how == "loss":
                loss = loss * torch.nan
            else:  # the derivative of the root at zero
                loss = loss + (0 * self.net[0].weight).abs().sqrt().sum()
        return loss

    def training_step(self, batch, batch_idx):
        return self.loss(batch, batch_idx)


class BrokenManual(Broken):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        if optimizer.optimizer.requires_closure:
            return closure_step(self, optimizer, lambda: self.loss(batch, batch_idx))
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch, batch_idx))
        optimizer.step()
        return None


def without(chain, skipped=1):
    """The training where that batch is missing."""
    net = network()
    optimizer = tz.Modular(net.parameters(), *chain())
    for i, batch in enumerate(batches()):
        if i == skipped:
            continue

        def closure(backward=True, batch=batch):
            loss = mse(net, batch)
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)
    return net, optimizer


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("kind", [Broken, BrokenManual], ids=["automatic", "manual"])
@pytest.mark.parametrize(
    ("chain", "how"),
    [(c, how) for c in CHAINS for how in ("loss", "gradient") if (c, how) != ("approximation", "gradient")],
)
def test_as_if_the_step_had_not_been(chain, kind, how):
    memory, skip, model = Memory(), SkipNonFinite(), kind(CHAINS[chain], how=how)
    run = trainer(skip, ClosureOptimization(), logger=memory, epochs=1)
    what = "gradient" if kind is BrokenManual and chain == "rules" else how  # where it gets no loss
    with pytest.warns(UserWarning, match=f"SkipNonFinite: the {what} is not finite"):
        run.fit(model)
    net, optimizer = without(CHAINS[chain])
    assert same(model.net, net)
    assert equal(run.optimizers[0].state_dict()["state"], optimizer.state_dict()["state"])
    assert skip.skipped == 1
    assert {i: row["skipped_steps"] for i, row in memory.rows.items() if "skipped_steps" in row} == {1: 1.0}
    assert "step" not in vars(run.optimizers[0])
    assert hooks_of(run.optimizers[0]) == 0


def test_a_torch_optimizer_and_batch_normalisation():
    class Net(Broken):
        def __init__(self):
            super().__init__(None, net=network(nn.BatchNorm1d(6)))

        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                batch = [batch[0] * torch.inf, batch[1]]
            return mse(self.net, batch)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.1)

    model = Net()
    net = copy.deepcopy(model.net)
    with pytest.warns(UserWarning, match="the loss is not finite"):
        trainer(SkipNonFinite(), epochs=1).fit(model)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for i in (0, 2, 3):
        optimizer.zero_grad()
        mse(net, batches()[i]).backward()
        optimizer.step()
    assert same(model.net, net)
    assert equal(dict(model.net.named_buffers()), dict(net.named_buffers()))


def test_accumulation_leaves_out_the_whole_step():
    model = Broken(CHAINS["rules"], at=(0,))
    with pytest.warns(UserWarning, match="the gradient is not finite"):
        trainer(SkipNonFinite(), epochs=1, accumulate_grad_batches=2).fit(model)
    net = network()
    optimizer = tz.Modular(net.parameters(), *CHAINS["rules"]())
    (sum(mse(net, batch) for batch in batches()[2:]) / 2).backward()
    optimizer.step()
    for p, q in zip(net.parameters(), model.net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-15)


def test_schedulers_step_as_in_lightning():
    schedule = lambda o: {"scheduler": torch.optim.lr_scheduler.StepLR(o, 1, 0.5), "interval": "step"}  # noqa: E731
    model = Broken(CHAINS["rules"], schedule=schedule)
    run = trainer(SkipNonFinite(), epochs=1)
    with pytest.warns(UserWarning, match="is not finite"):
        run.fit(model)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 16)
    assert run.global_step == 4


@pytest.mark.parametrize("chain", CHAINS)
def test_nothing_changes_where_all_is_finite(chain):
    model, net = Model(CHAINS[chain]), network()
    run = trainer(SkipNonFinite(), ClosureOptimization())
    run.fit(model)
    plain(CHAINS[chain], net)
    assert same(model.net, net)


def test_the_limit():
    model = Broken(CHAINS["rules"], at=(1, 2, 3))
    skip = SkipNonFinite(limit=3)
    run = trainer(skip)
    with (
        pytest.warns(UserWarning, match="is not finite"),
        pytest.raises(NonFiniteError, match="3 steps in a row were left out, the last one because the loss"),
    ):
        run.fit(model)
    net = network()
    optimizer = tz.Modular(net.parameters(), *CHAINS["rules"]())
    mse(net, batches()[0]).backward()
    optimizer.step()
    assert same(model.net, net) and skip.skipped == 3
    assert hooks_of(run.optimizers[0]) == 0

    run = trainer(SkipNonFinite(limit=2, on_limit="stop"))
    with (
        pytest.warns(UserWarning, match="is not finite"),
        pytest.warns(UserWarning, match="2 steps in a row were left"),
    ):
        run.fit(Broken(CHAINS["rules"], at=(1, 2, 3)))
    assert run.global_step == 3 and run.should_stop

    skip = SkipNonFinite(limit=2)  # not in a row
    with pytest.warns(UserWarning, match="is not finite"):
        trainer(skip).fit(Broken(CHAINS["rules"], at=(1, 3)))
    assert skip.skipped == 4


def test_what_a_search_tries_is_left_to_the_search():
    class Walls(Model):
        def training_step(self, batch, batch_idx):
            loss = mse(self.net, batch)
            return loss if float(loss.detach()) < 0.45 else loss * torch.inf

    skip = SkipNonFinite()
    chain = lambda: [m.Mul(50), m.Backtracking(adaptive=False, maxiter=30)]  # noqa: E731
    trainer(skip, ClosureOptimization(), max_steps=1).fit(Walls(chain))
    assert skip.skipped == 0


def test_the_gradient_that_a_chain_makes_itself():
    class Second(Broken):
        """Only the later evaluations of the second batch are not finite."""

        def training_step(self, batch, batch_idx):
            loss = mse(self.net, batch)
            return loss * torch.nan if batch_idx == 1 and is_reevaluation() else loss

    class Uniform(m.GradApproximator):
        """The difference along (1, 1, …) stands for every derivative."""

        def approximate(self, closure, params, loss, var):
            start = [p.clone() for p in params]
            torch._foreach_add_(params, 1e-6)
            slope = (closure(False) - loss) / 1e-6
            torch._foreach_copy_(params, start)
            return [torch.ones_like(p) * slope for p in params], loss, None

    chain = lambda: [Uniform(), m.EMA(0.9), m.LR(0.1)]  # noqa: E731
    skip, model = SkipNonFinite(), Second(chain)
    with pytest.warns(UserWarning, match="the gradient is not finite"):
        trainer(skip, ClosureOptimization(), epochs=1).fit(model)
    assert skip.skipped == 1
    assert same(model.net, without(chain)[0])


def test_lightning_s_closure_is_still_refused_without_the_callback():
    with pytest.raises(RuntimeError, match="ClosureOptimization"):
        trainer(SkipNonFinite()).fit(Model(CHAINS["search"]))


def test_counts_are_saved():
    skip = SkipNonFinite()
    with pytest.warns(UserWarning, match="is not finite"):
        trainer(skip).fit(Broken(CHAINS["rules"]))
    other = SkipNonFinite()
    other.load_state_dict(skip.state_dict())
    memory = Memory()
    trainer(other, logger=memory, epochs=1).fit(Broken(CHAINS["rules"]))
    assert memory.rows[1]["skipped_steps"] == 3


@pytest.mark.parametrize(("wrong", "text"), [(dict(limit=0), "limit=0"), (dict(on_limit="no"), "on_limit='no'")])
def test_wrong_arguments_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        SkipNonFinite(**wrong)


def test_large_buffers_that_nobody_writes_to_are_copied_once():
    class Large(Model):
        def __init__(self):
            super().__init__(CHAINS["rules"])
            self.register_buffer("table", torch.zeros(1 << 16))
            self.copies = 0

        def on_before_optimizer_step(self, optimizer):
            skip = next(c for c in self.trainer.callbacks if isinstance(c, SkipNonFinite))
            kept = next(iter(skip._buffers._kept.values()))
            self.seen = [*getattr(self, "seen", []), kept[2].data_ptr()]

        def train_dataloader(self):
            return loader()

    model = Large()
    trainer(SkipNonFinite()).fit(model)
    assert len(model.seen) == 8 and len(set(model.seen)) == 1
