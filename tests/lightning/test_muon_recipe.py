"""Muon for the hidden matrices and Adam for the rest, from YAML, as the guide has it."""

import re
import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from tz_lightning import ModularCLI

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "optimizer.md"


class Fit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 1))


@pytest.mark.parametrize(("pattern", "hidden"), [("0.*", None), ("net.0.*", ["net.1.weight"])])
def test_the_recipe_of_the_guide(tmp_path, monkeypatch, capsys, pattern, hidden):
    monkeypatch.chdir(tmp_path)
    text = re.search(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL).group(1).replace("0.*", pattern)
    Path("muon.yaml").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = ["--config", "muon.yaml", "--trainer.logger=false", "--trainer.enable_checkpointing=false"]
        if hidden is None:
            with pytest.raises(SystemExit):
                ModularCLI(Fit, run=False, save_config_callback=None, args=args)
            assert "has a name like '0.*'; it has net.0.weight" in capsys.readouterr().err
            return
        cli = ModularCLI(Fit, run=False, save_config_callback=None, args=args)
        optimizer = cli.model.configure_optimizers()
    optimizer = optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer["optimizer"]
    (split,) = optimizer.modules
    assert split.choice()["true"] == hidden
    assert [child.defaults["lr"] for child in optimizer.unrolled_modules if "lr" in child.defaults] == [1e-3, 3e-4]
