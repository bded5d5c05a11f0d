"""Heads and priors with exact log_prob."""
