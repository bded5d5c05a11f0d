"""Condition encoders and feature networks."""
