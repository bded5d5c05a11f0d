"""Integrators of ordinary differential equations, divergences, and densities carried along a flow."""
