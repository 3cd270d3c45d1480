"""What is worked out once is thrown away when what it was made from has changed."""

import copy
import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchzero_core as tz
from tests.problems import closure_of, make_params

F64 = torch.float64
COMPILE = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def vector(*values):
    return torch.tensor(values, dtype=F64, requires_grad=True)


def push(optimizer, params, grads):
    """One step with given gradients."""
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else torch.full_like(p, g)
    optimizer.step()


# -- modules are exchanged ---------------------------------------------------------------------------------------------
@COMPILE
@pytest.mark.filterwarnings("ignore:compile=True has no effect on Split")
def test_a_child_set_below_a_nested_chain(compile):
    p = vector(0.0)
    held = tz.m.GraftModules(tz.m.Identity(), tz.m.Identity())
    optimizer = tz.Modular([p], tz.m.Split(lambda p: True, [tz.m.Mul(2.0), held], None), compile=compile)
    push(optimizer, [p], [1.0])
    assert p.item() == -2
    held.set_child("direction", tz.m.Mul(-1.0))
    push(optimizer, [p], [1.0])
    assert p.item() == 0


@COMPILE
@pytest.mark.filterwarnings("ignore:compile=True has no effect on Split")
def test_a_module_set_in_a_nested_chain(compile):
    p = vector(0.0)
    split = tz.m.Split(lambda p: True, [tz.m.Mul(2.0), tz.m.Mul(3.0)], None)
    optimizer = tz.Modular([p], split, compile=compile)
    push(optimizer, [p], [1.0])
    assert p.item() == -6
    split.children["true"].set_child("1", tz.m.Mul(5.0))
    push(optimizer, [p], [1.0])
    assert p.item() == -16


@COMPILE
def test_a_child_of_a_rule_that_runs_alone(compile):
    p = vector(0.0)
    rule = tz.m.Sum(tz.m.Mul(2.0), tz.m.Mul(3.0))
    rule.target = "update_difference"  # u − (2u + 3u)
    optimizer = tz.Modular([p], rule, compile=compile)
    push(optimizer, [p], [1.0])
    assert p.item() == 4
    rule.set_child(list(rule.children)[1], tz.m.Mul(30.0))
    push(optimizer, [p], [1.0])
    assert p.item() == 4 + 31


def test_a_module_keeps_its_name_when_one_before_it_is_exchanged():
    p = vector(0.0)
    optimizer = tz.Modular([p], tz.m.EMA(0.5), tz.m.EMA(0.25))
    push(optimizer, [p], [1.0])
    first, second = optimizer.modules
    before = {name: copy.deepcopy(value) for name, value in second.state[p].items()}
    optimizer.chain.set_child("0", tz.m.Sign())
    assert [m.path for m in optimizer.unrolled_modules] == ["Sign", "EMA_2"]
    assert before and before == dict(second.state[p]) and first.path == "EMA"


# -- nothing is kept for ever ------------------------------------------------------------------------------------------
def test_stand_ins_of_a_projection_do_not_pile_up():
    shapes = [(k,) for k in range(101, 113)]
    params = make_params(shapes)
    optimizer = tz.Modular(params, tz.m.VectorProjection(tz.m.HeavyBall(0.9)), tz.m.LR(0.1))
    sizes = set()
    for missing in range(len(params)):
        push(optimizer, params, [None if i == missing else 1.0 for i in range(len(params))])
        sizes.add(sum(p.numel() for i, p in enumerate(params) if i != missing))
    gc.collect()
    alive = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.requires_grad]
    assert len(sizes) == 12
    assert sum(t.numel() in sizes for t in alive) <= 2


