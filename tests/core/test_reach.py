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
from tests.registry import in_turn

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


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(("name", "peer"), in_turn(list(REACHES), ["Adam", "Adam behind a norm", "momentum"]))
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_each_hand_alone(name, peer, compile):
    for at, shapes in enumerate((SHAPES, LARGE)):
        _run(peer, shapes, at, ["nothing", name, "nothing", name, "nothing"], compile=compile)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_many_hands(peer, compile):
    if compile and peer == "wrapped Adam":
        pytest.skip("there is nothing to compile")
    for seed in (0, 1, 2, 5):
        dice = random.Random(seed)
        reaches = ["nothing", *dice.choices(list(REACHES), k=8)]
        _run(peer, LARGE if seed % 6 == 5 else SHAPES, seed, reaches, compile=compile)


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_very_many_hands(peer, compile):
    for seed in [*range(12), *range(100, 400)]:
        dice = random.Random(seed)
        reaches = ["nothing", *dice.choices(list(REACHES), k=12)]
        _run(peer, LARGE if seed % 20 == 5 else SHAPES, seed, reaches, compile=compile and peer != "wrapped Adam")


# -- state that no step can go by ------------------------------------------------------------------------------------
def _cut(v: Tensor) -> None:
    v.data = v.data[:1]


def _cut_and_copied(v: Tensor) -> None:
    v.data = v.data[:1].clone()


def _resized(v: Tensor) -> None:
    v.resize_(1)


def _emptied(v: Tensor) -> None:
    v.set_()


def _flattened(v: Tensor) -> None:
    v.data = v.data.reshape(-1)


def _grown(v: Tensor) -> None:
    v.data = torch.cat([v.data, v.data])


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("n", [4, 700])
@pytest.mark.parametrize("hand", [_cut, _cut_and_copied, _resized, _emptied, _flattened, _grown])
@pytest.mark.parametrize(
    "chain",
    [
        lambda: [tz.m.Adam(), tz.m.LR(0.1)],
        lambda: [tz.m.ClipNorm(1.0), tz.m.Lion(), tz.m.LR(0.1)],
        lambda: [tz.m.RMSprop(centered=True, amsgrad=True), tz.m.LR(0.1)],
        lambda: [tz.m.MedianAveraging(3), tz.m.LR(0.1)],
    ],
)
def test_state_of_another_shape_is_refused(chain, hand, n, compile):
    p = nn.Parameter(torch.ones(n, n))
    optimizer = tz.Modular([p], *chain(), compile=compile)
    for _ in range(3):
        p.grad = torch.ones(n, n)
        optimizer.step()
    before = p.detach().clone()
    for v in optimizer.state[p].values():
        if isinstance(v, Tensor) and v.ndim:
            hand(v)
    with pytest.raises(ValueError, match="belongs to another parameter"):
        optimizer.step()
    assert torch.equal(p, before)
    optimizer.reset()
    optimizer.step()
    assert not torch.equal(p, before)


@pytest.mark.parametrize("compile", [False, True])
def test_state_that_is_no_tensor_is_refused(compile):
    p = nn.Parameter(torch.ones(3))
    optimizer = tz.Modular([p], tz.m.Lion(), tz.m.LR(0.1), compile=compile)
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.state[p]["Lion.ema"] = 0.5
    with pytest.raises(ValueError, match="is a float"):
        optimizer.step()


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32])
def test_state_that_was_cast_is_cast_back(dtype, compile):
    ps = [nn.Parameter(torch.ones(600, 700)) for _ in range(2)]
    chains = [tz.Modular([p], tz.m.ClipValue(9.0), tz.m.Lion(), tz.m.LR(0.5), compile=compile) for p in ps]
    for i in range(4):
        for p, optimizer in zip(ps, chains, strict=True):
            p.grad = torch.full((600, 700), 1.0 - i)
            optimizer.step()
        v, w = (o.state[p]["Lion.ema"] for p, o in zip(ps, chains, strict=True))
        v.data = v.data.to(dtype)
        w.copy_(w.to(dtype))
    assert torch.equal(ps[0], ps[1])
    v, w = (o.state[p]["Lion.ema"] for p, o in zip(ps, chains, strict=True))
    assert torch.equal(v.float(), w)


