"""TS313 collator.rows_have_targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.measurements.batches.documents import Documents, in_training_order
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.supervised import Supervised
    from trainsanity.pipeline import Pipeline

FEW = 0.05
"""Share of all rows from which silent ones are no exception: 64 rows that were drawn show as many
with 96 %."""


@check("TS313", "collator.rows_have_targets", rules_out="rows without a target")
def rows_have_targets(pipeline: Pipeline, documents: Documents) -> Iterator[Measured | Finding]:
    r"""Every row has a target.

    What it checks: each document of 64 rows has a label that the loss counts; and each row of the
    whole dataset where a mask that is stored says what is trained.

    Why it matters: a collator that looks for a response key masks the whole row where it does not
    find it, and keys are tokenized otherwise behind a line break than alone.  Such a row costs what
    others cost and teaches nothing; a batch of them has the loss NaN.

    How it is measured: exact, as the user's collator labels the rows.  A language model's first
    token is no target, so documents of one token are left out.

    How to fix: give the collator the ids of the key as they stand in the text.

    Bad::

        key = tokenizer("### Response:")["input_ids"]

    Good::

        key = tokenizer("\n### Response:", add_special_tokens=False)["input_ids"][2:]

    Known false alarms: rows that are kept on purpose although nothing of them is trained.  Rows as
    long as max_length, or as the longest row, may have lost their answer to it: these are a
    warning.

    References: huggingface/trl#1820.
    """
    asked = [one for one in documents.found if len(one.ids) > 1]
    silent = [one for one in asked if not one.counted]
    lost = [one for one in silent if one.cut]
    whole = [one for one in silent if not one.cut]
    if whole:
        yield Finding(
            f"{len(whole)} of {len(asked)} rows have no target: every label is -100, and there is "
            "nothing to learn",
            observed=len(whole),
            expected=0,
            where=in_training_order(whole[0].row),
            cause="the collator did not find the response key, or the mask leaves nothing over",
            fix="compare the ids of the response key with those in the text around it",
        )
    if lost:
        yield Finding(
            f"{len(lost)} of {len(asked)} rows are cut and have no target: every label is -100",
            observed=len(lost),
            expected=0,
            where=in_training_order(lost[0].row),
            cause="the prompt fills max_length, and truncation takes all of the answer",
            fix="raise max_length, or leave these rows out",
            severity=Severity.WARNING,
        )
    stored = _stored(pipeline)
    if stored is not None and stored.silent and not whole:
        share = stored.silent / stored.rows
        yield Finding(
            f"{stored.silent:,} of all {stored.rows:,} rows have no target: {stored.source} leave "
            "nothing of them to learn",
            observed=stored.silent,
            expected=0,
            where=f"row {stored.first_silent} of train_dataset",
            cause="the mask found nothing to train in these rows",
            fix="look at one with `trainsanity show --row`, and leave them out or mend the mask",
            severity=Severity.FAILURE if share >= FEW else Severity.WARNING,
        )
    of_all = "" if stored is None else f", {stored.silent:,} of all {stored.rows:,}"
    yield Measured(f"{len(silent)} of {len(asked)} rows have no target{of_all}", len(silent), 0)


def _stored(pipeline: Pipeline) -> Supervised | None:
    """Return what stored masks say of the whole dataset; labels are dataset.labels_fit_task's."""
    try:
        found: Supervised = Session.of(pipeline).measurements.get("supervised")
    except Skip:
        return None
    return found if found.whole and found.columns not in ((), ("labels",)) else None
