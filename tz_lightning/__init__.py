"""Chains of torchzero_core modules in Lightning."""
