"""Checks of the schedule stage, one module per invariant."""
