"""Settings behind ``_: KW_ONLY`` are given by name only, at the end of every signature."""

from __future__ import annotations

import inspect
from dataclasses import KW_ONLY

import pytest

import torchzero_core as tz
from torchzero_core.core import Beta, Child, NonNegative


class Base(tz.Module):
    beta: Beta = 0.5
    inner: Child | None = None
    _: KW_ONLY
    eps: NonNegative = 1e-8


class Ahead(tz.Module):
    switch: int = 3


class Subclass(Base, Ahead):
    scale: float = 2.0
    _: KW_ONLY
    eps: NonNegative = 0.1


class Needy(tz.Module):
    beta: Beta = 0.5
    _: KW_ONLY
    size: int


def test_signatures():
    assert list(inspect.signature(Base).parameters) == ["beta", "inner", "eps"]
    names = {name: p.kind.description for name, p in inspect.signature(Subclass).parameters.items()}
    by_place, by_name = "positional or keyword", "keyword-only"
    assert names == dict(switch=by_place, beta=by_place, inner=by_place, scale=by_place, eps=by_name)


def test_they_are_settings_like_others():
    module = Subclass(1, 0.25, None, 3.0, eps=0.5)
    assert module.defaults == dict(switch=1, beta=0.25, scale=3.0, eps=0.5)
    assert Subclass().defaults["eps"] == 0.1
    with pytest.raises(ValueError, match=r"Subclass\(eps=-1\) is out of range"):
        Subclass(eps=-1)
    with pytest.raises(TypeError, match=r"Base\(\): too many positional arguments"):
        Base(0.5, None, 1.0)


def test_one_without_a_default_may_follow_others():
    assert Needy(size=3).defaults == dict(beta=0.5, size=3)
    with pytest.raises(TypeError, match="size"):
        Needy(0.5)
