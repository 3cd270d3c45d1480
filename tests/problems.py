"""The problems that the modules of the registry are run on. Nothing in them draws random numbers."""

import math

import torch

SHAPES = [(3, 2), (4,), (1,)]
#: Every kind of shape a parameter can have; "large" is longer than the pieces the engine works in are small.
ALL_SHAPES = {
    "0-d": (),
    "one": (1,),
    "ones": (1, 1, 1),
    "column": (3, 1),
    "row": (1, 3),
    "empty": (0,),
    "empty 2-d": (2, 0),
    "matrix": (3, 4),
    "kernel": (2, 3, 2, 2),
    "7-d": (2, 1, 3, 1, 2, 1, 2),
}


def values(shape, seed):
    """Numbers without a pattern, between -1 and 1."""
    n = math.prod(shape)
    return torch.tensor([math.sin(12.9898 * (i + 1) + 78.233 * seed) for i in range(n)], dtype=torch.float64).view(
        shape
    )


def make_params(shapes=SHAPES, dtype=torch.float64, seed=0):
    return [values(s, seed + i).to(dtype).requires_grad_() for i, s in enumerate(shapes)]


def quadratic(params):
    """Σ ½a(p − c)² with curvatures between ½ and 2; independent of memory layout and of how elements are grouped."""
    total = 0.0
    for i, p in enumerate(params):
        a = torch.linspace(0.5, 2.0, p.numel(), dtype=p.dtype, device=p.device).view(p.shape)
        total = total + 0.5 * (a * (p - (i + 1.0)).square()).sum()
    return total


def squares(params):
    return sum(p.square().sum() for p in params)


def rosenbrock(params):
    x, y = params[0]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def closure_of(params, loss=quadratic):
    """The closure of the README, for any loss."""

    def closure(backward=True):
        value = loss(params)
        if backward:
            for p in params:
                p.grad = None
            value.backward()
        return value

    return closure


def backward(params, loss=quadratic):
    """Gradients as in a loop without a closure."""
    for p in params:
        p.grad = None
    value = loss(params)
    value.backward()
    return value.detach()


def run(optimizer, params, steps, loss=quadratic):
    """Make steps with a closure; the losses at their starts."""
    closure = closure_of(params, loss)
    return [float(optimizer.step(closure)) for _ in range(steps)]


def bits(params):
    """Copies, to compare with later."""
    return [p.detach().clone() for p in params]


def same(a, b):
    """Whether two structures of tensors and numbers are equal to the last bit."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return (
            isinstance(a, torch.Tensor)
            and isinstance(b, torch.Tensor)
            and a.shape == b.shape
            and a.dtype == b.dtype
            and torch.equal(a.nan_to_num(), b.nan_to_num())
            and torch.equal(a.isnan(), b.isnan())
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


def tensors_in(value):
    """Every tensor in a nested structure."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from tensors_in(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from tensors_in(v)


def segments(optimizer):
    """The runs of rules that an optimizer has made a step with."""
    return [stage.segment for stage in optimizer.stages(optimizer.chain) if hasattr(stage, "segment")]


def buckets(optimizer):
    """What they have sorted the parameters into."""
    derived = optimizer.all_params.derived
    return [bucket for segment in segments(optimizer) for bucket in derived[segment].buckets]
