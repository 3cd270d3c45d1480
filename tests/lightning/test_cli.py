"""Chains from the command line and from YAML."""

import pytest
import yaml
from lightning.pytorch import LightningModule

import torchzero_core as tz
from tests.lightning.problems import loader, m, mse, network, plain, same
from tests.registry import ENTRIES, variants_slow
from tz_lightning import ModularChain, ModularCLI

QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_epochs=2",
]


class Net(LightningModule):
    """The network of the other tests."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, batch, batch_idx):
        loss = mse(self.net, batch)
        self.log("loss", loss)
        return loss

    def train_dataloader(self):
        return loader()


def cli(*args, run=False, **kwargs):
    arguments = [*(["fit"] if run else []), *QUIET, *args]
    return ModularCLI(Net, run=run, args=arguments, save_config_callback=None, seed_everything_default=0, **kwargs)


def optimizer_of(command):
    found = command.model.configure_optimizers()
    return found["optimizer"] if isinstance(found, dict) else found


ADAM = ["--optimizer=ModularChain", "--optimizer.modules+=Adam", "--optimizer.modules.beta1=0.7"]


def test_a_chain_module_by_module():
    optimizer = optimizer_of(cli(*ADAM, "--optimizer.modules+=LR", "--optimizer.modules.lr=1e-2"))
    assert isinstance(optimizer, ModularChain)
    assert [type(x) for x in optimizer.modules] == [tz.m.Adam, tz.m.LR]
    assert optimizer.modules[0].defaults["beta1"] == 0.7
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert optimizer.model is not None


def test_it_trains_as_the_same_chain_in_python():
    command = cli(*ADAM, "--optimizer.modules+=LR", "--optimizer.modules.lr=1e-2", run=True)
    net = network()
    plain(lambda: [m.Adam(0.7), m.LR(1e-2)], net)
    assert same(command.model.net, net)


def test_a_chain_with_a_search_trains():
    command = cli(
        "--optimizer=ModularChain", "--optimizer.modules+=LBFGS", "--optimizer.modules+=StrongWolfe", run=True
    )
    net = network()
    plain(lambda: [m.LBFGS(), m.StrongWolfe()], net)
    assert same(command.model.net, net)
    assert command.trainer.global_step == 8


def test_nested_children_from_yaml(tmp_path):
    config = {
        "optimizer": {
            "class_path": "ModularChain",
            "init_args": {
                "compile": True,
                "modules": [
                    {
                        "class_path": "RMSprop",
                        "init_args": {
                            "smoothing": 0.999,
                            "debiased": True,
                            "init": "zeros",
                            "inner": {"class_path": "EMA", "init_args": {"momentum": 0.9, "debiased": True}},
                        },
                    },
                    {
                        "class_path": "Add",
                        "init_args": {
                            "other": [
                                {"class_path": "Sign"},
                                {"class_path": "Mul", "init_args": {"other": 0.5}},
                            ]
                        },
                    },
                    {"class_path": "LR", "init_args": {"lr": 0.1}},
                ],
            },
        }
    }
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump(config))
    optimizer = optimizer_of(cli(f"--config={path}"))
    assert optimizer.compile
    assert [x.path for x in optimizer.unrolled_modules] == [
        "RMSprop", "RMSprop.inner.EMA", "Add", "Add.other.Sign", "Add.other.Mul", "LR"
    ]  # fmt: skip


def test_the_printed_configuration_builds_the_same_chain(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli(*ADAM, "--optimizer.modules+=LR", "--optimizer.modules.lr=1e-2", "--print_config")
    assert stop.value.code == 0
    path = tmp_path / "config.yaml"
    path.write_text(capsys.readouterr().out)
    chain = yaml.safe_load(path.read_text())["optimizer"]["init_args"]["modules"]
    assert chain[0]["init_args"]["beta1"] == 0.7
    assert optimizer_of(cli(f"--config={path}")).modules[0].defaults["beta1"] == 0.7


def test_the_saved_configuration_reproduces_the_run(tmp_path):
    args = ["fit", *QUIET, f"--trainer.default_root_dir={tmp_path}", *ADAM]
    first = ModularCLI(Net, args=args, seed_everything_default=0)
    (config,) = tmp_path.rglob("config.yaml")
    again = [
        "fit", f"--config={config}", f"--trainer.default_root_dir={tmp_path / 'again'}",
    ]  # fmt: skip
    second = ModularCLI(Net, args=again)
    assert same(first.model, second.model)


@pytest.mark.parametrize(("interval", "steps"), [("epoch", 2), ("step", 8)])
def test_a_scheduler_with_its_interval(interval, steps):
    command = cli(
        *ADAM,
        "--optimizer.modules+=LR",
        "--optimizer.modules.lr=1.0",
        "--lr_scheduler=ExponentialLR",
        "--lr_scheduler.gamma=0.5",
        f"--lr_interval={interval}",
        run=True,
    )
    assert command.trainer.optimizers[0].param_groups[0]["lr"] == 0.5**steps


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--optimizer.modules.beta1=x"], "modules: Adam: beta1: expected a number, got x"),
        (["--optimizer.modules+=Adamm"], "no module is called 'Adamm'. Did you mean 'Adam'"),
        (["--optimizer.modules.betta1=0.5"], "modules: Adam has no setting 'betta1'. Did you mean beta1"),
        (["--optimizer.modules.beta1=1.5"], "Adam(beta1=1.5) is out of range: beta1 must be in [0, 1)."),
        (["--optimizer.modules+=Cautious", "--optimizer.modules.mode=half"], "expected one of 'zero', 'grad'"),
    ],
)
def test_a_wrong_value_is_one_line(args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli(*ADAM, *args)
    assert stop.value.code == 2
    (line, _) = capsys.readouterr().err.strip().splitlines()[-2:]
    assert message in line
    assert len(line) < 200


def plain_values(entry):
    kwargs = entry.kwargs() if callable(entry.kwargs) else entry.kwargs
    return entry.make is None and all(isinstance(v, (int, float, str, bool, type(None))) for v in kwargs.values())


@pytest.mark.parametrize("entry", variants_slow(e for e in ENTRIES if hasattr(tz.m, e.name) and plain_values(e)))
def test_every_module_parses(entry):
    config = {"class_path": entry.name, "init_args": dict(entry.kwargs)}
    chain = {"optimizer": {"class_path": "ModularChain", "init_args": {"modules": [config]}}}
    optimizer = optimizer_of(
        ModularCLI(Net, run=False, args=chain, save_config_callback=None, seed_everything_default=0)
    )
    (module,) = optimizer.modules
    assert type(module) is getattr(tz.m, entry.name)
    assert {k: v for k, v in module.defaults.items() if k in entry.kwargs} == dict(entry.kwargs)
