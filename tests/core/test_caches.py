"""What is derived dies with what it was derived from: modules, parameters, groups, state (K13, K14)."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.problems import backward, bits, closure_of, make_params, run, same, segments
from torchzero_core.core import Params, Slot
from torchzero_core.engine import layout

COMPILE = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def pair(modules, shapes=((3, 2), (4,)), **options):
    """The same chain on the same parameters twice."""
    both = [make_params(shapes) for _ in range(2)]
    return [(ps, tz.Modular(ps, *modules(), **options)) for ps in both]


def push(optimizer, params, value=1.0):
    """A step with constant gradients."""
    for p in params:
        p.grad = torch.full_like(p, value)
    optimizer.step()


def scalar():
    return torch.zeros(1, dtype=torch.float64, requires_grad=True)


# -- lists of parameters -----------------------------------------------------------------------------------------------
def test_the_same_parameters_are_the_same_list():
    root = Params(make_params([(2,), (3,), (4,)]))
    part = root.part(root[:2])
    assert root.part([root[0], root[1]]) is part
    assert part.part([root[0]]) is root.part([root[0]])
    assert root.part(part) is part and part.part(list(root)) is root
    assert root.part([root[1], root[0]]) is not part
    assert part.scratch("x")[0] is root.scratch("x")[0]
    assert [t.shape for t in root.scratch("x")] == [p.shape for p in root]
    other = Params(root)
    assert other.part(part) is not part


def test_lists_are_forgotten_when_there_are_many():
    root = Params(make_params([(1,)] * 12))
    first = weakref.ref(root.part(root[:3]))
    for i in range(1, 1 << 8):
        root.part([p for j, p in enumerate(root) if i >> j & 1])
    assert first() is None


def test_a_part_outlives_the_whole():
    root = Params(make_params([(2,), (3,)]))
    part, ref = root.part(root[:1]), weakref.ref(root)
    del root
    assert ref() is None
    assert part.part([part[0]]) is part and part.scratch("x")[0].shape == (2,)


# -- modules -----------------------------------------------------------------------------------------------------------
class Plain(tz.Module):
    """No rule: multiplies by a loop."""

    def __init__(self, factor):
        super().__init__({"factor": factor})

    def step(self, var):
        for p, u in zip(var.params, var.get_update(), strict=True):
            u.mul_(self.settings[p]["factor"])
        return var


@COMPILE
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_a_child_set_below_a_nested_chain_runs(compile):
    p = scalar()
    nested = [tz.m.Mul(2), Plain(1)]
    optimizer = tz.Modular([p], tz.m.Sum(nested, tz.m.Mul(1)), tz.m.LR(1.0), compile=compile)
    push(optimizer, [p])
    assert p.item() == -3
    chain = optimizer.modules[0].children[next(iter(optimizer.modules[0].children))]
    chain.set_child("0", tz.m.Mul(10))
    push(optimizer, [p])
    assert p.item() == -3 - 11
    chain.set_child("1", Plain(3))
    push(optimizer, [p])
    assert p.item() == -3 - 11 - 31


@COMPILE
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_a_child_set_on_a_rule_that_runs_alone(compile):
    p = scalar()
    rule = tz.m.Sum(tz.m.Mul(2), tz.m.Mul(1))
    optimizer = tz.Modular([p], tz.m.Split(lambda p: True, rule, None), tz.m.LR(1.0), compile=compile)
    push(optimizer, [p])
    assert p.item() == -3
    rule.set_child(next(iter(rule.children)), tz.m.Mul(32))
    push(optimizer, [p])
    assert p.item() == -3 - 33


def test_a_child_that_was_replaced_is_free_and_its_name_too():
    old = tz.m.EMA(0.9)
    root = tz.m.RMSprop(inner=old)
    optimizer = tz.Modular(make_params(), root, tz.m.LR(0.1))
    assert (old.home, old.path) == (optimizer, "RMSprop.inner.EMA")
    root.set_child("inner", [tz.m.EMA(0.5), tz.m.EMA(0.25)])
    assert [m.path for m in optimizer.unrolled_modules] == [
        "RMSprop",
        "RMSprop.inner.EMA",
        "RMSprop.inner.EMA_2",
        "LR",
    ]
    assert old.home is None
    tz.Modular(make_params(), old)
    with pytest.raises(ValueError, match="already belongs to another Modular"):
        tz.Modular(make_params(), root.children["inner"])
    refused = tz.m.EMA(0.1)
    other = tz.Modular(make_params(), refused)
    with pytest.raises(ValueError, match="already belongs to another Modular"):
        root.set_child("inner", refused)
    assert len(root.children["inner"].children) == 2 and refused.home is other


def test_a_module_in_front_renames_nothing():
    root = tz.m.Sum([tz.m.EMA(0.9), tz.m.EMA(0.8)], tz.m.Mul(1))
    optimizer = tz.Modular(make_params(), root)
    chain = next(iter(root.children.values()))
    before = {m: m.path for m in optimizer.unrolled_modules}
    chain.set_child("2", tz.m.EMA(0.7))
    new = chain.children["2"]
    chain.set_child("0", tz.m.Sign())
    paths = {m: m.path for m in optimizer.unrolled_modules}
    assert new.path.endswith("EMA_3")
    assert all(before[m] == path for m, path in paths.items() if m in before)
    assert len(set(paths.values())) == len(paths)


def test_a_nested_chain_first_run_while_watched_fuses_later():
    params = make_params()
    nested = [tz.m.Mul(2), tz.m.Add(1), Plain(1)]
    optimizer = tz.Modular(params, tz.m.Split(lambda p: True, nested, None), tz.m.LR(0.1))
    chain = optimizer.modules[0].children["true"]
    handle = optimizer.watch(lambda path, update: None)
    run(optimizer, params, 1)
    assert [stage.path for stage in optimizer.stages(chain)] == [f"Split.true.{n}" for n in ("Mul", "Add", "Plain")]
    handle.remove()
    run(optimizer, params, 1)
    assert [stage.path for stage in optimizer.stages(chain)] == ["Split.true.Add", "Split.true.Plain"]


@COMPILE
def test_watching_now_and_then_changes_nothing(compile):
    chains = pair(lambda: [tz.m.ClipNorm(1), tz.m.Adam(), tz.m.EMA(0.9, debiased=True), tz.m.LR(0.1)], compile=compile)
    (params, optimizer), (theirs, expected) = chains
    for i in range(8):
        handle = optimizer.watch(lambda path, update: None) if i in (1, 2, 5) else None
        run(optimizer, params, 1)
        run(expected, theirs, 1)
        if handle is not None:
            handle.remove()
    for p, q in zip(params, theirs, strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-13)


def test_a_change_of_parameters_traces_nothing_anew():
    params = make_params([(2,), (3,)])
    optimizer = tz.Modular(params, tz.m.Lion(), tz.m.LR(0.1))
    for _ in range(2):
        push(optimizer, params)
    programs = [list(s.programs) for s in segments(optimizer)]
    params[0].data = params[0].data.clone()
    optimizer.modules[0].set_param_groups([{"params": params[:1], "beta1": 0.8}])
    push(optimizer, params)
    assert [s.programs for s in segments(optimizer)] == programs


# -- overrides ---------------------------------------------------------------------------------------------------------
def test_overrides_keep_the_tensors_of_the_last_call_only():
    params = make_params([(2,), (3,)])
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    refs = []
    for i in range(5):
        other = torch.zeros(2, requires_grad=True)
        refs.append(weakref.ref(other))
        optimizer.modules[0].set_param_groups([{"params": [params[0], other], "beta1": 0.1 * i}])
        del other
        push(optimizer, params)
        assert optimizer.modules[0].settings[params[0]]["beta1"] == 0.1 * i
    gc.collect()
    assert [ref() is not None for ref in refs] == [False] * 4 + [True]


def test_later_overrides_are_stronger_and_are_copied():
    params = make_params([(2,), (3,)])
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    optimizer.modules[0].set_param_groups(
        [{"params": params, "beta1": 0.5, "eps": 1e-3}, {"params": params[1], "beta1": 0.25}]
    )
    for o in (optimizer, copy.deepcopy(optimizer)):
        values = [o.modules[0].settings[p] for p in o.param_groups[0]["params"]]
        assert [(v["beta1"], v["eps"]) for v in values] == [(0.5, 1e-3), (0.25, 1e-3)]


# -- stand-ins ---------------------------------------------------------------------------------------------------------
def elements_alive():
    gc.collect()
    return sum(t.numel() for t in gc.get_objects() if issubclass(type(t), torch.Tensor))


@pytest.mark.parametrize("nested", [False, True])
def test_gradients_that_come_and_go_leave_no_stand_in(nested):
    params = make_params([(10_000,), (10_000,)])
    inner = [tz.m.VectorProjection(tz.m.Adam())] if nested else [tz.m.Adam()]
    optimizer = tz.Modular(params, tz.m.VectorProjection(inner), tz.m.LR(0.1))
    alive = []
    for i in range(40):
        params[0].grad = torch.ones_like(params[0])
        params[1].grad = torch.ones_like(params[1]) if i % 2 else None
        optimizer.step()
        if i in (9, 39):
            alive.append(elements_alive())
    assert alive[1] <= alive[0] + 1000


def test_stand_ins_are_the_same_from_step_to_step():
    seen = []

    class Look(tz.Module):
        def step(self, var):
            seen.append([id(p) for p in var.params])
            self.state[var.params[0]]["count"] = self.state[var.params[0]].get("count", 0) + 1
            return var

    params = make_params()
    optimizer = tz.Modular(params, tz.m.VectorProjection([Look(), tz.m.Adam()]), tz.m.LR(0.1))
    for _ in range(4):
        run(optimizer, params, 1)
    assert seen[1] == seen[2] == seen[3]  # the first step begins by forgetting what was
    assert optimizer.state[params[0]]["VectorProjection.0/VectorProjection.modules.Look.count"] == 4


# -- parameters --------------------------------------------------------------------------------------------------------
CHAINS = {
    "kernel": lambda: [tz.m.Adam(), tz.m.LR(0.1)],
    "rules": lambda: [tz.m.ClipValue(10), tz.m.Adam(), tz.m.Lion(), tz.m.LR(0.1)],
    "modules": lambda: [tz.m.Split(lambda p: p.ndim > 1, tz.m.Lion(), tz.m.Adam()), Plain(1.0), tz.m.LR(0.1)],
    "wrapped": lambda: [tz.m.Wrap(torch.optim.Adam, lr=0.1)],
    "gathered": lambda: [tz.m.GradientAccumulation([tz.m.Adam()], 1), tz.m.LR(0.1)],
}
EVERY_CHAIN = pytest.mark.parametrize("chain", CHAINS)


def optimizer_of(chain, params, compile):
    with pytest.MonkeyPatch.context():
        return tz.Modular(params, *CHAINS[chain](), compile=compile)


@EVERY_CHAIN
@COMPILE
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_a_parameter_that_takes_the_place_of_another(chain, compile, size):
    """The surgery of networks that grow or are pruned: as a fresh optimizer for the new parameter."""
    p, q = (nn.Parameter(torch.ones(n)) for n in (size, 2))
    optimizer = optimizer_of(chain, [p, q], compile)
    push(optimizer, [p, q])
    new = nn.Parameter(torch.ones(size))
    optimizer.state.pop(p, None)
    optimizer.param_groups[0]["params"][0] = new
    before = p.detach().clone()
    push(optimizer, [new, q])
    fresh = nn.Parameter(torch.ones(size))
    push(optimizer_of(chain, [fresh], compile), [fresh])
    assert torch.equal(p, before)
    assert torch.allclose(new, fresh, atol=1e-6)
    assert len(optimizer.state_dict()["state"]) == 2


def test_a_parameter_of_one_element_that_is_wrapped_anew():
    """It is equal to the old one and lies in its memory, but the gradient comes to the new one."""
    p = nn.Parameter(torch.ones(1))
    optimizer = tz.Modular([p], tz.m.Sign(), tz.m.LR(0.5))
    push(optimizer, [p])
    new = nn.Parameter(p.data)
    optimizer.param_groups[0]["params"][0] = new
    p.grad = None
    push(optimizer, [new])
    assert new.item() == 0


@EVERY_CHAIN
@COMPILE
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_parameters_appended_and_dropped(chain, compile):
    (p, q, r), ours = make_params([(3, 2), (4,), (2,)]), None
    optimizer = optimizer_of(chain, [p, q], compile)
    push(optimizer, [p, q])
    optimizer.param_groups[0]["params"].append(r)
    start = r.detach().clone()
    push(optimizer, [p, q, r])
    ours = start.clone().requires_grad_()
    push(optimizer_of(chain, [ours], compile), [ours])
    assert torch.allclose(r, ours, atol=1e-12)
    optimizer.param_groups[0]["params"] = [p, r]
    before = bits([p, q, r])
    push(optimizer, [p, q, r])
    assert torch.equal(q, before[1])
    assert not torch.equal(p, before[0])
    assert not torch.equal(r, before[2])


CHANGES = {
    "cut": lambda t: t[:2],
    "grown": lambda t: torch.cat([t, t]),
    "transposed": lambda t: t.t(),
    "moved": lambda t: t.clone(),
    "cast": lambda t: t.to(torch.float32),
    "strided": lambda t: t.clone().t().contiguous().t(),
}


@EVERY_CHAIN
@COMPILE
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_memory_that_changes_between_steps(chain, compile, change):
    """As an optimizer that has always had such parameters; the state is changed with them."""
    after = CHANGES[change]
    values = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    p, q = nn.Parameter(values.clone()), nn.Parameter(after(values).clone())
    ours, theirs = (optimizer_of(chain, [x], compile) for x in (p, q))
    push(ours, [p])
    push(theirs, [q])
    whole = p.data
    p.grad, p.data = None, after(p.data)
    for key, value in list(ours.state[p].items()):
        if isinstance(value, torch.Tensor) and value.shape == values.shape:
            ours.state[p][key] = after(value).clone()
    tail = whole[2:].clone()
    for _ in range(2):
        push(ours, [p], 2.0)
        push(theirs, [q], 2.0)
    assert p.dtype == q.dtype and p.shape == q.shape
    assert torch.allclose(p, q, rtol=0, atol=1e-6 if change == "cast" else 1e-12)
    if change == "cut":
        assert torch.equal(whole[2:], tail)


# -- state -------------------------------------------------------------------------------------------------------------
FORGET = {
    "assigned": lambda o, p: setattr(o, "state", type(o.state)(dict)),
    "cleared": lambda o, p: o.state.clear(),
    "fresh": lambda o, p: o.state.update({p: {}}),
    "popped": lambda o, p: o.state.pop(p),
    "emptied": lambda o, p: o.state[p].clear(),
}


@COMPILE
@EVERY_CHAIN
@pytest.mark.parametrize("forget", FORGET)
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_state_that_was_thrown_away(chain, compile, forget):
    p = nn.Parameter(torch.ones(4))
    optimizer = optimizer_of(chain, [p], compile)
    for i in range(3):
        push(optimizer, [p], 1.0 + i)
    FORGET[forget](optimizer, p)
    q = nn.Parameter(p.detach().clone())
    fresh = optimizer_of(chain, [q], compile)
    for i in range(2):
        push(optimizer, [p], 4.0 + i)
        push(fresh, [q], 4.0 + i)
        assert torch.allclose(p, q, atol=1e-6)
    ours, theirs = (o.state_dict()["state"][0] for o in (optimizer, fresh))
    assert ours.keys() == theirs.keys()
    assert all(k == "Modular.step" or same([ours[k]], [theirs[k]]) or ours[k] == theirs[k] for k in ours)


@EVERY_CHAIN
@COMPILE
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_state_that_was_replaced_by_a_copy(chain, compile):
    (params, optimizer), (theirs, expected) = pair(CHAINS[chain], compile=compile)
    for i in range(4):
        run(optimizer, params, 1)
        run(expected, theirs, 1)
        if i == 1:
            for p in params:
                optimizer.state[p] = copy.deepcopy(optimizer.state[p])
    assert same(bits(params), bits(theirs))
    assert same(optimizer.state_dict()["state"], expected.state_dict()["state"])


@EVERY_CHAIN
@COMPILE
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_state_that_was_edited(chain, compile):
    """Every tensor and every count becomes what it was a step ago: the step is made again."""
    (params, optimizer), (theirs, expected) = pair(CHAINS[chain], compile=compile)
    for ps, o in ((params, optimizer), (theirs, expected)):
        run(o, ps, 2)
    before = [(p.detach().clone(), copy.deepcopy(optimizer.state[p])) for p in params]
    run(optimizer, params, 1)
    for p, (value, state) in zip(params, before, strict=True):
        with torch.no_grad():
            p.copy_(value)
        for key, kept in state.items():
            optimizer.state[p][key] = kept
    for ps, o in ((params, optimizer), (theirs, expected)):
        run(o, ps, 2)
    assert same(bits(params), bits(theirs))


@pytest.mark.parametrize("compile", [False, True])
def test_a_step_under_autocast_is_like_any_other(compile):
    (params, optimizer), (theirs, expected) = pair(CHAINS["rules"], compile=compile)
    for i in range(4):
        with torch.autocast("cpu", enabled=i % 2 == 1):
            run(optimizer, params, 1)
        run(expected, theirs, 1)
    assert same(bits(params), bits(theirs))


def test_the_slow_way_of_noticing_sees_the_same(monkeypatch):
    monkeypatch.setattr(layout, "TensorGuards", None)
    p = nn.Parameter(torch.ones(4, 3, dtype=torch.float64))
    optimizer = tz.Modular([p], tz.m.Lion(), tz.m.LR(0.1))
    for change in CHANGES.values():
        p.grad, p.data = None, torch.ones(4, 3, dtype=torch.float64)
        optimizer.state.clear()
        push(optimizer, [p])
        known = optimizer.all_params
        assert known.unchanged(optimizer.param_groups, optimizer.state)
        p.grad, p.data = None, change(p.data)
        assert not known.unchanged(optimizer.param_groups, optimizer.state)


class Shapes(tz.Transform):
    """States of every shape that can be declared."""

    slots = {
        "each": Slot(),
        "one": Slot(scalar=True),
        "rows": Slot(dims=-1),
        "square": Slot(shape=lambda p: (p.numel(), p.numel())),
        "past": Slot(history=3),
    }

    def rule(self, u, ctx):
        s = ctx.state
        s.each, s.one, s.rows = s.each + u, s.one + u.mean(), s.rows + u.mean(-1)
        s.past[ctx.step % 3] = u

        def mixed(us, square):
            for x, t in zip(us, square, strict=True):
                t += x.flatten().outer(x.flatten())
            return [(t @ x.flatten()).view_as(x) for x, t in zip(us, square, strict=True)]

        return ctx.call(mixed, u, state=("square",)) + s.each + s.one + s.rows


def test_states_of_every_shape_are_loaded_and_those_of_others_refused():
    (params, optimizer), (theirs, expected) = pair(lambda: [Shapes(), tz.m.LR(0.01)], shapes=((3, 2), (2, 4)))
    run(optimizer, params, 2)
    programs = [len(s.programs) for s in segments(optimizer)]
    run(expected, theirs, 2)
    optimizer.load_state_dict(expected.state_dict())
    for ps, o in ((params, optimizer), (theirs, expected)):
        run(o, ps, 1)
    assert same(bits(params), bits(theirs))
    assert [len(s.programs) for s in segments(optimizer)] == programs
    for name in Shapes.slots:
        saved = copy.deepcopy(expected.state_dict())
        saved["state"][0][f"Shapes.{name}"] = torch.zeros(3, 7)
        with pytest.raises(ValueError, match=rf"The state 'Shapes.{name}' has shape \(3, 7\)"):
            optimizer.load_state_dict(saved)


# -- copies ------------------------------------------------------------------------------------------------------------
@COMPILE
@pytest.mark.parametrize("steps_of_the_copy", [0, 1])
def test_a_shallow_copy_shares_everything_and_takes_nothing(compile, steps_of_the_copy):
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    ours = tz.Modular([p], tz.m.Adam(), tz.m.LR(0.1), compile=compile)
    ours.modules[0].set_param_groups([{"params": p, "beta1": 0.5}])
    theirs = torch.optim.Adam([q], lr=0.1, betas=(0.5, 0.999))
    for step in range(5):
        for o, r in ((ours, p), (theirs, q)):
            o.param_groups[0]["lr"] = 0.1 * 0.5**step
            push(o, [r], 1.0 + step)
            if step == 1:
                other = copy.copy(o)
                for _ in range(steps_of_the_copy):
                    push(other, [r], 7.0)
    assert torch.allclose(p, q, atol=1e-6)
    assert ours.modules[0].home is ours


def test_setstate_takes_a_part():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    run(optimizer, params, 2)
    optimizer.__setstate__({"state": type(optimizer.state)(dict)})
    run(optimizer, params, 1)
    assert optimizer.state[params[0]]["Adam.step"] == 1


# -- what dies ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "modules",
    [
        *CHAINS.values(),
        lambda: [tz.m.VectorProjection(tz.m.Adam()), tz.m.LR(0.1)],
        lambda: [tz.m.ClipNorm(1.0, target="closure"), tz.m.LBFGS(), tz.m.Backtracking()],
    ],
)
@COMPILE
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_an_optimizer_frees_its_state_with_the_last_reference(modules, compile):
    params = make_params()
    optimizer = tz.Modular(params, *modules(), compile=compile)
    run(optimizer, params, 2)
    kept = [v for store in optimizer.state.values() for v in store.values() if isinstance(v, torch.Tensor) and v.ndim]
    refs = [weakref.ref(v) for v in kept]
    assert refs
    del kept
    gc.collect()
    gc.disable()
    try:
        del optimizer
        assert not any(ref() is not None for ref in refs)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "modules",
    [
        CHAINS["kernel"],
        lambda: [tz.m.ClipNorm(1.0, target="closure"), tz.m.Adam()],
        lambda: [tz.m.SPSA(), tz.m.LR(0.1)],
        lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()],
        lambda: [tz.m.VectorProjection([tz.m.LBFGS(), tz.m.Backtracking()], project_params=True)],
    ],
)
def test_a_step_keeps_nothing_of_its_closure(modules):
    params = make_params()
    optimizer = tz.Modular(params, *modules())
    inner, batch = closure_of(params), torch.ones(3)
    ref = weakref.ref(batch)

    def closure(backward=True, batch=batch):
        return inner(backward)

    gc.collect()
    gc.disable()
    try:
        optimizer.step(closure)
        del closure, batch
        assert ref() is None
    finally:
        gc.enable()


# -- var ---------------------------------------------------------------------------------------------------------------
class Probe(tz.Module):
    """Calls a function with the context."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def step(self, var):
        self.fn(var)
        return var


