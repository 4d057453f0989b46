"""Measurements of the rows of training and evaluation data."""
