"""TS204 dataset.rows_unpadded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.whole_batches import rows_of_batches
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS204",
    "dataset.rows_unpadded",
    needs=("train_dataset", "data_collator"),
    rules_out="padding strategy",
)
def rows_unpadded(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """Rows are stored unpadded if the collator pads.

    What it checks: stored positions that the rows' own mask hides (without a mask: PAD up to an end
    of the row, but for a single EOS that is PAD as well), where the collator can pad rows of
    different lengths by itself.

    Why it matters: rows padded to the longest of all, or to ``max_length``, make every batch that
    wide; a collator that would pad to the longest of its few rows cannot undo it.

    How it is measured: exact, over all rows; a warning, since what is trained is the same and only
    the time is lost: transformers' own tutorials tokenize with ``padding="max_length"``.
    Whether the collator pads is found by giving it two rows of different lengths.

    How to fix: tokenize with ``padding=False`` and leave padding to the collator.

    Known false alarms: fixed shapes for a compiler; leave padding to the collator there, too, with
    ``padding="max_length"``.

    References: read: DataCollatorWithPadding; collator.padding_overhead for what it costs.
    """
    train = scan.train
    train.require_tokens()
    if rows_of_batches(pipeline, pipeline.train_dataset) is not pipeline.train_dataset:
        raise Skip("the items of the dataset are batches, which no collator pads")
    positions = int(train.widths.sum(dtype="int64"))
    pads = _pads(pipeline, train) if train.padding and not _ends(pipeline, train) else None
    if pads:
        yield Finding(
            f"{train.padding:.1%} of the positions stored in {train.name} are padding, "
            "and the collator pads by itself",
            observed=positions,
            expected=train.tokens,
            where=train.row(int((train.widths > train.lengths).argmax())),
            factor=positions / max(train.tokens, 1),
            cause='tokenized with padding=True or padding="max_length"',
            fix="tokenizer(..., padding=False): the collator pads to the longest of its rows",
            severity=Severity.WARNING,
        )
    collator = {None: "", True: "; the collator can pad", False: "; the collator cannot pad"}[pads]
    yield Measured(
        f"{train.counted} hold {train.tokens:,} tokens in {positions:,} positions{collator}",
        positions,
        train.tokens,
    )


def _ends(pipeline: Pipeline, train: Split) -> bool:
    """Return whether what looks like padding is the one EOS of each text, which is PAD as well."""
    pad, eos = (getattr(pipeline.tokenizer, f"{name}_token_id", None) for name in ("pad", "eos"))
    return (
        pad == eos and train.content.mask is None and int((train.widths - train.lengths).max()) < 2
    )


def _pads(pipeline: Pipeline, train: Split) -> bool:
    """Return whether the collator makes a batch of two rows of different lengths."""
    import numpy

    (row,) = train.rows.read(numpy.array([int(train.widths.argmax())]))
    size = len(row["input_ids"])
    label = train.labels.column if train.labels is not None else None
    # What the Trainer drops does not reach the collator.
    row = {
        key: value
        for key, value in row.items()
        if key == label or (isinstance(value, list) and len(value) == size)
    }
    shorter = {
        key: value[:-1] if isinstance(value, list) and len(value) == size else value
        for key, value in row.items()
    }
    with preserved(pipeline), quiet(pipeline):
        try:
            pipeline.data_collator([dict(row), shorter])
        except Exception:  # any error means that it does not pad them
            return False
    return True
