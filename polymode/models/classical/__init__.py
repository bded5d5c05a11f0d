"""Closed forms, counting, EM, memory."""
