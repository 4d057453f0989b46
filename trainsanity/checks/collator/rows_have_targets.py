"""TS313 collator.rows_have_targets."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import Documents
from trainsanity.types import Finding, Measured, Severity


@check("TS313", "collator.rows_have_targets", rules_out="rows without a target")
def rows_have_targets(documents: Documents) -> Iterator[Measured | Finding]:
    r"""Every row has a target.

    What it checks: each document of 64 rows has a label that the loss counts.

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
            where=f"row {whole[0].row} of those drawn",
            cause="the collator did not find the response key, or the mask leaves nothing over",
            fix="compare the ids of the response key with those in the text around it",
        )
    if lost:
        yield Finding(
            f"{len(lost)} of {len(asked)} rows are cut and have no target: every label is -100",
            observed=len(lost),
            expected=0,
            where=f"row {lost[0].row} of those drawn",
            cause="the prompt fills max_length, and truncation takes all of the answer",
            fix="raise max_length, or leave these rows out",
            severity=Severity.WARNING,
        )
    yield Measured(f"{len(silent)} of {len(asked)} rows have no target", len(silent), 0)
