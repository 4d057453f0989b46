"""Measurements of what steps cost: settings, time, memory."""
