"""Users reach into optimizers between two steps; the next step does what torch's optimizer does."""

from __future__ import annotations

import collections
import copy
import io
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchzero_core as tz

#: Each chain with torch's twin, and the names of the twin's state.
PEERS: dict[str, tuple[Callable[[], list[Any]], Callable[..., torch.optim.Optimizer], dict[str, str]]] = {
    "Adam": (
        lambda: [tz.m.Adam(), tz.m.LR(0.1)],
        lambda ps: torch.optim.Adam(ps, lr=0.1),
        {"Adam.exp_avg": "exp_avg", "Adam.exp_avg_sq": "exp_avg_sq"},
    ),
    "AdamW": (
        lambda: [tz.m.Adam(), tz.m.WeightDecay(0.1), tz.m.LR(0.1)],
        lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.1),
        {"Adam.exp_avg": "exp_avg", "Adam.exp_avg_sq": "exp_avg_sq"},
    ),
    "Adam behind a rule": (
        lambda: [tz.m.ClipValue(1e6), tz.m.Adam(), tz.m.Mul(1.0), tz.m.LR(0.1)],
        lambda ps: torch.optim.Adam(ps, lr=0.1),
        {"Adam.exp_avg": "exp_avg", "Adam.exp_avg_sq": "exp_avg_sq"},
    ),
    "Adam behind a norm": (
        lambda: [tz.m.ClipNorm(1e6), tz.m.Adam(), tz.m.LR(0.1)],
        lambda ps: torch.optim.Adam(ps, lr=0.1),
        {"Adam.exp_avg": "exp_avg", "Adam.exp_avg_sq": "exp_avg_sq"},
    ),
    "Adam in a split": (
        lambda: [tz.m.Split(lambda p: p.ndim > 1, [tz.m.Mul(1.0)], [tz.m.Mul(1.0)]), tz.m.Adam(), tz.m.LR(0.1)],
        lambda ps: torch.optim.Adam(ps, lr=0.1),
        {"Adam.exp_avg": "exp_avg", "Adam.exp_avg_sq": "exp_avg_sq"},
    ),
    "momentum": (
        lambda: [tz.m.HeavyBall(0.9), tz.m.LR(0.1)],
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
        {"HeavyBall.exp_avg": "momentum_buffer"},
    ),
    "momentum behind a rule": (
        lambda: [tz.m.HeavyBall(0.9), tz.m.ClipValue(1e6), tz.m.LR(0.1)],
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
        {"HeavyBall.exp_avg": "momentum_buffer"},
    ),
    "Nesterov": (
        lambda: [tz.m.NAG(0.9), tz.m.LR(0.1)],
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True),
        {"NAG.velocity": "momentum_buffer"},
    ),
    "RMSprop": (
        lambda: [tz.m.RMSprop(init="zeros"), tz.m.LR(0.1)],
        lambda ps: torch.optim.RMSprop(ps, lr=0.1),
        {"RMSprop.exp_avg_sq": "square_avg"},
    ),
    "wrapped Adam": (
        lambda: [tz.m.Wrap(torch.optim.Adam, lr=0.1)],
        lambda ps: torch.optim.Adam(ps, lr=0.1),
        {"Wrap.exp_avg": "exp_avg", "Wrap.exp_avg_sq": "exp_avg_sq"},
    ),
    "SGD": (lambda: [tz.m.LR(0.1)], lambda ps: torch.optim.SGD(ps, lr=0.1), {}),
}
SHAPES: list[tuple[int, ...]] = [(4, 3), (3,), (1,), (), (2, 3, 2), (0,), (5, 5)]
LARGE: list[tuple[int, ...]] = [(600, 500), (3,), (2, 2)]


class Hand:
    """One optimizer with its parameters, which the functions below reach into.

    Args:
        optimizer: ours or torch's.
        params: its parameters.
        names: the names of its state.
    """

    def __init__(self, optimizer: Any, params: list[Tensor], names: list[str]) -> None:
        self.optimizer, self.params, self.names = optimizer, params, names

    def states(self, seed: random.Random) -> list[tuple[dict[str, Any], str]]:
        """Some of the places where state tensors are."""
        found = []
        for p in self.params:
            take = seed.random() < 0.6
            for name in self.names:
                if take and isinstance(self.optimizer.state.get(p, {}).get(name), Tensor):
                    found.append((self.optimizer.state[p], name))
        return found

    def some(self, seed: random.Random) -> list[Tensor]:
        """Some of the parameters."""
        return [p for p in self.params if seed.random() < 0.6]


Reach = Callable[[Hand, random.Random], None]
REACHES: dict[str, Reach] = {}


def reach(fn: Reach) -> Reach:
    """Enter a function that reaches into an optimizer."""
    REACHES[fn.__name__] = fn
    return fn


@reach
def nothing(h: Hand, seed: random.Random) -> None:
    pass


