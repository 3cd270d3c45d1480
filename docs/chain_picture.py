"""The picture of a chain and what it does: ``python -m docs.chain_picture FILE.svg``.

The chain of five modules learns a sine from noisy batches, of which every fortieth is broken: its targets are fifty
times too large. Above, the norm of the update as each module hands it on, for 116 steps; below, the error on clean
data, beside Adam alone. Everything drawn is measured while the picture is made.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import torchzero_core as tz

STEPS, EVERY = 116, 40
WIDTH, MARGIN, GAP, TOP, BOX, PANEL = 960, 20, 26, 62, 44, 84
LOSS_TOP, LOSS_HEIGHT = 262, 120
INK, SOFT, LINE, ACCENT, WARN, CARD = "#20262b", "#5b6770", "#c9d0d6", "#1f6f8b", "#c2571a", "#ffffff"
LABELS = ("gradient", "ClipValue(10)", "Adam()", "NormalizeByEMA()", "WeightDecay()", "LR()")
SAYS = ("broken batches", "cuts each value", "evens out scales", "steadies the norm", "pulls towards 0", "the step")


def chain(name: str) -> list[tz.Module]:
    """The five modules, or Adam alone with the same learning rate."""
    if name == "adam":
        return [tz.m.Adam(), tz.m.LR(0.1)]
    clip, norm = tz.m.ClipValue(10), tz.m.NormalizeByEMA(max_ema_growth=1.1)
    return [clip, tz.m.Adam(), norm, tz.m.WeightDecay(1e-4), tz.m.LR(0.1)]


def run(name: str) -> tuple[list[list[float]], list[float]]:
    """Train; the norms of gradient and updates at each step, and the error on clean data after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    generator = torch.Generator().manual_seed(1)
    x = torch.linspace(-3, 3, 256).unsqueeze(1)
    optimizer = tz.Modular(net.parameters(), *chain(name))
    norms: list[list[float]] = []
    optimizer.watch(lambda path, update: norms[-1].append(norm(update)))
    errors = []
    for step in range(STEPS):
        at = torch.randint(256, (32,), generator=generator)
        target = x[at].sin() + 0.1 * torch.randn(32, 1, generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x[at]), target * (50 if step % EVERY == EVERY - 1 else 1)).backward()
        norms.append([norm([p.grad for p in net.parameters() if p.grad is not None])])
        optimizer.step()
        with torch.no_grad():
            errors.append(float((net(x) - x.sin()).square().mean()))
    return norms, errors


def norm(tensors: Sequence[torch.Tensor]) -> float:
    """Of all values together."""
    return math.sqrt(sum(float(t.square().sum()) for t in tensors))


def line(values: Sequence[float], x: float, y: float, width: float, height: float, low: float, high: float) -> str:
    """A path over the steps, with a logarithmic axis."""
    points = []
    for i, value in enumerate(values):
        share = (math.log10(max(value, 1e-12)) - low) / (high - low)
        points.append(f"{x + width * i / (len(values) - 1):.1f} {y + height * (1 - min(max(share, 0.0), 1.0)):.1f}")
    return "M" + " L".join(points)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    """A line of text."""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" class="{kind}">{words}</text>'


def boxes(norms: Sequence[Sequence[float]]) -> list[str]:
    """The modules in a row, with the norms of their updates below them."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(LABELS) - 1)) / len(LABELS)
    out = []
    for i, (label, says) in enumerate(zip(LABELS, SAYS, strict=True)):
        x = MARGIN + i * (width + GAP)
        fill = "#f3f5f7" if i == 0 else "#e3f0f4"
        out += [
            f'<rect x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{BOX}" rx="6" fill="{fill}" stroke="{LINE}"/>',
            text(x + width / 2, TOP + 19, label, "box"),
            text(x + width / 2, TOP + 35, says, "soft"),
        ]
        if i:
            out.append(
                f'<path d="M{x - GAP + 2:.1f} {TOP + BOX / 2} H{x - 2:.1f}" stroke="{SOFT}" stroke-width="1.6" '
                'marker-end="url(#to)"/>'
            )
        y = TOP + BOX + 14
        for k in range(6):
            at = y + PANEL * k / 5
            faint = 1 if k in (0, 5) else 0.45
            out.append(f'<path class="grid" d="M{x:.1f} {at:.1f} H{x + width:.1f}" opacity="{faint}"/>')
        out.append(f'<path class="curve" d="{line([n[i] for n in norms], x, y, width, PANEL, -2, 3)}"/>')
    return out


def curves(errors: Sequence[float], alone: Sequence[float]) -> list[str]:
    """The error on clean data of the five modules and of Adam alone."""
    out = []
    x, y = MARGIN + 30.0, float(LOSS_TOP)
    inside = WIDTH - 2 * MARGIN - 30
    out.append(
        text(
            MARGIN,
            LOSS_TOP - 14,
            "What it is good for: the error on clean data, and what it is at the end",
            "name",
            "start",
        )
    )
    for k, label in enumerate(("10", "1", "0.1", "0.01")):
        at = y + LOSS_HEIGHT * k / 3
        out += [f'<path class="grid" d="M{x} {at:.1f} H{x + inside}"/>', text(x - 6, at + 4, label, "soft", "end")]
    for step in range(EVERY, STEPS, EVERY):
        at = x + inside * (step - 1) / (STEPS - 1)
        out += [
            f'<path class="grid" d="M{at:.1f} {y} V{y + LOSS_HEIGHT}" stroke-dasharray="3 3"/>',
            text(at, y + LOSS_HEIGHT + 16, f"broken batch, step {step}", "soft"),
        ]
    out += [
        f'<path class="curve" style="stroke:{WARN}" d="{line(alone, x, y, inside, LOSS_HEIGHT, -2, 1)}"/>',
        f'<path class="curve" style="stroke-width:2.2" d="{line(errors, x, y, inside, LOSS_HEIGHT, -2, 1)}"/>',
        text(WIDTH - MARGIN, LOSS_TOP - 14, f"five modules: {errors[-1]:.2f}", "five name", "end"),
        text(WIDTH - MARGIN - 142, LOSS_TOP - 14, f"Adam and LR alone: {alone[-1]:.2f}", "adam name", "end"),
    ]
    return out


def picture() -> str:
    """The picture, as SVG."""
    norms, errors = run("five")
    _, alone = run("adam")
    height = LOSS_TOP + LOSS_HEIGHT + 44
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-label="A chain of five modules: the norm of the update after each, and the error">',
        "<style>text{font-family:system-ui,sans-serif;font-size:12px;fill:"
        + INK
        + "}.name{font-weight:600}.box{font-weight:600;font-size:11.5px}"
        f".soft{{fill:{SOFT};font-size:11px}}.five{{fill:{ACCENT}}}.adam{{fill:{WARN}}}"
        f".curve{{fill:none;stroke:{ACCENT};stroke-width:1.6}}.grid{{stroke:{LINE};stroke-width:1}}</style>",
        f'<marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{SOFT}"/></marker>',
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="{CARD}"/>',
        text(MARGIN, 30, "Each module gets the update of the one before", "name", "start"),
        text(WIDTH - MARGIN, 30, f"below each: the norm of the update over {STEPS} steps, 0.01 to 1000", "soft", "end"),
    ]
    return "\n".join([*out, *boxes(norms), *curves(errors, alone), "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(), encoding="utf-8")
