"""Checks of the collator stage, one module per invariant."""
