"""Chains timed beside their peers: ``python -m benchmarks``, or ``make bench``."""
