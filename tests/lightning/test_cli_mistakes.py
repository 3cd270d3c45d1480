"""What a new user gets wrong on the command line and in YAML ends in two lines that name the culprit."""

import sys

import pytest
from lightning.pytorch.cli import LightningCLI

from tests.lightning.problems import loader, mse, network, only_fit
from tz_lightning import ModularCLI
from tz_lightning.cli import LightningModule
from tz_lightning.mistakes import no_class, short_error, structure_fault

QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_epochs=1",
]


class Model(LightningModule):
    def __init__(self, width: int = 8, dropout: float = 0.0):
        super().__init__()
        self.net = network()

    def training_step(self, batch, batch_idx):
        return mse(self.net, batch)

    def train_dataloader(self):
        return loader()


@pytest.fixture(autouse=True)
def own_arguments(monkeypatch, tmp_path):
    monkeypatch.setattr(ModularCLI, "subcommands", staticmethod(only_fit))  # parsers take time
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.chdir(tmp_path)


CHAIN = ["--optimizer=ModularChain", "--optimizer.modules+=Adam"]
STEP = ["--optimizer=adamw", "--lr_scheduler=StepLR"]
#: Words of the command line, and what the line has to say.
WORDS = {
    "module": ([*CHAIN[:1], "--optimizer.modules+=Adamm"], "modules: no module is called 'Adamm'. Did you mean 'Adam'"),
    "capitals": ([*CHAIN[:1], "--optimizer.modules+=adam"], "no module is called 'adam'. Did you mean 'Adam'?"),
    "optimizer": (["--optimizer=adamww"], "no optimizer is called 'adamww'. Did you mean 'adamw'"),
    "module as optimizer": (["--optimizer=ClipNorm"], "take ModularChain with modules: [{class_path: ClipNorm}]"),
    "recipe's capitals": (["--optimizer=Muon_Adam"], "Did you mean 'muon_adam'?"),
    "Modular": (["--optimizer=Modular"], "spells it ModularChain, with modules:"),
    "setting": (
        [*CHAIN, "--optimizer.modules.betta1=0.5"],
        "modules: Adam has no setting 'betta1'. Did you mean beta1",
    ),
    "value": ([*CHAIN, "--optimizer.modules.beta1=high"], "Adam: beta1: expected a number, got high"),
    "range": ([*CHAIN, "--optimizer.modules.beta1=1.5"], "Adam(beta1=1.5) is out of range: beta1 must be in [0, 1)."),
    "lr of a module": ([*CHAIN, "--optimizer.modules.lr=3"], "The learning rate is a module of its own"),
    "setting of a recipe": (["--optimizer=adamw", "--optimizer.learning_rate=1"], "'learning_rate'. Did you mean lr?"),
    "betas": (["--optimizer=adamw", "--optimizer.betas=[0.9,0.9]"], "two settings here: beta1 and beta2"),
    "value of a recipe": (["--optimizer=adamw", "--optimizer.lr=fast"], "adamw: lr: expected a number, got fast"),
    "range of a recipe": (["--optimizer=adamw", "--optimizer.lr=-1"], "LR(lr=-1) is out of range"),
    "nothing": (["--optimizer=adamw", "--optimizer.lr=null"], "LR(lr=None) must be a number"),
    "order": (["--optimizer.lr=0.1", "--optimizer=adamw"], "say which optimizer first, as in --optimizer=NAME"),
    "no optimizer": ([], "there is no optimizer: give one, as in --optimizer=adamw"),
    "trainer's value": (["--trainer.max_epochs=many"], "trainer.max_epochs: expected a whole number, got many"),
    "trainer's option": (["--trainer.max_epocs=3"], "no option --trainer.max_epocs. Did you mean --trainer.max_epochs"),
    "model's option": (["--model.widht=3"], "no option --model.widht. Did you mean --model.width"),
    "model's value": (["--model.width=big"], "model.width: expected a whole number, got big"),
    "option": (["--optimiser=adamw"], "no option --optimiser. Did you mean --optimizer?"),
    "nested option": (["--optimiser.lr=1"], "Did you mean --optimizer.lr?"),
    "another option": (["--lr_schedular=StepLR"], "Did you mean --lr_scheduler?"),
    "one word": (["--optimizer ModularChain"], "is one word in quotes; write --optimizer=ModularChain"),
    "one hyphen": (["-optimizer=adamw"], "options begin with two hyphens, as in --optimizer=adamw"),
    "no hyphen": (["lr=0.1"], "'lr=0.1' is no option; options begin with two hyphens"),
    "unfinished": (["--trainer.max_epochs"], "argument --trainer.max_epochs: expected one argument"),
    "no file": (["--config=nothing.yaml"], "config: File does not exist"),
    "seed": (["--seed_everything=x"], "seed_everything: expected true or false or a whole number, got x"),
    "no plus": ([*CHAIN[:1], "--optimizer.modules=Adam3"], "modules: expected a list, got Adam3"),
    "no such package": ([*CHAIN[:1], "--optimizer.modules+=mylib.Adam"], "there is no Python module 'mylib'"),
    "optimizer as module": ([*CHAIN[:1], "--optimizer.modules+=torch.optim.Adam"], "torch.optim.Adam is no module"),
    "chain as module": ([*CHAIN[:1], "--optimizer.modules+=AdamW"], "it is a chain here: tz.m.Adam(),"),
    "scheduler": ([*CHAIN, "--lr_scheduler=StpLR"], "no scheduler is called 'StpLR'. Did you mean 'StepLR'"),
    "required": (STEP, "StepLR needs step_size (under init_args in YAML, --lr_scheduler.step_size="),
    "scheduler's setting": (
        [*STEP, "--lr_scheduler.stepsize=3"],
        "StepLR has no setting 'stepsize'. Did you mean step_size?",
    ),
    "scheduler's value": ([*STEP, "--lr_scheduler.step_size=x"], "StepLR: step_size: expected a whole number, got x"),
    "scheduler's range": (
        ["--optimizer=adamw", "--lr_scheduler=LinearLR", "--lr_scheduler.start_factor=5"],
        "lr_scheduler: LinearLR: Starting multiplicative factor",
    ),
    "interval": (
        [*STEP, "--lr_scheduler.step_size=1", "--lr_interval=batch"],
        "expected one of 'epoch', 'step', got batch",
    ),
    "scheduler alone": (
        ["--lr_scheduler=StepLR", "--lr_scheduler.step_size=1"],
        "no optimizer beside the lr_scheduler",
    ),
    "plateau": (["--optimizer=adamw", "--lr_scheduler=ReduceLROnPlateau"], "ReduceLROnPlateau needs monitor"),
    "clipping": (["--optimizer=lbfgs", "--trainer.gradient_clip_val=1.0"], "put ClipNorm or ClipValue into the chain"),
}


