"""What can be done, as plain functions: the command line (and any other face) calls these and nothing below them.

Importing this package, `schemas`, `arguments` and `runs` costs no torch, so that mistakes are answered at once.
"""

from polymode.core.errors import PolymodeError, nearest

__all__ = ["PolymodeError", "nearest"]
