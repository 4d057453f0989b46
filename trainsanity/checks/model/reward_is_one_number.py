"""TS440 model.reward_is_one_number."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.exchanged import Exchanged
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS440",
    "model.reward_is_one_number",
    cost=Cost.FORWARD,
    needs=("trainer", "train_dataset"),
    rules_out="reward head",
)
def reward_is_one_number(exchanged: Exchanged) -> Iterator[Measured | Finding]:
    """A reward model has one output, or a loss that tells its outputs apart.

    What it checks: where rows hold a chosen and a rejected side and the model classifies, whether
    the loss tells the outputs of its head apart.

    Why it matters: a classifier that is loaded without ``num_labels=1`` has two outputs.  A loss of
    ``chosen - rejected`` is taken of each and averaged, so it falls; what is read as the reward
    afterwards is one of them, or the difference of two classes that nobody has trained.

    How it is measured: the first batch is asked twice for its loss, in evaluation mode, once with
    the head's outputs exchanged.  One output passes; several whose exchange changes the loss are
    told apart (a mean with its spread, a difference of classes) and pass, too.  The tolerance is
    the rounding of a sum in another order, 16 units in the last place of the loss's dtype.

    How to fix: load the model with one output.

    Bad::

        AutoModelForSequenceClassification.from_pretrained(name)

    Good::

        AutoModelForSequenceClassification.from_pretrained(name, num_labels=1)

    Known false alarms: an ensemble of heads that are trained alike and averaged on purpose; name
    the check in expected_failures.

    References: huggingface/trl#558.
    """
    seen = exchanged
    if seen.width > 1 and seen.difference <= seen.allowed:
        yield Finding(
            f"the model gives {seen.width} numbers for each answer, and the loss does not tell "
            "them apart",
            observed=seen.width,
            expected=1,
            where=seen.head,
            cause="the model was loaded without num_labels=1: the loss is a mean over its "
            f"{seen.width} outputs, and none of them is the reward",
            fix="from_pretrained(..., num_labels=1)",
        )
    told = f"; exchanged they change the loss by {seen.difference:.3g}" if seen.width > 1 else ""
    yield Measured(
        f"the head {seen.head} gives {seen.width} number(s) for each answer{told}", seen.width, 1
    )
