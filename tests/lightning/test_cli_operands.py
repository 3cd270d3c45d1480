"""Modules with any number of operands from YAML, where they are a list by its name."""

import ast
from pathlib import Path

import pytest

from tests.lightning.problems import m
from tests.lightning.test_cli import Net, optimizer_of
from tz_lightning import ModularCLI

SIGN = {"class_path": "Sign"}
CHAIN = [{"class_path": "Sqrt"}, {"class_path": "Mul", "init_args": {"other": 2.0}}]


def module_of(class_path, /, **init_args):
    """The module that YAML says so makes."""
    modules = [{"class_path": class_path, "init_args": init_args}]
    chain = {"optimizer": {"class_path": "ModularChain", "init_args": {"modules": modules}}}
    command = ModularCLI(Net, run=False, args=chain, save_config_callback=None, seed_everything_default=0)
    (module,) = optimizer_of(command).modules
    return module


@pytest.mark.parametrize("name", ["Sum", "Mean", "Prod", "MaximumModules", "MinimumModules", "MedianModules"])
def test_inputs(name):
    module = module_of(name, inputs=[SIGN, 0.5, CHAIN])
    assert repr(module) == repr(getattr(m, name)(m.Sign(), 0.5, [m.Sqrt(), m.Mul(2.0)]))


@pytest.mark.parametrize("name", ["WeightedSum", "WeightedMean"])
def test_inputs_with_weights(name):
    module = module_of(name, inputs=[SIGN, 0.5, CHAIN], weights=[1.0, 2.0, 3.5])
    assert repr(module) == repr(getattr(m, name)(m.Sign(), 0.5, [m.Sqrt(), m.Mul(2.0)], weights=[1.0, 2.0, 3.5]))


@pytest.mark.parametrize("name", ["Alternate", "Switch"])
@pytest.mark.parametrize("steps", [3, [1, 2]])
def test_modules_with_turns(name, steps):
    module = module_of(name, modules=[SIGN, CHAIN], steps=steps)
    assert repr(module) == repr(getattr(m, name)(m.Sign(), [m.Sqrt(), m.Mul(2.0)], steps=steps))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Clip", {"min": CHAIN, "max": 2.0}),
        ("Lerp", {"end": SIGN, "weight": 0.5}),
        ("Where", {"condition": SIGN, "other": CHAIN}),
        ("Graft", {"magnitude": CHAIN, "ord": 1.0}),
        ("GramSchmidt", {"other": SIGN}),
        ("torchzero_core.m.GramSchimdt", {"other": SIGN}),
        ("torchzero_core.m.CopyMagnitude", {"other": SIGN}),
        ("CustomUnaryOperation", {"name": "asinh"}),
        ("LerpModules", {"input": CHAIN, "end": SIGN, "weight": 0.5}),
        ("ClipModules", {"input": SIGN, "max": CHAIN}),
    ],
)
def test_operands(name, arguments):
    built = {k: m.Sign() if v is SIGN else [m.Sqrt(), m.Mul(2.0)] if v is CHAIN else v for k, v in arguments.items()}
    assert repr(module_of(name, **arguments)) == repr(getattr(m, name.rsplit(".", 1)[-1])(**built))


def test_no_class_of_a_test_is_called_like_a_module():
    """It would make the plain name ambiguous in every test of YAML that runs in the same process."""
    found = [
        f"{path.name}: {node.name}"
        for path in Path(__file__).parents[1].rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and hasattr(m, node.name)
    ]
    assert not found