@pytest.mark.parametrize("compile", [False, True])
def test_one_number_of_each_tensor_in_other_memory(compile):
    """The numbers of all tensors are views of one vector as long as nobody touches them."""
    sets = [[nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))] for _ in range(2)]
    chains = [tz.Modular(ps, tz.m.ClipNormByEMA(0.5, tensorwise=True), tz.m.LR(1.0), compile=compile) for ps in sets]
    names = [n for n in _states_after_a_step(chains[0], sets[0]) if chains[0].state[sets[0][0]][n].ndim == 0]
    _states_after_a_step(chains[1], sets[1])
    assert names
    for i in range(3):
        for p in sets[0]:
            for name in names:
                v = chains[0].state[p][name]
                v.data = v.data.clone()
        for ps, optimizer in zip(sets, chains, strict=True):
            for p in ps:
                p.grad = torch.full_like(p, float(3 + i))
            optimizer.step()
    for p, q in zip(*sets, strict=True):
        assert torch.equal(p, q)
        for name in names:
            assert chains[0].state[p][name] == chains[1].state[q][name]


def _states_after_a_step(optimizer: tz.Modular, params: list[nn.Parameter]) -> list[str]:
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return [n for n, v in optimizer.state[params[0]].items() if isinstance(v, Tensor)]


# -- layers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compile", [False, True])
def test_lazy_layers(compile):
    def model_of(make):
        torch.manual_seed(0)
        model = nn.Sequential(nn.LazyLinear(3), nn.Tanh(), nn.LazyLinear(1))
        optimizer = make(model.parameters())
        optimizer.state_dict(), repr(optimizer), optimizer.step(), optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
        torch.manual_seed(0)
        for _ in range(3):
            model(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model

    ours = model_of(lambda ps: tz.Modular(ps, tz.m.Adam(), tz.m.LR(0.1), compile=compile))
    theirs = model_of(lambda ps: torch.optim.Adam(ps, lr=0.1))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert "summary" and tz.Modular(nn.LazyLinear(2), tz.m.Adam()).summary()


def test_a_state_is_loaded_into_lazy_layers():
    model, lazy = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.LazyLinear(3))
    source = tz.Modular(model, tz.m.Adam(), tz.m.LR(0.1))
    model(torch.ones(2, 4)).sum().backward()
    source.step()
    target = tz.Modular(lazy, tz.m.Adam(), tz.m.LR(0.1))
    target.load_state_dict(source.state_dict())
    lazy(torch.ones(2, 4))
    lazy.load_state_dict(model.state_dict())
    for m, optimizer in ((model, source), (lazy, target)):
        optimizer.zero_grad()
        m(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    for p, q in zip(model.parameters(), lazy.parameters(), strict=True):
        assert torch.equal(p, q)


PARAMETRIZATIONS: dict[str, Callable[[Any], Any]] = {
    "none": lambda m: m,
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal,
    "old weight_norm": lambda m: nn.utils.spectral_norm(m),
    "a layer inside": lambda m: nn.utils.parametrize.register_parametrization(m, "weight", _Linear()),
}


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_head_and_embeddings_are_spared_when_parametrized(name):
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 9, bias=False))
    PARAMETRIZATIONS[name](model[0]), PARAMETRIZATIONS[name](model[2])
    before = [b.clone() for b in model.buffers()]
    accepts = tz.m.hidden_matrices(model)
    assert all(map(torch.equal, before, model.buffers()))
    assert [n for n, p in model.named_parameters() if accepts(p)] == ["1.weight"]


def test_a_filter_is_copied_with_the_optimizer():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    optimizer = tz.Modular(model.parameters(), tz.m.Split(tz.m.hidden_matrices(model), tz.m.Sign(), tz.m.Mul(0.0)))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        hidden, head = other.param_groups[0]["params"]
        before = hidden.detach().clone(), head.detach().clone()
        hidden.grad, head.grad = torch.full((2, 2), 3.0), torch.full((2, 2), 3.0)
        other.step()
        assert torch.equal(hidden, before[0] - 1) and torch.equal(head, before[1])


