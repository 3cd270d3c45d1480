"""Other libraries' optimizers as modules."""

from .wrap import Wrap

__all__ = ["Wrap"]
