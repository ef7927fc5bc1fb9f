"""Conditional crystal generation in JAX."""

import os

__version__ = "0.1.0"

# Where spglib finds no group it prints a line besides returning nothing. Samples often
# have none, which is no failure and is reported where it matters.
os.environ.setdefault("SPGLIB_WARNING", "OFF")
