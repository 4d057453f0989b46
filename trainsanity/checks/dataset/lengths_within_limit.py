"""TS205 dataset.lengths_within_limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks._splits import rows_finding
from trainsanity.engine.registry import check
from trainsanity.fields import cut_of
from trainsanity.measurements.data.scan import Scan
from trainsanity.types import Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan import Split
    from trainsanity.pipeline import Pipeline


UNLIMITED = 10**9
"""A ``model_max_length`` above it says that the tokenizer knows of none (transformers sets it to
about 10 ** 30 then)."""


SOME = 0.1
"""Share of the rows that may be dropped without a word. Chosen: a long tail is dropped on purpose,
and no more."""


@check(
    "TS205",
    "dataset.lengths_within_limit",
    needs=("train_dataset",),
    rules_out="max_length",
)
def lengths_within_limit(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """No row is longer than the model or the settings allow.

    What it checks: the longest row of training and evaluation data against the model's
    ``max_position_embeddings``, the tokenizer's ``model_max_length`` and a ``max_length`` of the
    arguments.  And rows that are not there any more, because they were longer than ``max_length``.

    Why it matters: beyond its positions a model with learnt ones stops with an index error, on a
    GPU with an assert that names nothing; one with rotary ones goes on, with angles that it was
    never trained on.  TRL's RewardTrainer drops pairs with a side longer than ``max_length``, and
    says so in a progress bar alone; a limit that was meant to cut leaves a few short pairs.

    How it is measured: exact, over all rows.  Rows were dropped by their length if those that the
    dataset's table holds and the dataset does not are all the longer ones, and only these; from a
    tenth of all rows on it is a warning.

    How to fix: ``tokenizer(..., truncation=True, max_length=...)``.

    Known false alarms: a tokenizer whose ``model_max_length`` is below what its model can take; set
    it.  Of a model whose config names no positions, as T5's relative ones, it is a warning.

    References: read: tokenization_utils_base, "Token indices sequence length is longer than";
    huggingface/trl#2118, huggingface/trl#2488.
    """
    scan.train.require_tokens()
    limits = _limits(pipeline)
    cut = cut_of(pipeline.data_collator)
    kept = cut.stop or -(cut.start or 0)
    if kept and not scan.train.content.plain:
        # A collator that joins the columns cuts what is longer, as its setting says.
        limits = {name: limit for name, limit in limits.items() if limit < kept}
    # Where the config names no positions (T5's are relative), the tokenizer's limit is advice.
    advice = "model.config.max_position_embeddings" not in limits and not kept
    by, limit = min(limits.items(), key=lambda item: item[1], default=("no setting", None))
    for split in scan.splits:
        if limit is not None and split.longest > limit:
            long = int(split.histogram[limit + 1 :].sum())
            yield rows_finding(
                split,
                long,
                int((split.sequences == split.longest).argmax()),
                f"are longer than {by} = {limit}; the longest has {split.longest} tokens",
                observed=split.longest,
                expected=limit,
                factor=split.longest / limit,
                cause="the rows were tokenized without truncation, or for another model",
                fix=f"tokenizer(..., truncation=True, max_length={limit})",
                severity=Severity.WARNING
                if advice and by == "tokenizer.model_max_length"
                else Severity.FAILURE,
            )
    yield from _dropped(pipeline, scan.train)
    train = scan.train
    mean = int(train.sequences.sum(dtype="int64")) / len(train.rows)
    yield Measured(
        f"{train.counted} have {train.shortest} to {train.longest} tokens, {mean:.1f} on average; "
        f"{by} allows {'any' if limit is None else limit}",
        {"shortest": train.shortest, "mean": round(mean, 2), "longest": train.longest},
        limit,
    )


def _dropped(pipeline: Pipeline, split: Split) -> Iterator[Finding]:
    """Yield a warning if the rows that are left are just those that are short enough."""
    import numpy
    import pyarrow.compute as pc

    limit = getattr(pipeline.args, "max_length", None)
    rows, content = split.rows, split.content
    if not isinstance(limit, int) or rows.stored is None:
        return
    size = len(rows.table)
    kept = numpy.zeros(size, bool)
    kept[rows.stored] = True
    left = int(size - kept.sum())
    if left < SOME * size:
        return
    try:
        lengths = {
            name: pc.list_value_length(rows.table.column(name)).fill_null(0).to_numpy()
            for name in content.columns
        }
    except NotImplementedError:  # a column of something else than lists
        return
    sides = [sum(lengths[name] for name in names) for names in content.sequences]
    answers = [lengths[names[-1]] for names in content.sequences]
    prompts = [lengths[names[0]] for names in content.sequences]
    for each in (sides, answers, prompts):
        longest = numpy.max(each, axis=0)
        if any(numpy.array_equal(kept, longest <= most) for most in (limit, limit - 1)):
            yield Finding(
                f"{left:,} of {size:,} rows of {split.name} were dropped, each longer than "
                f"max_length = {limit}: {size - left:,} are left to train on",
                observed=size - left,
                expected=size,
                where="args.max_length",
                cause="the Trainer drops rows longer than max_length, and does not cut them",
                fix=f"max_length={int(longest.max())} keeps all rows",
                severity=Severity.WARNING,
            )
            return


def _limits(pipeline: Pipeline) -> dict[str, int]:
    """Return the limits on a row's length by the name of the setting."""
    places = {
        "model.config.max_position_embeddings": getattr(
            pipeline.config, "max_position_embeddings", None
        ),
        "tokenizer.model_max_length": getattr(pipeline.tokenizer, "model_max_length", None),
        "args.max_length": getattr(pipeline.args, "max_length", None),
    }
    return {
        name: int(limit)
        for name, limit in places.items()
        if isinstance(limit, int) and 0 < limit < UNLIMITED
    }
