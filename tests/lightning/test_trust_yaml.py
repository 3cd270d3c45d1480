"""Trust regions, and the methods whose Hessian they take, from YAML."""

import sys

import pytest
import torch
import yaml

from tests.lightning.test_cli import cli, optimizer_of

NAMES = ["TrustCG", "Dogleg", "TrustExact", "CubicRegularization", "LevenbergMarquardt"]


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    """Those of pytest are not those of the command line interface."""
    monkeypatch.setattr(sys, "argv", ["fit"])


@pytest.mark.parametrize("name", NAMES)
def test_it_parses_prints_and_steps(name, tmp_path, capsys):
    path = tmp_path / "chain.yaml"
    hess = {"class_path": "LBFGS", "init_args": {"history_size": 3}}
    modules = [{"class_path": name, "init_args": {"hess": hess, "init": 0.5, "eta": 0.1}}]
    path.write_text(yaml.safe_dump({"optimizer": {"class_path": "ModularChain", "init_args": {"modules": modules}}}))
    first = optimizer_of(cli(f"--config={path}"))
    with pytest.raises(SystemExit):
        cli(f"--config={path}", "--print_config")
    path.write_text(capsys.readouterr().out)
    command = cli(f"--config={path}")
    optimizer = optimizer_of(command)
    assert repr(optimizer) == repr(first)
    (module,) = optimizer.modules
    assert type(module).__name__ == name
    assert module.defaults["init"] == 0.5
    assert module.children["hess"].defaults["history_size"] == 3
    params = list(command.model.parameters())

    def closure(backward=True):
        loss = sum((p - 1).square().sum() for p in params)
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    start = optimizer.step(closure)
    with torch.no_grad():
        assert closure(False) < start
