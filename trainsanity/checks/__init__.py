"""The built-in checks, one module per stage; importing this package registers them.

A check's docstring is its page: what it checks, why it matters, how it is measured, how to fix,
known false alarms, references.
"""

from . import collator, dataset, gradient, loss, model, schedule, tokenizer, update

__all__ = ["collator", "dataset", "gradient", "loss", "model", "schedule", "tokenizer", "update"]
