"""Settings are declared once: annotated attributes make constructor, settings, ranges, children and slots."""

import copy
import inspect
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jsonargparse
import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, make_params, run, same
from torchzero_core.core import (
    Beta,
    Check,
    Child,
    Count,
    Fraction,
    Input,
    Module,
    Modules,
    NonNegative,
    OpenFraction,
    Passed,
    Positive,
    Range,
    Slot,
    Target,
    Transform,
    per_group,
)
from torchzero_core.core.declare import fields_of
from torchzero_core.core.settings import check_group

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    name: cls for name, cls in vars(tz.m).items() if isinstance(cls, type) and issubclass(cls, Module)
}  # with aliases


def even(name, value):
    """A check of a value."""
    if value % 2:
        raise ValueError(f"{name}={value} must be even.")


class Average(Transform):
    """Everything that can be declared.

    Args:
        beta: decay.
        scale: a factor.
        kind: how.
        n: a number that two divides.
        inner: a module.
        target: what it is applied to.
    """

    beta: Beta
    scale: NonNegative | None = 1.0
    kind: Literal["plain", "signed"] | float = "plain"
    n: Annotated[Count, Check(even)] = 2
    inner: Child | None = None
    target: Target = "update"
    hidden: bool = per_group(default=True)
    average = Slot()
    kernel_needs = {"scale": 1.0}
    word: ClassVar[str] = "no setting"
    _private: int = 3

    def rule(self, u, ctx):
        s, h = ctx.state, ctx.settings
        s.average = s.average.lerp(ctx.child("inner", u), 1 - h.beta)
        return s.average.sign() if h.kind == "signed" else s.average if h.hidden else u

    def check_settings(self, settings):
        if settings["kind"] == "signed" and not settings["hidden"]:
            raise ValueError("Average cannot hide what is signed.")


class Slow(Average):
    """A subclass with other defaults and one setting more."""

    beta: Fraction = 1.0
    more: float = 0.5
    second = Slot(scalar=True)


# -- the constructor ---------------------------------------------------------------------------------------------------
def text_of(cls):
    return str(inspect.signature(cls)).replace("typing.", "").replace("torchzero_core.core.module.", "")


def test_the_signature_is_explicit():
    parameters = inspect.signature(Average).parameters
    assert list(parameters) == ["beta", "scale", "kind", "n", "inner", "target"]
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert parameters["beta"].default is inspect.Parameter.empty
    assert [p.default for p in parameters.values()][1:] == [1.0, "plain", 2, None, "update"]
    assert parameters["beta"].annotation is float
    assert parameters["scale"].annotation == float | None
    assert parameters["inner"].annotation == Modules | None
    assert parameters["kind"].annotation == Literal["plain", "signed"] | float
    assert text_of(tz.m.Lion) == "(beta1: float = 0.9, beta2: float = 0.99) -> None"
    assert Average.__init__.__qualname__ == "Average.__init__"
    assert Average.__init__.__module__ == __name__


def test_what_is_given_becomes_settings_children_and_target():
    module = Average(0.5, 2.0, inner=[tz.m.Sign(), tz.m.Mul(3)], target="grad")
    assert module.defaults == {"beta": 0.5, "scale": 2.0, "kind": "plain", "n": 2, "hidden": True}
    assert list(module.children) == ["inner"]
    assert module.target == "grad"
    assert Average(0.5).children == {}
    assert Average.word == "no setting"
    assert module._private == 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Average, r"Average\(\): missing a required argument: 'beta'"),
        (lambda: Average(0.5, gamma=1), r"Average\(\): got an unexpected keyword argument 'gamma'"),
        (lambda: Average(0.5, hidden=False), r"Average\(\): got an unexpected keyword argument 'hidden'"),
        (lambda: Average(*[0.5] * 9), r"Average\(\): too many positional arguments"),
        (lambda: Average(0.5, inner="Sign"), r"Average\.inner takes a module or a list of modules, not 'Sign'"),
        (lambda: tz.m.GradientAccumulation(None, 2), r"GradientAccumulation\.modules takes a module or a list"),
    ],
)
def test_wrong_arguments_are_named(make, words):
    with pytest.raises(TypeError, match=words):
        make()


