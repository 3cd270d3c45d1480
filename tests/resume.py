"""Continues saved runs in a process of its own: `python -m tests.resume FOLDER`.

The folder holds `start.pt`: for each entry of the registry the parameters, and the optimizer's state dict as a file's
bytes. The parameters after further steps are written to `end.pt`.
"""

import io
import sys
import warnings
from pathlib import Path

import torch

from tests.problems import make_params, run
from tests.registry import ENTRIES

STEPS = 4


def save(optimizer):
    """What a checkpoint file holds."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def resume(entry, params, saved, *, compile=False):
    """A fresh optimizer on ``params`` that continues from a saved state dict."""
    optimizer = entry.optimizer(params, compile=compile)
    optimizer.load_state_dict(torch.load(io.BytesIO(bytes(saved.tolist())), weights_only=True))
    return optimizer


def main(folder):
    """Continue every run."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    torch.manual_seed(12345)  # not that of the first process: what a module draws must come from its own state
    start = torch.load(folder / "start.pt", weights_only=True)
    entries = {entry.id: entry for entry in ENTRIES}
    end = {}
    for name, (values, saved) in start.items():
        params = make_params()
        with torch.no_grad():
            for p, value in zip(params, values, strict=True):
                p.copy_(value)
        try:
            run(resume(entries[name], params, saved), params, STEPS)
            end[name] = [p.detach() for p in params]
        except Exception as error:  # reported by the entry's own test
            end[name] = f"{type(error).__name__}: {error}"
    torch.save(end, folder / "end.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
