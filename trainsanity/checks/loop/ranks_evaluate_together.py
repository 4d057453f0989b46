"""TS926 loop.ranks_evaluate_together."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.loop._processes import TOGETHER
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.runs.evaluated_together import EvaluatedTogether
from trainsanity.types import Cost, Finding, Measured, Severity

MANY = 0.01
"""Share of repeated rows above which they matter: a share s moves a mean by about sqrt(s) of its
standard error, which here is a tenth."""


@check(
    "TS926",
    "loop.ranks_evaluate_together",
    cost=Cost.STEP,
    needs=("trainer", "eval_dataset", "other_processes"),
    rules_out=TOGETHER,
)
def ranks_evaluate_together(evaluated_together: EvaluatedTogether) -> Iterator[Measured | Finding]:
    """An evaluation on several processes counts each row once, and tells all the same.

    What it checks: an `evaluate()` or `evaluation_loop` of your own, run by all processes: the
    weight that one row has among others, and whether the processes return the same number.

    Why it matters: accelerate fills up the last round with rows from the beginning, so that every
    process has a full batch. `gather` returns those, too, and they count twice; and so they do
    where each process takes the mean of its batch first, of which `gather_for_metrics` can cut
    nothing off. Where nothing is gathered each process has the number of its own share, and the
    first one's chooses the best checkpoint.

    How it is measured: a law, by your own code. A full round of copies of a row A gives m(A), one
    of a row B with as many targets m(B). One round of A and B behind it, n + 1 rows,
    must give m(A) + (m(B) - m(A)) / (n + 1). Metrics are asked whose names end in `loss` or
    `accuracy`: they are means over rows. Allowed is four times what one more copy of A makes of
    m(A), which is what shapes and random numbers do, and a ten-thousandth where all values are
    rounded to it; B has to move the mean by ten times that, or another row is taken. A row that
    weighs more than its share is in a smaller batch whose mean counts like that of a full one: a
    warning, as TS913 gives on one process. So is it where less than one in a hundred rows of your
    evaluation data would be repeated, which moves a mean by a tenth of its standard error.

    How to fix: gather what stands for rows, by the method that knows about the repeated ones::

        # bad
        losses.append(accelerator.gather(loss_of_rows))
        losses.append(accelerator.gather_for_metrics(loss_of_rows.mean()[None]))
        # good
        losses.append(accelerator.gather_for_metrics(loss_of_rows))

    Known false alarms: a metric with such a name that is no mean over rows.

    References: huggingface/accelerate#350; huggingface/trl#7010; asteroid-team/asteroid#674;
    `Accelerator.gather_for_metrics`.
    """
    together = evaluated_together
    name, rows = together.metric, together.rows + 1
    allowed, returned = together.allowed, together.together
    if returned and not within(max(returned) - min(returned), allowed):
        yield Finding(
            f"evaluate() returns {name} = {min(returned):.4f} on one process and "
            f"{max(returned):.4f} on another for the same {rows} rows",
            observed=returned,
            expected=together.expected,
            where="Trainer.evaluate",
            cause="each process evaluates its own share of the rows, and nothing is gathered",
            fix="self.accelerator.gather_for_metrics(values of the rows) before the mean is taken",
        )
    elif returned and not within(abs(returned[0] - together.expected), allowed):
        share = together.weight()
        light = share < 1 / rows
        yield Finding(
            f"evaluate() gives {name} = {returned[0]:.4f} for {rows} rows whose mean is "
            f"{together.expected:.4f}: one row among them weighs {share:.4f} in place of "
            f"{1 / rows:.4f}"
            + (f"; {together.repeated:.1%} of the evaluation data would be repeated" * light),
            observed=share,
            expected=1 / rows,
            factor=share * rows,
            where="Trainer.evaluate",
            cause="rows that were repeated to fill up the last round are counted: by gather(), or "
            "in batch means that were taken before gather_for_metrics()"
            if light
            else "the means of batches of unequal size are averaged",
            fix="self.accelerator.gather_for_metrics(values of the rows), and then the mean",
            severity=Severity.FAILURE if light and together.repeated > MANY else Severity.WARNING,
        )
    told = f"{returned[0]:.4f}" if returned else "nothing"
    yield Measured(
        f"{name} of {rows - 1} copies of a row and one other row: {told}, their mean is "
        f"{together.expected:.4f}",
        returned,
        together.expected,
    )