def test_a_subclass_changes_defaults_and_adds():
    assert list(inspect.signature(Slow).parameters) == ["beta", "scale", "kind", "n", "inner", "more", "target"]
    assert Slow().defaults == {"beta": 1.0, "scale": 1.0, "kind": "plain", "n": 2, "more": 0.5, "hidden": True}
    assert Slow.ranges == {**Average.ranges, "beta": (0, 1, "[]")}
    assert list(Slow.slots) == ["average", "second"]
    assert list(Average.slots) == ["average"]
    with pytest.raises(ValueError, match=r"^Slow\(beta=1\.5\) is out of range: beta must be in \[0, 1\]\.$"):
        Slow(1.5)
    assert text_of(tz.m.HeavyBall).startswith(
        "(momentum: float = 0.9, dampening: float = 0, debiased: bool = False, le"
    )
    assert list(inspect.signature(tz.m.SqrtEMASquared).parameters) == ["beta", "amsgrad", "debiased", "pow", "target"]


def test_a_subclass_without_fields_has_the_constructor_of_its_base():
    class Same(Average):
        pass

    assert Same.__init__ is Average.__init__
    with pytest.raises(ValueError, match=r"^Same\(beta=2\) is out of range"):
        Same(2)


def test_a_hand_written_constructor_may_call_the_declared_one():
    class Mine(Average):
        def __init__(self, decay):
            super().__init__(beta=decay, scale=3.0)

    assert Mine(0.25).defaults["scale"] == 3.0
    with pytest.raises(ValueError, match=r"^Mine\(beta=-1\) is out of range"):
        Mine(-1)


def test_a_declared_class_may_stand_on_a_hand_written_one():
    class Base(Module):
        def __init__(self, defaults=None, name="x"):
            super().__init__(dict(defaults or {}, own=1))
            self.name = name

    class Below(Base):
        share: Fraction = 0.5
        name: Passed[str] = "y"

    assert Below(0.25).defaults == {"share": 0.25, "own": 1}
    assert Below(name="z").name == "z"


def test_what_runs_after_the_constructor():
    class Counting(Module):
        start: int = 3

        def __post_init__(self):
            self.count = self.defaults["start"]

    assert Counting(5).count == 5


def test_operands():
    class Hypot(tz.m.BinaryOperation):
        other: Input
        alpha: float = 1

        def transform(self, ctx, update, other):
            return (update**2 + other**2) ** 0.5

    assert Hypot(2.0).defaults == {"other": 2.0, "alpha": 1}
    assert list(Hypot(tz.m.Sign()).children) == ["other"]


# -- what is refused when the class is made ----------------------------------------------------------------------------
def test_an_annotation_that_cannot_be_resolved():
    with pytest.raises(TypeError, match=r"'Missing' of Wrong\.a cannot be resolved \(name 'Missing' is not defined\)"):

        class Wrong(Module):
            a: "Missing" = 1  # noqa: F821


@pytest.mark.parametrize("name", ["requires_closure", "slots", "step", "state_of"])
def test_an_annotation_of_what_is_no_setting(name):
    body = {"__annotations__": {name: bool}, name: True, "state_of": Module.step}
    base = type("Base", (Transform,), {"state_of": 1})
    with pytest.raises(TypeError, match=rf"Wrong\.{name} is annotated, .* but \w+\.{name} is none"):
        type("Wrong", (base,), body)


def test_a_required_setting_after_a_default():
    with pytest.raises(TypeError, match=r"^Wrong\.b has no default but follows one that has"):

        class Wrong(Module):
            a: float = 1
            b: float


def test_fields_below_a_constructor_that_takes_none():
    class Base(Module):
        def __init__(self, a):
            super().__init__(dict(a=a))

    with pytest.raises(TypeError, match=r"Below declares b, but Base has a hand-written __init__"):

        class Below(Base):
            b: float = 1


