"""Measurements of collated batches, and of the collator."""
