"""TS928 loop.early_stopping_waits."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.stopping import Stopping
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS928",
    "loop.early_stopping_waits",
    cost=Cost.STEP,
    needs=("trainer",),
    rules_out="early stopping",
)
def early_stopping_waits(stopping: list[Stopping]) -> Iterator[Measured | Finding]:
    """Early stopping of one's own does not end a run that gets better.

    What it checks: callbacks of the user's own that set ``should_training_stop`` in
    ``on_evaluate``: that they do not stop a run of which each evaluation is better than all before,
    nor one of which every second evaluation is, where they wait for several without a gain.

    Why it matters: a counter that is never set back adds up evaluations without a gain over the
    whole run, and a best value that begins at 0 is never reached by a loss. The run ends early,
    and says that it has converged.

    How it is measured: the callback's own ``on_evaluate`` is told of made-up metrics, under the
    names of those that ``evaluate()`` returns. How long it waits is found first, by evaluations
    that are all worse than the first. Losses fall; whether another metric is better when it rises
    nobody knows, so each question is asked for both, and a run that is stopped under one of these
    alone is no finding. Exact; what the callback holds is put back after each question.

    How to fix: set the counter back, and begin with the first value, or with infinity::

        # bad
        if loss < self.best:
            self.best = loss
        else:
            self.waited += 1
        # good
        if loss < self.best:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1

    Known false alarms: a stop after a number of evaluations, however they turn out, within the
    first twelve.

    References: modelscope/ms-swift#5326; transformers.EarlyStoppingCallback.
    """
    for one in stopping:
        if one.improving is not None:
            yield Finding(
                f"{one.name} stops a run at evaluation {one.improving + 1}, each of which was "
                "better than all before",
                observed=one.improving + 1,
                expected=None,
                where=f"{one.name}.on_evaluate",
                cause="what it takes for the best so far is never reached, or the comparison is "
                "the wrong way round",
                fix="begin with the first value, or with infinity for a loss",
            )
        elif one.between is not None and one.patience is not None:
            yield Finding(
                f"{one.name} stops a run at evaluation {one.between + 1}, though every second one "
                f"was the best so far; it stops after {one.patience} without a gain",
                observed=one.between + 1,
                expected=None,
                where=f"{one.name}.on_evaluate",
                cause="the counter of evaluations without a gain is not set back by a gain",
                fix="set the counter to 0 where the best value is replaced",
            )
    waits = ", ".join(f"{one.name} waits for {one.patience or 'more'}" for one in stopping)
    yield Measured(
        f"callbacks that end a run by its evaluations: {len(stopping)} {waits}".strip(),
        [one.patience for one in stopping],
    )