# -- values ------------------------------------------------------------------------------------------------------------
BAD = {
    "beta": (1.0, r"beta=1\)? is out of range: beta must be in \[0, 1\)"),
    "nan": (math.nan, r"beta=nan\)? is out of range"),
    "scale": (-1.0, r"scale=-1\)? is out of range: scale must be in \[0, inf\)"),
    "kind": ("wild", r"kind='wild'\)? must be 'plain', 'signed' or a number"),
    "n": (3, r": n=3 must be even\."),
    "whole": (0, r"n=0\)? is out of range: n must be in \[1, inf\)"),
}
NAMES = {"nan": "beta", "whole": "n"}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused_wherever_they_come_from(case):
    value, words = BAD[case]
    name = NAMES.get(case, case)
    with pytest.raises(ValueError, match=rf"^Average(\(|: ){words[2:] if words.startswith(': ') else words}"):
        Average(**{"beta": 0.5, name: value})
    module, params = Average(0.5), make_params()
    with pytest.raises(ValueError, match=words):
        tz.Modular([{"params": params, name: value}], Average(0.5))
    optimizer = tz.Modular(params, module, tz.m.LR(0.1))
    with pytest.raises(ValueError, match=words):
        module.set_param_groups([{"params": params, name: value}])
    run(optimizer, params, 2)
    before = bits(params)
    for key in (name, f"Average.{name}"):
        optimizer.param_groups[0][key] = value
        for _ in range(2):
            with pytest.raises(ValueError, match=words):
                optimizer.step()
        del optimizer.param_groups[0][key]
    assert same(before, bits(params))
    run(optimizer, params, 1)
    assert not same(before, bits(params))


def test_values_that_do_not_go_together_are_refused_wherever_they_come_from():
    words = "needs c1 < c2, or no step size may do; got c1=0.95 and c2=0.9"
    with pytest.raises(ValueError, match=words):
        tz.m.StrongWolfe(c1=0.95)
    params = make_params()
    with pytest.raises(ValueError, match=words):
        tz.Modular([{"params": params, "c1": 0.95}], tz.m.StrongWolfe())
    with pytest.raises(ValueError, match=words):
        tz.m.StrongWolfe().set_param_groups([{"params": params, "c1": 0.95}])
    optimizer = tz.Modular([{"params": params, "c1": 0.95, "c2": 0.99}], tz.m.StrongWolfe())
    run(optimizer, params, 1)
    del optimizer.param_groups[0]["c2"]
    with pytest.raises(ValueError, match=words):
        run(optimizer, params, 1)


@pytest.mark.parametrize(
    ("hint", "inside", "outside"),
    [
        (Beta, (0, 0.999), (1, -0.1)),
        (Fraction, (0, 1), (1.01, -0.1)),
        (OpenFraction, (0.001, 0.999), (0, 1)),
        (Positive, (1e-300, 1e300), (0, -1, math.inf)),
        (NonNegative, (0, 1e300), (-1e-300, math.inf)),
        (Count, (1, 10), (0, -3)),
        (Annotated[float, Range(1, 2, "(]")], (1.01, 2), (1, 2.01)),
        (Beta | None, (None, 0.5), (1,)),
        (Count | Literal["auto"] | None, (None, "auto", 1), (0,)),
    ],
)
def test_ranges(hint, inside, outside):
    One = type("One", (Module,), {"__annotations__": {"x": hint}})
    for value in inside:
        assert One(value).defaults == {"x": value}
        if isinstance(value, float):
            One(torch.tensor(value, dtype=torch.float64))
    for value in (*outside, math.nan):
        with pytest.raises(ValueError, match=r"^One\(x=.*\) is out of range: x must be in "):
            One(value)
        with pytest.raises(ValueError, match="is out of range"):
            One(torch.tensor(float(value), dtype=torch.float64))


