"""Checks of the speed stage, one module per invariant."""
