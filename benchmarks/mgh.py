"""The test functions of Moré, Garbow and Hillstrom, from their standard starting points.

Each is a sum of squares of residuals. Reference: J. J. Moré, B. S. Garbow and K. E. Hillstrom, Testing Unconstrained
Optimization Software, ACM Transactions on Mathematical Software 7, 1981; the numbers are those of its section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

F64 = torch.float64
Residuals = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A function to be minimised.

    Attributes:
        name: what it is called.
        fun: of a vector.
        start: the standard starting point.
        minimum: the value at the minimiser that descent methods find from there; lower ones count as found too.
    """

    name: str
    fun: Callable[[Tensor], Tensor]
    start: Tensor
    minimum: float = 0.0

    def __str__(self) -> str:
        return self.name


def _numbers(text: str) -> Tensor:
    return torch.tensor([float(word) for word in text.split()], dtype=F64)


def _upto(m: int, begin: int = 1) -> Tensor:
    return torch.arange(begin, m + 1, dtype=F64)


_BARD = _numbers(".14 .18 .22 .25 .29 .32 .35 .39 .37 .58 .73 .96 1.34 2.10 4.39")
_GAUSSIAN = _numbers(".0009 .0044 .0175 .0540 .1295 .2420 .3521 .3989 .3521 .2420 .1295 .0540 .0175 .0044 .0009")
_KOWALIK_Y = _numbers(".1957 .1947 .1735 .1600 .0844 .0627 .0456 .0342 .0323 .0235 .0246")
_KOWALIK_U = _numbers("4 2 1 .5 .25 .167 .125 .1 .0833 .0714 .0625")
_OSBORNE_1 = _numbers(
    ".844 .908 .932 .936 .925 .908 .881 .850 .818 .784 .751 .718 .685 .658 .628 .603 .580 .558 .538 .522 .506 .490 "
    ".478 .467 .457 .448 .438 .431 .424 .420 .414 .411 .406"
)
_OSBORNE_2 = _numbers(
    "1.366 1.191 1.112 1.013 .991 .885 .831 .847 .786 .725 .746 .679 .608 .655 .616 .606 .602 .626 .651 .724 .649 .649 "
    ".694 .644 .624 .661 .612 .558 .533 .495 .500 .423 .395 .375 .372 .391 .396 .405 .428 .429 .523 .562 .607 .653 "
    ".672 .708 .633 .668 .645 .632 .591 .559 .597 .625 .739 .710 .729 .720 .636 .581 .428 .292 .162 .098 .054"
)


def rosenbrock(x: Tensor) -> Tensor:
    """Numbers 1 and 21."""
    a, b = x[::2], x[1::2]
    return torch.cat([10 * (b - a**2), 1 - a])


def freudenstein_roth(x: Tensor) -> Tensor:
    """Number 2."""
    a, b = x
    return torch.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def powell_badly_scaled(x: Tensor) -> Tensor:
    """Number 3."""
    return torch.stack([1e4 * x[0] * x[1] - 1, (-x[0]).exp() + (-x[1]).exp() - 1.0001])


def brown_badly_scaled(x: Tensor) -> Tensor:
    """Number 4."""
    return torch.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def beale(x: Tensor) -> Tensor:
    """Number 5."""
    return _numbers("1.5 2.25 2.625") - x[0] * (1 - x[1] ** _upto(3))


def jennrich_sampson(x: Tensor) -> Tensor:
    """Number 6."""
    i = _upto(10)
    return 2 + 2 * i - ((i * x[0]).exp() + (i * x[1]).exp())


def helical_valley(x: Tensor) -> Tensor:
    """Number 7."""
    theta = torch.atan(x[1] / x[0]) / (2 * math.pi)
    theta = torch.where(x[0] < 0, theta + 0.5, theta)
    return torch.stack([10 * (x[2] - 10 * theta), 10 * ((x[0] ** 2 + x[1] ** 2).sqrt() - 1), x[2]])


def bard(x: Tensor) -> Tensor:
    """Number 8."""
    u = _upto(15)
    v = 16 - u
    return _BARD - (x[0] + u / (v * x[1] + torch.minimum(u, v) * x[2]))


def gaussian(x: Tensor) -> Tensor:
    """Number 9."""
    t = (8 - _upto(15)) / 2
    return x[0] * (-x[1] * (t - x[2]) ** 2 / 2).exp() - _GAUSSIAN


def gulf(x: Tensor) -> Tensor:
    """Number 11."""
    t = _upto(99) / 100
    y = 25 + (-50 * t.log()) ** (2 / 3)
    return (-((y - x[1]).abs() ** x[2]) / x[0]).exp() - t


def box(x: Tensor) -> Tensor:
    """Number 12."""
    t = 0.1 * _upto(10)
    return (-t * x[0]).exp() - (-t * x[1]).exp() - x[2] * ((-t).exp() - (-10 * t).exp())


def powell_singular(x: Tensor) -> Tensor:
    """Numbers 13 and 22."""
    a, b, c, d = x[::4], x[1::4], x[2::4], x[3::4]
    return torch.cat([a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2])


