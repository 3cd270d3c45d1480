"""What a rule may say, by tiny rules: rings, states of other shapes, opaque calls, random numbers, reductions."""

import copy
import math

import pytest
import torch

import torchzero_core as tz
from tests.problems import segments, values
from torchzero_core.core import Beta, Count, Module, NonNegative, Slot, Transform
from torchzero_core.lang import Dims

both = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
SHAPES = [(3, 4), (5,), (), (2, 3, 2)]


def steps_of(module, grads, *, compile=False, groups=None, optimizer=None):
    """The updates that a module makes of gradients, ``grads[step][i]`` for parameter i, and the optimizer."""
    if optimizer is None:
        params = [torch.zeros_like(g).requires_grad_() for g in grads[0]]
        made = params if groups is None else [{"params": [params[i] for i in g]} for g in groups]
        optimizer = tz.Modular(made, module, compile=compile)
    params = sorted(optimizer.all_params, key=lambda p: p.numel()) if groups else list(optimizer.all_params)
    if groups:
        grads = [sorted(step, key=lambda g: g.numel()) for step in grads]
    updates = []
    for step in grads:
        before = [p.detach().clone() for p in params]
        for p, g in zip(params, step, strict=True):
            p.grad = g.clone()
        optimizer.step()
        updates.append([b - p.detach() for b, p in zip(before, params, strict=True)])
    return updates, optimizer


def gradients(n, shapes=SHAPES):
    """Gradients of so many steps."""
    return [[values(s, 11 * t + i + 0.5) for i, s in enumerate(shapes)] for t in range(n)]


