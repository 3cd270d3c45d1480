"""Every public module, by way of its entries in the registry, through the same suite."""

import copy
import inspect
import math
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchzero_core as tz
from tests import resume
from tests.problems import (
    ALL_SHAPES,
    SHAPES,
    backward,
    bits,
    closure_of,
    make_params,
    quadratic,
    rosenbrock,
    run,
    same,
    tensors_in,
    values,
)
from tests.registry import ALIASES, ALL, BASES, ENTRIES, public_modules, variants_slow
from torchzero_core.core import Module
from torchzero_core.core.validate import choices
from torchzero_core.engine.backends import foreach as eager

ROOT = Path(__file__).parents[1]
AVAILABLE = [e for e in ENTRIES if hasattr(tz.m, e.name)]


def entries(keep=lambda entry: True, *, all_fast=False):
    """Parametrizes a test over the entries it is for.

    The first of a module belongs to the fast tests, so that these send every module through every kind of check; its
    variants are slow, unless ``all_fast``.
    """
    chosen = list(filter(keep, AVAILABLE))
    cases = [pytest.param(e, id=e.id) for e in chosen] if all_fast else variants_slow(chosen)
    return pytest.mark.parametrize("entry", cases)


def assert_same(a, b, where="it"):
    """Equal to the last bit; names the first difference."""
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), f"{where}: {sorted(map(str, a.keys() ^ b.keys()))} on one side only"
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        equal = same(a, b)
        assert equal, f"{where}: {a} is not {b}"


def close(a, b, tolerance):
    """Equal up to ``tolerance`` relative to the largest element of each tensor, and NaN in the same places."""
    for x, y in zip(a, b, strict=True):
        x, y = x.detach().double(), y.detach().double()
        assert torch.equal(x.isnan(), y.isnan())
        if x.numel():
            scale = max(1.0, float(y.nan_to_num().abs().max()))
            difference = float((x - y).nan_to_num().abs().max())
            assert difference <= tolerance * scale, f"{x} differs from {y}"


# -- the registry itself -----------------------------------------------------------------------------------------------
def test_every_public_module_has_an_entry():
    known = {e.name for e in ENTRIES} | BASES | {alias for names in ALIASES.values() for alias in names}
    missing = sorted(set(public_modules()) - known)
    assert not missing, f"add an entry to tests/registry/ for: {', '.join(missing)}"


def test_bases_and_aliases_are_what_the_registry_says():
    for name in BASES & set(public_modules()):
        assert public_modules()[name].__name__ in BASES
    for name, aliases in ALIASES.items():
        for alias in aliases:
            if hasattr(tz.m, name):
                assert getattr(tz.m, alias) is getattr(tz.m, name)


def test_ids_are_unique():
    ids = [e.id for e in ENTRIES]
    assert len(ids) == len(set(ids))


@entries()
def test_says_whether_it_needs_a_closure(entry):
    params = make_params()
    optimizer = entry.optimizer(params)
    assert optimizer.requires_closure is entry.closure
    if entry.closure:
        backward(params)
        before = bits(params)
        with pytest.raises(RuntimeError, match=r"call optimizer\.step\(closure\)"):
            optimizer.step()
        assert_same(before, bits(params))


# -- does it minimise --------------------------------------------------------------------------------------------------
@entries(lambda e: e.ratio is not None)
def test_lowers_a_quadratic(entry):
    params = make_params()
    first, *_ = run(entry.optimizer(params), params, entry.steps)
    assert quadratic(params).item() < entry.ratio * first


@entries(lambda e: e.rosenbrock is not None)
def test_lowers_rosenbrock(entry):
    steps, reached = entry.rosenbrock
    params = [torch.tensor([-1.1, 2.5], dtype=torch.float64, requires_grad=True)]
    run(entry.optimizer(params), params, steps, rosenbrock)
    assert rosenbrock(params).item() < reached


# -- shapes, layouts, dtypes -------------------------------------------------------------------------------------------
@entries()
def test_every_shape(entry):
    params = make_params(ALL_SHAPES.values())
    before = [(p.shape, p.stride(), p.data_ptr(), p.dtype) for p in params]
    start = bits(params)
    optimizer = entry.optimizer(params)
    run(optimizer, params, 4)
    assert [(p.shape, p.stride(), p.data_ptr(), p.dtype) for p in params] == before
    assert all(p.isfinite().all() for p in params)
    if entry.ratio is not None:
        assert any(not torch.equal(a, b) for a, b in zip(start, params, strict=True))


