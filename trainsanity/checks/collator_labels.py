"""TS305 to TS307: what the collator makes of the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..alignment import Placement, place
from ..collating import Collating, Made
from ..measurements.batch import Batch
from ..registry import check
from ..strategies import Rows, per_token
from ..tasks import CAUSAL_LM, IGNORED, MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..types import Finding, Seen

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@dataclass(frozen=True)
class Labelled:
    """One row, its labels and where both came to lie.

    Attributes:
        i: the row's number.
        row: as the collator was given it.
        own: the labels that the row brings, one per token; None if it brings none.
        got: the batch's labels on its tokens.
        padding: the batch's labels around them.
    """

    i: int
    row: Mapping[str, Any]
    own: list[Any] | None
    got: list[Any]
    padding: list[Any]


@check(
    "TS305",
    "collator.labels_aligned",
    needs=("data_collator",),
    requires=("collator.rows_recovered",),
    acquits="labels",
)
def labels_aligned(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """Labels lie beside their own row, and beside their own token.

    What it checks: a label per row against the row's label; labels per token against those that
    the row brings, place by place, also where they exclude a token from the loss; a language
    model's against the ids at the same places.

    Why it matters: a label beside the wrong row or token is noise that no loss curve names.  A
    language model shifts its labels itself: shifted before, it learns the token after the next.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts and that keep their labels, shrunk to the smallest failure.

    How to fix: carry labels through the collator beside ``input_ids``; give language models
    ``labels = input_ids``, unshifted, and instruction masks to a collator that keeps them
    (``DataCollatorForSeq2Seq``).

    Known false alarms: a language model whose own loss does not shift (MBart,
    huggingface/transformers#27517), or one that is taught other tokens than it reads.

    References: huggingface/transformers#47394, #44642 and #32944 for labels shifted twice; #26357
    for instruction masks that the collator overwrites.
    """
    collating = Collating(pipeline, batch)
    column = pipeline.label_column(batch.micro_batches[0].rows[0])
    language = pipeline.task.name == CAUSAL_LM

    def wrong(rows: Rows, made: Made) -> str | None:
        if "labels" not in made:
            return None  # collator.model_takes_batch speaks of that
        if not _per_token(pipeline):
            return _wrong_rows(rows, made, column)
        found = (_wrong_token(one, language) for one in _labelled(collating, rows, made, column))
        return next(filter(None, found), None)

    objection = collating.objection(wrong)
    if objection:
        shifted = "one place too early" in objection
        yield Finding(
            f"labels lie where they do not belong: {objection}",
            cause="labels were shifted by hand, and the model shifts them again"
            if shifted
            else "the collator moves or makes labels by itself, apart from the rows",
            fix="labels = input_ids, unshifted" if shifted else "keep each row's labels beside it",
        )
    count = _count(pipeline, batch)
    beside = "token" if _per_token(pipeline) else "row"
    yield Seen(
        f"{count} of {count} labels lie beside their own {beside}{collating.tried()}", count, count
    )


def _wrong_rows(rows: Rows, made: Made, column: str | None) -> str | None:
    if column is None:
        return None
    given, got = [row[column] for row in rows], made["labels"]
    # Compared in the collator's dtype: a number need not survive float32 in full.
    if got.flatten().tolist() != got.new_tensor(given).flatten().tolist():
        return f"labels {given} came out as {got.tolist()}"
    return None


def _wrong_token(one: Labelled, language: bool) -> str | None:
    ids = list(one.row["input_ids"])
    for t, label in enumerate(one.got):
        if label == IGNORED:
            continue  # collator.targets_kept speaks of what is lost
        if one.own is not None and one.own[t] == IGNORED:
            return f"row {one.i} excludes token {t} from the loss, and its label is {label}"
        expected = ids[t] if language else one.own[t] if one.own is not None else label
        if label == expected:
            continue
        early = language and _shifted(ids, one.got)
        where = ", one place too early: the model shifts labels itself" if early else ""
        return f"row {one.i}: the label of token {t} is {label}, it should be {expected}{where}"
    return None


def _shifted(ids: Sequence[int], labels: Sequence[int]) -> bool:
    """Whether each label is the id of the token after its own."""
    pairs = [(after, label) for after, label in zip(ids[1:], labels, strict=False)]
    return bool(pairs) and all(label in (after, IGNORED) for after, label in pairs)


@check(
    "TS306",
    "collator.padding_ignored",
    needs=("data_collator",),
    requires=("collator.rows_recovered",),
    acquits="loss on padding",
)
def padding_ignored(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """Padding has no label that the loss counts.

    What it checks: that ``labels`` is -100 at every position of padding.

    Why it matters: a model that is taught to predict padding learns an easy task besides its own:
    the loss falls, and every mean over tokens is a mean over other things.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts, padded on either side and to several multiples, shrunk to the smallest
    failure.  Where each row has one label, padding has none.

    How to fix: ``label_pad_token_id=-100``, or ``labels[attention_mask == 0] = -100``.

    Known false alarms: none known.  Collators that pack are skipped.

    References: huggingface/transformers#32832; ``ignore_index`` of
    ``torch.nn.CrossEntropyLoss`` is -100.
    """
    collating = Collating(pipeline, batch)
    column = pipeline.label_column(batch.micro_batches[0].rows[0])

    def wrong(rows: Rows, made: Made) -> str | None:
        if "labels" not in made:
            return None
        for one in _labelled(collating, rows, made, column):
            counted = [label for label in one.padding if label != IGNORED]
            if counted:
                return (
                    f"row {one.i} has {len(one.padding)} positions of padding, "
                    f"{len(counted)} of them with a label ({counted[0]})"
                )
        return None

    objection = collating.objection(wrong) if _per_token(pipeline) else None
    if objection:
        yield Finding(
            f"the loss counts padding: {objection}",
            cause="labels are padded with an ordinary id instead of -100",
            fix="label_pad_token_id=-100, or labels[attention_mask == 0] = -100",
        )
    padding = sum(len(micro.rows) * micro.width for micro in batch) - sum(batch.lengths)
    if _per_token(pipeline):
        told = f"{padding} of {padding} positions of padding are left out of the loss"
    else:
        told = f"one label a row: {padding} positions of padding have none"
    yield Seen(f"{told}{collating.tried()}", 0, 0)


@check(
    "TS307",
    "collator.targets_kept",
    needs=("data_collator",),
    requires=("collator.rows_recovered", "collator.labels_aligned"),
    acquits="ends never learnt",
)
def targets_kept(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """What the rows offer to learn is in the loss, the end of a text included.

    What it checks: that labels which rows bring are not -100 in the batch; and that a language
    model's rows that end with EOS have a label there.

    Why it matters: a target that the collator drops is never learnt.  With PAD == EOS the usual
    collator takes each real EOS for padding, and the model never learns to stop.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts and that keep their end, shrunk to the smallest failure.  A place that a
    mask column of the row leaves out (``completion_mask`` and the like) is not asked for, nor is a
    language model's first, which nothing predicts.

    How to fix: a PAD that is not EOS, or ``labels[attention_mask == 0] = -100`` instead of
    ``labels[input_ids == pad] = -100``.

    Known false alarms: a collator that leaves ends out of the loss on purpose.

    References: huggingface/transformers#23530, huggingface/trl#976.
    """
    collating = Collating(pipeline, batch)
    column = pipeline.label_column(batch.micro_batches[0].rows[0])
    end = getattr(pipeline.tokenizer, "eos_token_id", None)
    language = pipeline.task.name == CAUSAL_LM

    def wrong(rows: Rows, made: Made) -> str | None:
        if "labels" not in made:
            return None
        if not _per_token(pipeline):
            return _dropped_rows(rows, made, column)
        found = (_dropped(one, language, end) for one in _labelled(collating, rows, made, column))
        return next(filter(None, found), None)

    objection = collating.objection(wrong)
    if objection:
        ends = "ends with EOS" in objection
        yield Finding(
            f"what the rows offer to learn is left out of the loss: {objection}",
            cause="the collator takes EOS for padding, because they share an id"
            if ends and end == getattr(pipeline.tokenizer, "pad_token_id", None)
            else "the collator overwrites labels with -100",
            fix="a PAD that is not EOS, or labels[attention_mask == 0] = -100"
            if ends
            else "overwrite labels where attention_mask is 0, and nowhere else",
        )
    rows = [row for micro in batch for row in micro.rows]
    ended = sum(end is not None and _ends_with(row, end) for row in rows)
    told = f"; {ended} of {len(rows)} rows end with EOS" if language else ""
    count = _count(pipeline, batch)
    yield Seen(f"all {count} targets of the rows are in the loss{told}{collating.tried()}", count)


def _dropped_rows(rows: Rows, made: Made, column: str | None) -> str | None:
    if column is None or made["labels"].is_floating_point():
        return None
    for i, (row, label) in enumerate(zip(rows, made["labels"].flatten().tolist(), strict=True)):
        if label == IGNORED != row[column]:
            return f"row {i} has the label {row[column]}, and the batch {IGNORED}"
    return None


def _dropped(one: Labelled, language: bool, end: int | None) -> str | None:
    left_out = _left_out(one.row)
    for t, label in enumerate(one.got):
        if label != IGNORED or t in left_out or (language and t == 0):
            continue
        if one.own is not None and one.own[t] != IGNORED:
            return f"row {one.i} has the label {one.own[t]} at token {t}, and the batch {IGNORED}"
        last = t == len(one.got) - 1
        if language and one.own is None and last and one.row["input_ids"][t] == end:
            return f"row {one.i} ends with EOS {end}, whose label is {IGNORED}"
    return None


def _left_out(row: Mapping[str, Any]) -> set[int]:
    """Tokens that a mask column of the row's own takes out of the loss, or that are padding."""
    masks = [key for key in per_token([row]) if key.endswith(("_mask", "_masks"))]
    return {t for key in masks for t, one in enumerate(row[key]) if not one}


def _ends_with(row: Mapping[str, Any], end: int) -> bool:
    places = [t for t in range(len(row["input_ids"])) if t not in _left_out(row)]
    return bool(places) and int(row["input_ids"][places[-1]]) == end


def _per_token(pipeline: Pipeline) -> bool:
    """Whether the task has a label for each token rather than some for each row."""
    return pipeline.task.name not in (SINGLE_LABEL, MULTI_LABEL, REGRESSION)


def _count(pipeline: Pipeline, batch: Batch) -> int:
    """Labels that the loss counts, before a language model's shift."""
    labels = [micro.inputs["labels"] for micro in batch if "labels" in micro.inputs]
    if _per_token(pipeline):
        return sum(int((one != IGNORED).sum()) for one in labels)
    return sum(len(one) for one in labels)


def _labelled(
    collating: Collating, rows: Rows, made: Made, column: str | None
) -> Iterator[Labelled]:
    """Each row whose labels can be found in the batch."""
    labels = made["labels"].tolist()
    for i, where in enumerate(collating.placed(rows, made)):
        own = list(rows[i][column]) if column is not None else None
        if where is None:
            continue  # collator.rows_recovered speaks of that
        if own is not None and len(own) != where.length:
            # A target with a length of its own, as translation has: it is its own row.
            yield from _target(i, rows[i], own, labels[i])
            continue
        if len(labels[i]) == where.width:
            yield Labelled(i, rows[i], own, where.inside(labels[i]), where.outside(labels[i]))


def _target(
    i: int, row: Mapping[str, Any], own: list[Any], labels: list[Any]
) -> Iterator[Labelled]:
    where = place(own, labels) or Placement(0, len(own), len(labels))
    inside = where.inside(labels)
    if len(inside) == len(own):
        yield Labelled(i, {**row, "input_ids": own}, own, inside, where.outside(labels))
