"""The picture of the floors, drawn from the imports: ``python -m docs.picture TREE FILE.svg``.

A row is a floor and a box a folder. In a box stand its files (for the catalogue its families), those that import others
above those that are imported. An arrow says how many import statements of one folder name another one. What must not be
is red: files that import each other in a circle, and arrows that go up.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from docs.imports import FLOORS, Import, between, circles, floor, modules, read

WIDTH, MARGIN, GAP, PAD = 960, 24, 46, 12
CHIP, LINE, LANE, LETTER, HEAD = 24, 36, 30, 7.0, 32
ARC = 44  # room for the lines among files of a circle, which stand in one row
GREY, RED = "#5b6770", "#c62828"
COLOURS = {
    "linalg": "#e8f0e4",
    "lang": "#e4f1ef",
    "distributed": "#eaf1dd",
    "engine": "#e3edf5",
    "core": "#e6e4f3",
    "modules": "#f6efdc",
    "recipes": "#f6ead9",
    "optim": "#f4e9d6",
    "torchzero_core": "#f6e6dc",
    "tz_lightning": "#f3e4ea",
}
STYLE = f"""\
text {{ font-family: system-ui, sans-serif; font-size: 12px; fill: #20262b; }}
.title {{ font-weight: 600; font-size: 13px; }} .small {{ font-size: 11px; fill: {GREY}; }}
.box {{ stroke: {GREY}; stroke-width: 1; }} .file {{ fill: #ffffff; stroke: #aab3ba; }}
.circle {{ fill: #fde7e7; stroke: {RED}; }} .arrow {{ fill: none; stroke: {GREY}; stroke-width: 1.6; }}
.up {{ stroke: {RED}; }} .wrong {{ fill: {RED}; }} .within {{ fill: none; stroke: #aab3ba; stroke-width: 0.8; }}
.round {{ fill: none; stroke: {RED}; stroke-width: 0.8; opacity: 0.55; }}"""


@dataclass
class Box:
    """A folder.

    Attributes:
        name: its dotted name.
        row: the number of its floor, 0 at the top.
        rows: the names of its files, the users of others first.
        circular: those that import each other in a circle.
        edges: who imports whom among them.
        note: what is said beside its name.
        x: the left edge.
        y: the upper edge.
        width: from left to right.
        height: from the upper to the lower edge.
        places: of each file, left edge, upper edge and width.
    """

    name: str
    row: int
    rows: list[list[str]] = field(default_factory=list)
    circular: set[str] = field(default_factory=set)
    edges: set[tuple[str, str]] = field(default_factory=set)
    note: str = ""
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    places: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The last part of its name."""
        return self.name.split(".")[-1]


@dataclass
class Arrow:
    """The imports of one folder from another.

    Attributes:
        source: who imports.
        target: from whom.
        number: how many import statements.
        slot: which lane it takes past the rows between, from the outside; None where there is none between.
        right: whether the lane is on the right.
    """

    source: Box
    target: Box
    number: int
    slot: int | None = None
    right: bool = False


def part(module: str, folder: str) -> str:
    """The file of a folder that stands for a module; for the catalogue, the family."""
    rest = module.removeprefix(folder).lstrip(".").split(".")
    return rest[0] if folder.endswith(".modules") else "/".join(rest)


def layers(names: Sequence[str], edges: set[tuple[str, str]], rounds: Sequence[Sequence[str]]) -> list[list[str]]:
    """Files in rows, so that each imports only from rows below its own; those of a circle share one."""
    together = {name: min(circle) for circle in rounds for name in circle}
    above = {
        name: {a for a, b in edges if b == name and together.get(a, a) != together.get(name, name)} for name in names
    }

    def depth(name: str) -> int:
        circle = [n for n in names if together.get(n, n) == together.get(name, name)]
        return max((1 + depth(a) for n in circle for a in above[n]), default=0)

    rows: dict[int, list[str]] = {}
    for name in sorted(names):
        rows.setdefault(depth(name), []).append(name)
    return [rows[d] for d in sorted(rows)]


def boxes(found: Sequence[Import], known: Mapping[str, Path]) -> list[Box]:
    """One for each folder that is there, the highest first."""
    out = []
    there = {floor(name) for name in known}
    floors = [[place for place in places if place in there] for places in FLOORS]
    for row, places in enumerate(reversed([places for places in floors if places])):
        for place in places:
            inside = {name: part(name, place) for name in known if floor(name) == place}
            names = sorted({name for name in inside.values() if name})
            graph = between([one for one in found if one.source in inside and one.target in inside], known)
            edges = {
                (inside[a], inside[b])
                for a, others in graph.items()
                for b in others
                if inside.get(a) and inside.get(b) and inside[a] != inside[b]
            }
            rounds = circles({name: {b for a, b in edges if a == name} for name in names})
            hidden = {one[:3] for one in found if one.source in inside and one.where != "top" and one.target in known}
            circular = {name for circle in rounds for name in circle}
            note = f"{len(inside)} files" if len(inside) > 1 else ""
            note += f", {len(circular)} of them in a circle" if circular else ""
            note += f", {len(hidden)} hidden imports" if hidden else ""
            out.append(Box(place, row, layers(names, edges, rounds), circular, edges, note))
    return out


def arrows(found: Sequence[Import], known: Mapping[str, Path], all_boxes: Sequence[Box]) -> list[Arrow]:
    """One for each pair of folders, with a lane where it passes other rows."""
    by_name = {box.name: box for box in all_boxes}
    pairs = Counter(
        (floor(source), floor(target))
        for source, target, _ in {one[:3] for one in found}
        if target in known and floor(source) != floor(target)
    )
    out = [Arrow(by_name[a], by_name[b], n) for (a, b), n in sorted(pairs.items())]
    taken: list[Arrow] = []
    # the outer lanes go to those that start highest and end lowest
    for arrow in sorted(out, key=lambda a: (a.source.row, -a.target.row, a.target.name != "torchzero_core.linalg")):
        first, last = arrow.source.row, arrow.target.row
        if last - first <= 1:
            continue
        arrow.right = not arrow.target.title.startswith("lin") and not arrow.target.title.startswith("lang")
        beside = [t for t in taken if t.right == arrow.right and t.source.row < last and first < t.target.row]
        arrow.slot = 1 + max((t.slot for t in beside if t.slot is not None), default=-1)
        taken.append(arrow)
    return out


def spread(names: Sequence[str], width: float) -> Iterator[list[tuple[str, float, float]]]:
    """The files of a row in as many lines as they need, spread over the width: name, left edge, width."""
    lines: list[list[tuple[str, float]]] = [[]]
    for name in names:
        w = len(name) * LETTER + 14
        if lines[-1] and sum(x + 8 for _, x in lines[-1]) + w > width:
            lines.append([])
        lines[-1].append((name, w))
    for line in lines:
        space = (width - sum(w for _, w in line)) / (len(line) + 1)
        x = 0.0
        out = []
        for name, w in line:
            x += space
            out.append((name, x, w))
            x += w
        yield out


def fill(box: Box) -> None:
    """Give the files of a box their places, and the box its height."""
    y = box.y + HEAD
    for names in box.rows:
        y += ARC if box.circular & set(names) else 0
        for line in spread(names, box.width - 2 * PAD):
            for name, x, w in line:
                box.places[name] = box.x + PAD + x, y, w
            y += LINE
    box.height = y - box.y


def place(all_boxes: Sequence[Box], all_arrows: Sequence[Arrow]) -> float:
    """Give every box its place; the height of the picture."""
    y = float(MARGIN)
    for row in range(max(box.row for box in all_boxes) + 1):
        here = [box for box in all_boxes if box.row == row]
        passing = [a for a in all_arrows if a.slot is not None and a.source.row < row < a.target.row]
        left, right = (
            MARGIN + LANE * max((1 + (a.slot or 0) for a in passing if a.right == side), default=0)
            for side in (False, True)
        )
        room = WIDTH - left - right - GAP * (len(here) - 1)
        wanted = [max(sum(len(n) * LETTER + 24 for names in box.rows for n in names), 110.0) for box in here]
        x = float(left)
        for box, share in zip(here, wanted, strict=True):
            box.x, box.y = x, y
            box.width = room * share / sum(wanted)
            fill(box)
            x += box.width + GAP
        y = max(box.y + box.height for box in here) + GAP
    return y - GAP + MARGIN


def path(arrow: Arrow, shift: float) -> str:
    """The way of an arrow that goes down."""
    a, b = arrow.source, arrow.target
    low, high = b.x + 14, b.x + b.width - 14
    bottom, top = a.y + a.height, b.y - 3
    if arrow.slot is None:
        x = min(max((max(low, a.x + 14) + min(high, a.x + a.width - 14)) / 2, low), high)
        x = min(max(x, a.x + 14), a.x + a.width - 14)
        end = min(max(x, low), high)
        return f"M{x:.0f} {bottom:.0f} L{end:.0f} {top:.0f}"
    lane = LANE * (arrow.slot + 0.5)
    x = WIDTH - MARGIN - lane if arrow.right else MARGIN + lane
    if low <= x <= high:
        return f"M{x:.0f} {bottom:.0f} V{top:.0f}"
    end = low + 14 * shift if x < low else high - 14 * shift
    return f"M{x:.0f} {bottom:.0f} V{b.y - GAP + 14 + 6 * shift:.0f} H{end:.0f} V{top:.0f}"


def draw_box(box: Box, colour: str) -> Iterator[str]:
    """A folder with its files."""
    yield (
        f'<rect class="box" x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="6" '
        f'fill="{colour}"/>'
    )
    yield f'<text class="title" x="{box.x + PAD:.0f}" y="{box.y + 18:.0f}">{escape(box.title)}</text>'
    x = box.x + PAD + len(box.title) * 9 + 10
    wrong = " wrong" if "circle" in box.note or "hidden" in box.note else ""
    yield f'<text class="small{wrong}" x="{x:.0f}" y="{box.y + 18:.0f}">{escape(box.note)}</text>'
    for a, b in sorted(box.edges):
        (ax, ay, aw), (bx, by, bw) = box.places[a], box.places[b]
        kind = "round" if {a, b} <= box.circular else "within"
        start, end = (ay + CHIP, by) if by > ay else (ay, by + CHIP) if by < ay else (ay, by)
        bend = -2 * ARC * min(1.0, 0.25 + abs(ax - bx) / box.width) if ay == by else 0
        yield (
            f'<path class="{kind}" d="M{ax + aw / 2:.0f} {start:.0f} Q{(ax + aw / 2 + bx + bw / 2) / 2:.0f} '
            f'{(start + end) / 2 + bend:.0f} {bx + bw / 2:.0f} {end:.0f}"/>'
        )
    for name, (x, y, w) in box.places.items():
        kind = "circle" if name in box.circular else "file"
        yield f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="{CHIP}" rx="4"/>'
        yield f'<text x="{x + w / 2:.0f}" y="{y + 16:.0f}" text-anchor="middle">{escape(name)}</text>'


def draw_arrow(arrow: Arrow, shift: float) -> Iterator[str]:
    """The arrow and its number."""
    a, b = arrow.source, arrow.target
    if b.row <= a.row:  # up or sideways, which must not be
        x = a.x + a.width / 2
        yield (
            f'<path class="arrow up" marker-end="url(#red)" d="M{x:.0f} {a.y:.0f} '
            f"C{x:.0f} {a.y - GAP:.0f} {b.x + b.width / 2:.0f} {b.y + b.height + GAP:.0f} "
            f'{b.x + b.width / 2:.0f} {b.y + b.height + 3:.0f}"/>'
        )
        return
    way = path(arrow, shift)
    x, y = (float(n) for n in way[1:].replace("L", " ").replace("V", " ").split()[:2])
    yield f'<path class="arrow" marker-end="url(#grey)" d="{way}"/>'
    yield f'<text class="small" x="{x + 5:.0f}" y="{y + 12:.0f}">{arrow.number}</text>'


def picture(tree: Path) -> str:
    """The picture of a checkout, as SVG.

    Args:
        tree: the folder that holds the packages.
    """
    known, found = modules(tree), read(tree)
    all_boxes = boxes(found, known)
    all_arrows = arrows(found, known, all_boxes)
    height = place(all_boxes, all_arrows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}">',
        f"<style>{STYLE}</style>",
        "<defs>",
        *(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
            for name, colour in (("grey", GREY), ("red", RED))
        ),
        "</defs>",
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    for box in all_boxes:
        lines += draw_box(box, COLOURS[box.title])
    used: Counter[str] = Counter()
    for arrow in sorted(all_arrows, key=lambda a: -(a.slot or 0)):
        jogs = arrow.slot is not None
        lines += draw_arrow(arrow, used[arrow.target.name])
        used[arrow.target.name] += jogs
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(picture(Path(sys.argv[1])), encoding="utf-8")
