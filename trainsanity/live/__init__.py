"""Judge a run while it runs, at next to no cost: its first step, its gradients, its weights.

``trainsanity.SanityCallback`` combines them with the questions of :mod:`trainsanity.diagnose`.
"""
