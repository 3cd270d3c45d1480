"""A run that is killed without warning, and goes on as if nothing had happened.

A process trains a small network with a chain that has much to remember: averages, a history of gradients, and random
directions. It saves after every tenth step, to a temporary file that is renamed, and is killed (SIGKILL) in its 47th
step. A new process loads what was saved and goes on. The figure is the largest difference of any weight to a run that
nobody has killed; beside it the same where only the weights were saved, and the optimizer began anew.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import torchzero_core as tz
from examples.showing import Shown, show

STEPS, KILLED = 100, 47


def train(folder: Path, *, kill: bool, forget: bool) -> None:
    """Train, from what is saved in the folder on."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    x = torch.linspace(-3, 3, 128).unsqueeze(1)
    chain = [tz.m.ClipNormByEMA(), tz.m.Dropout(0.2), tz.m.SOAP(), tz.m.LR(1e-2)]
    optimizer, losses, file = tz.Modular(net, *chain), [], folder / "run.pt"
    if file.exists():
        saved = torch.load(file)  # with weights_only, as is torch's default: a chain's state is tensors and numbers
        net.load_state_dict(saved["net"])
        losses = saved["losses"]
        if not forget:
            optimizer.load_state_dict(saved["optimizer"])
    while len(losses) < STEPS:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), x.sin())
        loss.backward()
        if kill and len(losses) == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 10 == 0:
            everything = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
            torch.save(everything, folder / "new.pt")
            os.replace(folder / "new.pt", file)


def run(*ways: str) -> dict:
    """Run processes one after the other, and return what the last one saved."""
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            code = subprocess.run([sys.executable, "-m", "examples.resumed", folder, way], check=False).returncode
            assert code == (-signal.SIGKILL if way == "kill" else 0)
        return torch.load(Path(folder) / "run.pt")


def main() -> Shown:
    """Three runs."""
    whole, resumed, forgot = run("go"), run("kill", "go"), run("kill", "forget")
    apart = [max(float((r["net"][k] - v).abs().max()) for k, v in whole["net"].items()) for r in (resumed, forgot)]
    runs = {"never killed": whole, "killed and resumed": resumed, "only the weights saved": forgot}
    return Shown(
        figure="largest difference of a weight to the run that was not killed",
        ours={"killed and resumed": apart[0]},
        baselines={"only the weights saved": apart[1]},
        curves={name: (range(STEPS), r["losses"]) for name, r in runs.items()},
        digits=".1g",
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(Path(sys.argv[1]), kill=sys.argv[2] == "kill", forget=sys.argv[2] == "forget")
    else:
        show(main)
