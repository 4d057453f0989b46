"""The built-in checks, a module or a few per stage; importing this package registers them.

A check's docstring is its page: what it checks, why it matters, how it is measured, how to fix,
known false alarms, references.
"""

from . import (
    collator,
    collator_calls,
    collator_labels,
    collator_padding,
    dataset,
    dataset_rows,
    gradient,
    gradient_reference,
    loss,
    loss_kind,
    model,
    schedule,
    tokenizer,
    tokenizer_rows,
    update,
)

__all__ = [
    "collator",
    "collator_calls",
    "collator_labels",
    "collator_padding",
    "dataset",
    "dataset_rows",
    "gradient",
    "gradient_reference",
    "loss",
    "loss_kind",
    "model",
    "schedule",
    "tokenizer",
    "tokenizer_rows",
    "update",
]