def test_only_tensors_of_the_host_are_looked_at_between_steps():
    """The value of another may have to be waited for."""
    params = make_params()
    optimizer = tz.Modular(params, tz.m.LR(0.1))
    run(optimizer, params, 1)
    for bad in (torch.tensor(-0.25), -0.25):
        optimizer.param_groups[0]["lr"] = bad
        with pytest.raises(ValueError, match=r"lr=-0\.25 is out of range"):
            run(optimizer, params, 1)
    far = torch.empty((), device="meta")  # to look at it would raise
    check_group({"params": params, "lr": far}, optimizer.modules, {"params": params, "lr": 0.1})


# -- attributes --------------------------------------------------------------------------------------------------------
def test_a_setting_is_no_attribute():
    module = Average(0.5)
    for read in (lambda: module.beta, lambda: Average.beta, lambda: Slow().beta):
        with pytest.raises(AttributeError, match=r"differs between parameters.*ctx\.settings\.beta.*\[p\]\['beta'\]"):
            read()
    assert not hasattr(module, "beta")
    assert not hasattr(module, "inner")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(duplicate):
    module = Average(0.25, kind="signed", inner=tz.m.Mul(2), target="grad")
    other = duplicate(module)
    assert (other.defaults, other.target, repr(other)) == (module.defaults, "grad", repr(module))
    params, others = make_params(), make_params()
    optimizer = tz.Modular(params, module, tz.m.LR(0.1))
    run(optimizer, params, 2)
    if duplicate is not copy.copy:
        optimizer = duplicate(tz.Modular(others, other, tz.m.LR(0.1)))
        others = optimizer.param_groups[0]["params"]
        run(optimizer, others, 2)
        assert same(bits(params), bits(others))


def test_a_setting_for_groups_alone():
    a, b = make_params([(2,), (3,)])
    module = Average(0.5)
    optimizer = tz.Modular([{"params": [a]}, {"params": [b], "hidden": False}], module)
    assert [module.settings[p]["hidden"] for p in optimizer.all_params] == [True, False]
    assert "orthogonalize" not in inspect.signature(tz.m.Muon).parameters
    assert tz.m.Muon().defaults["orthogonalize"] is True


# -- the catalogue -----------------------------------------------------------------------------------------------------
def documented(cls: Any) -> list[str]:
    """The parameters that the docstring of a class explains."""
    part = re.search(r"\n    Args:\n(.*?)(?=\n    \S|\Z)", cls.__doc__, re.S)
    return re.findall(r"^        (\*{0,2}\w+):", part[1], re.M) if part else []


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_explain_the_parameters_in_order(name):
    cls = MODULES[name]
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    explained = documented(cls)
    parameters = inspect.signature(cls).parameters.values()
    own = [p for p in parameters if p.name != "defaults" or "defaults" in explained]  # those are for subclasses
    assert explained == [stars.get(p.kind, "") + p.name for p in own]
    for field in fields_of(cls).values():
        assert field.in_signature or f"``{field.name}" in cls.__doc__


@pytest.mark.parametrize("name", MODULES)
def test_fields_are_all_there_is(name):
    cls = MODULES[name]
    fields = fields_of(cls)
    if fields:
        assert list(inspect.signature(cls).parameters) == [f.name for f in fields.values() if f.in_signature]
        assert {n: tuple(r) for n, r in cls.ranges.items()} == {n: f.range for n, f in fields.items() if f.range}


