"""Measurements of the first optimizer steps."""