def _layouts():
    """The same numbers in memory orders that are not the usual one."""
    shapes = [(4, 3), (4, 6), (2, 3, 2, 2), (5,)]
    plain = make_params(shapes)
    transposed = plain[0].detach().t().contiguous().t()
    sliced = torch.zeros(8, 12, dtype=torch.float64)[::2, ::2].copy_(plain[1].detach())
    channels_last = plain[2].detach().contiguous(memory_format=torch.channels_last)
    strided = torch.zeros(10, dtype=torch.float64)[::2].copy_(plain[3].detach())
    return plain, [p.requires_grad_() for p in (transposed, sliced, channels_last, strided)]


@entries()
def test_memory_layout_makes_no_difference(entry):
    plain, odd = _layouts()
    strides = [p.stride() for p in odd]
    torch.manual_seed(0)
    run(entry.optimizer(plain), plain, 4)
    torch.manual_seed(0)
    run(entry.optimizer(odd), odd, 4)
    assert [p.stride() for p in odd] == strides
    # A generator fills memory in its own order, so random directions differ between layouts.
    if entry.repeatable:
        close(odd, plain, entry.ulps * 2**-52 * 16)


@entries(lambda e: e.float32 is not None)
def test_float32_follows_float64(entry):
    params, exact = make_params(dtype=torch.float32), make_params()
    run(entry.optimizer(params), params, 4)
    run(entry.optimizer(exact), exact, 4)
    assert all(p.dtype == torch.float32 for p in params)
    close(params, exact, entry.float32)


@entries()
def test_bfloat16_or_a_clear_refusal(entry):
    params = make_params(dtype=torch.bfloat16)
    start = quadratic(params).item()
    optimizer = entry.optimizer(params, **entry.coarse)
    if isinstance(entry.bfloat16, str):
        with pytest.raises((RuntimeError, TypeError, ValueError), match=entry.bfloat16):
            run(optimizer, params, 2)
        return
    run(optimizer, params, 12)
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in params)
    if entry.ratio is not None:
        assert quadratic(params).item() < start


@entries()
def test_small_pieces_give_the_same(entry, monkeypatch):
    """The engine sweeps large tensors in pieces; where the cuts are makes no difference."""
    shapes = [(1,), (3, 2), (1,), (3, 3), (1,), (4,)]  # a piece may hold tensors from both sides of a large one
    whole, pieces = make_params(shapes), make_params(shapes)
    torch.manual_seed(0)
    run(entry.optimizer(whole), whole, 4)
    monkeypatch.setattr(eager, "CPU_PIECE", 2)
    torch.manual_seed(0)
    run(entry.optimizer(pieces), pieces, 4)
    close(pieces, whole, entry.ulps * 2**-52)


@entries(lambda e: e.elementwise)
def test_merged_and_split_tensors_agree(entry):
    one = [values((12,), 3).requires_grad_()]
    three = [t.clone().requires_grad_() for t in one[0].detach().split([3, 4, 5])]

    def loss(params):
        joined = torch.cat([p.view(-1) for p in params])
        return quadratic([joined]) + rosenbrock([joined[2:4]])

    run(entry.optimizer(one), one, 6, loss)
    run(entry.optimizer(three), three, 6, loss)
    close([torch.cat(three)], one, 4 * 2**-52)


# -- gradients ---------------------------------------------------------------------------------------------------------
@entries(lambda e: not e.derivative_free)
def test_without_a_gradient_a_parameter_is_untouched(entry):
    params, fewer = make_params(), make_params()
    idle = params.pop(1)
    fewer.pop(1)
    before = idle.detach().clone()
    torch.manual_seed(0)
    optimizer = entry.optimizer([params[0], idle, params[1]])
    run(optimizer, params, 4)
    assert torch.equal(idle, before) and idle.grad is None
    if entry.repeatable:  # the others do as they would do alone
        run(entry.optimizer(fewer), fewer, 4)
        close(params, fewer, 4 * 2**-52)