def said(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        ModularCLI(Model, args=list(args), save_config_callback=None, seed_everything_default=0)
    assert stop.value.code == 2
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line and not line.startswith(("Seed", "GPU", "TPU", "💡"))
    ]
    assert len(lines) <= 3 and "Traceback" not in "".join(lines) and "usage" not in "".join(lines)
    return lines[0]


@pytest.mark.parametrize("kind", WORDS)
def test_words(kind, capsys):
    words, message = WORDS[kind]
    line = said(capsys, "fit", *QUIET, *words)
    assert message in line and len(line) < 330


MODULES = "optimizer:\n  class_path: ModularChain\n  init_args:\n    modules:\n"
RECIPE = "optimizer:\n  class_path: adamw\n"
FILES = {
    "brackets": ("optimizer: [a\n  b: {", "m.yaml, line 2: this is no YAML"),
    "tab": ("optimizer:\n\tclass_path: adamw\n", "m.yaml, line 2: this is no YAML: .*a tab"),
    "text": ("adamw", r"m\.yaml: a configuration is options by name"),
    "option": ("optimiser: adamw\n", "there is no option 'optimiser'. Did you mean optimizer"),
    "init_args": (f"{RECIPE}  lr: 0.1\n", r"optimizer: 'lr' belongs under init_args: \{class_path: adamw, init_args"),
    "init_args of a module": (
        f"{MODULES}      - class_path: Adam\n        beta1: 0.5\n",
        "modules: 'beta1' belongs under",
    ),
    "modules at the top": (
        "optimizer:\n  class_path: ModularChain\n  modules:\n    - class_path: Adam\n",
        "'modules' belongs under init_args",
    ),
    "class as key": ("optimizer:\n  adamw:\n    lr: 0.1\n", r"an optimizer is written \{class_path: adamw, init_args"),
    "module as key": (f"{MODULES}      - Adam: {{beta1: 0.5}}\n", r"a module is written \{class_path: Adam, init_args"),
    "class_pat": (f"{MODULES}      - class_pat: Adam\n", "'class_pat' is not known. Did you mean 'class_path'"),
    "init_arg": (f"{MODULES}      - class_path: Adam\n        init_arg: {{}}\n", "Did you mean 'init_args'"),
    "init_args a list": (
        f"{MODULES}      - class_path: Adam\n        init_args: [0.5]\n",
        "init_args of Adam are settings by name",
    ),
    "required": (f"{MODULES}      - class_path: ClipValue\n", r"modules: ClipValue needs value \(under init_args"),
    "modules": ("optimizer:\n  class_path: ModularChain\n", "ModularChain needs modules"),
    "no modules": (MODULES.rstrip("\n") + " []\n", "needs at least one module"),
    "child": (
        f"{MODULES}      - class_path: RMSprop\n        init_args: {{inner: {{class_path: EMMA}}}}\n",
        "RMSprop: inner: no module is called 'EMMA'. Did you mean 'EMA'",
    ),
    "child's setting": (
        f"{MODULES}      - class_path: RMSprop\n"
        f"        init_args: {{inner: {{class_path: EMA, init_args: {{momentun: 1}}}}}}\n",
        "inner: EMA has no setting 'momentun'. Did you mean momentum",
    ),
    "child's range": (
        f"{MODULES}      - class_path: RMSprop\n"
        f"        init_args: {{inner: {{class_path: EMA, init_args: {{momentum: 2}}}}}}\n",
        r"EMA\(momentum=2\) is out of range",
    ),
    "comma": (f"{RECIPE}  init_args: {{lr: '0,1'}}\n", "lr: expected a number, got 0,1"),
    "word": (
        f"{MODULES}      - class_path: Cautious\n        init_args: {{mode: half}}\n",
        "expected one of 'zero', 'grad'",
    ),
    "truth": (
        f"{MODULES}      - class_path: Adam\n        init_args: {{amsgrad: maybe}}\n",
        "amsgrad: expected true or false",
    ),
    "whole": (
        f"{MODULES}      - class_path: SOAP\n        init_args: {{precond_freq: 2.5}}\n",
        "expected a whole number, got 2.5",
    ),
    "side": (
        f"{MODULES}      - class_path: Split\n        init_args: {{filter: norms, tru: {{class_path: Muon}}}}\n",
        "Split has no setting 'tru'. Did you mean true",
    ),
    "filter": (
        f"{MODULES}      - class_path: Split\n"
        f"        init_args: {{filter: hidden_matrix, true: {{class_path: Muon}}}}\n",
        "Did you mean the kind 'hidden_matrices'",
    ),
    "kind": (f"{RECIPE}  init_args: {{groups: {{nroms: {{weight_decay: 0}}}}}}\n", "Did you mean the kind 'norms'"),
    "no such kind": (
        f"{RECIPE}  init_args: {{groups: {{norms: {{weight_decay: 0}}}}}}\n",
        "the model has no norms; it has",
    ),
    "pattern": (f"{RECIPE}  init_args: {{groups: {{'0.*': {{lr: 0}}}}}}\n", r"Did you mean '\*\.0\.\*'"),
    "group's setting": (
        f"{RECIPE}  init_args: {{groups: {{biases: {{wieght_decay: 0}}}}}}\n",
        "Did you mean 'weight_decay'",
    ),
    "group's value": (
        f"{RECIPE}  init_args: {{groups: {{biases: {{weight_decay: no}}}}}}\n",
        "weight_decay=False must be a number",
    ),
    "group a number": (f"{RECIPE}  init_args: {{groups: {{biases: 0}}}}\n", "groups: expected settings by name, got 0"),
    "groups a list": (f"{RECIPE}  init_args: {{groups: [biases]}}\n", "groups: expected settings by name"),
    "interval": (
        "optimizer: adamw\nlr_scheduler:\n  class_path: StepLR\n  init_args: {step_size: 1}\n  interval: step\n",
        "lr_scheduler: 'interval' is an option of its own: lr_interval: step",
    ),
    "milestones": (
        "optimizer: adamw\nlr_scheduler:\n  class_path: SequentialLR\n"
        "  init_args: {schedulers: [{class_path: LinearLR}, {class_path: ConstantLR}], milestones: []}\n",
        "SequentialLR has 2 schedulers and 0 milestones",
    ),
    "callback": (
        "optimizer: adamw\ntrainer:\n  callbacks:\n    - class_path: UpdateNormMonitr\n",
        "no callback is called 'UpdateNormMonitr'. Did you mean 'UpdateNormMonitor'",
    ),
    "callback's setting": (
        "optimizer: adamw\ntrainer:\n  callbacks:\n    - class_path: LRSchedulerCallback\n"
        "      init_args: {intervall: step}\n",
        "LRSchedulerCallback has no setting 'intervall'. Did you mean interval",
    ),
    "scheduled setting": (
        "optimizer: adamw\ntrainer:\n  callbacks:\n    - class_path: LRSchedulerCallback\n"
        "      init_args: {setting: weightdecay, scheduler: {class_path: ConstantLR}}\n",
        "LRSchedulerCallback.*Did you mean 'weight_decay'",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_files(kind, capsys, tmp_path):
    text, message = FILES[kind]
    (tmp_path / "m.yaml").write_text(text)
    line = said(capsys, "fit", *QUIET, "--config=m.yaml")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(line)


@pytest.mark.parametrize(("word", "message"), [("fitt", "Did you mean fit?"), ("train", "There are 'fit', 'validate'")])
def test_commands(word, message, capsys, monkeypatch):
    monkeypatch.setattr(ModularCLI, "subcommands", staticmethod(LightningCLI.subcommands))
    assert message in said(capsys, word)


def test_a_dict_in_a_program_is_read_like_a_file(capsys):
    with pytest.raises(SystemExit):
        ModularCLI(Model, run=False, args={"optimizer": {"class_path": "adamw", "init_args": {"lrr": 1}}})
    assert "adamw has no setting 'lrr'. Did you mean lr?" in capsys.readouterr().err


def test_what_is_right_has_no_fault():
    right = {
        "optimizer": {"class_path": "adamw", "init_args": {"groups": {"norms": {"lr": 1}}}},
        "data": {"classes": 3},
    }
    assert structure_fault(right) == ""


def test_a_report_that_is_not_known_is_one_line():
    assert short_error("something new") == "something new"


def test_names_of_other_kinds():
    assert no_class("CSVLoger", "trainer.logger").startswith("no logger is called 'CSVLoger'. Did you mean 'CSVLogger'")
