"""Directed nets: sigmoid belief networks, deep autoregressive networks of bits, Bayesian networks."""
