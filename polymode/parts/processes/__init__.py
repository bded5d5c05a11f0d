"""Noising processes and the conversions between what they predict."""
