"""python -m tz_lightning list, describe and recipe; the help of the command line; injected chains with groups."""

import re
import sys

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

import torchzero_core as tz
from tests.lightning.problems import only_fit
from tests.registry import BASES
from tz_lightning import ModularChain, ModularCLI, catalogue, commands, recipes
from tz_lightning.plain_text import formula


@pytest.fixture(autouse=True)
def own_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(ModularCLI, "subcommands", staticmethod(only_fit))


def said(capsys, *words):
    status = commands.main(list(words))
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.strip()


def test_the_list_has_each_module_once_and_no_bases(capsys):
    status, lines, _ = said(capsys, "list")
    named = [line.split()[0] for line in lines if line.startswith("  ")]
    public = {n for n, c in vars(tz.m).items() if isinstance(c, type) and issubclass(c, tz.Module)}
    own = {n for n in public - BASES if getattr(tz.m, n).__name__ == n}
    assert status == 0 and sorted(named) == sorted(own)
    assert all(len(line) > 30 for line in lines if line.startswith("  "))


def test_one_family(capsys):
    _, lines, _ = said(capsys, "list", "Line-Search")
    assert lines[0] == "line_search"
    assert [line.split()[0] for line in lines[1:]][:2] == ["AdaptiveBacktracking", "Backtracking"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "momentun"], "no family is called 'momentun'. Did you mean momentum?"),
        (["list", "adam"], "It is a module of the family 'optimizers'."),
        (["describe", "adma"], "tz.m has no module 'adma'. Did you mean tz.m.Adamax or tz.m.Adam?"),
        (["describe", "LineSearch"], "it is there to be derived from"),
        (
            ["describe", "UpdateNormMonitor"],
            "is no module; a program with ModularCLI tells: --trainer.callbacks.help=UpdateNormMonitor",
        ),
        (
            ["describe", "WarmupCosine"],
            "is no module; a program with ModularCLI tells: --lr_scheduler.help=WarmupCosine",
        ),
        (["describe", "SGDW"], "tz.m has no 'SGDW'; it is a chain here: "),
        (["list", "adamw"], "It is a recipe: python -m tz_lightning recipe adamw"),
        (["recipe", "admw"], "no recipe is called 'admw'. Did you mean adamw"),
        (["recipe", "adamw", "weigt_decay=1"], "adamw has no setting 'weigt_decay'. Did you mean weight_decay?"),
        (["recipe", "adamw", "lr"], "'lr' sets nothing; settings are written lr=VALUE."),
        (["recipe", "adamw", "lr=-1"], "LR(lr=-1) is out of range"),
    ],
)
def test_a_wrong_name_is_one_line(words, message, capsys):
    status, lines, err = said(capsys, *words)
    assert status == 2 and not lines and message in err and "\n" not in err


@pytest.mark.parametrize("words", [["list", "recipes"], ["recipe"]])
def test_a_list_of_the_recipes_says_how_one_is_had(words, capsys):
    status, lines, _ = said(capsys, *words)
    assert status == 0 and lines[0].startswith("sgd ") and lines[-1].endswith("python -m tz_lightning recipe adamw")
    assert {line.split()[0] for line in lines[:-2]} == set(tz.recipes.RECIPES)


def test_the_list_of_the_modules_says_where_the_recipes_are(capsys):
    assert said(capsys, "list")[1][-1].endswith("python -m tz_lightning list recipes")


def test_a_recipe_with_settings(capsys):
    _, lines, _ = said(capsys, "recipe", "soap", "lr=5e-4", "weight_decay=0.25")
    modules = yaml.safe_load("\n".join(lines))["optimizer"]["init_args"]["modules"]
    assert [module.get("init_args") for module in modules] == [None, {"weight_decay": 0.25}, {"lr": 5e-4}]


def test_a_wrong_option_of_a_command(capsys):
    with pytest.raises(SystemExit):
        commands.main(["compare", "a.yaml", "--retyr"])
    assert "compare: error: there is no option '--retyr'. Did you mean --retry?" in capsys.readouterr().err


def test_a_word_too_many(capsys):
    with pytest.raises(SystemExit):
        commands.main(["describe", "Adam", "Lion"])
    assert "describe: error: 'Lion' is one word too many." in capsys.readouterr().err


def test_a_wrong_command(capsys):
    with pytest.raises(SystemExit):
        commands.main(["lst"])
    assert "no command is called 'lst'; did you mean 'list'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(catalogue.modules()))
def test_every_module_is_described_without_markup(name):
    text = catalogue.describe(name.lower())
    head, _, _ = text.partition("Example:")
    assert not any(mark in head for mark in ("``", ":class:", ".. math", "\\frac", "\\sqrt", "\\hat"))
    cls = catalogue.modules()[name]
    settings = list(catalogue.explanations(cls))
    assert all(f"\n  {n} " in head for n in settings)
    assert max(map(len, head.splitlines())) <= 140


