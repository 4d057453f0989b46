"""TS218 dataset.batches_have_targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.runs.targets import Targets
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ALL = 0.6
"""Part of a text that is hidden before nothing is left to tell it from.  A last resort."""


@check(
    "TS218",
    "dataset.batches_have_targets",
    cost=Cost.STATIC,
    needs=("trainer", "train_dataset"),
    rules_out="batches without a target",
)
def batches_have_targets(pipeline: Pipeline, targets: Targets) -> Iterator[Measured | Finding]:
    """Every batch has a target.

    What it checks: the labels that are counted (not -100) in each of the first batches, and the
    share of tokens that are masked.

    Why it matters: the mean over no target is 0 / 0.  A batch of short texts in which no token was
    masked, or whose answers were all cut off, has a loss of NaN; after that step all weights are
    NaN.

    How it is measured: exact, in the first 32 batches that the Trainer's own loader makes.  A batch
    without a target is a failure, or a warning where the loss of a causal language model is
    divided by the tokens of the whole step; a masked language model that hides more than six
    tokens in ten is a warning.

    How to fix: mask at least one token of each row, or use larger batches::

        # bad: 15 % of four words is often no word
        DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)  # batch size 1
        # good: longer rows, several in a batch, or at least one mask in each

    Known false alarms: a loss of one's own that is 0 where there is no target.

    References: huggingface/transformers#16711; ``torch.nn.CrossEntropyLoss``.
    """
    seen = targets
    empty = [k for k, count in enumerate(seen.counts) if not count]
    # The mean over the tokens of the whole step has others to be taken over.
    counted = objective_of(pipeline).shifts and pipeline.trainer.model_accepts_loss_kwargs
    if empty:
        yield Finding(
            f"{len(empty)} of the first {len(seen.counts)} batches have no target: all of their "
            "labels are -100, and "
            + ("they add nothing to the step" if counted else "the mean over nothing is NaN"),
            observed=len(empty),
            expected=0,
            where=f"batch {empty[0] + 1}",
            cause="no token was masked in a batch of few short texts"
            if any(seen.masks)
            else "its rows have no target: nothing is labelled, or the answer was cut off",
            fix="mask at least one token of each row, or leave out rows without a target",
            severity=Severity.WARNING if counted else Severity.FAILURE,
        )
    share = sum(seen.masks) / max(1, sum(seen.tokens))
    if share > ALL:
        yield Finding(
            f"{share:.0%} of the tokens are masked: nearly nothing is left to predict them from",
            observed=round(share, 4),
            expected="about 0.15",
            where="mlm_probability",
            fix="mlm_probability=0.15",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{len(empty)} of {len(seen.counts)} batches have no target; {sum(seen.counts):,} targets "
        f"in {sum(seen.rows):,} rows",
        len(empty),
        0,
    )
