"""Telling an error that somebody has thought of from an accident."""

from __future__ import annotations

import dis
import os
from pathlib import Path

import torch

_OURS = str(Path(__file__).parents[1]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
#: What comes of tensors and numbers that do not fit together.
_KINDS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


def is_accident(error: BaseException) -> bool:
    """Whether an error comes out of this library, or out of torch below it, and is no sentence of its own.

    Args:
        error: one that was caught.
    """
    if not isinstance(error, _KINDS) or isinstance(error, torch.OutOfMemoryError):
        return False
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    last = frames[-1]
    while frames and frames[-1].tb_frame.f_code.co_filename.startswith(_TORCH):
        frames.pop()
    if not frames or not frames[-1].tb_frame.f_code.co_filename.startswith(_OURS):
        return False  # of the closure, or of a module of the user
    return frames[-1] is not last or not _raises(last.tb_frame.f_code.co_code, last.tb_lasti)


def _raises(code: bytes, at: int) -> bool:
    """Whether the instruction at some place is a raise statement."""
    return code[at] == _RAISE


_RAISE = dis.opmap["RAISE_VARARGS"]
