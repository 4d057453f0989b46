"""Measurements of the model, before any step."""
