"""Checks of the loop stage, one module per invariant."""
