"""Sampling algorithms on callables."""
