"""Chain-rule models."""