@entries()
def test_a_frozen_parameter_is_untouched(entry):
    params, fewer = make_params(), make_params()
    frozen = params[1].requires_grad_(False)
    fewer.pop(1)
    before = frozen.clone()
    torch.manual_seed(0)
    run(entry.optimizer(params), params, 4)
    assert torch.equal(frozen, before)

    def loss(ps):
        return quadratic([ps[0], before, ps[1]])

    torch.manual_seed(0)
    run(entry.optimizer(fewer), fewer, 4, loss)
    close([params[0], params[2]], fewer, 4 * 2**-52)


@entries(lambda e: not e.closure)
def test_closure_or_not(entry):
    params, others = make_params(), make_params()
    torch.manual_seed(0)
    optimizer = entry.optimizer(params)
    losses = run(optimizer, params, 4)
    torch.manual_seed(0)
    optimizer = entry.optimizer(others)
    expected = []
    for _ in range(4):
        expected.append(float(backward(others)))
        assert optimizer.step() is None
    assert losses == expected
    assert_same(bits(params), bits(others))


@entries(lambda e: not e.closure)
def test_gradients_are_left_alone(entry):
    params = make_params()
    optimizer = entry.optimizer(params)
    for _ in range(3):
        backward(params)
        grads, kept = [p.grad for p in params], [p.grad.clone() for p in params]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert_same(kept, grads)
    foreign = {t.untyped_storage().data_ptr() for t in [*grads, *params]}
    for state in optimizer.state.values():
        assert not any(t.untyped_storage().data_ptr() in foreign for t in tensors_in(state) if t.numel())


@entries()
def test_parameters_keep_their_memory(entry):
    params = make_params()
    pointers = [p.data_ptr() for p in params]
    run(entry.optimizer(params), params, 3)
    assert [p.data_ptr() for p in params] == pointers


class NoSync(TorchDispatchMode):
    """Fails where the host would wait for an accelerator."""

    SYNCS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self, *, host=False):
        super().__init__()
        self.host = host

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name == "_local_scalar_dense" and self.host and args[0]._base is not None:
            return func(*args, **(kwargs or {}))  # a number of the host, which torch is given as a 0-d tensor
        assert name not in self.SYNCS, f"{func} looks at a tensor from the host"
        return func(*args, **(kwargs or {}))


@entries(lambda e: not e.closure and not e.syncs)
@pytest.mark.parametrize("host", [True, False])
def test_never_waits_for_an_accelerator(entry, host, monkeypatch):
    """Neither with numbers per tensor on the host, as on the CPU, nor with what accelerators run."""
    monkeypatch.setattr(eager, "NUMBERS_ON_HOST", host)
    params = make_params()
    optimizer = entry.optimizer(params)
    for i in range(4):
        backward(params)
        if i == 0:  # a generator is seeded, a matrix is made
            optimizer.step()
        else:
            with NoSync(host=host):
                optimizer.step()


# -- groups ------------------------------------------------------------------------------------------------------------
def _settings(entry):
    return [name for name in entry.module().defaults if name not in entry.skipped]


def _state(optimizer):
    """The state dict without the empty dicts that looking at state makes."""
    out = copy.deepcopy(optimizer.state_dict())
    out["state"] = {k: v for k, v in out["state"].items() if v}
    return out


@entries()
def test_every_setting_may_differ_per_group(entry):
    """A setting of a group is honoured (two groups are two optimizers) or refused, never ignored."""
    for setting in _settings(entry):
        other = entry.alternative(setting)
        a, b = make_params(), make_params(seed=5)
        module = entry.module()
        tz.Modular(make_params(), *entry.chain(module))
        groups = [{"params": a}, {"params": b, f"{module.path}.{setting}": other}]
        if entry.refused is ALL or setting in entry.refused:
            with pytest.raises(ValueError, match=setting):
                run(entry.optimizer(groups), [*a, *b], 2)
            continue
        torch.manual_seed(0)
        run(entry.optimizer(groups), [*a, *b], 4, lambda ps: quadratic(ps[:3]) + quadratic(ps[3:]))
        if entry.together:
            continue
        c, d = make_params(), make_params(seed=5)
        run(entry.optimizer(c), c, 4)
        run(entry.optimizer(d, **{setting: other}), d, 4)
        try:
            close([*a, *b], [*c, *d], 64 * 2**-52)
        except AssertionError as error:
            raise AssertionError(
                f"{setting}={other!r} in a group is not {setting}={other!r} in the constructor"
            ) from error