def test_a_description_says_what_there_is_to_know():
    text = catalogue.describe("adam")
    assert "beta1     0.9    [0, 1)         decay of the average of updates" in text
    assert "mₜ = β₁ mₜ₋₁ + (1-β₁) uₜ" in text and "Needs a closure: no" in text and "arXiv:1412.6980" in text
    assert "Needs a closure: yes" in catalogue.describe("strong_wolfe")
    assert "Needs a closure: where what is inside it does" in catalogue.describe("Wrap")
    assert "also called NoOp" in catalogue.describe("Identity")


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        (r"\frac{a + b}{2 c}", "(a + b) / (2 c)"),
        (r"\sqrt{x_{t-1}}", "√xₜ₋₁"),
        (r"\hat v^2 \quad \overline{u}", "v̂² ū"),
        (r"\max(a, \min(b, c))", "max(a, min(b, c))"),
    ],
)
def test_formulas(tex, text):
    assert formula(tex) == text


@pytest.mark.parametrize("name", tz.recipes.RECIPES)
def test_a_recipe_printed_as_yaml_is_the_recipe(name, tmp_path, capsys):
    status, lines, _ = said(capsys, "recipe", name)
    assert status == 0 and yaml.safe_load("\n".join(lines))["optimizer"]["class_path"] == "ModularChain"
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    made = program(f"--config={tmp_path / 'c.yaml'}").model.configure_optimizers()
    by_name = program(f"--optimizer={name}").model.configure_optimizers()
    assert type(by_name) is recipes.CLASSES[name]
    chain = tz.Modular(made.model, *tz.recipes.RECIPES[name](), advice=False)
    assert chain_of(made) == chain_of(by_name) == chain_of(chain)


def chain_of(optimizer):
    """The modules and groups as they are printed; a parser makes a float of a whole number where floats are wanted."""
    return re.sub(r"(?<=\d)\.0(?=[,)\n])", "", repr(optimizer).partition("\n")[2])


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 1))


def program(*args, model=Model, **kwargs):
    return ModularCLI(model, run=False, args=list(args), save_config_callback=None, seed_everything_default=0, **kwargs)


@pytest.mark.parametrize(
    ("option", "there"),
    [
        ("--optimizer.help", ["  adamw ", "  Adam ", "Of torch: ", "--optimizer.groups"]),
        ("--optimizer.help=LBFGS", ["--optimizer.history_size", "--optimizer.line_search_fn"]),
        ("--optimizer.modules.help=LBFGS", ["LBFGS (quasi_newton)"]),
        ("--optimizer.help=ClipNorm", ["ClipNorm (clipping)"]),
        ("--optimizer.help=ModularChain", ["  Adam ", "--optimizer.deterministic"]),
        ("--optimizer.modules.help", ["  StrongWolfe ", "line_search"]),
        ("--optimizer.modules.help=Lion", ["Lion (optimizers)", "beta2  0.99  [0, 1)"]),
        ("--lr_scheduler.help", ["WarmupCosine", "StepLR"]),
    ],
)
def test_help_is_a_line_each_without_bases(option, there, capsys):
    with pytest.raises(SystemExit) as stop:
        program(option)
    text = capsys.readouterr().out
    assert stop.value.code == 0 and all(what in text for what in there)
    assert not any(f"\n  {base} " in text for base in BASES)
    assert max(map(len, text.splitlines())) < 300


class Injected(Model):
    def __init__(self, optimizer: OptimizerCallable, whole: bool = True):
        super().__init__()
        self.make, self.whole = optimizer, whole

    def configure_optimizers(self):
        return self.make(self if self.whole else self.net.parameters())


@pytest.mark.parametrize("name", ["adamw", "ModularChain"])
def test_an_injected_optimizer_with_groups_is_made_any_number_of_times(name):
    modules = ["--model.optimizer.modules+=Adam", "--model.optimizer.modules+=WeightDecay",
               "--model.optimizer.modules.weight_decay=0.1"] if name == "ModularChain" else []  # fmt: skip
    args = [f"--model.optimizer={name}", *modules, "--model.optimizer.groups={norms: {weight_decay: 0}}"]
    model = program(*args, model=Injected, auto_configure_optimizers=False).model
    first, second = model.configure_optimizers(), model.configure_optimizers()
    for optimizer in (first, second):
        assert optimizer.param_groups[1]["param_names"] == ["net.1.weight", "net.1.bias"]
        assert optimizer.param_groups[1]["weight_decay"] == 0
    model.whole = False
    with pytest.raises(ValueError, match=r"make it of the model, optimizer\(model\)"):
        model.configure_optimizers()


def test_a_recipe_is_a_class_to_be_used_in_code_too():
    model = Model()
    optimizer = recipes.adamw(model, lr=0.5, groups={"norms": {"lr": 0.25}})
    assert isinstance(optimizer, ModularChain) and [g["lr"] for g in optimizer.param_groups] == [0.5, 0.25]
    assert torch.equal(next(iter(optimizer.all_params)), model.net[0].weight)


def test_a_misspelt_recipe_is_told_the_nearest():
    with pytest.raises(AttributeError, match=r"has no 'adam_w'\. Did you mean tz_lightning\.recipes\.adamw"):
        recipes.adam_w  # noqa: B018
