"""Layers and backbones that know no family."""