@reach
def state_moved(h: Hand, seed: random.Random) -> None:
    for store, name in h.states(seed):
        store[name].data = store[name].data.clone()


@reach
def state_set(h: Hand, seed: random.Random) -> None:
    for store, name in h.states(seed):
        store[name].set_(store[name].clone())


@reach
def state_of_other_dtype(h: Hand, seed: random.Random) -> None:
    for store, name in h.states(seed):
        if name.startswith(("Adam.", "HeavyBall.", "NAG.", "RMSprop.")):  # torch's goes on in the wrong dtype or fails
            store[name].data = store[name].data.double()


@reach
def state_replaced(h: Hand, seed: random.Random) -> None:
    for store, name in h.states(seed):
        store[name] = store[name].clone() * 0.5


@reach
def state_edited(h: Hand, seed: random.Random) -> None:
    factor = seed.choice([0.0, 0.5])
    for store, name in h.states(seed):
        store[name].mul_(factor)


@reach
def state_in_another_order(h: Hand, seed: random.Random) -> None:
    for store, name in h.states(seed):
        v = store[name]
        if v.ndim > 1:
            v.data = v.data.transpose(0, -1).contiguous().transpose(0, -1)


@reach
def state_dict_of_a_parameter_replaced(h: Hand, seed: random.Random) -> None:
    for p in h.some(seed):
        if p in h.optimizer.state:
            h.optimizer.state[p] = dict(h.optimizer.state[p])


@reach
def state_cleared(h: Hand, seed: random.Random) -> None:
    h.optimizer.state.clear()


@reach
def state_assigned(h: Hand, seed: random.Random) -> None:
    h.optimizer.state = collections.defaultdict(dict)


@reach
def state_of_some_forgotten(h: Hand, seed: random.Random) -> None:
    how = seed.randrange(3)
    for p in h.some(seed):
        if how == 0:
            h.optimizer.state.pop(p, None)
        elif how == 1:
            h.optimizer.state[p] = {}
        elif p in h.optimizer.state:
            h.optimizer.state[p].clear()


@reach
def state_held_elsewhere(h: Hand, seed: random.Random) -> None:
    h.optimizer.state = collections.defaultdict(dict, h.optimizer.state)


@reach
def params_moved(h: Hand, seed: random.Random) -> None:
    for p in h.some(seed):
        p.data = p.data.clone()


@reach
def params_in_another_order(h: Hand, seed: random.Random) -> None:
    for p in h.some(seed):
        if p.ndim > 1:
            p.data = p.data.transpose(0, -1).contiguous().transpose(0, -1)


@reach
def params_in_one_buffer(h: Hand, seed: random.Random) -> None:
    params = [p for p in h.params if p.dtype == h.params[0].dtype]
    flat = torch.cat([p.detach().reshape(-1) for p in params])
    for p, part in zip(params, flat.split([p.numel() for p in params]), strict=True):
        p.data = part.view(p.shape)


@reach
def params_strided(h: Hand, seed: random.Random) -> None:
    for p in h.some(seed):
        if p.ndim:
            room = torch.zeros(*p.shape[:-1], 2 * p.shape[-1], dtype=p.dtype)
            room[..., ::2] = p.data
            p.data = room[..., ::2]


@reach
def params_of_other_dtype(h: Hand, seed: random.Random) -> None:
    for p in h.params:
        p.data = p.data.double()
        for name in h.names:
            v = h.optimizer.state.get(p, {}).get(name)
            if isinstance(v, Tensor):
                v.data = v.data.double()


@reach
def params_edited(h: Hand, seed: random.Random) -> None:
    with torch.no_grad():
        for p in h.some(seed):
            p.mul_(0.5)


@reach
def param_replaced(h: Hand, seed: random.Random) -> None:
    for group in h.optimizer.param_groups:
        for i, p in enumerate(group["params"]):
            if seed.random() < 0.5:
                new = nn.Parameter(p.detach().clone() + 0.25)
                h.params[next(k for k, q in enumerate(h.params) if q is p)] = new
                group["params"][i] = new
                old = h.optimizer.state.pop(p, None)
                if seed.random() < 0.5 and old is not None:
                    h.optimizer.state[new] = old


@reach
def param_cut_with_its_state(h: Hand, seed: random.Random) -> None:
    for p in h.some(seed):
        if p.ndim and p.shape[0] > 1 and p.numel() < 1000:
            p.data = p.data[:-1] if seed.random() < 0.5 else p.data[:-1].clone()
            for name in h.names:
                v = h.optimizer.state.get(p, {}).get(name)
                if isinstance(v, Tensor):
                    v.data = v.data[:-1]


