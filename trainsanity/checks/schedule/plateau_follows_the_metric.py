"""TS807 schedule.plateau_follows_the_metric."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.plateau import Plateau
from trainsanity.types import Finding, Measured


@check(
    "TS807",
    "schedule.plateau_follows_the_metric",
    needs=("trainer",),
    rules_out="a rate that is cut while the model gets better",
)
def plateau_follows_the_metric(plateau: Plateau) -> Iterator[Measured | Finding]:
    """ReduceLROnPlateau waits for the metric in the direction in which it gets better.

    What it checks: the scheduler's `mode` against `greater_is_better` of the metric that the
    Trainer gives it, `metric_for_best_model`.

    Why it matters: with `mode="min"`, the default, an accuracy that rises is no improvement. The
    rate is cut again and again while the model learns, and the run stops getting better early.

    How it is measured: exact, on the scheduler that the Trainer makes or was given. Without a
    metric the Trainer gives it the loss, which is better the smaller it is.

    How to fix: say both in one direction::

        # bad
        lr_scheduler_type="reduce_lr_on_plateau", metric_for_best_model="accuracy"
        # good
        lr_scheduler_type="reduce_lr_on_plateau", metric_for_best_model="accuracy",
        lr_scheduler_kwargs={"mode": "max"}

    Known false alarms: none known.

    References: md-mohaiminul/ViS4mer#4.
    """
    if plateau.mode != plateau.better:
        yield Finding(
            f"the plateau scheduler has mode {plateau.mode!r}, and {plateau.metric} is better the "
            f"{'greater' if plateau.better == 'max' else 'smaller'} it is",
            observed=plateau.mode,
            expected=plateau.better,
            where="lr_scheduler_kwargs",
            cause="the scheduler's mode is min by default, and knows nothing of greater_is_better"
            if plateau.mode == "min"
            else "mode and greater_is_better contradict each other",
            fix=f'lr_scheduler_kwargs={{"mode": "{plateau.better}"}}, or the other direction for '
            "greater_is_better, whichever is wrong",
        )
    yield Measured(
        f"the plateau scheduler follows {plateau.metric} in mode {plateau.mode}",
        plateau.mode,
        plateau.better,
    )