def test_select_and_absorb_parts():
    params = make_params([(2,), (3,), (4,)])
    start, seen = bits(params), []

    def branch(var):
        left, right = var.select([0, 2]), var.select([1])
        assert left.update is None and left.nested and not left.writable
        assert [p is q for p, q in zip(left.params, [params[0], params[2]], strict=True)] == [True, True]
        assert var.select([0, 2]).params is left.params
        assert [g is params[i].grad for g, i in zip(left.get_grad(), (0, 2), strict=True)] == [True, True]
        left.update = [torch.ones_like(p) for p in left.params]
        left.loss = torch.tensor(7.0)
        right.stop = right.skip_update = True
        var.absorb_parts([(left, [0, 2]), (right, [1])])
        assert not var.stop and not var.skip_update and var.writable
        assert var.loss.item() == 7
        seen.extend(bits(var.update))

    optimizer = tz.Modular(params, Probe(branch), tz.m.LR(0.5))
    backward(params)
    optimizer.step()
    assert [s.tolist() for s in seen] == [[1.0] * 2, [1.0] * 4]
    assert torch.equal(params[1], start[1])
    assert torch.equal(params[0], start[0] - 0.5)
    assert torch.equal(params[2], start[2] - 0.5)


def test_what_one_part_has_evaluated_the_next_one_knows():
    params = make_params()
    ask = [Probe(lambda var: var.get_loss()) for _ in range(2)]
    optimizer = tz.Modular(params, tz.m.SPSA(seed=0, target="grad"), tz.m.Split(lambda p: p.ndim > 1, *ask))
    optimizer.step(closure_of(params))
    alone = tz.Modular(make_params(), tz.m.SPSA(seed=0, target="grad"), Probe(lambda var: var.get_loss()))
    alone.step(closure_of(list(alone.all_params)))
    assert optimizer.last_step.evaluations == alone.last_step.evaluations


