"""TS305 collator.labels_aligned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trainsanity.checks.collator._labels import (
    Labelled,
    _labelled,
    _per_token,
    count_labelled,
    label_column,
)
from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.fields import plain_values
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.collating import Collating, Made
from trainsanity.measurements.batches.strategies import Rows
from trainsanity.measurements.batches.whose_loss import labels_reach_model, own_loss
from trainsanity.objectives.base import CAUSAL_LM, IGNORED
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


@check(
    "TS305",
    "collator.labels_aligned",
    needs=("data_collator",),
    requires=("collator.rows_recovered",),
    rules_out="labels",
)
def labels_aligned(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Labels stay beside their own row and token.

    What it checks: a label per row against the row's label; labels per token against those that
    the row brings, place by place, also where they exclude a token from the loss; a language
    model's against the ids at the same places.

    Why it matters: a label beside the wrong row or token is noise that no loss curve names.  A
    language model shifts its labels itself: shifted before, it learns the token after the next.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts and that keep their labels, shrunk to the smallest failure.

    Labels that are the next tokens already are as they should be where the model is not given them
    and the loss is one of your own; loss.predicts_the_next_token looks at what that makes of them.

    How to fix: carry labels through the collator beside ``input_ids``; give language models
    ``labels = input_ids``, unshifted, and instruction masks to a collator that keeps them
    (``DataCollatorForSeq2Seq``).

    Known false alarms: a language model which is given labels and does not shift them (MBart,
    huggingface/transformers#27517), or one that is taught other tokens than it reads.

    References: huggingface/transformers#47394, #44642 and #32944 for labels shifted twice; #26357
    for instruction masks that the collator overwrites.
    """
    batch.require_made()
    collating = Collating(pipeline, batch, packing=True, tokens=_per_token(pipeline))
    column = label_column(collating)
    language = objective_of(pipeline).name == CAUSAL_LM
    shifts = labels_reach_model(pipeline)

    def wrong(rows: Rows, made: Made) -> str | None:
        if "labels" not in made:
            return None  # collator.model_takes_batch judges that
        if not _per_token(pipeline):
            return _wrong_rows(rows, made, column, free=own_loss(pipeline))
        found = (
            _wrong_token(one, language, shifts) for one in _labelled(collating, rows, made, column)
        )
        return next(filter(None, found), None)

    objection = collating.objection(wrong)
    if objection:
        shifted = "one place too early" in objection
        yield Finding(
            f"labels lie where they do not belong: {objection}",
            cause="labels were shifted by hand, and the model shifts them again"
            if shifted
            else "the collator moves labels, or makes them apart from the rows",
            fix="labels = input_ids, unshifted" if shifted else "keep each row's labels beside it",
        )
    count = count_labelled(pipeline, batch)
    beside = "token" if _per_token(pipeline) else "row"
    yield Measured(
        f"{collating.judged()}, with {count} labels in all, have each label beside its own "
        f"{beside}{collating.tried()}",
        collating.sound,
        len(batch.micro_batches),
    )


def _wrong_rows(rows: Rows, made: Made, column: str | None, *, free: bool) -> str | None:
    if column is None:
        return None
    given, got = [plain_values(row[column]) for row in rows], made["labels"]
    if (shares := _shares(given, got)) is not None:
        # Mixed and smoothed labels: a row's own class has a share, and others may have some.
        lost = [i for i, share in enumerate(shares) if not share > 0]
        return (
            f"class {given[lost[0]]} of row {lost[0]} has no share in its label" if lost else None
        )
    flat = [_flat(one) for one in given]
    other = len(got) == len(rows) and [len(one) for one in flat] != [one.numel() for one in got]
    if other and got.dim() > 1 and all(isinstance(one, list) for one in given):
        # Lists of several lengths, or maps, that are filled up behind.
        wrong = next((i for i, one in enumerate(given) if not _begins(got[i], one)), None)
        return None if wrong is None else f"labels {given[wrong]} came out as {got[wrong].tolist()}"
    if other and free:
        return None  # what a loss of the user's own takes, its collator makes; nothing here says it
    # Compared in the collator's dtype: a number need not survive float32 in full.
    if not _alike(got.flatten(), got.new_tensor([value for one in flat for value in one])):
        return f"labels {given} came out as {got.tolist()}"
    return None


def _begins(made: Tensor, given: list[Any]) -> bool:
    own = made.new_tensor(given)
    if own.dim() != made.dim():
        return False
    return _alike(made[tuple(slice(size) for size in own.shape)], own)


def _flat(value: Any) -> list[Any]:
    return [one for part in value for one in _flat(part)] if isinstance(value, list) else [value]


def _alike(one: Tensor, other: Tensor) -> bool:
    """Return whether all values are equal; one that is not a number says that nobody knows."""
    import torch

    if one.shape != other.shape:
        return False
    return bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())


def _shares(given: list[Any], got: Any) -> list[float] | None:
    """Return the share of each row's own class in labels that are shares; None if they are not."""
    if getattr(got, "ndim", 0) != 2 or len(got) != len(given) or not got.is_floating_point():
        return None
    classes = got.shape[1]
    if not all(type(one) is int and 0 <= one < classes for one in given):
        return None
    return [float(row[one]) for row, one in zip(got, given, strict=True)]


def _wrong_token(one: Labelled, language: bool, shifts: bool = True) -> str | None:
    ids = list(one.row["input_ids"])
    if language and not shifts and one.own is None and (len(ids) < 2 or _shifted(ids, one.got)):
        return None  # loss.predicts_the_next_token sees what becomes of them
    language &= shifts or one.own is None
    for t, label in enumerate(one.got):
        if label == IGNORED:
            continue  # collator.targets_kept judges what is lost
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
    """Return whether each label is the id of the token after its own."""
    pairs = [(after, label) for after, label in zip(ids[1:], labels, strict=False)]
    return bool(pairs) and all(label in (after, IGNORED) for after, label in pairs)