def close(got, wanted):
    for x, y in zip(got, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


# -- rings -------------------------------------------------------------------------------------------------------------
class Delay(Transform):
    """The update of n steps ago, and ``init`` before."""

    n: Count = 3
    past = Slot(init=7.0, history="n")

    def rule(self, u, ctx):
        place = (ctx.step - 1) % ctx.settings.n
        old = ctx.state.past[place]
        ctx.state.past[place] = u
        return old


@both
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_ring_gives_back_what_was_put_there(n, compile):
    grads = gradients(2 * n + 1)
    updates, optimizer = steps_of(Delay(n), grads, compile=compile)
    for t, update in enumerate(updates):
        close(update, [torch.full_like(g, 7.0) for g in grads[0]] if t < n else grads[t - n])
    assert len(segments(optimizer)[0].programs) == 1
    for i, p in enumerate(optimizer.all_params):
        ring = optimizer.state[p]["Delay.past"]
        assert ring.shape == (n, *p.shape)
        for t in range(n + 1, 2 * n + 1):
            close([ring[t % n]], [grads[t][i]])


@both
def test_a_ring_of_a_fixed_length_and_a_place_just_written(compile):
    class Three(Transform):
        past = Slot(history=3)

        def rule(self, u, ctx):
            past, place = ctx.state.past, (ctx.step - 1) % 3
            others = past[(place + 1) % 3] + past[(place + 2) % 3]
            past[place] = 2 * u
            return others + past[place]

    grads = gradients(5)
    updates, _ = steps_of(Three(), grads, compile=compile)
    for t, update in enumerate(updates):
        close(update, [2 * torch.stack(gs).sum(0) for gs in zip(*grads[max(t - 2, 0) : t + 1], strict=True)])


def test_a_ring_is_written_at_places():
    class Whole(Delay):
        def rule(self, u, ctx):
            ctx.state.past = u
            return u

    with pytest.raises(TypeError, match=r"'past' is a ring; assign to one of its places, as in state\.past\[k\]"):
        steps_of(Whole(), gradients(1))


# -- states of another shape, opaque calls -----------------------------------------------------------------------------
class Outer(Transform):
    """M ← M + u u', and u ← M u; M starts as the identity."""

    returns: bool = False
    M = Slot(shape=lambda p: (p.numel(), p.numel()), init=torch.nn.init.eye_)

    def rule(self, u, ctx):
        return ctx.call(returning if ctx.settings.returns else in_place, u, 2.0 * ctx.step, state=("M",))


def in_place(us, factor, M):
    for u, matrix in zip(us, M, strict=True):
        matrix.addr_(u.flatten(), u.flatten())
    return [factor * (matrix @ u.flatten()).view_as(u) for u, matrix in zip(us, M, strict=True)]


def returning(us, factor, M):
    new = [matrix + torch.outer(u.flatten(), u.flatten()) for u, matrix in zip(us, M, strict=True)]
    return in_place([torch.zeros_like(u) for u in us], factor, M) and (
        [factor * (matrix @ u.flatten()).view_as(u) for u, matrix in zip(us, new, strict=True)],
        {"M": new},
    )


@both
@pytest.mark.parametrize("returns", [False, True])
def test_a_matrix_for_each_parameter(returns, compile):
    grads = gradients(3)
    updates, optimizer = steps_of(Outer(returns), grads, compile=compile)
    matrices = [torch.eye(g.numel(), dtype=torch.float64) for g in grads[0]]
    for t, (step, update) in enumerate(zip(grads, updates, strict=True), 1):
        matrices = [m + torch.outer(g.flatten(), g.flatten()) for m, g in zip(matrices, step, strict=True)]
        close(update, [2 * t * (m @ g.flatten()).view_as(g) for m, g in zip(matrices, step, strict=True)])
    close([optimizer.state[p]["Outer.M"] for p in optimizer.all_params], matrices)


def test_a_matrix_is_for_calls_only():
    class Formula(Outer):
        def rule(self, u, ctx):
            return u * ctx.state.M

    with pytest.raises(AttributeError, match=r"'M' of Formula has a shape of its own.*ctx\.call\(fn"):
        steps_of(Formula(), gradients(1))


@both
@pytest.mark.parametrize(("early", "late"), [(False, False), (False, True), (True, False)])
def test_a_call_writes_a_state_that_formulas_read_before_and_after(early, late, compile):
    class Doubling(Transform):
        total = Slot()

        def rule(self, u, ctx):
            before = ctx.state.total
            if early:
                ctx.state.total = before + u

            def double(us, total):
                torch._foreach_copy_(total, torch._foreach_mul(us, 2.0))
                return torch._foreach_mul(us, 10.0)  # torch makes it a tuple

            tens = ctx.call(double, u + before, state=("total",))
            return (tens + before if late else tens) + 100 * ctx.state.total

    grads = gradients(3)
    if early or late:
        why = r"'total' has a new value" if early else r"'total' is used after ctx\.call has changed it; use it before"
        with pytest.raises(TypeError, match=why):
            steps_of(Doubling(), grads, compile=compile)
        return
    updates, _ = steps_of(Doubling(), grads, compile=compile)
    totals = [torch.zeros_like(g) for g in grads[0]]
    for step, update in zip(grads, updates, strict=True):
        new = [2 * (t + g) for t, g in zip(totals, step, strict=True)]
        close(update, [10 * (g + t) + 100 * n for g, t, n in zip(step, totals, new, strict=True)])
        totals = new


# -- shapes, the loss, all parameters ----------------------------------------------------------------------------------
class Formula(Transform):
    """Whatever a function says."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def rule(self, u, ctx):
        return self.fn(u, ctx)


@both
def test_a_number_of_each_shape(compile):
    grads = gradients(2)
    fn = lambda u, ctx: u * ctx.of_shape(lambda shape: 1 + len(shape) + 10 * math.prod(shape))  # noqa: E731
    updates, _ = steps_of(Formula(fn), grads, compile=compile)
    for step, update in zip(grads, updates, strict=True):
        close(update, [g * (1 + g.ndim + 10 * g.numel()) for g in step])


@both
def test_the_loss(compile):
    p = torch.tensor([3.0, -1.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], Formula(lambda u, ctx: u * ctx.loss), compile=compile)

    def closure(backward=True):
        loss = p.square().sum()
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    x = p.detach().clone()
    for _ in range(3):
        optimizer.step(closure)
        x -= 2 * x * x.square().sum() * 1.0
        close([p.detach()], [x])
    with pytest.raises(RuntimeError, match="closure"):
        optimizer.step()


@both
@pytest.mark.parametrize("groups", [None, [[0, 3], [1, 2]]])
def test_what_is_known_of_all_parameters(groups, compile):
    class Whole(Transform):
        weight: float = 0.5
        total = Slot(scalar=True)

        def rule(self, u, ctx):
            s, whole = ctx.global_state, ctx.whole
            norm = u.square().sum().total()
            s.total = norm if whole.first else s.total * whole.settings.weight + norm * whole.step
            return u * s.total / whole.numel

    grads = gradients(3, [(3, 4), (5,), (), (2, 3, 3)])
    updates, optimizer = steps_of(Whole(), grads, compile=compile, groups=groups)
    total = 0.0
    for t, (step, update) in enumerate(zip(grads, updates, strict=True), 1):
        norm = sum(float(g.square().sum()) for g in step)
        total = norm if t == 1 else total * 0.5 + norm * t
        step = sorted(step, key=lambda g: g.numel()) if groups else step
        close(update, [g * total / 36 for g in step])
    assert optimizer.modules[0].global_state["total"].item() == pytest.approx(total)


@both
def test_a_constant_is_kept_in_every_kind_of_state(compile):
    class Constants(Transform):
        element, mask = Slot(), Slot(mask=True)
        scalar, row = Slot(scalar=True), Slot(dims=Dims((0,), inverse=True))
        whole, ring = Slot(scalar=True), Slot(history=2)

        def rule(self, u, ctx):
            s = ctx.state
            s.element, s.mask, s.scalar, s.row, ctx.global_state.whole, s.ring[1] = 1.5, True, 2.5, 3.5, 4.5, 5.5
            return u

    _, optimizer = steps_of(Constants(), gradients(2), compile=compile)
    for p in optimizer.all_params:
        state = {k.split(".")[1]: v for k, v in optimizer.state[p].items() if k.startswith("Constants.")}
        assert torch.equal(state["element"], torch.full_like(p, 1.5))
        assert torch.equal(state["mask"], torch.ones(p.shape, dtype=torch.bool))
        assert torch.equal(state["scalar"], torch.tensor(2.5, dtype=torch.float64))
        rows = (p.shape[0],) + (1,) * (p.ndim - 1) if p.ndim else ()
        assert torch.equal(state["row"], torch.full(rows, 3.5, dtype=torch.float64))
        assert torch.equal(state["ring"], torch.stack([torch.zeros_like(p), torch.full_like(p, 5.5)]))
    assert optimizer.modules[0].global_state["whole"].item() == 4.5


# -- random numbers ----------------------------------------------------------------------------------------------------
class Dice(Transform):
    """Random numbers, one for each of something."""

    low: float = 2.0
    high: float = 3.0
    seed: int | None = 3

    def __init__(self, distribution, per, seed=3):
        super().__init__(dict(low=2.0, high=3.0, seed=seed))
        self.distribution, self.per = distribution, per

    def rule(self, u, ctx):
        h = ctx.whole.settings if self.per == "all" else ctx.settings
        numbers = (h.low / 4,) if self.distribution == "bernoulli" else (h.low, h.high)
        return 0 * u + ctx.random(self.distribution, *numbers, per=self.per)


@pytest.mark.parametrize("per", ["element", "tensor", "all"])
@pytest.mark.parametrize("distribution", ["bernoulli", "normal", "uniform"])
def test_random_numbers_do_not_depend_on_groups_and_backends(distribution, per):
    grads = [[torch.ones(300), torch.ones(20, 10), torch.ones(7)]] * 2

    def draw(groups, compile, seed=3):
        params = [torch.zeros_like(g).requires_grad_() for g in grads[0]]
        made = [{"params": [params[i] for i in g]} for g in groups]
        optimizer = tz.Modular(made, Dice(distribution, per, seed), compile=compile)
        out = []
        for step in grads:
            for p, g in zip(params, step, strict=True):
                p.grad = g.clone()
            with torch.no_grad():
                torch._foreach_zero_(params)
            optimizer.step()
            out.append([-p.detach() for p in params])
        return out

    first = draw([[0, 1, 2]], compile=False)
    for groups in ([[0, 1, 2]], [[0], [1, 2]], [[0, 1], [2]]):
        for compile in (False, True):
            for a, b in zip(first, draw(groups, compile=compile), strict=True):
                assert all(map(torch.equal, a, b))
    if distribution != "bernoulli" or per == "element":
        assert not torch.equal(first[0][0], first[1][0])  # it moves on
        assert not torch.equal(first[0][0], draw([[0, 1, 2]], compile=False, seed=4)[0][0])
    flat = torch.cat([u.flatten() for step in first for u in step])
    different = flat.unique().numel()
    if distribution == "bernoulli":
        assert set(flat.tolist()) <= {0.0, 1.0}
    else:
        assert {"element": 900 < different <= 1014, "tensor": different == 6, "all": different == 2}[per]
    if per == "element":
        mean, std = {"bernoulli": (0.5, 0.5), "normal": (2, 3), "uniform": (2.5, 12**-0.5)}[distribution]
        assert abs(float(flat.mean()) - mean) < 4 * std / math.sqrt(flat.numel())
        assert float(flat.std()) == pytest.approx(std, rel=0.1)


def test_one_random_number_for_all_has_one_setting_and_a_generator_one_seed():
    class PerGroup(Transform):
        low: float = 0.0

        def rule(self, u, ctx):
            return u * ctx.random("uniform", ctx.settings.low, 1.0, per="all")

    with pytest.raises(TypeError, match=r"must not depend on settings of one group; use ctx\.whole"):
        steps_of(PerGroup(), gradients(1))
    p, q = (torch.zeros(2, requires_grad=True) for _ in range(2))
    p.grad, q.grad = torch.ones(2), torch.ones(2)
    optimizer = tz.Modular([{"params": [p]}, {"params": [q], "seed": 4}], Dice("normal", "element"))
    with pytest.raises(ValueError, match="takes one seed for all parameters"):
        optimizer.step()


def test_one_norm_of_all_has_one_order():
    class PerGroup(Transform):
        ord: float = 2.0

        def rule(self, u, ctx):
            return u / u.global_norm(ctx.settings.ord)

    with pytest.raises(TypeError, match=r"must not depend on settings of one group; use ctx\.whole"):
        steps_of(PerGroup(), gradients(1))


@pytest.mark.parametrize("compile", [False, True])
def test_a_group_may_have_a_random_number_for_each_tensor_and_another_one_for_all(compile):
    params = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(6)]
    groups = [{"params": params[i : i + 2], "parameterwise": i == 2} for i in (0, 2, 4)]
    optimizer = tz.Modular(groups, tz.m.RandomStepSize(seed=0), tz.m.LR(1.0), compile=compile)
    drawn = torch.Generator().manual_seed(0)
    for p in params:
        p.grad = torch.ones_like(p)
    for _ in range(3):
        before = [p[0].item() for p in params]
        optimizer.step()
        for_all, one, other = (float(torch.rand((), generator=drawn)) for _ in range(3))
        expected = [for_all, for_all, one, other, for_all, for_all]
        assert [b - p[1].item() for b, p in zip(before, params, strict=True)] == pytest.approx(expected, abs=1e-12)


# -- reductions along dimensions ---------------------------------------------------------------------------------------
REDUCTIONS = {
    "sum": (lambda u, d: u.sum(d), lambda x, along: x.sum(along, keepdim=True)),
    "amax": (lambda u, d: u.amax(d), lambda x, along: x.amax(along, keepdim=True)),
    "amin": (lambda u, d: u.amin(d), lambda x, along: x.amin(along, keepdim=True)),
    "mean": (lambda u, d: u.mean(d), lambda x, along: x.mean(along, keepdim=True)),
    "norm": (lambda u, d: u.norm(2, d), lambda x, along: torch.linalg.vector_norm(x, 2, along, keepdim=True)),
    "norm 1": (lambda u, d: u.norm(1, d), lambda x, along: torch.linalg.vector_norm(x, 1, along, keepdim=True)),
    "norm inf": (
        lambda u, d: u.norm(math.inf, d),
        lambda x, along: torch.linalg.vector_norm(x, math.inf, along, keepdim=True),
    ),
}
DIMS = {
    "0": 0,
    "1": 1,
    "0 and 1": (0, 1),
    "-1": -1,
    "not 0": Dims((0,), inverse=True),
    "not 1": Dims((1,), inverse=True),
    "not -1": Dims((-1,), inverse=True),
    "not 0 and 1": Dims((0, 1), inverse=True),
}


@both
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_along_dimensions(name, dims, compile):
    fn, wanted = REDUCTIONS[name]
    d = DIMS[dims]
    chosen = d if isinstance(d, Dims) else Dims((d,) if isinstance(d, int) else d)
    shapes = [(3, 4), (4, 1), *([] if compile and dims == "not 1" else [(2, 3, 2), (2, 2, 3, 2)])]  # see the next test
    (updates,), _ = steps_of(Formula(lambda u, ctx: 0 * u + fn(u, d)), gradients(1, shapes), compile=compile)
    for update, g in zip(updates, gradients(1, shapes)[0], strict=True):
        along = chosen.of(g.shape)
        close([update], [(wanted(g, along) if along else wanted(g[None], (0,))[0]).expand_as(g)])


def test_slices_that_lie_apart_run_uncompiled_and_say_so():
    grads = gradients(1, [(2, 3, 2)])
    with pytest.warns(UserWarning, match=r"the dimensions of slices do not follow one another\. It runs uncompiled"):
        ((update,),), _ = steps_of(Formula(lambda u, ctx: 0 * u + u.sum((0, 2))), grads, compile=True)
    close([update], [grads[0][0].sum((0, 2), keepdim=True).expand(2, 3, 2)])


@both
@pytest.mark.parametrize("dims", DIMS)
def test_numbers_of_slices_fold_to_one_of_each_tensor(dims, compile):
    d = DIMS[dims]
    chosen = d if isinstance(d, Dims) else Dims((d,) if isinstance(d, int) else d)
    fold = lambda u, ctx: 0 * u + u.norm(2, d).sum() + 100 * u.norm(2, d).amax()  # noqa: E731
    grads = gradients(1, [(3, 4), (5,), *([] if compile and dims == "not 1" else [(2, 3, 2)])])
    (updates,), _ = steps_of(Formula(fold), grads, compile=compile)
    for update, g in zip(updates, grads[0], strict=True):
        along = chosen.of(g.shape)
        norms = torch.linalg.vector_norm(g, 2, along) if along else g.abs()
        close([update], [(norms.sum() + 100 * norms.max()).expand_as(g)])


# -- a second moment for each row --------------------------------------------------------------------------------------
class RowRMS(Transform):
    """Divides each row of a matrix by the root of an average of its squares."""

    beta: Beta = 0.9
    eps: NonNegative = 1e-8
    row = Slot(dims=Dims((0,), inverse=True))

    def rule(self, u, ctx):
        s, h = ctx.state, ctx.settings
        s.row = v = s.row.lerp(u.square().mean(Dims((0,), inverse=True)), 1 - h.beta)
        return u / ((v / (1 - h.beta**ctx.step)).sqrt() + h.eps)


@both
def test_a_second_moment_for_each_row(compile):
    grads = gradients(6, [(3, 4), (2, 3, 2), (4, 1)])
    updates, optimizer = steps_of(RowRMS(), grads, compile=compile)
    rows = [torch.zeros(g.shape[0], *[1] * (g.ndim - 1), dtype=torch.float64) for g in grads[0]]
    for t, (step, update) in enumerate(zip(grads, updates, strict=True), 1):
        means = [g.square().mean(tuple(range(1, g.ndim)), keepdim=True) for g in step]
        rows = [0.9 * r + 0.1 * m for r, m in zip(rows, means, strict=True)]
        close(update, [g / ((r / (1 - 0.9**t)).sqrt() + 1e-8) for g, r in zip(step, rows, strict=True)])
    states = [optimizer.state[p]["RowRMS.row"] for p in optimizer.all_params]
    assert [s.numel() for s in states] == [3, 2, 4]
    close(states, rows)


@both
@pytest.mark.parametrize("module", [RowRMS, Delay, Outer, lambda: Dice("normal", "tensor")])
def test_states_of_all_kinds_go_through_a_state_dict(module, compile):
    grads = gradients(8)
    _, optimizer = steps_of(module(), grads[:4], compile=compile)
    saved = copy.deepcopy(optimizer.state_dict())
    wanted, _ = steps_of(None, grads[4:], optimizer=optimizer)
    params = [torch.zeros_like(g).requires_grad_() for g in grads[0]]
    other = tz.Modular(params, module(), compile=compile)
    other.load_state_dict(saved)
    with torch.no_grad():  # as far away as the first ones were
        for p, update in zip(params, zip(*steps_of(module(), grads[:4], compile=compile)[0], strict=True), strict=True):
            p.sub_(sum(update))
    got, _ = steps_of(None, grads[4:], optimizer=other)
    for a, b in zip(got, wanted, strict=True):
        close(a, b)


def test_a_state_that_is_not_declared_is_named():
    with pytest.raises(AttributeError, match=r"Formula declares no state 'm'; add it as m = Slot\(\)"):
        steps_of(Formula(lambda u, ctx: ctx.state.m), gradients(1))
    assert issubclass(Formula, Module)