@reach
def param_grown_with_its_state(h: Hand, seed: random.Random) -> None:
    for p in h.some(seed):
        if p.ndim and p.numel() and p.numel() < 1000:
            p.data = torch.cat([p.data, torch.full_like(p.data[:1], 0.5)])
            for name in h.names:
                v = h.optimizer.state.get(p, {}).get(name)
                if isinstance(v, Tensor):
                    v.data = torch.cat([v.data, torch.zeros_like(v.data[:1])])


@reach
def param_dropped_and_added(h: Hand, seed: random.Random) -> None:
    group = h.optimizer.param_groups[0]
    i = seed.randrange(len(group["params"]))
    p = group["params"].pop(i)
    h.optimizer.add_param_group({"params": [p], "lr": 0.05})


@reach
def groups_in_another_order(h: Hand, seed: random.Random) -> None:
    h.optimizer.param_groups.reverse()
    for group in h.optimizer.param_groups:
        group["params"] = list(reversed(group["params"]))


@reach
def groups_replaced(h: Hand, seed: random.Random) -> None:
    h.optimizer.param_groups = [dict(group) for group in h.optimizer.param_groups]


@reach
def param_added(h: Hand, seed: random.Random) -> None:
    new = nn.Parameter(torch.full((3, 2), 0.5))
    h.params.append(new)
    if seed.random() < 0.5:
        h.optimizer.add_param_group({"params": [new]})
    else:
        h.optimizer.param_groups[0]["params"].append(new)


@reach
def lr_changed(h: Hand, seed: random.Random) -> None:
    for group in h.optimizer.param_groups:
        group["lr"] = seed.choice([0.1, 0.03, torch.tensor(0.05).item(), 0.0])


@reach
def frozen(h: Hand, seed: random.Random) -> None:
    for p in h.params:
        p.requires_grad_(seed.random() < 0.6)


@reach
def copied_shallowly(h: Hand, seed: random.Random) -> None:
    other = copy.copy(h.optimizer)
    if seed.random() < 0.5:
        h.optimizer = other


@reach
def copied_deeply(h: Hand, seed: random.Random) -> None:
    h.optimizer, h.params = copy.deepcopy((h.optimizer, h.params))


@reach
def set_again(h: Hand, seed: random.Random) -> None:
    state = h.optimizer.__getstate__()
    keys = seed.choice([list(state), ["state"], ["param_groups"], ["state", "param_groups"]])
    h.optimizer.__setstate__({k: state[k] for k in keys})


@reach
def saved_and_loaded(h: Hand, seed: random.Random) -> None:
    file = io.BytesIO()
    torch.save(h.optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file)
    h.optimizer.load_state_dict(saved)
    for values in saved["state"].values():
        for value in values.values():
            if isinstance(value, Tensor):
                value.fill_(float("nan")) if isinstance(h.optimizer, tz.Modular) and value.is_floating_point() else None


@reach
def swapped(h: Hand, seed: random.Random) -> None:
    for p in h.some(seed):
        torch.utils.swap_tensors(p, nn.Parameter(p.detach().clone() * 0.5))


def _grads(params: list[Tensor], step: int, seed: random.Random) -> None:
    for p in params:
        g = torch.linspace(-1, 1, max(p.numel(), 1), dtype=p.dtype)[: p.numel()].view(p.shape) * (1 + step % 3) + 0.3
        kind = seed.randrange(8)
        if kind == 0:
            p.grad = None
        elif kind == 1 and p.ndim > 1:
            p.grad = g.transpose(0, -1).contiguous().transpose(0, -1)
        elif kind == 2 and p.numel():
            p.grad = torch.full((1,) * p.ndim, 0.5, dtype=p.dtype).expand(p.shape)
        else:
            p.grad = g


def _run(peer: str, shapes: list[tuple[int, ...]], seed: int, reaches: list[str], **options: Any) -> None:
    modules, theirs, names = PEERS[peer]
    torch.manual_seed(seed)
    start = [torch.randn(shape) for shape in shapes]
    hands = []
    for make, keys in (
        (lambda ps: tz.Modular(ps, *modules(), **options), list(names)),
        (theirs, list(names.values())),
    ):
        params = [nn.Parameter(v.clone()) for v in start]
        hands.append(Hand(make(params), params, keys))
    for step, name in enumerate(reaches):
        for hand in hands:
            dice = random.Random(f"{seed} {step}")
            REACHES[name](hand, dice)
            _grads(hand.params, step, dice)
            hand.optimizer.step()
        ours, peers = hands
        for p, q in zip(ours.params, peers.params, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=lambda m, s=step: f"{reaches[: s + 1]}: {m}")
        for p, q in zip(ours.params, peers.params, strict=True):
            for a, b in names.items():
                mine, their = ours.optimizer.state.get(p, {}).get(a), peers.optimizer.state.get(q, {}).get(b)
                assert (mine is None) == (their is None), (reaches[: step + 1], a)
                if mine is not None:
                    torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-5, check_stride=False, check_dtype=False)
