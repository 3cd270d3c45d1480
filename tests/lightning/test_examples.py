"""The examples do what they say."""

import sys

import pytest

from examples import digits, plain_pytorch

QUIET = ["--trainer.enable_progress_bar=false"]


@pytest.fixture(autouse=True)
def no_words(monkeypatch):
    """The command line of pytest is not that of the examples."""
    monkeypatch.setattr(sys, "argv", ["digits"])


def train(config, folder, *args):
    """Run an example as its command line does, and return it with what it printed."""
    return digits.main(
        [
            "fit",
            f"--config=examples/{config}.yaml",
            f"--trainer.default_root_dir={folder}",
            f"--trainer.logger.init_args.save_dir={folder}",
            *QUIET,
            *args,
        ]
    )


@pytest.mark.parametrize("config", ["digits_adam", "digits_lbfgs"])
def test_a_short_run_writes_everything(config, tmp_path, capsys):
    cli = train(config, tmp_path, "--trainer.max_epochs=2")
    folder = tmp_path / config / "version_0"
    assert (folder / "report.html").stat().st_size > 1e6
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train_loss", "val_accuracy", "update_norm"} <= set(header)
    assert (folder / "config.yaml").exists()
    assert list((folder / "checkpoints").glob("*.ckpt"))
    printed = capsys.readouterr().out
    for what in ("val_accuracy", "report.html", "metrics.csv", ".ckpt", "config.yaml"):
        assert what in printed
    steps = 2 * (1 if config == "digits_lbfgs" else 23)
    assert cli.trainer.global_step == steps


@pytest.mark.slow
def test_the_digits_are_learnt(tmp_path):
    cli = train("digits_adam", tmp_path)
    assert cli.trainer.callback_metrics["val_accuracy"] >= 0.97


@pytest.mark.slow
def test_the_digits_are_learnt_by_heart(tmp_path):
    """L-BFGS fits every training image; where it ends beside them is a matter of rounding, so the best is kept."""
    cli = train("digits_lbfgs", tmp_path)
    assert cli.trainer.callback_metrics["train_loss"] < 5e-3
    assert cli.trainer.callback_metrics["val_accuracy"] >= 0.96
    assert cli.trainer.checkpoint_callback.best_model_score >= 0.97


def test_plain_pytorch():
    assert plain_pytorch.by_gradients() < 0.003  # the noise in the data is 0.0025
    assert plain_pytorch.by_search() < 0.003