def test_a_part_that_nobody_took_is_not_the_gradient_itself():
    params = make_params([(2,), (3,)])

    def branch(var):
        child = var.select([0])
        child.update = [torch.zeros(2, dtype=torch.float64)]
        var.absorb_parts([(child, [0])])
        for u in var.get_update():
            u.fill_(1)

    optimizer = tz.Modular(params, Probe(branch))
    backward(params)
    grads = bits(p.grad for p in params)
    optimizer.step()
    assert same(bits(p.grad for p in params), grads)


def test_run_inner_leaves_the_update_alone_and_knows_the_loss():
    params = make_params()
    seen = []

    class Outer(tz.Module):
        def __init__(self):
            super().__init__()
            self.set_child("inner", [Probe(lambda var: var.get_loss()), tz.m.Mul(3)])

        def step(self, var):
            before = bits(var.get_update())
            new = var.run_inner(self.children["inner"])
            assert same(bits(var.get_update()), before)
            assert all(torch.equal(n, 3 * b) for n, b in zip(new, before, strict=True))
            seen.append(var.loss)
            return var

    optimizer = tz.Modular(params, Outer(), tz.m.LR(0.1))
    loss = optimizer.step(closure_of(params))
    assert optimizer.last_step.evaluations == 1
    assert seen[0] is loss


