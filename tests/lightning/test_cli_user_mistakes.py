"""More of what a new user gets wrong on the command line and in YAML; as in test_cli_mistakes."""

import re

import pytest

from tests.lightning import test_cli_mistakes as mistakes
from tests.lightning.test_cli_mistakes import CHAIN, MODULES, QUIET, said
from tz_lightning import ModularCLI

own_arguments = mistakes.own_arguments

#: Words of the command line, and what the line has to say.
WORDS = {
    "two in one": ([CHAIN[0], "--optimizer.modules+=Adam,LR"], "'Adam,LR' is no name. Each module is named alone"),
    "a call": ([CHAIN[0], "--optimizer.modules+=Adam(lr=1)"], "'Adam(lr=1)' is no name. Each module is named alone"),
    "as in code": ([CHAIN[0], "--optimizer.modules+=tz.m.Adam"], "no Python module 'tz'; write Adam alone"),
    "optimizer as in code": (["--optimizer=tz.m.AdamW"], "no Python module 'tz'; write AdamW alone"),
    "scheduler's path": (
        ["--optimizer=adamw", "--lr_scheduler=torch.optim.StepLR"],
        "there is no torch.optim.StepLR; write StepLR alone",
    ),
    "warm-up too long": (
        ["--optimizer=adamw", "--lr_scheduler=WarmupCosine", "--lr_scheduler.warmup=99", "--lr_interval=step"],
        "lr_scheduler: WarmupCosine(warmup=99, total=4): the warm-up must fit in the whole",
    ),
    "lr alone": (["--optimizer=adamw", "--lr=0.1"], "there is no option --lr. Did you mean --optimizer.lr?"),
    "learning rate": (["--optimizer=adamw", "--learning_rate=0.1"], "Did you mean --optimizer.lr?"),
    "trainer's option alone": (["--optimizer=adamw", "--max_epochs=3"], "Did you mean --trainer.max_epochs?"),
    "accelerator": (["--optimizer=adamw", "--trainer.accelerator=gpuu"], "trainer: You selected an invalid accel"),
    "checkpoint": (["--optimizer=adamw", "--ckpt_path=no.ckpt"], "ckpt_path: Checkpoint file not found: no.ckpt"),
    "data": (["--optimizer=adamw", "--data=Foo"], "data: no data module is called 'Foo'"),
}
ADAMW = "optimizer: adamw\n"
RAMP = "{setting: lr, scheduler: {class_path: Ramp, init_args: {ends: 3}}}"
SWITCH = "{modules: [[{class_path: Adam}], [{class_path: LBFGS}]], rules: {class_path: MaxStep, init_args: {n: 3}}}"
SCHEDULERS = "lr_scheduler: {class_path: SequentialLR, init_args: {milestones: [2], schedulers: "
FILES = {
    "a list of modules": (
        "optimizer:\n  - class_path: Adam\n  - class_path: LR\n",
        "a list of modules is {class_path:",
    ),
    "the trainer a list": (f"{ADAMW}trainer: [max_epochs]\n", "trainer: options by name, as in max_epochs: 3"),
    "callbacks by name": (
        f"{ADAMW}trainer:\n  callbacks:\n    UpdateNormMonitor: {{}}\n",
        "trainer.callbacks: a list of {class_path: NAME, init_args: {...}}, and not of UpdateNormMonitor",
    ),
    "a callback by name": (
        f"{ADAMW}trainer:\n  callbacks:\n    - UpdateNormMonitor: {{}}\n",
        "trainer.callbacks: a list of {class_path: NAME, init_args: {...}}, and not of UpdateNormMonitor",
    ),
    "settings of Wrap": (
        f"{MODULES}      - class_path: Wrap\n        init_args: {{opt_fn: torch.optim.NAdam, lr: 0.1}}\n",
        "Wrap has no setting 'lr'. What it passes on stands in dict_kwargs: {lr: ...}, beside init_args.",
    ),
    "rule": (
        f"{MODULES}      - class_path: SwitchWhen\n        init_args: {SWITCH}\n",
        "SwitchWhen: rules: no stopping rule is called 'MaxStep'. Did you mean 'MaxSteps'",
    ),
    "setting of one scheduler": (
        f"{ADAMW}{SCHEDULERS}[{{class_path: LinearLR, init_args: {{tottal_iters: 3}}}}, LinearLR]}}}}\n",
        "SequentialLR: schedulers: LinearLR has no setting 'tottal_iters'. Did you mean total_iters?",
    ),
    "what one scheduler needs": (
        f"{ADAMW}{SCHEDULERS}[LinearLR, CosineAnnealingLR]}}}}\n",
        "SequentialLR: schedulers: CosineAnnealingLR needs T_max",
    ),
    "setting of a schedule": (
        f"{ADAMW}trainer: {{callbacks: [{{class_path: LRSchedulerCallback, init_args: {RAMP}}}]}}\n",
        "LRSchedulerCallback: scheduler: Ramp has no setting 'ends'. Did you mean end?",
    ),
}


def test_a_second_run_in_the_same_place_says_what_is_there_already(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(SystemExit):
        ModularCLI(mistakes.Model, args=["fit", *QUIET, "--optimizer=adamw"], seed_everything_default=0)
    assert "error: SaveConfigCallback expected" in capsys.readouterr().err


def test_a_model_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        ModularCLI(mistakes.Model, subclass_mode_model=True, args=["fit", *QUIET, "--model=Modle", "--optimizer=adamw"])
    said = capsys.readouterr().err  # other models that are imported may be near too
    assert re.search(r"model: no model is called 'Modle'\. Did you mean .*'Model'", said)


@pytest.mark.parametrize("kind", WORDS)
def test_words(kind, capsys):
    words, message = WORDS[kind]
    line = said(capsys, "fit", *QUIET, *words)
    assert message in line and len(line) < 330


@pytest.mark.parametrize("kind", FILES)
def test_files(kind, capsys, tmp_path):
    text, message = FILES[kind]
    (tmp_path / "m.yaml").write_text(text)
    line = said(capsys, "fit", *QUIET, "--config=m.yaml")
    assert message in line and len(line) < 330
