"""TS543 loss.starts_undecided."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import STANDARD_ERRORS, within
from trainsanity.measurements.step.next_tokens import Aimed
from trainsanity.types import Cost, Finding, Measured, Skip

TWICE = 2
"""Times log C that an untrained model's first loss may be.  Logits of deviation s cost s^2 / 2 more
than the log C of knowing nothing: at twice it their size alone costs as much as all that there is
to learn.  Usual initialisations add 0.0 to 0.7."""


@check(
    "TS543",
    "loss.starts_undecided",
    cost=Cost.STEP,
    requires=("loss.predicts_the_next_token",),
    rules_out="initialisation of embedding and head",
)
def starts_undecided(aimed: Aimed) -> Iterator[Measured | Finding]:
    """A language model that knows nothing yet gives no token a great probability.

    What it checks: where the first step's outputs say no more of their own targets than of other
    outputs' targets, whether the loss of a target is far above log C, C tokens being equally
    likely.

    Why it matters: an embedding has a standard deviation of 1 by torch's default. As the weight of
    the head, too, it makes logits as wide as the square root of the hidden size: the model is sure
    of a wrong token everywhere, the first loss is many times log C, and warm-up is spent on
    shrinking weights, if the run does not diverge.

    How it is measured: which token each output is held against is read off the gradient at the
    logits (see loss.predicts_the_next_token); -log p of these tokens, and of the same tokens at
    other places. The model knows nothing if the two means agree within four standard errors of
    their difference. Its loss may then be up to 2 log C.

    How to fix: draw the embedding as small as the head is drawn.

    Bad::

        self.words = nn.Embedding(vocabulary, width)
        self.head.weight = self.words.weight

    Good::

        nn.init.normal_(self.words.weight, std=0.02)

    Known false alarms: none known. A model that was trained says more of its own targets.

    References: syncdoth/RetNet#31.
    """
    aims = aimed.aims
    if aims.ahead is None:
        raise Skip("the outputs are not held against tokens of the input")
    gains = [other - own for own, other in zip(aims.losses, aims.chances, strict=True)]
    loss, gain = statistics.fmean(aims.losses), statistics.fmean(gains)
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    even = math.log(aims.classes)
    informed = within(STANDARD_ERRORS * error, gain)
    if not informed and not within(loss, TWICE * even):
        yield Finding(
            f"the first loss is {loss:.2f} a token, and guessing among {aims.classes} tokens "
            f"has {even:.2f}: the model gives its targets no more than other tokens ({gain:.2f} "
            f"+- {error:.2f}), and is sure of them",
            observed=loss,
            expected=even,
            cause="the logits are too large: the weight of the head, mostly a tied embedding, was "
            "drawn with a standard deviation of 1, torch's default for an embedding",
            fix="nn.init.normal_(model.embedding.weight, std=0.02), before it is tied to the head",
        )
    yield Measured(
        f"the first loss is {loss:.2f} a token, log {aims.classes} is {even:.2f}; targets of other "
        f"outputs cost {gain:.2f} +- {error:.2f} more",
        loss,
        even,
    )