# -- the engine --------------------------------------------------------------------------------------------------------
@entries()
def test_unknown_words_are_refused(entry):
    """At construction, for a group and later on: a setting that is one of some words takes no other."""
    cls = getattr(tz.m, entry.name)
    for name in choices(cls).keys() & inspect.signature(cls).parameters.keys():
        if name == "filter":  # a function, or the name of one; refused by Split itself
            continue
        with pytest.raises(ValueError, match=f"{name}='nonsense'"):
            entry.module(**{name: "nonsense"})
        module = entry.module()
        if name in module.defaults:
            params = make_params()
            with pytest.raises(ValueError, match=f"{name}='nonsense'.* must be"):
                tz.Modular([{"params": params, name: "nonsense"}], module)
            tz.Modular(params, module)
            with pytest.raises(ValueError, match=f"{name}='nonsense'.* must be"):
                module.set_param_groups([{"params": params, name: "nonsense"}])


@entries(lambda e: e.compiles, all_fast=True)  # the variants are what other code is generated for
def test_compiled_agrees_with_eager(entry):
    for shapes in (SHAPES, ALL_SHAPES.values()):
        plain, compiled = make_params(shapes), make_params(shapes)
        torch.manual_seed(0)
        optimizer = entry.optimizer(plain)
        run(optimizer, plain, 5)
        torch.manual_seed(0)
        fast = entry.optimizer(compiled, compile=True)  # a warning that it runs uncompiled would be an error
        run(fast, compiled, 5)
        close(compiled, plain, entry.ulps * 2**-52)
        ours, theirs = optimizer.state_dict()["state"], fast.state_dict()["state"]
        assert {k: set(v) for k, v in ours.items()} == {k: set(v) for k, v in theirs.items()}


@entries(lambda e: not e.compiles)
def test_uncompiled_modules_run_with_compile(entry):
    plain, compiled = make_params(), make_params()
    torch.manual_seed(0)
    run(entry.optimizer(plain), plain, 4)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compile=True has no effect on")
        run(entry.optimizer(compiled, compile=True), compiled, 4)
    close(compiled, plain, entry.ulps * 2**-52)


@entries()
def test_state_dicts_pass_between_eager_and_compiled(entry):
    params = make_params()
    optimizer = entry.optimizer(params)
    run(optimizer, params, 3)
    copies = [p.detach().clone().requires_grad_() for p in params]
    fast = resume.resume(entry, copies, resume.save(optimizer), compile=True)
    run(optimizer, params, 3)
    with warnings.catch_warnings():
        if not entry.compiles:
            warnings.filterwarnings("ignore", "compile=True has no effect on")
        run(fast, copies, 3)
    close(copies, params, entry.ulps * 2**-52)


# -- copies and checkpoints --------------------------------------------------------------------------------------------
@entries()
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_continue_identically(entry, how):
    params = make_params()
    optimizer = entry.optimizer(params)
    run(optimizer, params, 3)
    try:
        pair = (params, optimizer)
        others, other = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    except (AttributeError, pickle.PicklingError) as error:
        assert "lambda" in str(error) or "local" in str(error)  # of the entry, not of the module
        return
    assert all(a is not b for a, b in zip(params, others, strict=True))
    assert other.param_groups[0]["params"][0] is others[0]
    run(optimizer, params, 3)
    after = bits(params)
    run(other, others, 3)
    assert_same(after, bits(others))
    assert_same(after, bits(params))  # nothing is shared