def wood(x: Tensor) -> Tensor:
    """Number 14."""
    a, b, c, d = x
    r90, r10 = 90**0.5, 10**0.5
    return torch.stack([10 * (b - a**2), 1 - a, r90 * (d - c**2), 1 - c, r10 * (b + d - 2), (b - d) / r10])


def kowalik_osborne(x: Tensor) -> Tensor:
    """Number 15."""
    u = _KOWALIK_U
    return _KOWALIK_Y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def brown_dennis(x: Tensor) -> Tensor:
    """Number 16."""
    t = _upto(20) / 5
    return (x[0] + t * x[1] - t.exp()) ** 2 + (x[2] + x[3] * t.sin() - t.cos()) ** 2


def osborne_1(x: Tensor) -> Tensor:
    """Number 17."""
    t = 10 * (_upto(33) - 1)
    return _OSBORNE_1 - (x[0] + x[1] * (-t * x[3]).exp() + x[2] * (-t * x[4]).exp())


def biggs(x: Tensor) -> Tensor:
    """Number 18."""
    t = 0.1 * _upto(13)
    y = (-t).exp() - 5 * (-10 * t).exp() + 3 * (-4 * t).exp()
    return x[2] * (-t * x[0]).exp() - x[3] * (-t * x[1]).exp() + x[5] * (-t * x[4]).exp() - y


def osborne_2(x: Tensor) -> Tensor:
    """Number 19."""
    t = (_upto(65) - 1) / 10
    fit = x[0] * (-t * x[4]).exp()
    for k in range(3):
        fit = fit + x[1 + k] * (-((t - x[8 + k]) ** 2) * x[5 + k]).exp()
    return _OSBORNE_2 - fit


def watson(x: Tensor) -> Tensor:
    """Number 20."""
    t, j = _upto(29).unsqueeze(1) / 29, torch.arange(len(x), dtype=F64)
    powers = t**j
    first = (j[1:] * x[1:] * powers[:, :-1]).sum(1) - (powers @ x) ** 2 - 1
    return torch.cat([first, x[:1], x[1:2] - x[:1] ** 2 - 1])


def penalty_1(x: Tensor) -> Tensor:
    """Number 23."""
    return torch.cat([1e-5**0.5 * (x - 1), (x @ x - 0.25).reshape(1)])


def penalty_2(x: Tensor) -> Tensor:
    """Number 24."""
    n = len(x)
    i, a = _upto(n, 2), 1e-5**0.5
    y = (i / 10).exp() + ((i - 1) / 10).exp()
    middle = a * ((x[1:] / 10).exp() + (x[:-1] / 10).exp() - y)
    last = a * ((x[1:] / 10).exp() - math.exp(-0.1))
    total = ((n - _upto(n) + 1) * x**2).sum() - 1
    return torch.cat([x[:1] - 0.2, middle, last, total.reshape(1)])


def variably_dimensioned(x: Tensor) -> Tensor:
    """Number 25."""
    total = (_upto(len(x)) * (x - 1)).sum()
    return torch.cat([x - 1, total.reshape(1), (total**2).reshape(1)])


def trigonometric(x: Tensor) -> Tensor:
    """Number 26."""
    return len(x) - x.cos().sum() + _upto(len(x)) * (1 - x.cos()) - x.sin()


def brown_almost_linear(x: Tensor) -> Tensor:
    """Number 27."""
    return torch.cat([x[:-1] + x.sum() - (len(x) + 1), (x.prod() - 1).reshape(1)])


def discrete_boundary_value(x: Tensor) -> Tensor:
    """Number 28."""
    h = 1 / (len(x) + 1)
    zero = x.new_zeros(1)
    t = h * _upto(len(x))
    return 2 * x - torch.cat([zero, x[:-1]]) - torch.cat([x[1:], zero]) + h**2 * (x + t + 1) ** 3 / 2


def discrete_integral(x: Tensor) -> Tensor:
    """Number 29."""
    h = 1 / (len(x) + 1)
    t = h * _upto(len(x))
    cubes = (x + t + 1) ** 3
    below, above = (t * cubes).cumsum(0), ((1 - t) * cubes).flip(0).cumsum(0).flip(0) - (1 - t) * cubes
    return x + h * ((1 - t) * below + t * above) / 2


def broyden_tridiagonal(x: Tensor) -> Tensor:
    """Number 30."""
    zero = x.new_zeros(1)
    return (3 - 2 * x) * x - torch.cat([zero, x[:-1]]) - 2 * torch.cat([x[1:], zero]) + 1


def broyden_banded(x: Tensor) -> Tensor:
    """Number 31."""
    n, terms = len(x), x * (1 + x)
    i = torch.arange(n)
    offset = i.unsqueeze(0) - i.unsqueeze(1)
    band = ((offset >= -5) & (offset <= 1) & (offset != 0)).to(x)
    return x * (2 + 5 * x**2) + 1 - band @ terms


def linear_full_rank(x: Tensor) -> Tensor:
    """Number 32, with twice as many residuals as unknowns."""
    m = 2 * len(x)
    mean = 2 * x.sum() / m + 1
    return torch.cat([x - mean, (-mean).expand(m - len(x))])


