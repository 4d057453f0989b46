"""TS919 loop.tokenizer_is_saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.reloaded import Reloaded
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

TOKENIZERS = ("tokenizer", "vocab", "spiece", "sentencepiece", "merges", "processor_config")
"""How the names of a tokenizer's files begin."""


@check(
    "TS919",
    "loop.tokenizer_is_saved",
    cost=Cost.STEP,
    needs=("trainer",),
    requires=("loop.load_is_whole",),
    rules_out="checkpoints without a tokenizer",
)
def tokenizer_is_saved(pipeline: Pipeline, reloaded: Reloaded) -> Iterator[Measured | Finding]:
    """Checkpoints of a text model hold its tokenizer.

    What it checks: whether ``save_model`` writes a tokenizer's files, for a model that embeds
    tokens.

    Why it matters: with tokens that were added, or another padding token, the base model's
    tokenizer is not that of the checkpoint: new tokens are unknown there, and nobody knows in which
    order they were added.

    How it is measured: the Trainer's own ``save_model`` writes to a temporary folder, and the names
    of its files are read.  It is a warning, since the tokenizer may be kept elsewhere.  Only where
    the run saves checkpoints.

    How to fix: give it to the Trainer::

        # bad
        Trainer(model=model, data_collator=collate, ...)
        # good
        Trainer(model=model, data_collator=collate, processing_class=tokenizer, ...)

    Known false alarms: ids that no tokenizer made (music, proteins, items of a shop).

    References: HCY123902/atg-w-fg-rw#1; ``Trainer.save_model``.
    """
    try:
        embedding = pipeline.model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if not hasattr(embedding, "num_embeddings") or reloaded.error:
        raise Skip("the model embeds no tokens")
    there = [name for name in reloaded.files if name.startswith(TOKENIZERS)]
    if not there:
        yield Finding(
            f"a checkpoint holds no tokenizer, beside an embedding of {embedding.num_embeddings} "
            "tokens",
            observed=reloaded.files[:8],
            expected="tokenizer.json",
            where="processing_class",
            cause="the Trainer was not given a tokenizer (processing_class), and the data_collator "
            "has none",
            fix="Trainer(processing_class=tokenizer, ...)",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"a checkpoint has {len(reloaded.files)} files, {len(there)} of them a tokenizer's",
        len(there),
    )
