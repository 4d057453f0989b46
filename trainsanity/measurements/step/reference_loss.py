"""The loss that a recorded step should have, from its items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.maths.factors import NAMING, name_factor
from trainsanity.measurements.model.items import Items
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.measurements.step.steps import Step
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Reference:
    """The loss that a step should have, from its items.

    Attributes:
        parts: the items of each micro-batch.
        weights: what one item of each micro-batch counts in the mean.
        mean: the loss.
        words: how the mean is taken.
    """

    parts: list[Items]
    weights: list[float]
    mean: float
    words: str

    @property
    def count(self) -> int:
        """Items in the step."""
        return sum(len(items.losses) for items in self.parts)


def reference(pipeline: Pipeline, step: Step, parts: list[Items] | None = None) -> Reference:
    """The mean over all items of the step, each counting the same.

    Where the Trainer counts no items (``num_items_in_batch`` is None) it can only average the
    micro-batches' means.  With micro-batches of unequal size that is another mean, by design; it
    is the reference then, and named.

    Args:
        pipeline: whose task it is.
        step: one of the recorded.
        parts: the items of each micro-batch where the step itself did not show them.

    Raises:
        Skip: the objective has no reference loss, or a micro-batch did not show its items.
        Exception: what the objective raised when the items were sorted.
    """
    if not objective_of(pipeline).known:
        raise Skip(f"no reference loss for {type(pipeline.model).__name__}")
    for micro in step.micro_steps:
        if micro.error is not None:
            raise micro.error
    shown = [micro.items for micro in step.micro_steps if micro.items is not None]
    parts = shown if parts is None else parts
    if len(parts) < len(step.micro_steps) or not parts:
        raise Skip("a micro-batch did not make logits from labelled rows in one pass of the model")
    sizes = [len(items.losses) for items in parts]
    if not all(sizes):
        raise Skip("a micro-batch of the step has nothing that the loss counts")
    weights = item_weights(step, sizes)
    if len(set(weights)) > 1:
        words = (
            f"mean of {len(parts)} micro-batch means over the {objective_of(pipeline).item_word}"
        )
    elif step.counted:
        words = f"sum over {sum(sizes)} {objective_of(pipeline).item_word} by {step.counted:g}"
    else:
        words = f"mean over the {sum(sizes)} {objective_of(pipeline).item_word}"
    total = sum(w * float(p.losses.sum()) for w, p in zip(weights, parts, strict=True))
    return Reference(parts, weights, total, words)


def note_means(step: Step, facts: dict[str, Any]) -> None:
    """Note which mean the logged loss is: see ``Step.by_means`` and ``Step.counted``.

    Args:
        step: one of the recorded.
        facts: what factors are matched against.
    """
    parts = [micro.items for micro in step.micro_steps if micro.items is not None]
    sizes = [len(items.losses) for items in parts]
    if not step.judgeable or not all(sizes) or "loss" not in step.logged:
        return
    logged = step.logged["loss"]
    counted, rows = step.micro_steps[0].num_items_in_batch, sum(m.size for m in step.micro_steps)
    if counted and sum(sizes) - counted == rows:
        total = sum(float(items.losses.sum()) for items in parts)
        if math.isclose(logged, total / counted, rel_tol=NAMING):
            step.counted = counted
            return
    if len(set(sizes)) < 2:
        return
    over_items = sum(float(items.losses.sum()) for items in parts) / sum(sizes)
    over_means = sum(float(items.losses.mean()) for items in parts) / len(parts)

    if not all(math.isfinite(one) and one for one in (logged, over_items, over_means)):
        return
    if not name_factor(logged / over_means, facts, NAMING):
        return
    # The quantities are whole numbers, or one over them: the better fit is the mean that was taken.
    step.by_means = _from_whole(logged / over_means) < _from_whole(logged / over_items)


def _from_whole(factor: float) -> float:
    """Return how far a factor is from a whole number, or from one over it, relative to it."""
    number = factor if abs(factor) >= 1 else 1 / factor
    return abs(number / round(number) - 1)


def item_weights(step: Step, sizes: list[int]) -> list[float]:
    """Return the weight of one item of each micro-batch, given how many items each has."""
    if step.counted:
        return [1 / step.counted] * len(sizes)
    uncounted = all(micro.num_items_in_batch is None for micro in step.micro_steps)
    if uncounted or step.by_means:
        return [1 / (len(sizes) * size) for size in sizes]
    return [1 / sum(sizes)] * len(sizes)
