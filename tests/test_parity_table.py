"""The table of docs/guide/parity.md has the rows of the tests."""

from tests.parity import marked
from tests.parity_table import PAGE, rows_of
from tests.test_parity import PAIRS
from tests.test_recipes import spellings
from tests.test_torch_optim import CHAINS, SCHEDULERS


def expected():
    """What the tests note down."""
    rows = {(pair.name, pair.reference) for pair in PAIRS} | marked()
    rows |= {(f"the chain of torch's {name}", "torch.optim, every configuration") for name in CHAINS if name != "LBFGS"}
    rows |= {(f"chains under {name}", "torch.optim under the same") for name in SCHEDULERS}
    for amsgrad in (False, True):
        rows |= {(f"Adam spelled as {n}{', amsgrad' * amsgrad}", "torch.optim.Adam") for n in spellings(amsgrad)}
    return rows


def test_the_table_has_a_row_for_every_comparison():
    there = rows_of(PAGE.read_text())
    assert there == expected(), "make it anew: python -m tests.parity_table"
    assert len(there) > 100


def test_only_what_differs_on_purpose_is_above_rounding():
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0] not in ("what", "---"):
            figures = [float(cell) for cell in cells[2:] if cell]
            assert figures and max(figures) <= (
                1e-5 if "clip_grad" in cells[1] or "EMASquared" in cells[0] else 1e-8
            ), line
