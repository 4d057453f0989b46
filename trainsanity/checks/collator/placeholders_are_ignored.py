"""TS319 collator.placeholders_are_ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.step.owners import of_a_library
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

PLACEHOLDER = re.compile(r"(image|video|audio|speech)(_(pad|patch))?_token_(id|index)$")
"""Settings that name the token which stands for a picture's or a sound's features.  Those of what
opens and closes them (``vision_start_token_id``, ``boi_token_id``) name tokens like others."""


@check(
    "TS319",
    "collator.placeholders_are_ignored",
    needs=("data_collator",),
    rules_out="loss on placeholders",
)
def placeholders_are_ignored(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Placeholder tokens of pictures and sounds are left out of the loss.

    What it checks: that no counted label of the first step is the token whose embedding the model
    replaces by features of a picture, a video or a sound (``config.image_token_id`` and the like).

    Why it matters: nothing generates that token.  A picture has hundreds of them in a row, so most
    of the loss falls at once, for a thing that is of no use, and the answers are a small part of
    every mean over tokens.

    How it is measured: exact, on the labels of the first optimizer step.

    How to fix: leave them out as padding is left out.

    Bad::

        labels = input_ids.masked_fill(attention_mask == 0, -100)

    Good::

        labels[input_ids == model.config.image_token_id] = -100

    Known false alarms: models that draw pictures as tokens of their own, if they name them so.
    Where a library's collator makes the labels it is a warning.

    References: NielsRogge/Transformers-Tutorials#511.
    """
    names = placeholders(getattr(pipeline.model, "config", None))
    if not names:
        raise Skip("the model's config names no token that stands for pictures or sounds")
    counted, total, found = 0, 0, set()
    for micro in batch:
        labels = micro.inputs.get("labels")
        if labels is None or not hasattr(labels, "dim") or labels.is_floating_point():
            continue
        kept = labels[labels != IGNORED].tolist()
        total += len(kept)
        hit = [label for label in kept if label in names]
        counted += len(hit)
        found |= set(hit)
    if not total:
        raise Skip("the first step's batches have no labels that are tokens")
    if counted:
        setting = names[min(found)]
        columns = getattr(pipeline.train_dataset, "column_names", None) or ()
        stock = of_a_library(pipeline.data_collator) and "labels" not in columns
        yield Finding(
            f"{counted:,} of {total:,} targets are the placeholder of a picture or sound "
            f"(config.{setting}, id {min(found)}): {counted / total:.0%}",
            observed=counted,
            expected=0,
            where="labels",
            cause="the labels are the input ids without the padding, and the places of the "
            "picture are no padding",
            fix=f"labels[input_ids == model.config.{setting}] = -100",
            severity=Severity.WARNING if stock else Severity.FAILURE,
        )
    yield Measured(
        f"{counted:,} of {total:,} targets of the first step stand for pictures or sounds",
        counted,
        0,
    )


def placeholders(config: Any) -> dict[int, str]:
    """Return the ids of placeholders, each with the setting that names it."""
    values = vars(config) if config is not None else {}
    return {
        value: name
        for name, value in values.items()
        if PLACEHOLDER.match(name) and isinstance(value, int) and value >= 0
    }
