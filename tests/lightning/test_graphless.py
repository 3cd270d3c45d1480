"""Training steps for a value alone make no graph, with side effects once; accumulation without gradients makes none."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torchmetrics import MeanMetric

import torchzero_core as tz
from tests.lightning.loggers import Memory
from tests.lightning.problems import Model, batches, m, mse, network, trainer
from torchzero_core.core.graphless import Graphless
from tz_lightning import ClosureOptimization, closure_step

CHAINS = {
    "MeZO": lambda: [m.MeZO(seed=0), m.LR(0.01)],
    "SPSA as the update": lambda: [m.SPSA(seed=0, target="update"), m.LR(0.01)],
    "FDM, Backtracking": lambda: [m.FDM(), m.Backtracking()],
    "Backtracking": lambda: [m.Backtracking()],
    "NewtonCG": lambda: [m.NewtonCG(hvp_method="autograd"), m.Backtracking()],
}
pytestmark = pytest.mark.filterwarnings("ignore:.*changes the global 'SEEN':UserWarning")
SEEN = []  # outside of the model, where nothing is put back


class Effects(Model):
    """Dropout, batch normalisation, metrics, an iterator, and a derivative by the inputs where it is asked for.

    Args:
        chain: makes the modules.
        penalty: whether the loss contains derivatives.
        direct: whether something goes to the logger itself.
    """

    def __init__(self, chain, penalty=False, direct=False):
        super().__init__(chain, net=network(nn.Dropout(0.3), nn.BatchNorm1d(6)))
        self.penalty, self.direct = penalty, direct
        self.mean, self.numbers, self.drawn = MeanMetric(), iter(range(1000)), []
        self.after_backward = 0

    def training_step(self, batch, batch_idx):
        SEEN.append(torch.is_grad_enabled())
        x = batch[0].clone().requires_grad_(self.penalty)
        self.drawn.append(next(self.numbers))
        u = self.net(x)
        self.mean.update(u.mean())
        self.log("u", u.mean(), on_step=True, on_epoch=True)
        if self.direct:
            self.logger.log_metrics({"direct": 1.0})
        loss = (u - batch[1]).square().mean()
        if self.penalty:
            (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            loss = loss + 0.1 * du.square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def on_after_backward(self):
        self.after_backward += 1


class Manual(Effects):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        return closure_step(self, self.optimizers(), lambda: super(Manual, self).training_step(batch, batch_idx))


class Direct(Memory):
    """A logger that somebody writes to without Lightning."""

    writes = 0

    def log_metrics(self, metrics, step=None):
        self.writes += "direct" in metrics
        super().log_metrics(metrics, step)


def fitted(model, **options):
    """Everything that a run leaves behind, and how often training_step ran with and without gradients."""
    SEEN.clear()
    torch.manual_seed(3)
    memory = Direct()
    saved = 0

    def save(tensor):
        nonlocal saved
        saved += 1
        return tensor

    with saved_tensors_hooks(save, lambda t: t):
        run = trainer(ClosureOptimization(), logger=memory, log_every_n_steps=1, epochs=1, **options)
        run.fit(model)
    left = {
        "parameters and buffers": {k: v.clone() for k, v in model.state_dict().items()},
        "logged": memory.rows,
        "metric": (float(model.mean.compute()), model.mean._update_count),
        "drawn": list(model.drawn),
        "random": torch.rand(2),
        "writes": memory.writes,
        "steps": run.global_step,
    }
    return left, (SEEN.count(True), SEEN.count(False)), saved


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a == b


@pytest.fixture
def graphs(monkeypatch):
    """Makes every evaluation one with a graph."""
    given = dict(needs_graph=True, proven=False, differentiated=False)
    return lambda: monkeypatch.setattr(Graphless, "__init__", lambda self: vars(self).update(given))


@pytest.mark.parametrize("penalty", [False, True])
@pytest.mark.parametrize("kind", [Effects, Manual])
@pytest.mark.parametrize("name", CHAINS)
def test_a_run_is_the_same_to_the_last_bit(name, kind, penalty, graphs):
    here, (on, off), saved = fitted(kind(CHAINS[name], penalty))
    graphs()
    there, (all_on, none_off), as_before = fitted(kind(CHAINS[name], penalty))
    assert equal(here, there)
    assert none_off == 0 and on + off == all_on + penalty
    if penalty:
        assert off == 1  # the one attempt, of which nothing is left
    else:
        assert off > 0 and saved < as_before
    if name in ("MeZO", "SPSA as the update", "FDM, Backtracking") and not penalty:
        assert on == saved == 0


@pytest.mark.parametrize("penalty", [False, True])
@pytest.mark.parametrize("name", CHAINS)
def test_a_run_with_accumulation_is_the_same_to_the_last_bit(name, penalty, graphs):
    here, (on, _), saved = fitted(Effects(CHAINS[name], penalty), accumulate_grad_batches=2)
    graphs()
    there, _, as_before = fitted(Effects(CHAINS[name], penalty), accumulate_grad_batches=2)
    assert equal(here, there)
    assert saved < as_before or penalty
    if name in ("MeZO", "FDM, Backtracking") and not penalty:
        assert on == saved == 0


def test_what_goes_to_the_logger_itself(graphs):
    """Of the attempt nothing is written, and what it has not written the next one writes."""
    for penalty in (False, True):
        here, (on, off), _ = fitted(Effects(CHAINS["MeZO"], penalty, direct=True))
        assert here["writes"] == here["steps"] == 4
        assert (on, off) == ((12, 1) if penalty else (0, 13))
    graphs()
    there, _, _ = fitted(Effects(CHAINS["MeZO"], True, direct=True))
    assert equal(here, there)


@pytest.mark.parametrize(
    ("chain", "backwards"),
    [
        (CHAINS["MeZO"], 0),
        (CHAINS["FDM, Backtracking"], 0),
        (lambda: [m.ForwardGradient(jvp_method="central", seed=0), m.LR(0.01)], 0),
        (CHAINS["SPSA as the update"], 0),
        (lambda: [m.ForwardGradient(seed=0), m.LR(0.01)], 0),  # the loss first, and then all batches with gradients
        (lambda: [m.Multistep([m.SPSA(seed=0), m.LR(0.01)], 1)], 1),  # the first step shows it
        (CHAINS["Backtracking"], 8),
    ],
)
def test_accumulated_batches_go_backward_only_for_who_needs_it(chain, backwards):
    model = Effects(chain)
    trainer(ClosureOptimization(), accumulate_grad_batches=2).fit(model)
    assert model.after_backward == backwards


@pytest.mark.filterwarnings("ignore:.*changes 'calls' of the function around it:UserWarning")
@pytest.mark.parametrize(
    ("chain", "evaluations"),
    [
        (lambda: [m.SPSA(seed=0), m.LR(0.01)], 4 + 2 * 4),
        (lambda: [m.SPSA(seed=0, target="update"), m.LR(0.01)], 3 + 2 * 4),  # the last batch only where it was moved to
        (lambda: [m.WeightDropout(0.3, seed=0), m.LR(0.1)], 3 + 4),
        (lambda: [m.GaussianHomotopy(2, 0.1, seed=0), m.LR(0.1)], 3 + 2 * 4),
        (lambda: [m.HeavyBall(), m.LR(0.1)], 4),
    ],
)
def test_accumulated_batches_are_evaluated_where_the_parameters_are(chain, evaluations):
    """A module may have moved them before the first evaluation of the step; the batches were evaluated before that."""
    model, net, calls = Model(chain), network(), []
    model.net.register_forward_hook(lambda *_: calls.append(0))
    trainer(ClosureOptimization(), accumulate_grad_batches=4, epochs=3).fit(model)
    optimizer = tz.Modular(net.parameters(), *chain())
    for _ in range(3):
        optimizer.step(summed(net, optimizer, batches()))
    assert all(torch.equal(p, q) for p, q in zip(model.net.parameters(), net.parameters(), strict=True))
    assert len(calls) == 3 * evaluations


def summed(net, optimizer, part):
    """The closure of the mean over some batches, each with its own backward pass."""

    def closure(backward=True):
        losses = [mse(net, batch) / len(part) for batch in part]
        if backward:
            optimizer.zero_grad()
            for loss in losses:
                loss.backward()
        return sum(losses)

    return closure


def changing():
    """Gradients at every other step."""
    return [m.Alternate([m.SPSA(seed=0), m.LR(0.01)], [m.HeavyBall(), m.LR(0.01), m.Backtracking()], steps=1)]


def test_a_step_that_needs_gradients_nobody_has_expected():
    model, net = Model(changing), network()
    trainer(ClosureOptimization(), accumulate_grad_batches=2).fit(model)
    optimizer = tz.Modular(net.parameters(), *changing())
    for _ in range(2):
        for part in (batches()[:2], batches()[2:]):
            optimizer.step(summed(net, optimizer, part))
    for p, q in zip(model.net.parameters(), net.parameters(), strict=True):
        assert torch.equal(p, q)


def test_gradients_of_others_stay_out_of_it():
    """A step that nobody has expected clears what lies in the gradients before it adds up its own."""

    class Dirty(Model):
        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx % 2 == 0:
                for p in self.net.parameters():
                    p.grad = torch.full_like(p, 1e3)

    dirty, clean = Dirty(changing), Model(changing)
    for model in (dirty, clean):
        trainer(ClosureOptimization(), accumulate_grad_batches=2).fit(model)
    assert all(torch.equal(p, q) for p, q in zip(dirty.net.parameters(), clean.net.parameters(), strict=True))


@pytest.mark.parametrize("kind", [Effects, Manual])
def test_an_error_of_the_training_step_is_raised_as_it_is(kind):
    class Failing(kind):
        def training_step(self, batch, batch_idx):
            if not self.automatic_optimization:
                return closure_step(self, self.optimizers(), lambda: torch.zeros(1).backward())
            return torch.zeros(1).backward()

    with pytest.raises(RuntimeError, match="element 0 of tensors does not require grad"):
        trainer(ClosureOptimization()).fit(Failing(CHAINS["MeZO"]))
