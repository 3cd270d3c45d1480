"""Chains of ten random modules, written as YAML, that learn the digits or say why not.

``python -m tests.random_chains --seed 0`` draws ten, writes them to ``build/chains`` and trains each by the command
line of ``examples/digits.py``: nine modules that take only gradients, and a learning rate, of which some are tried. All
modules are drawn alike; one that turns the update away from the gradient at its place in the chain (Zeros, Abs, the
difference of two gradients) is put back, as nobody would write it there, and the table says which were. For a chain
that does not learn it names the module after which the update has nothing more to do with the gradient.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import random
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback
from torch import Tensor

import torchzero_core as tz
from examples import digits
from tests.registry import ENTRIES
from tz_lightning import ModularChain, ModularCLI

LENGTH, RATES, EPOCHS = 10, (1e-2, 1e-1, 1e-3, 1.0, 1e-4, 10.0), 8
#: The accuracies of a chain that has learnt, and of one that is about to; that of a guess is 0.1.
LEARNT, LEARNS = 0.8, 0.3
FAMILIES = {"clipping", "momentum", "optimizers", "step_size", "smoothing", "weight_decay", "ops"}
#: The shapes of what chains are tried on, in how many steps, and the cosine with the gradient that is to be left.
PROBE, PROBES, FOLLOWS = [(4, 1, 3, 3), (4,), (10, 16), (10,)], 12, 0.2
#: Printing says nothing here, and the matrix of all elements of a tensor takes seconds a step.
LEFT_OUT = {"PrintShape", "PrintUpdate", "FullMatrixAdagrad", "LR"}


def plain(value: Any) -> bool:
    """Whether YAML can say a value."""
    if isinstance(value, (list, tuple)):
        return all(map(plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def pool() -> list[tuple[str, dict[str, Any]]]:
    """The modules that can be drawn, with what their entry in the registry sets."""
    found = []
    for entry in ENTRIES:
        if entry.closure or entry.make is not None or callable(entry.kwargs) or entry.name in LEFT_OUT:
            continue
        module = entry.module()
        if type(module).__module__.split(".")[2] in FAMILIES and all(map(plain, entry.kwargs.values())):
            found.append((entry.name, dict(entry.kwargs)))
    return found


def written(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A module as YAML has it."""
    return {"class_path": name, **({"init_args": kwargs} if kwargs else {})}


def descends(modules: list[dict[str, Any]]) -> bool:
    """Whether a chain's updates, and their signs, follow a gradient that is the same but for noise.

    Args:
        modules: as YAML has them.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        params = [torch.randn(shape).requires_grad_() for shape in PROBE]
        signal = [torch.randn(shape) for shape in PROBE]
        whole = torch.cat([g.flatten() for g in signal])
        try:
            chain = [getattr(tz.m, m["class_path"])(**m.get("init_args", {})) for m in modules]
            optimizer = tz.Modular(params, *chain, tz.m.LR(1e-3), advice=False)
            cosines = []
            for _ in range(PROBES):
                for p, g in zip(params, signal, strict=True):
                    p.grad = g + 0.5 * torch.randn_like(g)
                before = [p.detach().clone() for p in params]
                optimizer.step()
                moved = torch.cat([(x - p.detach()).flatten() for x, p in zip(before, params, strict=True)])
                cosines.append(min(float(torch.cosine_similarity(x, whole, dim=0)) for x in (moved, moved.sign())))
        except (ValueError, RuntimeError):
            return False
    return statistics.mean(cosines[PROBES // 2 :]) > FOLLOWS  # NaN is not


def draw(seed: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The modules of a chain as YAML has them, without the learning rate, and the names of those that were put back."""
    rng, modules, back = random.Random(seed), list[dict[str, Any]](), list[str]()
    drawn = pool()
    rng.shuffle(drawn)
    for name, kwargs in drawn:
        if len(modules) == LENGTH - 1:
            break
        if descends([*modules, written(name, kwargs)]):
            modules.append(written(name, kwargs))
        else:
            back.append(name)
    return modules, back


