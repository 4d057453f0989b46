"""Checks of the update stage, one module per invariant."""
