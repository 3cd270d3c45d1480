"""Random numbers come from each module's own generator, whose position is state (K10)."""

import copy
import io

import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, make_params, run, same
from torchzero_core.core import Module


class Noise(Module):
    """Notes what it draws, and adds it to the update."""

    def __init__(self, seed=None):
        super().__init__(dict(seed=seed))
        self.drawn = []

    def step(self, var):
        for p, u in zip(var.params, var.get_update(), strict=True):
            noise = torch.randn(p.shape, dtype=p.dtype, generator=self.generator(p.device))
            u.add_(noise)
            self.drawn.append(noise)
        return var


def train(seed, steps, optimizer=None, params=None):
    params = make_params() if params is None else params
    module = Noise(seed)
    optimizer = tz.Modular(params, module, tz.m.LR(0.1)) if optimizer is None else optimizer
    run(optimizer, params, steps)
    return params, optimizer, optimizer.modules[0].drawn


def test_a_seed_decides_everything_and_touches_nothing():
    state = torch.get_rng_state()
    _, _, first = train(7, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert same(train(7, 3)[2], first)
    assert not same(train(8, 3)[2], first)
    assert not same(first[:3], first[3:6])  # it moves on


def test_without_a_seed_one_is_drawn_once_from_torch():
    torch.manual_seed(5)
    params, optimizer, first = train(None, 1)
    after_one = torch.get_rng_state()
    run(optimizer, params, 3)
    assert torch.equal(torch.get_rng_state(), after_one)  # only once
    torch.manual_seed(5)
    assert not torch.equal(torch.get_rng_state(), after_one)
    again = train(None, 4)[2]
    assert same(again, optimizer.modules[0].drawn)
    torch.manual_seed(6)
    assert not same(train(None, 1)[2], first)


def test_what_others_draw_makes_no_difference():
    params = make_params()
    optimizer = tz.Modular(params, Noise(3), tz.m.LR(0.1))
    for _ in range(3):
        torch.randn(100)
        run(optimizer, params, 1)
    assert same(optimizer.modules[0].drawn, train(3, 3)[2])


def test_each_module_has_its_own():
    params = make_params()
    a, b = Noise(3), Noise(3)
    optimizer = tz.Modular(params, a, b, tz.m.LR(0.1))
    run(optimizer, params, 2)
    assert same(a.drawn, b.drawn)
    assert same(a.drawn, train(3, 2)[2])
    torch.manual_seed(0)
    c, d = Noise(), Noise()
    run(tz.Modular(params, c, d, tz.m.LR(0.1)), params, 1)
    assert not same(c.drawn, d.drawn)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("how", ["file", "deepcopy"])
def test_the_position_is_state(seed, how):
    params, optimizer, _ = train(seed, 3)
    state = [name for name in optimizer.state[params[0]] if "generator" in name]
    assert state == ["Noise.global.generator:cpu"]
    if how == "deepcopy":
        others, other = copy.deepcopy((params, optimizer))
    else:
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        others = [p.detach().clone().requires_grad_() for p in params]
        other = tz.Modular(others, Noise(seed), tz.m.LR(0.1))
        other.load_state_dict(torch.load(file, weights_only=True))
    torch.manual_seed(1234)
    run(optimizer, params, 3)
    torch.manual_seed(4321)
    run(other, others, 3)
    assert same(bits(params), bits(others))


def test_loading_puts_a_generator_in_use_back():
    params, optimizer, drawn = train(3, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    run(optimizer, params, 2)
    optimizer.load_state_dict(saved)
    run(optimizer, params, 2)
    assert same(drawn[6:12], drawn[12:18])


def test_reset_starts_anew():
    params, optimizer, drawn = train(3, 2)
    optimizer.reset()
    run(optimizer, params, 2)
    assert same(drawn[:6], drawn[6:])


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("warm", [0, 2])
def test_an_exception_winds_it_back(seed, warm):
    """The next step draws what the failed one drew."""

    class Fails(Module):
        armed = True

        def step(self, var):
            if self.armed:
                raise RuntimeError("out of luck")
            return var

    module, fails, params = Noise(seed), Fails(), make_params()
    optimizer = tz.Modular(params, module, fails, tz.m.LR(0.1))
    fails.armed = False
    run(optimizer, params, warm)
    fails.armed = True
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of luck"):
            run(optimizer, params, 1)
    fails.armed = False
    run(optimizer, params, 1)
    attempts = [module.drawn[3 * i : 3 * i + 3] for i in range(warm, warm + 3)]
    assert same(attempts[0], attempts[1])
    assert same(attempts[1], attempts[2])
    if warm:
        assert not same(attempts[0], module.drawn[:3])


@pytest.mark.parametrize("make", [lambda s: tz.m.SPSA(seed=s), lambda s: tz.m.MeZO(seed=s)])
def test_modules_of_the_catalogue_use_it(make):
    results = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        params = make_params()
        run(tz.Modular(params, make(3), tz.m.LR(1e-2)), params, 3)
        results.append(bits(params))
    assert same(*results)
