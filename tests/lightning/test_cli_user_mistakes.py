"""More of what a new user gets wrong on the command line and in YAML; as in test_cli_mistakes."""

import re

import pytest
from lightning.pytorch.cli import LightningCLI

from tests.lightning import test_cli_mistakes as mistakes
from tests.lightning.test_cli_mistakes import CHAIN, MODULES, QUIET, said
from tz_lightning import ModularCLI

own_arguments = mistakes.own_arguments

#: What it stands for is a cycle of two steps.
CYCLE = "{class_path: OneCycleLR, init_args: {max_lr: 1, total_steps: 2}}"
ONE_CYCLE = ["--optimizer=adamw", "--lr_scheduler=OneCycleLR"]
STEPWISE = ["--lr_interval=step"]
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
    "devices": (["--optimizer=adamw", "--trainer.devices=many"], "trainer: `devices` selected with `CPUAccelerator`"),
    "accumulation": (
        ["--optimizer=adamw", "--trainer.accumulate_grad_batches=0"],
        "trainer: accumulate_grad_batches=0 must be at least 1",
    ),
    "seed": (["--optimizer=adamw", "--seed_everything=-3"], "seed_everything: -3 is not in bounds"),
    "a key twice": (
        ["--optimizer=adamw", "--optimizer.groups={norms: {lr: 1}, norms: {lr: 2}}"],
        "optimizer.groups: the key 'norms' stands twice",
    ),
    "a class's key twice": (
        ["--optimizer", "{class_path: adamw, init_args: {lr: 1, lr: 2}}"],
        "the key 'lr' stands twice",
    ),
    "Split": (["--optimizer=Split"], "spells it SplitOptimizer, with parts: {hidden_matrices: muon, rest: adamw}"),
    "optimizer of a part": (
        ["--optimizer=SplitOptimizer", "--optimizer.parts={biases: adamww, rest: adam}"],
        "SplitOptimizer: parts: no optimizer is called 'adamww'. Did you mean 'adamw'",
    ),
    "setting of a part": (
        ["--optimizer=SplitOptimizer", "--optimizer.parts={rest: {class_path: adamw, init_args: {lrr: 1}}}"],
        "SplitOptimizer: parts: adamw has no setting 'lrr'. Did you mean lr?",
    ),
    "nothing for a part": (
        ["--optimizer=SplitOptimizer", "--optimizer.parts={biases: null, rest: adam}"],
        "SplitOptimizer: parts: an optimizer is a name or {class_path: NAME, init_args: {...}}, and not None",
    ),
    "name of a part": (
        ["--optimizer=SplitOptimizer", "--optimizer.parts={bias: adamw, rest: adam}"],
        "SplitOptimizer: parts: no parameter has a name like 'bias'. Did you mean",
    ),
    "within a chain": (
        ["--optimizer=ModularChain", "--optimizer.modules=[Adam, LR]", "--optimizer.modules.Adam.beta1=0.5"],
        "of the last module, LR. Any module's is set by --optimizer.groups='{\"*\": {Adam.beta1: 0.5}}'",
    ),
    "by number within a chain": (
        ["--optimizer=ModularChain", "--optimizer.modules=[Adam, LR]", "--optimizer.modules.0.beta1=0.5"],
        "Any module's is set by --optimizer.groups='{\"*\": {beta1: 0.5}}'",
    ),
    "within a group": (
        ["--optimizer=adamw", "--optimizer.groups.norms.Adam.beta1=0.5"],
        "a group is written as a whole, --optimizer.groups.norms='{Adam.beta1: 0.5}'",
    ),
    "cycled momentum": (
        ["--optimizer=lbfgs", "--lr_scheduler=OneCycleLR", "--lr_scheduler={max_lr: 1, total_steps: 9}"],
        "lr_scheduler: OneCycleLR: the optimizer has no momentum that could be cycled; set cycle_momentum: false",
    ),
    "cycled momentum of a part": (
        ["--optimizer=lbfgs", "--lr_scheduler=ChainedScheduler", f"--lr_scheduler.schedulers=[{CYCLE}]"],
        "lr_scheduler: ChainedScheduler: OneCycleLR: the optimizer has no momentum that could be cycled",
    ),
    "cycle that is over": (
        [*ONE_CYCLE, "--lr_scheduler={max_lr: 1, total_steps: 3}", *STEPWISE],
        "OneCycleLR is over after 3 steps of its own, of which the training makes 4: give it total_steps=4, or end the "
        "training, --trainer.max_steps=3",
    ),
    "cycle of every second step that is over": (
        [*ONE_CYCLE, "--lr_scheduler={max_lr: 1, total_steps: 1}", *STEPWISE, "--lr_frequency=2"],
        "the training makes 2: give it total_steps=2, or end the training, --trainer.max_steps=2",
    ),
    "cycle of epochs that is over": (
        [*ONE_CYCLE, "--lr_scheduler={max_lr: 1, total_steps: 1}", "--trainer.max_epochs=2"],
        "the training makes 2: give it total_steps=2, or end the training, --trainer.max_epochs=1",
    ),
    "cycle of a part that is over": (
        ["--optimizer=adamw", "--lr_scheduler=ChainedScheduler", f"--lr_scheduler.schedulers=[{CYCLE}]", *STEPWISE],
        "lr_scheduler: OneCycleLR: Tried to step 3 times. The specified number of total steps is 2",
    ),
    "what torch divides by": (
        ["--optimizer=adamw", "--lr_scheduler=CosineAnnealingLR", "--lr_scheduler.T_max=0"],
        "lr_scheduler: CosineAnnealingLR: integer modulo by zero",
    ),
    "base of modules": (
        [CHAIN[0], "--optimizer.modules+=LookAhead"],
        "optimizer: modules: LookAhead is no module by itself; it is there to be derived from",
    ),
    "base inside a module": (
        [CHAIN[0], "--optimizer.modules+=RMSprop", "--optimizer.modules.inner=Transform"],
        "optimizer: modules: inner: Transform is no module by itself",
    ),
    "base that needs something": ([CHAIN[0], "--optimizer.modules+=Projection"], "Projection is no module by itself"),
    "base of optimizers": (["--optimizer=Optimizer"], "optimizer: Optimizer is no optimizer by itself"),
    "base of schedulers": (
        ["--optimizer=adamw", "--lr_scheduler=LRScheduler"],
        "LRScheduler is no scheduler by itself",
    ),
    "Modular with modules": (
        ["--optimizer=torchzero_core.Modular", "--optimizer.modules+=Adam"],
        "optimizer: Modular: a configuration spells it ModularChain, with modules:",
    ),
    "the capitals that were written": (["--optimizer=lbgfs"], "Did you mean 'lbfgs' or 'bfgs'?"),
    "a module for a list of them": (
        [CHAIN[0], "--optimizer.modules=Adam"],
        "expected a list, got Adam; write --optimizer.modules+=Adam for each module, or --optimizer.modules='[Adam, ",
    ),
    "the learning rate of a chain": (
        [*CHAIN, "--optimizer.lr=0.1"],
        "ModularChain has no setting 'lr'. It is a setting of modules (LR, ",
    ),
    "a metric that nobody logs": (
        ["--optimizer=adamw", "--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=loss"],
        "trainer.callbacks: Early stopping conditioned on metric `loss` which is not available",
    ),
    "a command again": (["--optimizer=adamw", "fit"], "'fit' is a command: it stands once, in front of all options"),
    "no name": (["--optimizer="], "optimizer: the name of the optimizer is missing"),
    "help of an optimizer": (
        ["--optimizer.help=sopa"],
        "--optimizer.help: no optimizer is called 'sopa'. Did you mean",
    ),
    "help of a module": (["--optimizer.modules.help=Adma"], "no module is called 'Adma'. Did you mean 'Adamax'"),
    "no bounds": (["--optimizer=ScipyDE", "--optimizer.lb=-1"], "ScipyDE searches between bounds: every group needs"),
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
    "a key twice": (
        "optimizer: adamw\ntrainer: {max_epochs: 2}\noptimizer: lbfgs\n",
        "m.yaml, line 3: the key 'optimizer' stands twice, here and on line 1",
    ),
    "a setting twice": (
        "optimizer:\n  class_path: adamw\n  init_args:\n    lr: 0.1\n    groups:\n      norms: {lr: 0}\n    lr: 0.2\n",
        "m.yaml, line 7: the key 'lr' stands twice, here and on line 4",
    ),
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
    "a comma for a point": (
        f"{MODULES}      - class_path: Adam\n        init_args: {{beta1: 0.9, beta2: 0,99}}\n",
        "99 among the settings of Adam is no name; decimals have a point, as in 0.99",
    ),
    "momentum beside a setting": (
        f"{ADAMW}trainer: {{callbacks: [{{class_path: LRSchedulerCallback, init_args: {{setting: lr, scheduler: "
        f"{CYCLE}}}}}]}}\n",
        "LRSchedulerCallback(setting='lr'): there is no momentum beside the one setting; give the scheduler cycle_mom",
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
    error = capsys.readouterr().err
    assert f"error: {tmp_path}/config.yaml is there already, of an earlier run: delete it, or write elsewhere" in error


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


#: Whole command lines, beside a file that has an optimizer and one that has it under the command.
PLACES = {
    "option in front": (
        ["--trainer.max_epochs=3", "fit"],
        "--trainer.max_epochs=3 stands in front of the command that it belongs to; write fit --trainer.max_epochs=3",
    ),
    "option alone": (["--optimizer=adamw"], "belongs to; write fit --optimizer=adamw"),
    "two words in front": (["--optimizer", "adamw", "fit"], "--optimizer stands in front of the command"),
    "nothing": ([], "say what to do, as in fit --optimizer=adamw; there are fit"),
    "file in front": (
        ["--config=plain.yaml", "fit"],
        "plain.yaml has options of a command, such as optimizer; write fit --config=plain.yaml",
    ),
    "file behind": (
        ["fit", "--config=under.yaml"],
        "under.yaml has its options under 'fit', as a file in front of the command has; leave that line out, or write "
        "--config=under.yaml fit",
    ),
}


@pytest.mark.parametrize("kind", PLACES)
def test_places(kind, capsys, tmp_path):
    words, message = PLACES[kind]
    (tmp_path / "plain.yaml").write_text("optimizer: adamw\n")
    (tmp_path / "under.yaml").write_text("fit:\n  optimizer: adamw\n")
    assert message in said(capsys, *words)


def test_a_command_of_a_program_that_has_none(capsys):
    with pytest.raises(SystemExit):
        ModularCLI(mistakes.Model, args=["fit", "--optimizer=adamw"], run=False)
    assert (
        "error: 'fit' is a command: it stands once, in front of all options, and only in a program"
        in capsys.readouterr().err
    )


def test_a_command_in_the_environment(monkeypatch):
    for name, value in (("SUBCOMMAND", "fit"), ("FIT__OPTIMIZER", "adamw"), ("FIT__TRAINER__FAST_DEV_RUN", "1")):
        monkeypatch.setenv(f"PL_{name}", value)
    made = ModularCLI(mistakes.Model, args=[], parser_kwargs={"default_env": True}, save_config_callback=None)
    assert made.trainer.global_step == 1


def test_settings_under_which_nothing_stands_are_none(tmp_path):
    text = "optimizer:\n  class_path: ModularChain\n  init_args:\n    modules:\n      - class_path: Adam\n"
    (tmp_path / "m.yaml").write_text(f"{text}        init_args:\n      - {{class_path: LR, init_args: {{lr: 0.1}}}}\n")
    made = ModularCLI(mistakes.Model, args=["fit", *QUIET, "--config=m.yaml"], save_config_callback=None)
    assert [type(module).__name__ for module in made.trainer.optimizers[0].modules] == ["Adam", "LR"]


@pytest.mark.parametrize("kind", FILES)
def test_files(kind, capsys, tmp_path):
    text, message = FILES[kind]
    (tmp_path / "m.yaml").write_text(text)
    line = said(capsys, "fit", *QUIET, "--config=m.yaml")
    assert message in line and len(line) < 330


# -- environment variables ---------------------------------------------------------------------------------------------
def from_environment(cls, monkeypatch, **variables):
    """The learning rate that a command line makes of environment variables, and the epochs."""
    for name, value in variables.items():
        monkeypatch.setenv(f"PL_FIT__{name}", value)
    made = cls(
        mistakes.Model,
        args=["fit", *QUIET[:-1], "--trainer.fast_dev_run=1"],
        parser_kwargs={"default_env": True},
        save_config_callback=None,
        seed_everything_default=0,
    )
    for name in variables:
        monkeypatch.delenv(f"PL_FIT__{name}")
    return made.trainer.optimizers[0].param_groups[0]["lr"], made.trainer.log_every_n_steps


@pytest.mark.parametrize(("cls", "name"), [(LightningCLI, "Adam"), (ModularCLI, "Adam"), (ModularCLI, "adamw")])
def test_environment_variables_are_read_as_lightning_reads_them(cls, name, monkeypatch):
    """An option by its name; an optimizer with its settings as a whole, and not setting by setting."""
    whole = f"{{class_path: {name}, init_args: {{lr: 0.25}}}}"
    assert from_environment(cls, monkeypatch, OPTIMIZER=whole, TRAINER__LOG_EVERY_N_STEPS="7") == (0.25, 7)
    assert from_environment(cls, monkeypatch, OPTIMIZER=name, OPTIMIZER__LR="0.25") == (0.001, 50)


def test_a_wrong_environment_variable(capsys, monkeypatch):
    with pytest.raises(SystemExit):
        from_environment(ModularCLI, monkeypatch, OPTIMIZER="adamww")
    assert "optimizer: no optimizer is called 'adamww'. Did you mean 'adamw'" in capsys.readouterr().err