@pytest.fixture(scope="session")
def resumed(tmp_path_factory):
    """All entries, trained, saved, and continued both here and in a fresh process: what came out, by entry."""
    folder = tmp_path_factory.mktemp("resume")
    start, here = {}, {}
    for entry in AVAILABLE:
        params = make_params()
        optimizer = entry.optimizer(params)
        try:
            run(optimizer, params, 3)
            start[entry.id] = bits(params), resume.save(optimizer)
            run(optimizer, params, resume.STEPS)
        except Exception as error:
            here[entry.id] = f"{type(error).__name__}: {error}"
            continue
        here[entry.id] = bits(params)
    torch.save(start, folder / "start.pt")
    out = subprocess.run(
        [sys.executable, "-m", "tests.resume", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr
    return here, torch.load(folder / "end.pt", weights_only=True)


@entries(all_fast=True)  # one process for all
def test_resumes_bit_for_bit_in_a_fresh_process(entry, resumed):
    here, there = resumed[0][entry.id], resumed[1].get(entry.id)
    assert not isinstance(here, str), here
    assert not isinstance(there, str), there
    assert_same(here, there)


@entries()
def test_state_dict_round_trip_changes_nothing(entry):
    params = make_params()
    optimizer = entry.optimizer(params)
    run(optimizer, params, 3)
    other = resume.resume(entry, params, resume.save(optimizer))
    assert_same(_state(optimizer), _state(other))


class Front(Module):
    """Something else that stands in front and keeps state of its own."""

    def step(self, var):
        for p in var.params:
            self.state[p]["seen"] = self.state[p].get("seen", 0) + 1
        return var


@entries()
def test_a_module_in_front_renames_nothing(entry):
    names = []
    for front in ([], [Front()]):
        params = make_params()
        optimizer = tz.Modular(params, *front, *entry.build())
        run(optimizer, params, 3)
        names.append({(i, n) for i, s in optimizer.state_dict()["state"].items() for n in s if "Front" not in n})
    assert names[0] == names[1]


@entries()
def test_reset_forgets_everything(entry):
    params, others = make_params(), make_params()
    torch.manual_seed(0)
    optimizer = entry.optimizer(params)
    run(optimizer, params, 3)
    optimizer.reset()
    left = {n for s in optimizer.state.values() for n in s} - {"Modular.step"}
    assert not left
    with torch.no_grad():
        torch._foreach_copy_(params, others)
    run(optimizer, params, 3)
    torch.manual_seed(0)
    run(entry.optimizer(others), others, 3)
    if entry.repeatable:
        assert_same(bits(params), bits(others))


# -- trouble -----------------------------------------------------------------------------------------------------------
class Trouble(Exception):
    """What the closure raises."""


@entries()
@pytest.mark.parametrize("warm", [pytest.param(0, marks=pytest.mark.slow), 3])  # test_failing_steps.py begins at 0 too
def test_an_exception_in_the_closure(entry, warm):
    """Parameters are exactly those of the start whenever it comes, and from the first evaluation nothing changes."""
    for at in range(1, 7):
        params, others = make_params(), make_params()
        torch.manual_seed(0)
        optimizer = entry.optimizer(params)
        run(optimizer, params, warm)
        torch.manual_seed(0)
        twin = entry.optimizer(others)
        run(twin, others, warm)
        before, state = bits(params), _state(optimizer)
        closure = closure_of(params)
        calls = 0

        def failing(backward=True, at=at, closure=closure):
            nonlocal calls
            calls += 1
            if calls == at:
                raise Trouble
            return closure(backward)

        random = torch.get_rng_state()
        try:
            optimizer.step(failing)
        except Trouble:
            pass
        else:  # the step has fewer evaluations
            assert calls < at
            assert at > 1
            return
        assert_same(before, bits(params))
        assert torch.is_grad_enabled()
        if at == 1:
            assert_same(state, _state(optimizer))
            torch.set_rng_state(random)
            run(optimizer, params, 2)
            torch.set_rng_state(random)
            run(twin, others, 2)
            assert_same(bits(params), bits(others))
        else:
            resume.save(optimizer)
            run(optimizer, params, 2)
            assert all(p.isfinite().all() for p in params)


@entries()
def test_a_loss_that_is_not_finite_leaves_parameters_finite_or_says_so(entry):
    """A step with a closure that overflows away from the start must not corrupt what is there already."""
    if not entry.closure:
        return
    params = make_params()
    optimizer = entry.optimizer(params)
    run(optimizer, params, 2)
    start = bits(params)

    def closure(backward=True):
        moved = not same(start, bits(params))
        loss = quadratic(params) * (math.nan if moved else 1.0)
        if backward:
            for p in params:
                p.grad = None
            loss.backward()
        return loss

    optimizer.step(closure)
    assert all(p.isfinite().all() for p in params)