def linear_rank_1(x: Tensor) -> Tensor:
    """Number 33, with twice as many residuals as unknowns."""
    return _upto(2 * len(x)) * (_upto(len(x)) @ x) - 1


def linear_rank_1_with_zeros(x: Tensor) -> Tensor:
    """Number 34, with twice as many residuals as unknowns."""
    n = len(x)
    m, inner = 2 * n, _upto(n - 1, 2) @ x[1:-1]
    middle = (_upto(m - 1, 2) - 1) * inner - 1
    return torch.cat([x.new_full((1,), -1.0), middle, x.new_full((1,), -1.0)])


def chebyquad(x: Tensor) -> Tensor:
    """Number 35."""
    n, y = len(x), 2 * x - 1
    before, now, out = torch.ones_like(y), y, []
    for i in range(1, n + 1):
        integral = -1 / (i * i - 1) if i % 2 == 0 else 0.0
        out.append(now.mean() - integral)
        before, now = now, 2 * y * now - before
    return torch.stack(out)


def _boundary_start(n: int) -> Tensor:
    t = _upto(n) / (n + 1)
    return t * (t - 1)


def _problems() -> list[tuple[str, Residuals, Tensor | str, float]]:
    return [
        ("Rosenbrock", rosenbrock, "-1.2 1", 0.0),
        ("Freudenstein-Roth", freudenstein_roth, "0.5 -2", 48.98425367924),
        ("Powell badly scaled", powell_badly_scaled, "0 1", 0.0),
        ("Brown badly scaled", brown_badly_scaled, "1 1", 0.0),
        ("Beale", beale, "1 1", 0.0),
        ("Jennrich-Sampson", jennrich_sampson, "0.3 0.4", 124.362182355615),
        ("helical valley", helical_valley, "-1 0 0", 0.0),
        ("Bard", bard, "1 1 1", 8.21487730657898e-3),
        ("Gaussian", gaussian, "0.4 1 0", 1.1279327696188e-8),
        ("Gulf", gulf, "5 2.5 0.15", 0.0),
        ("Box", box, "0 10 20", 0.0),
        ("Powell singular", powell_singular, "3 -1 0 1", 0.0),
        ("Wood", wood, "-3 -1 -3 -1", 0.0),
        ("Kowalik-Osborne", kowalik_osborne, "0.25 0.39 0.415 0.39", 3.0750560385e-4),
        ("Brown-Dennis", brown_dennis, "25 5 -5 -1", 85822.2016263563),
        ("Osborne 1", osborne_1, "0.5 1.5 -1 0.01 0.02", 5.4648946975e-5),
        ("Biggs EXP6", biggs, "1 2 1 1 1 1", 0.0),
        ("Osborne 2", osborne_2, "1.3 0.65 0.65 0.7 0.6 3 5 7 2 4.5 5.5", 4.01377362935477e-2),
        ("Watson 6", watson, torch.zeros(6, dtype=F64), 2.28767005355239e-3),
        ("Watson 9", watson, torch.zeros(9, dtype=F64), 1.3997601382e-6),
        ("extended Rosenbrock 20", rosenbrock, _numbers("-1.2 1 " * 10), 0.0),
        ("extended Powell singular 20", powell_singular, _numbers("3 -1 0 1 " * 5), 0.0),
        ("penalty I 10", penalty_1, _upto(10), 7.08765146709e-5),
        ("penalty II 4", penalty_2, torch.full((4,), 0.5, dtype=F64), 9.37629300736e-6),
        ("variably dimensioned 10", variably_dimensioned, 1 - _upto(10) / 10, 0.0),
        ("trigonometric 10", trigonometric, torch.full((10,), 0.1, dtype=F64), 2.795056121879e-5),
        ("Brown almost-linear 10", brown_almost_linear, torch.full((10,), 0.5, dtype=F64), 0.0),
        ("discrete boundary value 10", discrete_boundary_value, _boundary_start(10), 0.0),
        ("discrete integral equation 10", discrete_integral, _boundary_start(10), 0.0),
        ("Broyden tridiagonal 10", broyden_tridiagonal, torch.full((10,), -1.0, dtype=F64), 0.0),
        ("Broyden banded 10", broyden_banded, torch.full((10,), -1.0, dtype=F64), 0.0),
        ("linear, full rank 10", linear_full_rank, torch.ones(10, dtype=F64), 10.0),
        ("linear, rank 1 10", linear_rank_1, torch.ones(10, dtype=F64), 190 / 41),
        ("linear, rank 1 with zeros 10", linear_rank_1_with_zeros, torch.ones(10, dtype=F64), 227 / 37),
        ("Chebyquad 8", chebyquad, _upto(8) / 9, 3.51687372567793e-3),
    ]


def problems() -> list[Problem]:
    """All of them."""

    def squares(residuals: Residuals) -> Callable[[Tensor], Tensor]:
        return lambda x: residuals(x).square().sum()

    return [
        Problem(name, squares(residuals), _numbers(start) if isinstance(start, str) else start, minimum)
        for name, residuals, start, minimum in _problems()
    ]
