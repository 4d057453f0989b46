"""TS2: the rows, one by one and beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..measurements.batch import quiet
from ..measurements.scan import Scan, Split
from ..measurements.scan_repeats import Repeats
from ..measurements.state import preserved
from ..registry import check
from ..types import Finding, Seen

if TYPE_CHECKING:
    from ..pipeline import Pipeline

UNLIMITED = 10**9
"""A ``model_max_length`` above it says that the tokenizer knows of none (transformers sets it to
about 10 ** 30 then)."""


@check(
    "TS204",
    "dataset.rows_unpadded",
    needs=("train_dataset", "data_collator"),
    acquits="padding strategy",
)
def rows_unpadded(pipeline: Pipeline, scan: Scan) -> Iterator[Seen | Finding]:
    """Rows are stored without padding if the collator pads.

    What it checks: stored positions that the rows' own mask hides (without a mask: PAD up to an end
    of the row), where the collator can pad rows of different lengths by itself.

    Why it matters: rows padded to the longest of all, or to ``max_length``, make every batch that
    wide; a collator that would pad to the longest of its few rows cannot undo it.

    How it is measured: exact, over all rows.  Whether the collator pads is found by giving it two
    rows of different lengths.

    How to fix: tokenize with ``padding=False`` and leave padding to the collator.

    Known false alarms: fixed shapes for a compiler; leave padding to the collator there, too, with
    ``padding="max_length"``.

    References: read: DataCollatorWithPadding; collator.padding_overhead for what it costs.
    """
    train = scan.train
    positions = int(train.widths.sum(dtype="int64"))
    if train.padding and _pads(pipeline, train):
        yield Finding(
            f"{train.padding:.1%} of the positions stored in {train.name} are padding, "
            "and the collator pads by itself",
            observed=positions,
            expected=train.tokens,
            where=train.row(int((train.widths > train.lengths).argmax())),
            factor=positions / max(train.tokens, 1),
            cause='tokenized with padding=True or padding="max_length"',
            fix="tokenizer(..., padding=False): the collator pads to the longest of its rows",
        )
    stored = "the collator cannot pad" if train.padding else "without padding"
    yield Seen(
        f"{train.counted} hold {train.tokens:,} tokens in {positions:,} positions, {stored}",
        positions,
        train.tokens,
    )


def _pads(pipeline: Pipeline, train: Split) -> bool:
    """Whether the collator makes a batch of two rows of different lengths."""
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
        except Exception:  # whatever it says, it does not pad them
            return False
    return True


@check(
    "TS205",
    "dataset.lengths_within_limit",
    needs=("train_dataset",),
    acquits="max_length",
)
def lengths_within_limit(pipeline: Pipeline, scan: Scan) -> Iterator[Seen | Finding]:
    """No row is longer than the model, or the run's own settings, allow.

    What it checks: the longest row of training and evaluation data against the model's
    ``max_position_embeddings``, the tokenizer's ``model_max_length`` and a ``max_length`` of the
    arguments.

    Why it matters: beyond its positions a model with learnt ones stops with an index error, on a
    GPU with an assert that names nothing; one with rotary ones goes on, with angles that it was
    never trained on.

    How it is measured: exact, over all rows.

    How to fix: ``tokenizer(..., truncation=True, max_length=...)``.

    Known false alarms: a tokenizer whose ``model_max_length`` is below what its model can take; set
    it.

    References: read: tokenization_utils_base, "Token indices sequence length is longer than".
    """
    limits = _limits(pipeline)
    by, limit = min(limits.items(), key=lambda item: item[1], default=("no setting", None))
    for split in scan.splits:
        if limit is not None and split.longest > limit:
            long = int(split.histogram[limit + 1 :].sum())
            yield Finding(
                f"{long:,} of {split.counted} in {split.name} are longer than {by} = {limit}; "
                f"the longest has {split.longest} tokens",
                observed=split.longest,
                expected=limit,
                where=split.row(int((split.lengths == split.longest).argmax())),
                factor=split.longest / limit,
                cause="the rows were tokenized without truncation, or for another model",
                fix=f"tokenizer(..., truncation=True, max_length={limit})",
            )
    train = scan.train
    mean = train.tokens / len(train.rows)
    yield Seen(
        f"{train.counted} have {train.shortest} to {train.longest} tokens, {mean:.1f} on average; "
        f"{by} allows {'any' if limit is None else limit}",
        {"shortest": train.shortest, "mean": round(mean, 2), "longest": train.longest},
        limit,
    )


def _limits(pipeline: Pipeline) -> dict[str, int]:
    """Lengths that something sets, by its name."""
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


@check(
    "TS206",
    "dataset.rows_are_whole",
    needs=("train_dataset",),
    acquits="empty rows",
    stops=True,
)
def rows_are_whole(pipeline: Pipeline, scan: Scan) -> Iterator[Seen | Finding]:
    """Every row has a text, without holes, and a mask as long as it.

    What it checks: rows that are null or hold a null, rows without a token besides those that the
    tokenizer adds to every text, rows whose attention mask has another length than their ids.

    Why it matters: a null row stops the run when its batch comes.  An empty one does not: its
    logits are made of padding, or of the special tokens alone, and its label is noise.

    How it is measured: exact, over all rows of training and evaluation data.

    How to fix: ``dataset.filter(lambda row: len(row["input_ids"]) > n)``, with n the tokens that
    the tokenizer adds.

    Known false alarms: a text that is meant to be empty, as an optional field can be.

    References: read: tokenizer.num_special_tokens_to_add.
    """
    tokenizer = pipeline.tokenizer
    added = tokenizer.num_special_tokens_to_add() if tokenizer is not None else 0
    for split in scan.splits:
        special = {*tokenizer.all_special_ids} if tokenizer is not None else set()
        for places, said, fix in (
            (split.nulls, "null, or have a null among their ids",
             'dataset.filter(lambda row: row["input_ids"] is not None)'),
            (split.empty(added, special), "without text",
             f'dataset.filter(lambda row: len(row["input_ids"]) > {added})'),
            (split.uneven, "of another length than their attention_mask",
             "drop the column: tokenizer.pad makes the mask"),
        ):  # fmt: skip
            if len(places):
                yield Finding(
                    f"{len(places):,} of {split.counted} in {split.name} are {said}; "
                    f"the first is {split.row(int(places[0]))}",
                    observed=len(places),
                    expected=0,
                    where=split.row(int(places[0])),
                    cause="texts that are missing or empty, or columns that were made apart",
                    fix=fix,
                )
    told = f", besides the {added} that the tokenizer adds" if added else ""
    yield Seen(f"{scan.train.counted} have a text of at least one token{told}", 0, 0)


@check(
    "TS207",
    "dataset.no_duplicates",
    needs=("train_dataset",),
    acquits="duplicates",
)
def no_duplicates(scan: Scan, repeats: Repeats) -> Iterator[Seen | Finding]:
    """No training row is there twice.

    What it checks: rows of the training data with the same ids, padding aside, and the same label.

    Why it matters: a row that is there k times weighs k times in the loss, and a model learns it by
    heart k times as fast; a file that was read twice doubles the epochs without saying so.

    How it is measured: exact up to equal 128-bit hashes.  Rows that agree in length and in a few
    ids at fixed distances are hashed whole; what agrees then is the same row.

    How to fix: ``pandas.DataFrame.drop_duplicates`` on the texts, or look for a file that was read
    twice.

    Known false alarms: rows repeated on purpose, to weigh them.  Name the check in
    expected_failures with that reason.

    References: read: datasets.concatenate_datasets, which keeps what is in both.
    """
    train = scan.train
    if repeats.first_copy is not None:
        later, earlier = repeats.first_copy
        yield Finding(
            f"{repeats.copies:,} of {train.counted} in {train.name} repeat an earlier one: "
            f"row {train.rows.number(later)} is row {train.rows.number(earlier)} again",
            observed=repeats.copies,
            expected=0,
            where=train.row(later),
            cause="a source that was read twice, or texts that recur",
            fix="drop duplicates before tokenizing",
        )
    yield Seen(f"none of {train.counted} repeats an earlier one", 0, 0)


@check(
    "TS208",
    "dataset.labels_consistent",
    needs=("train_dataset",),
    acquits="labels",
)
def labels_consistent(scan: Scan, repeats: Repeats) -> Iterator[Seen | Finding]:
    """Equal texts have equal labels.

    What it checks: rows of the training data with the same ids, padding aside, and different
    labels.

    Why it matters: no model can be right on both.  The rows put a floor under the loss and a
    ceiling over the accuracy, and usually mark a join that went wrong, or two annotators.

    How it is measured: exact up to equal 128-bit hashes.  What is counted is the fewest rows that
    any function of the ids must get wrong: of each text, the rows beside its most frequent label.

    How to fix: look at the rows named; decide for a label, or drop both.

    Known false alarms: data with several true labels a text, one a row.  Lists of labels, as of
    several labels or of tokens, are not compared.

    References: Northcutt et al. 2021, "Pervasive Label Errors in Test Sets".
    """
    train = scan.train
    if repeats.first_contradiction is not None and train.labels is not None:
        later, earlier = repeats.first_contradiction
        codes, values = train.labels.codes, train.labels.values
        assert codes is not None  # lists of labels are not compared
        first, second = (values[codes[k]] if codes[k] >= 0 else None for k in (earlier, later))
        yield Finding(
            f"{repeats.contradictions:,} of {train.counted} in {train.name} have the ids of "
            f"another and a different label: rows {train.rows.number(earlier)} ({first}) and "
            f"{train.rows.number(later)} ({second})",
            observed=repeats.contradictions,
            expected=0,
            where=train.row(later),
            cause="a join that went wrong, or two opinions on one text",
            fix="decide for one label, or drop both rows",
        )
    yield Seen(f"no two of {train.counted} have the same ids and different labels", 0, 0)


@check(
    "TS209",
    "dataset.eval_is_unseen",
    needs=("train_dataset",),
    acquits="evaluation",
)
def eval_is_unseen(scan: Scan, repeats: Repeats) -> Iterator[Seen | Finding]:
    """No evaluation row is trained on.

    What it checks: rows of the evaluation data whose ids, padding aside, are those of a training
    row.

    Why it matters: the score on such rows measures memory.  Early stopping and the choice of a
    checkpoint then prefer the run that overfits most.

    How it is measured: exact up to equal 128-bit hashes, every evaluation split against all
    training rows.  Without evaluation data nothing can leak, and the check passes.

    How to fix: drop duplicates first and split then; split by group where texts have near twins.

    Known false alarms: short texts that recur in life, as greetings do; an evaluation on training
    rows on purpose, to watch overfitting.

    References: Elangovan et al. 2021, "Memorization vs. Generalization".
    """
    for split in scan.evals:
        leak = repeats.leaks[split.name]
        if leak.first is not None:
            place, twin = leak.first
            yield Finding(
                f"{leak.rows:,} of {split.counted} in {split.name} are in {scan.train.name}, too: "
                f"row {split.rows.number(place)} is its row {scan.train.rows.number(twin)}",
                observed=leak.rows,
                expected=0,
                where=split.row(place),
                cause="the data was split before duplicates were dropped, or one file is in both",
                fix="drop duplicates, then split",
            )
    told = ", ".join(f"{split.counted} of {split.name}" for split in scan.evals)
    yield Seen(f"none of {told} is trained on" if told else "there is no evaluation data", 0, 0)