def test_parameters_of_replaced_overrides_are_let_go():
    p = vector(1.0)
    module = tz.m.Mul(2.0)
    optimizer = tz.Modular([p], module)
    alive = []
    name = next(iter(module.defaults))
    for _ in range(5):
        other = vector(2.0)
        alive.append(weakref.ref(other))
        module.set_param_groups([{"params": [p, other], name: 3.0}])
        push(optimizer, [p], [1.0])
        del other
    gc.collect()
    assert sum(ref() is not None for ref in alive) == 1
    assert p.item() == 1 - 5 * 3


def test_overrides_survive_a_copy():
    params = [vector(1.0), vector(1.0)]
    module = tz.m.Mul(2.0)
    optimizer = tz.Modular(params, module)
    module.set_param_groups([{"params": params[:1], next(iter(module.defaults)): 3.0}])
    twins, other = copy.deepcopy((params, optimizer))
    push(other, twins, [1.0, 1.0])
    assert [p.item() for p in twins] == [-2, -1]


class Calls(TorchDispatchMode):
    """Counts the operations of torch."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += 1
        return function(*args, **(kwargs or {}))


def test_a_chain_first_run_while_watched_is_fused_later():
    def calls(watch):
        p = vector(1.0)
        chain = [tz.m.Mul(2.0), tz.m.ClipValue(1), tz.m.Lion()]
        optimizer = tz.Modular([p], tz.m.Split(lambda p: True, chain, None), tz.m.LR(0.1))
        if watch:
            handle = optimizer.watch(lambda path, update: None)
            push(optimizer, [p], [1.0])
            handle.remove()
        for _ in range(2):
            push(optimizer, [p], [1.0])
        with Calls() as counter:
            optimizer.step()
        return counter.n

    assert calls(watch=True) == calls(watch=False)


class Restart(tz.Module):
    """Resets its modules in the middle of the third step, before it runs them."""

    def __init__(self, modules):
        super().__init__()
        self.set_child("modules", modules)
        self.calls = 0

    def step(self, var):
        self.calls += 1
        if self.calls == 3:
            self.children["modules"].reset()
        return self.children["modules"].step(var)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize(
    "modules",
    [
        lambda: tz.m.Adam(),
        lambda: [tz.m.Adam(), tz.m.EMA(0.9, debiased=True)],
        lambda: tz.m.Wrap(torch.optim.Adam, lr=1.0),
    ],
    ids=["rule", "chain", "wrapped"],
)
def test_a_module_that_is_reset_within_a_step_starts_anew_in_it(modules, projected):
    def updates(grads, restart):
        p = vector(0.0, 1.0)
        module = Restart(modules())
        if not restart:
            module.calls = 3
        optimizer = tz.Modular([p], tz.m.VectorProjection(module) if projected else module, tz.m.LR(1.0))
        out = []
        for g in grads:
            before = p.detach().clone()
            push(optimizer, [p], [g])
            out.append(before - p.detach())
        return torch.stack(out)

    after = updates((1.0, -2.0, 3.0, 4.0), restart=True)[2:]
    assert torch.allclose(after, updates((3.0, 4.0), restart=False), rtol=0, atol=1e-14)


def test_a_module_deep_inside_that_moves_its_parameters_itself():
    """Gradients are gathered for the first; in the first step it takes no part, and the others do."""
    params = [vector(0.0) for _ in range(3)]
    p, _, r = params
    gathers = tz.m.GradientAccumulation(tz.m.Mul(1.0), 2)
    inner = tz.m.Split(lambda x: x is p, gathers, tz.m.Mul(3.0))
    optimizer = tz.Modular(params, tz.m.Split(lambda x: x is not r, inner, tz.m.Mul(2.0)))
    push(optimizer, params, [1.0] * 3)
    assert [x.item() for x in params] == [0, -3, -2]
    push(optimizer, params, [1.0] * 3)
    assert [x.item() for x in params] == [-1, -6, -4]


# -- what others do to parameters and state between two steps ----------------------------------------------------------
CHAINS = {
    "SGD": (lambda ps: torch.optim.SGD(ps, 0.1), lambda: [tz.m.ClipValue(1e9), tz.m.LR(0.1)]),
    "Adam": (lambda ps: torch.optim.Adam(ps, 0.1), lambda: [tz.m.Adam(), tz.m.LR(0.1)]),
    "clipped Adam": (
        lambda ps: torch.optim.Adam(ps, 0.1),
        lambda: [tz.m.ClipValue(1e9), tz.m.Adam(), tz.m.LR(0.1)],
    ),
}


def _replace(optimizer, params):
    params[1] = vector(0.3, -0.2, 0.5)
    optimizer.param_groups[0]["params"][1] = params[1]


def _append(optimizer, params):
    params.append(vector(0.3, -0.2))
    optimizer.param_groups[0]["params"].append(params[-1])


def _drop(optimizer, params):
    del optimizer.param_groups[0]["params"][1]


def _empty_state(optimizer, params):
    optimizer.state.clear()


def _drop_state(optimizer, params):
    optimizer.state.pop(params[1], None)


def _replace_state(optimizer, params):
    for p in params:
        optimizer.state[p] = {k: copy.deepcopy(v) for k, v in optimizer.state[p].items()}


EDITS = [_replace, _append, _drop, _empty_state, _drop_state, _replace_state]


@COMPILE
@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("edit", EDITS, ids=[e.__name__[1:] for e in EDITS])
def test_the_next_step_does_what_torch_would(kind, edit, compile):
    theirs, ours = CHAINS[kind]
    runs = []
    for make in (theirs, lambda ps: tz.Modular(ps, *ours(), compile=compile)):
        params = make_params()
        optimizer = make(list(params))
        for i in range(5):
            closure_of(params)()
            optimizer.step()
            if i == 2:
                edit(optimizer, params)
        runs.append(params)
    assert all(torch.allclose(p, q, rtol=0, atol=1e-13) for p, q in zip(*runs, strict=True))


def _cut(p):
    p.data = p.data[:2]


def _grow(p):
    p.data = torch.cat([p.data, p.data])


def _transpose(p):
    p.data = p.data.t()


def _transpose_copy(p):
    p.data = p.data.t().contiguous()


CHANGES = [_cut, _grow, _transpose, _transpose_copy]


@COMPILE
@pytest.mark.parametrize("change", CHANGES, ids=[c.__name__[1:] for c in CHANGES])
def test_parameters_whose_shape_changes(change, compile):
    """Rules without state go on as torch's do; those with state refuse it, and write nowhere."""
    runs = []
    for make in (lambda ps: torch.optim.SGD(ps, 0.1), lambda ps: tz.Modular(ps, *CHAINS["SGD"][1](), compile=compile)):
        params = make_params([(4, 4), (3,)])
        optimizer = make(params)
        for i in range(4):
            if i == 2:
                params[0].grad = None
                change(params[0])
            closure_of(params)()
            optimizer.step()
        runs.append(params)
    for p, q in zip(*runs, strict=True):
        assert p.shape == q.shape and p.stride() == q.stride()
        assert torch.allclose(p, q, rtol=0, atol=1e-13)


@COMPILE
@pytest.mark.parametrize("change", [_cut, _grow], ids=["cut", "grow"])
def test_state_of_another_shape_is_refused(change, compile):
    params = make_params([(4, 4), (3,)])
    optimizer = tz.Modular(params, tz.m.ClipValue(10), tz.m.Lion(), tz.m.LR(0.1), compile=compile)
    closure_of(params)()
    optimizer.step()
    params[0].grad = None
    change(params[0])
    closure_of(params)()
    with pytest.raises(ValueError, match="shape"):
        optimizer.step()


def test_setstate_with_a_part():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    closure_of(params)()
    optimizer.step()
    optimizer.__setstate__({"state": optimizer.state, "param_groups": optimizer.param_groups})
    optimizer.step()
    assert optimizer.state[params[0]]["Adam.step"] == 2
