"""Checks of the model stage, one module per invariant."""
