"""Examples: `python -m examples.digits`."""
