"""Checks of the dataset stage, one module per invariant."""
