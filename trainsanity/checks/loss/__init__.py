"""Checks of the loss stage, one module per invariant."""
