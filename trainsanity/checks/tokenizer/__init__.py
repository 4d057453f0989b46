"""Checks of the tokenizer stage, one module per invariant."""
