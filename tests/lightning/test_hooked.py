"""Hooks that change gradients change those of one evaluation; where others are computed too, a warning says so."""

import warnings

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.lightning.problems import Model, mse, trainer
from tz_lightning import ClosureModule, ClosureOptimization, closure_step

m = tz.m


def clip(module):
    nn.utils.clip_grad_norm_(module.parameters(), 0.01)


def read(module):
    module.log("norm", nn.utils.get_total_norm([p.grad for p in module.parameters()]))


def take_away(module):
    module.net[0].weight.grad = None


def search():
    return [m.LBFGS(), m.StrongWolfe()]


def one_gradient():
    return [m.Backtracking()]


def adam():
    return [m.Adam(), m.LR(1e-2)]


def with_hook(base, name, hook):
    return type("Hooked", (base,), {name: lambda self, *args: hook(self)})


def warned(kind, chain, **options):
    """How often a training says it."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer(ClosureOptimization(), max_epochs=2, **options).fit(kind(chain))
    return sum("A hook (on_after_backward, on_before_optimizer_step) changes gradients" in str(w.message) for w in seen)


HOOKS = pytest.mark.parametrize("hook", ["on_after_backward", "on_before_optimizer_step"])


@HOOKS
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_hook_that_clips_is_named_once(hook, accumulate):
    assert warned(with_hook(Model, hook, clip), search, accumulate_grad_batches=accumulate) == 1


@HOOKS
@pytest.mark.parametrize(
    ("does", "chain"),
    [(read, search), (take_away, search), (clip, one_gradient), (clip, adam)],
    ids=["reads", "takes away", "one gradient a step", "no closure"],
)
def test_what_is_right_is_not(hook, does, chain):
    assert warned(with_hook(Model, hook, does), chain) == 0


@HOOKS
def test_closure_step_says_so_too(hook):
    class Manual(Model):
        def __init__(self, chain):
            super().__init__(chain)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            closure_step(self, self.optimizers(), lambda: mse(self.net, batch))

    assert warned(with_hook(Manual, hook, clip), search) == 1
    assert warned(with_hook(Manual, hook, clip), one_gradient) == 0


def test_lightning_s_plugin_is_left_as_it_was():
    class Searching(ClosureModule, Model):
        pass

    run = trainer(max_epochs=1)
    run.fit(Searching(search))
    assert "post_backward" not in vars(run.precision_plugin)
    assert all(torch.isfinite(p).all() for p in run.lightning_module.parameters())
