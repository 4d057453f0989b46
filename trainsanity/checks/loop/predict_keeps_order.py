"""TS912 loop.predict_keeps_order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.read_in_evaluation import ReadInEvaluation
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS912",
    "loop.predict_keeps_order",
    cost=Cost.STATIC,
    needs=("trainer", "eval_dataset"),
    rules_out="order of predictions",
)
def predict_keeps_order(
    pipeline: Pipeline, read_in_evaluation: ReadInEvaluation
) -> Iterator[Measured | Finding]:
    """``predict()`` and ``evaluate()`` read every row once, and ``predict()`` in order.

    What it checks: which rows the data loaders of ``predict()`` and ``evaluate()`` read.

    Why it matters: predictions are written beside the rows of the dataset.  Where they come in
    another order, or some are missing, each is beside a row of another one.  A metric over some of
    the rows changes with the batch size.

    How it is measured: ``get_test_dataloader`` and ``get_eval_dataloader`` are read on the first
    rows of the evaluation data, some full batches and as large a last one as the whole has; the
    dataset notes which places it is asked for.  Rows that are read more often than others are a
    failure.  Another order (``group_by_length`` is applied to predictions, too) and a last batch
    that ``dataloader_drop_last`` leaves out are the Trainer's own doing, and warnings.

    How to fix: turn off for predictions what is meant for training::

        # bad
        predictions = trainer.predict(rows).predictions  # with group_by_length
        # good
        trainer.args.train_sampling_strategy = "random"
        trainer.args.dataloader_drop_last = False
        predictions = trainer.predict(rows).predictions

    Known false alarms: predictions that are never put beside rows. With ``prediction_loss_only``
    there are none, as in sentence-transformers' Trainers, and their order is not judged.

    References: fastai/fastai#975, thuml/Autoformer#104; ``Trainer._get_eval_sampler``.
    """
    seen = read_in_evaluation
    for what, read in (("predict()", seen.predicted), ("evaluate()", seen.evaluated)):
        counts = Counter(read)
        missing = [place for place in range(seen.rows) if not counts[place]]
        repeated = [place for place in counts if counts[place] > 1]
        evenly = not missing and len(set(counts.values())) == 1
        if repeated and evenly:  # several generations of each
            continue
        if repeated:
            yield Finding(
                f"{what} reads {len(repeated)} of {seen.rows} rows more than once and leaves out "
                f"{len(missing)}",
                observed={"missing": len(missing), "repeated": len(repeated)},
                expected={"missing": 0, "repeated": 0},
                where=f"{seen.sampler}, row {repeated[0]}",
                cause="the sampler of the evaluation draws with replacement",
                fix="read the evaluation data in its order",
            )
            break
        if missing:
            yield Finding(
                f"{what} leaves out {len(missing)} of the first {seen.rows} rows: fewer rows are "
                "evaluated than there are",
                observed=len(read),
                expected=seen.rows,
                where=f"row {missing[0]}",
                cause="dataloader_drop_last drops the last batch of the evaluation, too"
                if seen.drops_last
                else None,
                fix="dataloader_drop_last=False",
                severity=Severity.WARNING,
            )
            break
    # With prediction_loss_only there are no predictions to be put beside rows: a mean has no order.
    nothing = getattr(pipeline.args, "prediction_loss_only", False)
    once = len(set(seen.predicted)) == len(seen.predicted)
    if once and not nothing and seen.predicted != sorted(seen.predicted):
        yield Finding(
            f"predict() reads its rows in another order than that of the dataset: "
            f"{', '.join(map(str, seen.predicted[:6]))}, ...",
            observed=seen.predicted[:8],
            expected=sorted(seen.predicted)[:8],
            where=seen.sampler,
            cause="group_by_length is on, and the Trainer groups rows by length in predict(), too"
            if "Length" in seen.sampler
            else "the sampler of the evaluation shuffles",
            fix="turn grouping by length off before predict(), or put the rows' ids into the batch",
            severity=Severity.WARNING,
        )
    out_of_place = sum(a != b for a, b in zip(seen.predicted, sorted(seen.predicted), strict=True))
    yield Measured(
        f"predict() reads {len(seen.predicted)} and evaluate() {len(seen.evaluated)} of "
        f"{seen.rows} rows, {out_of_place} of them at another place than in the dataset",
        out_of_place,
        0,
    )
