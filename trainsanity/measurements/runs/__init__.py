"""Measurements of runs of several steps."""
