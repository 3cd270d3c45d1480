"""``python -m tz_lightning COMMAND``: what can be asked without writing a program."""

from __future__ import annotations

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