# -- other readers of the signature ------------------------------------------------------------------------------------
def test_jsonargparse_reads_types_defaults_and_help(capsys):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Module, "module")
    parser.add_argument("--modules", type=list[Module])
    name = f"{__name__}.Average"
    got = parser.parse_args(["--module", name, "--module.beta=0.25", "--module.inner=torchzero_core.m.Adam"])
    assert vars(got.module.init_args.inner.init_args)["beta2"] == 0.999
    module = parser.instantiate(got).module
    assert type(module) is Average
    assert module.defaults["beta"] == 0.25
    assert type(module.children["inner"]) is tz.m.Adam
    got = parser.parse_args(
        ["--modules+", name, "--modules.beta=0.5", "--modules+", "torchzero_core.m.LR", "--modules.lr=1"]
    )
    assert [type(m) for m in parser.instantiate(got).modules] == [Average, tz.m.LR]
    for wrong in ("--module.beta=x", "--module.kind=wild", "--module.gamma=1", "--module.hidden=false"):
        with pytest.raises(jsonargparse.ArgumentError):
            parser.parse_args(["--module", name, "--module.beta=0.5", wrong])
    with pytest.raises(SystemExit):
        parser.parse_args([f"--module.help={name}"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--module.beta BETA decay. (required, type: float)" in shown
    assert re.search(r"--module\.scale SCALE a factor\. \(type: \S*float\S*, default: 1\.0\)", shown)


class ByHand(Transform):
    """A constructor as users wrote it before.

    Args:
        scale: a factor.
        target: what it is applied to.
    """

    def __init__(self, scale: float = 1.0, target: Target = "update"):
        super().__init__(dict(scale=scale), target=target)


def test_jsonargparse_reads_a_target_by_hand():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Module, "module")
    name = f"{__name__}.ByHand"
    got = parser.parse_args(["--module", name, "--module.target=grad"])
    assert parser.instantiate(got).module.target == "grad"
    with pytest.raises(jsonargparse.ArgumentError):
        parser.parse_args(["--module", name, "--module.target=gradient"])


SNIPPET = """
from typing import Literal
from torchzero_core.core import Beta, Child, Context, Slot, Target, Transform, per_group
import torchzero_core as tz


class Mine(Transform):
    beta: Beta
    mode: Literal["a", "b"] = "a"
    inner: Child | None = None
    target: Target = "update"
    hidden: bool = per_group(default=True)
    average = Slot()


class Below(Mine):
    beta: Beta = 0.5


Mine(0.9, "b", tz.m.Adam(), "grad")
Below(inner=[tz.m.Adam(), tz.m.LR(1e-3)])
tz.m.HeavyBall(0.9, lerp=True)
tz.m.VectorProjection(tz.m.Adam(), False)
Mine(0.5).target.upper()
Mine()  # missing
Mine(0.9, "c")  # word
Mine(0.9, hidden=False)  # hidden
Below(gamma=1)  # unknown
tz.m.LR()  # lr
tz.m.Adam(beta1="0.9")  # type
tz.m.MeZO(1e-3, 1, "central2", "rademacher", "grad", 0)
tz.m.MeZO(beta=0.5)  # not MeZO's
"""


def test_type_checkers_read_it(tmp_path):
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--follow-imports=silent"]
    result = subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    wrong = {i for i, line in enumerate(SNIPPET.splitlines(), 1) if "  # " in line}
    found = {int(n) for n in re.findall(r"snippet\.py:(\d+): error", result.stdout)}
    assert found == wrong, result.stdout + result.stderr


def test_a_decorated_method_does_not_hide_the_names_of_annotations():
    class Decorated(Module):
        @torch.no_grad()
        def helper(self):
            return None

        size: Positive = 2.0

    assert Decorated().defaults == {"size": 2.0}


def test_a_class_takes_the_fields_of_all_its_bases():
    class Early(tz.Transform):
        beta: Beta = 0.5

    class Late(tz.Transform):
        scale: Positive = 2.0
        on: bool = per_group(default=True)

    class Both(Late, Early):
        def rule(self, u, ctx):
            return u * (ctx.settings.scale * ctx.settings.beta)

    assert str(inspect.signature(Both)) == "(beta: float = 0.5, scale: float = 2.0) -> None"
    assert Both(0.25).defaults == {"beta": 0.25, "scale": 2.0, "on": True}
    for wrong in (dict(beta=1.0), dict(scale=0.0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Both(**wrong)

    class Free(Late):
        scale: float = 1.0

    class Freer(Free):
        more: float = 1.0

    assert Freer(scale=-1.0).defaults["scale"] == -1.0
