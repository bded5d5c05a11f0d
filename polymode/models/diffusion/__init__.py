"""Diffusion and score models."""