def test_tied_and_meta_layers():
    with torch.device("meta"):
        model = nn.Linear(3, 3)
    optimizer = tz.Modular(model, tz.m.Adam(), tz.m.LR(0.1))
    optimizer.step()
    assert "12 parameters" in repr(optimizer)
    model.to_empty(device="cpu")  # other parameters, which the optimizer does not know, as torch's does not
    optimizer.step()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with torch.device("meta"):
            model = nn.Linear(3, 3)
        optimizer = tz.Modular(model, tz.m.Adam(), tz.m.LR(0.1))
        model.to_empty(device="cpu")
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    with torch.no_grad():
        model.weight.zero_(), model.bias.zero_()
    model.weight.grad, model.bias.grad = torch.ones(3, 3), torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(model.weight, torch.full((3, 3), -0.1))


# -- copies ----------------------------------------------------------------------------------------------------------
def test_torchs_own_keys_do_not_come_with_a_copy():
    for copied in (copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        optimizer = tz.Modular([nn.Parameter(torch.ones(2))], tz.m.Adam(), tz.m.LR(0.1))
        other = copied(optimizer)
        for o in (optimizer, other):
            o.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
            assert "differentiable" not in o.param_groups[-1]


def test_a_load_shares_nothing_with_its_source():
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    first, second = (tz.Modular([x], tz.m.LBFGS(), tz.m.Adam(), tz.m.LR(0.1)) for x in (p, q))
    p.grad = torch.ones(3)
    first.step()
    second.load_state_dict(first.state_dict())
    mine = [v.data_ptr() for v in first.state[p].values() if isinstance(v, Tensor)]
    theirs = [v.data_ptr() for v in second.state[q].values() if isinstance(v, Tensor)]
    assert len(mine) == len(theirs) and not set(mine) & set(theirs)
    second.param_groups[0]["lr"] = 5.0
    assert first.param_groups[0]["lr"] == 0.1


# -- seeds -----------------------------------------------------------------------------------------------------------
def _walk(optimizer: tz.Modular, p: Tensor) -> list[float]:
    for _ in range(3):
        optimizer.step(lambda backward=True: p.square().sum())
    return p.detach().tolist()


def test_the_seed_of_a_group_counts():
    def run(group, **settings):
        torch.manual_seed(3)
        p = nn.Parameter(torch.tensor([1.0, 2.0]))
        return _walk(tz.Modular([{"params": [p], **group}], tz.m.SPSA(**settings), tz.m.LR(0.01)), p)

    assert run({"seed": 5}) == run({}, seed=5) != run({}, seed=6)
    assert run({"seed": 5}, seed=6) == run({}, seed=5)


def test_reset_draws_the_same_directions_again():
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = tz.Modular([p], tz.m.SPSA(seed=1), tz.m.LR(0.01))
    first = _walk(optimizer, p)
    optimizer.reset()
    with torch.no_grad():
        p.copy_(torch.tensor([1.0, 2.0]))
    assert _walk(optimizer, p) == first


# -- torch.compile, torch.func ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("way", ["closure", "plain", "method"])
def test_a_step_inside_torch_compile(way, compile, recwarn):
    torch._dynamo.reset()
    p = nn.Parameter(torch.ones(3))
    optimizer = tz.Modular([p], tz.m.Adam(), tz.m.LR(0.1), compile=compile)

    def closure(backward=True):
        loss = p.sum()
        if backward:
            p.grad = torch.ones(3)
        return loss

    p.grad = torch.ones(3)
    steps = {"plain": lambda: optimizer.step(), "closure": lambda: optimizer.step(closure), "method": optimizer.step}
    step = torch.compile(steps[way], backend="eager")
    for _ in range(3):
        step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.7))
    assert not [w for w in recwarn if "torchzero" in str(w.message)]


def test_gradients_by_torch_func():
    model = nn.Linear(3, 1)
    twin = copy.deepcopy(model)
    ours, theirs = tz.Modular(model, tz.m.Adam(), tz.m.LR(0.1)), torch.optim.Adam(twin.parameters(), lr=0.1)
    x = torch.linspace(-1, 1, 6).view(2, 3)
    for m, optimizer in ((model, ours), (twin, theirs)):

        def loss(params, m=m):
            return torch.func.functional_call(m, params, (x,)).square().sum()

        for _ in range(3):
            grads = torch.func.grad(loss)({n: p.detach() for n, p in m.named_parameters()})
            for n, p in m.named_parameters():
                p.grad = grads[n]
            optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