def config(modules: list[dict[str, Any]], lr: float, folder: Path) -> dict[str, Any]:
    """The whole configuration."""
    return {
        "seed_everything": 0,
        "trainer": {
            "max_epochs": EPOCHS,
            "accelerator": "cpu",
            "default_root_dir": str(folder),
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "model": {"width": 4},
        "optimizer": {
            "class_path": "ModularChain",
            "init_args": {"modules": [*modules, {"class_path": "LR", "init_args": {"lr": lr}}]},
        },
    }


class Look:
    """What each module leaves of the gradient: the cosine with it, how large it is, and whether it is finite."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[bool, float, float]]] = {}

    def at(self, optimizer: ModularChain) -> None:
        """Watch a chain."""
        params = [p for group in optimizer.param_groups for p in group["params"]]

        def see(path: str, update: list[Tensor]) -> None:
            u = torch.cat([t.flatten() for t in update])
            g = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in params])
            cosine = float(torch.nn.functional.cosine_similarity(u, g, dim=0))
            self.seen.setdefault(path, []).append((bool(u.isfinite().all()), float(u.norm()), cosine))

        optimizer.watch(see)

    def reason(self) -> str:
        """Which module it is after which the update does not follow the gradient."""
        for path, seen in self.seen.items():
            if not all(finite for finite, _, _ in seen):
                return f"after {path} the update is not finite"
            norms, cosines = [n for _, n, _ in seen], [c for _, _, c in seen]
            if max(norms) == 0:
                return f"after {path} the update is zero"
            if sum(cosines) / len(cosines) < 0.03:
                mean = sum(cosines) / len(cosines)
                return f"after {path} the update has nothing of the gradient's direction (mean cosine {mean:.2f})"
        last = [n for _, n, _ in list(self.seen.values())[-1]]
        return (
            f"no learning rate fits: the update's norm goes from {last[0]:.1e} to {last[-1]:.1e} in {len(last)} steps"
        )


class Watched(Callback):
    """Watches the chain of a run."""

    def __init__(self, look: Look) -> None:
        self.look = look

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at it."""
        self.look.at(trainer.optimizers[0])


def train(modules: list[dict[str, Any]], lr: float, folder: Path, name: str) -> tuple[float, str]:
    """The accuracy that a chain comes to by the command line, and why not further."""
    file, look = folder / f"{name}.yaml", Look()
    file.write_text(yaml.safe_dump(config(modules, lr, folder), sort_keys=False))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            cli = ModularCLI(
                digits.Network,
                digits.Digits,
                args=["fit", f"--config={file}"],
                seed_everything_default=0,
                save_config_callback=None,
                trainer_defaults={"callbacks": [Watched(look)]},
            )
    except (ValueError, RuntimeError) as error:
        return 0.0, f"it is refused: {str(error).splitlines()[0]}"
    accuracy = float(cli.trainer.callback_metrics["val_accuracy"])
    if accuracy >= LEARNT:
        return accuracy, ""
    return accuracy, f"it learns; {EPOCHS} epochs are too few" if accuracy >= LEARNS else look.reason()


def learn(seed: int, folder: Path) -> tuple[float, float, str]:
    """The best of the learning rates for one chain: the accuracy, the rate, and why not better."""
    (modules, _), best = draw(seed), (-1.0, math.nan, "")
    for lr in RATES:
        accuracy, why = train(modules, lr, folder, f"chain_{seed}")
        if accuracy > best[0]:
            best = accuracy, lr, why
        if accuracy >= LEARNT:
            break
    (folder / f"chain_{seed}.yaml").write_text(yaml.safe_dump(config(modules, best[1], folder), sort_keys=False))
    return best


def main(given: list[str] | None = None) -> None:
    """Draw, train, and print a table."""
    parser = argparse.ArgumentParser("python -m tests.random_chains", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first chain")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("build/chains"))
    args = parser.parse_args(given)
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print("| seed | modules | put back | learning rate | accuracy | |\n| --- | --- | --- | --- | --- | --- |")
    for seed in range(args.seed, args.seed + args.count):
        accuracy, lr, why = learn(seed, args.folder)
        modules, back = draw(seed)
        names = ", ".join(module["class_path"] for module in modules)
        print(f"| {seed} | {names} | {', '.join(back)} | {lr:g} | {accuracy:.2f} | {why} |", flush=True)


if __name__ == "__main__":
    main()
