"""Modules that run others, projections and printing, from YAML."""

import sys

import pytest
import torch
import yaml

from tests.lightning.test_cli import cli, optimizer_of


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    """Those of pytest are not those of the command line interface."""
    monkeypatch.setattr(sys, "argv", ["fit"])


def module(name, **arguments):
    return {"class_path": name, "init_args": arguments}


ADAM = [module("Adam", beta1=0.7), module("LR", lr=0.1)]
BFGS = [module("BFGS", concat_params=False), module("StrongWolfe")]
CHAINS = {
    "Multistep": [module("Multistep", module=ADAM, steps=3)],
    "Sequential": [module("Sequential", modules=[ADAM, module("LR", lr=0.1)], steps=2)],
    "FFTProjection": [module("FFTProjection", modules=ADAM, one_d=True, norm="ortho")],
    "DCTProjection": [module("DCTProjection", modules=ADAM, dims=2)],
    "BlockPartition": [module("BlockPartition", modules=BFGS, max_size=4, project_params=True)],
    "TensorNormsProjection": [module("TensorNormsProjection", modules=ADAM)],
    "TensorizeProjection": [module("TensorizeProjection", modules=ADAM, max_side=4)],
    "GaLore": [module("GaLore", modules=ADAM, rank=2, side="left")],
    "PrintShape": [module("PrintShape", text="here ", print_fn="builtins.print"), *ADAM],
    "PrintUpdate": [module("PrintUpdate"), *ADAM],
}


@pytest.mark.parametrize("name", CHAINS)
def test_it_parses_prints_and_steps(name, tmp_path, capsys):
    path = tmp_path / "chain.yaml"
    config = {"optimizer": {"class_path": "ModularChain", "init_args": {"modules": CHAINS[name]}}}
    path.write_text(yaml.safe_dump(config))
    first = optimizer_of(cli(f"--config={path}"))
    with pytest.raises(SystemExit):
        cli(f"--config={path}", "--print_config")
    path.write_text(capsys.readouterr().out)
    command = cli(f"--config={path}")
    optimizer = optimizer_of(command)
    assert repr(optimizer) == repr(first)
    assert type(optimizer.modules[0]).__name__ == name
    params = list(command.model.parameters())
    before = [p.detach().clone() for p in params]

    def closure(backward=True):
        loss = sum((p - 1).square().sum() for p in params)
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    optimizer.step(closure)
    assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert ("here [(" if name == "PrintShape" else "") in capsys.readouterr().out
