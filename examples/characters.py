"""A transformer that writes Python, letter by letter: Muon for its matrices and Adam for the rest, beside AdamW.

The text is the source of the standard library of the Python that runs this, two million letters, the last tenth for
validation. Both sides take 300 steps of 16 pieces of 64 letters with the same warm-up and decay of the learning rate,
and both have their best learning rate of three.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import torchzero_core as tz
from examples.showing import Shown, best, show, smooth

STEPS, CONTEXT, BATCH, WIDTH = 300, 64, 16, 64


@cache
def text() -> tuple[Tensor, Tensor]:
    """Letters as numbers, to train with and to validate with."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*.py"))
    letters = torch.tensor(list("".join(f.read_text("utf-8", "ignore") for f in files).encode("ascii", "ignore")))
    letters = letters[:2_000_000]
    return letters[: len(letters) * 9 // 10], letters[len(letters) * 9 // 10 :]


class Writer(nn.Module):
    """Two layers of causal attention."""

    def __init__(self) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(128, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 128)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the next letters."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.layers(self.letter(x) + self.place.weight, mask, is_causal=True))


def loss_of(model: Writer, letters: Tensor, at: Tensor) -> Tensor:
    """Cross-entropy of the pieces of the text that begin at these places."""
    pieces = letters[at.unsqueeze(1) + torch.arange(CONTEXT + 1)]
    return nn.functional.cross_entropy(model(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())


def muon(model: Writer, lr: float) -> torch.optim.Optimizer:
    """Muon for the hidden matrices, Adam for embeddings, head, norms and biases."""
    split = tz.m.Split("hidden_matrices", tz.m.Muon(adjust_lr=True), tz.m.Adam(beta2=0.99))
    return tz.Modular(model, split, tz.m.WeightDecay(0.01), tz.m.LR(lr))


def adamw(model: Writer, lr: float) -> torch.optim.Optimizer:
    """The usual."""
    return torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.01)


def train(make: Callable[[Writer, float], Any], lr: float) -> tuple[float, list[float]]:
    """Validation loss at the end, and the losses of the batches."""
    torch.manual_seed(0)
    model, generator = Writer(), torch.Generator().manual_seed(1)
    optimizer = make(model, lr)
    scheduler = LambdaLR(optimizer, lambda i: min((i + 1) / 40, (STEPS - i) / (STEPS - 40)))
    learn, check = text()
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, learn, torch.randint(len(learn) - CONTEXT - 1, (BATCH,), generator=generator))
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    with torch.no_grad():
        return loss_of(model, check, torch.arange(0, len(check) - CONTEXT - 1, 400)).item(), losses


def main() -> Shown:
    """Both, each with its best learning rate."""
    ours = {lr: train(muon, lr) for lr in (1e-2, 2e-2, 4e-2)}
    theirs = {lr: train(adamw, lr) for lr in (6e-3, 1.2e-2, 2.4e-2)}
    a, b = best({lr: run[0] for lr, run in ours.items()}), best({lr: run[0] for lr, run in theirs.items()})
    return Shown(
        figure=f"validation loss after {STEPS} steps, in nats a letter",
        ours={"Muon + Adam": ours[a][0]},
        baselines={"torch AdamW": theirs[b][0]},
        curves={
            name: (range(STEPS), smooth(run[1])) for name, run in (("Muon + Adam", ours[a]), ("torch AdamW", theirs[b]))
        },
        log="",
        digits=".3f",
    )


if __name__ == "__main__":
    show(main)
