"""Checks of the gradient stage, one module per invariant."""
