"""What a run shows while it runs, at next to no cost: its first step, gradients, weights.

``trainsanity.SanityCallback`` puts them together with the questions that a log is asked.
"""
