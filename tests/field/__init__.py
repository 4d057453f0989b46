"""Judges the corpus of reported errors, ``fixtures/field``: ``python -m tests.field``."""