def waiting():
    return tz.m.Split(lambda p: p.ndim > 1, tz.m.GradientAccumulation(tz.m.Adam(), 2), tz.m.Adam())


@pytest.mark.parametrize("module", [lambda: tz.m.Add(waiting()), lambda: tz.m.LBFGS(inner=waiting())])
def test_an_update_of_some_parameters_is_no_operand(module):
    params = make_params([(2, 2), (3,)])
    optimizer = tz.Modular(params, module(), tz.m.LR(0.1))
    start = bits(params)
    with pytest.raises(
        RuntimeError, match=r"Split gives an update for 1 of 2 parameters.*GradientAccumulation.*stop=F"
    ):
        run(optimizer, params, 1)
    assert same(bits(params), start)


@pytest.mark.parametrize(
    "module",
    [tz.m.StrongWolfe, tz.m.SPSA, tz.m.NewtonCG, lambda: [tz.m.LBFGS(), tz.m.Wrap(torch.optim.LBFGS)]],
)
def test_what_needs_the_closure_in_a_projection_says_so(module):
    params = make_params()
    optimizer = tz.Modular(params, tz.m.VectorProjection(module()))
    with pytest.raises(RuntimeError, match=r"in the projected space: give VectorProjection project_params=True"):
        run(optimizer, params, 1)


def test_an_estimate_of_the_loss_is_known_outside_too():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Split(lambda p: True, [tz.m.SPSA(seed=0, target="grad")], None), tz.m.LR(1e-3))
    loss = optimizer.step(closure_of(params))
    assert loss is not None
    assert optimizer.last_step.loss is loss


def test_a_part_inside_a_projection_gets_its_part_of_the_gradient():
    class Halves(tz.m.Projection):
        def project(self, tensors, var, current):
            return [t[:1].clone() for t in tensors] + [t[1:].clone() for t in tensors]

        def unproject(self, tensors, var, current):
            n = len(var.params)
            return [torch.cat([a, b]) for a, b in zip(tensors[:n], tensors[n:], strict=True)]

    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    split = tz.m.Split(lambda q: True, [Probe(lambda var: seen.append([g.tolist() for g in var.get_grad()]))], None)
    seen = []
    optimizer = tz.Modular([p], tz.m.Mul(2), Halves([Probe(lambda var: var.get_update()), split]), tz.m.LR(1.0))
    p.grad = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    optimizer.step()
    assert seen == [[[1.0], [2.0, 3.0]]]
    assert p.tolist() == [-2, -4, -6]
