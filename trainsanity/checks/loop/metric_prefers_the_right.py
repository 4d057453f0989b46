"""TS911 loop.metric_prefers_the_right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.checks.loop._answers import added, generated, positions, with_prompt
from trainsanity.checks.loop._metrics import change_places, close, counted_on, number
from trainsanity.engine.registry import check
from trainsanity.measurements.runs.scored import Scored, evaluates, strategy
from trainsanity.measurements.step.schedule import planned_steps
from trainsanity.repairs import setting
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS911",
    "loop.metric_prefers_the_right",
    cost=Cost.STEP,
    needs=("trainer", "eval_dataset"),
    requires=("dataset.labels_fit_task",),
    rules_out="metrics and the choice of the best checkpoint",
)
def metric_prefers_the_right(pipeline: Pipeline, scored: Scored) -> Iterator[Measured | Finding]:
    """``metric_for_best_model`` scores right predictions better than wrong ones.

    What it checks: ``evaluate()`` on a few rows of the evaluation data goes through and returns
    the metric that ``metric_for_best_model`` names; perfect predictions are better by it, under
    ``greater_is_better``, than wrong ones; padding (-100) is not scored; and the metric of a causal
    language model looks at the position that predicts a token.

    Why it matters: a run goes on for hours before its first evaluation, and dies there with a
    KeyError, or it ends well and keeps the worst checkpoint.

    How it is measured: the Trainer's own ``evaluate()`` runs with the user's ``compute_metrics``
    and ``preprocess_logits_for_metrics``.  Then it runs again without the model: in place of the
    logits it is given those of a perfect model (the labels as one-hot logits, shifted as the
    objective shifts; the labels themselves for regression and for generated ids), those of a wrong
    one (for each label another one of the batch), the perfect ones with as many positions of
    padding again, and those that are one position off.  Text is not generated: what a perfect
    model would generate stands in its place, and ``generation_max_length`` has to have room for
    half of the targets (a warning where the run does not evaluate by itself: ``evaluate()`` takes
    ``max_length``, too).  Metrics are compared exactly, up to rounding.

    How to fix: say which direction is better, and leave padding out::

        # bad: greater_is_better defaults to True for all but "...loss"
        TrainingArguments(metric_for_best_model="rmse", load_best_model_at_end=True)
        # good
        TrainingArguments(metric_for_best_model="rmse", greater_is_better=False, ...)

        # bad: counts padding
        (predictions == labels).mean()
        # good
        (predictions == labels)[labels != -100].mean()

    Where a ``prediction_step`` of your own lets a decoder generate, it is given the labels' own
    tokens behind the prompt, then those of other rows, and both without the prompt: a metric has to
    tell them apart with it as well.

    Of several labels a row, right logits close to 0 and close to 0.5 are scored, too: a metric that
    is perfect around 0.5 alone has forgotten the sigmoid.

    Of classes, right logits are scored twice as large, too, in all rows and in the last row of each
    batch: a metric that is the same for the first and another for the second looks at all rows at
    once, as ``argmax`` without an axis does. Metrics that are 0, 1 or 100 for right ones are best.

    Right predictions are given to other rows of their batch, too, and one row's to all: a metric
    that follows predictions and labels, and not which row each belongs to, broadcasts ``[N, 1]``
    against ``[N]``. Differences of means, which have no pairs, are 0 for right ones and pass. And
    metrics none of which depends on the predictions at all take the ``argmax`` of a single output.

    Wrong predictions and right ones are evaluated once more, the right ones three times in a row: a
    metric that goes on rising has counted the evaluations before. Where all rows are called class
    1, precision and recall have known values, and a pair that has each other's is found.

    A run that asks for its best checkpoint, or for early stopping, and is evaluated at its end
    alone, because eval_steps is longer than the run, is a warning.

    Known false alarms: a metric on purpose of something else than the labels, such as the length
    of what is generated, under a direction that happens to prefer the wrong predictions.

    References: huggingface/transformers#31142, #11931, #33193, #10046, hiyouga/LlamaFactory#7906,
    mosaicml/composer#1913, Lightning-AI/torchmetrics#269,
    voyazici/orderless-rnn-classification#5; ``Trainer._determine_best_metric``.
    """
    args, trainer = pipeline.args, pipeline.trainer
    chosen = args.metric_for_best_model if strategy(args) != "no" else None
    name = chosen if chosen is None or chosen.startswith("eval_") else f"eval_{chosen}"
    if scored.error and evaluates(trainer):
        yield _goes_through(scored)
    yield from _chooses_among_one(pipeline)
    if not scored.error:
        yield from _returns(scored, trainer, name)
        own = [one for one in scored.perfect if not added(one)]
        counted = [*counted_on(scored.repeated, scored.wrong, own)]
        # Its values are those of several evaluations, and tell nothing of one.
        yield from counted or _of_values(scored, args, name, own)
    judged = {"perfect": scored.perfect, "wrong": scored.wrong}
    values = {which: number(of.get(name or "")) for which, of in judged.items()}
    shown = ", ".join(f"{which} {v:.4g}" for which, v in values.items() if v is not None)
    yield Measured(
        f"evaluate() on {scored.rows} rows calls compute_metrics {scored.scored} times; "
        f"{name or 'no metric'} picks the best checkpoint"
        + (f" (predictions that are {shown})" if shown else ""),
        {which: value for which, value in values.items() if value is not None},
    )


def _of_values(scored: Scored, args: Any, name: str | None, own: list[str]) -> Iterator[Finding]:
    if name is not None:
        yield from _direction(scored, args, name)
    yield from positions(scored)
    yield from _cut(scored)
    yield from _mixed(scored)
    yield from _unpaired(scored)
    yield from _unasked(scored)
    yield from change_places(scored.repeated, own)
    yield from generated(scored, strategy(args) != "no")
    yield from with_prompt(scored)


def _chooses_among_one(pipeline: Pipeline) -> Iterator[Finding]:
    """Yield a best checkpoint, or a stop, that an evaluation at the very end alone decides on."""
    args = pipeline.args
    waits = any(
        hasattr(one, "early_stopping_patience")
        for one in pipeline.trainer.callback_handler.callbacks
    )
    if strategy(args) != "steps" or not (args.load_best_model_at_end or waits):
        return
    steps, every = planned_steps(pipeline), args.eval_steps or 0
    every = every * steps if every < 1 else every
    if every <= steps:
        return
    yield Finding(
        f"eval_steps is {every:g}, and the run has {steps}: it is evaluated at its end at the "
        "most, and "
        + " and ".join(
            ["the best checkpoint is the last one"] * bool(args.load_best_model_at_end)
            + ["early stopping never stops it"] * waits
        ),
        observed=every,
        expected=steps,
        where="eval_steps",
        cause="eval_steps is longer than the run, as where it was meant for a longer one",
        fix=f"eval_steps={max(1, steps // 10)}, and save_steps alike",
        severity=Severity.WARNING,
    )


def _goes_through(scored: Scored) -> Finding:
    if scored.ignored_breaks:
        return Finding(
            f"evaluate() raises {scored.error}: labels of -100 (padding) go into compute_metrics, "
            "and with the id of the padding in their place it goes through",
            observed=scored.error,
            expected="metrics",
            where="compute_metrics",
            cause="-100 is no token: it cannot be decoded, and is out of range for an index",
            fix="labels = np.where(labels == -100, tokenizer.pad_token_id, labels) before "
            "decoding; the same for predictions",
        )
    return Finding(
        f"evaluate() on {scored.rows} rows of the evaluation data raises {scored.error}",
        observed=scored.error,
        expected="metrics",
        where="Trainer.evaluate",
        cause=None,
        fix="run trainer.evaluate() once before training",
        # A metric may need more rows than these few.
        severity=Severity.WARNING,
    )


def _returns(scored: Scored, trainer: Any, name: str | None) -> Iterator[Finding]:
    # An evaluate() of the user's own may hold predictions against what the batch does not have.
    unlabelled = scored.labelled is False and not scored.scored
    if unlabelled and evaluates(trainer):
        uncalled = trainer.compute_metrics is not None
        yield Finding(
            "evaluate() returns no eval_loss"
            + (" and never calls compute_metrics" if uncalled else "")
            + f": it looks for the labels {', '.join(trainer.label_names) or '(none)'}, and the "
            f"batch has {', '.join(scored.fields)}",
            observed=list(scored.fields),
            expected=list(trainer.label_names),
            where="label_names",
            cause="label_names names what the collator does not return"
            if set(trainer.label_names) - set(scored.fields)
            else None,
            fix='set label_names to what the batch calls its labels, mostly ["labels"], or leave '
            "it out",
        )
    elif name is not None and name not in scored.metrics:
        there = [key for key in scored.metrics if not added(key) or key.endswith("loss")]
        yield Finding(
            f"metric_for_best_model is {name}, which is not found in what evaluate() returns: "
            f"{', '.join(there) or 'nothing'}; the run dies with a KeyError at its first "
            "evaluation",
            observed=there,
            expected=name,
            where="metric_for_best_model",
            cause="each dataset of a dict of eval_datasets has metrics with its own name"
            if isinstance(trainer.eval_dataset, Mapping)
            else "compute_metrics returns other names",
            fix="name one of those that are returned",
        )


def _direction(scored: Scored, args: Any, name: str) -> Iterator[Finding]:
    greater = bool(args.greater_is_better)
    perfect, wrong = number(scored.perfect.get(name)), number(scored.wrong.get(name))
    if name.endswith("loss") and name in scored.metrics and greater:
        yield Finding(
            f"{name} picks the best checkpoint and greater_is_better is True: the checkpoint with "
            "the largest loss, the worst one, is kept",
            observed=True,
            expected=False,
            where="greater_is_better",
            cause="a loss is better the smaller it is",
            fix="greater_is_better=False, or leave it out",
            repairs=(setting("args", "greater_is_better", False),),
        )
    elif (
        perfect is not None
        and wrong is not None
        and not close(perfect, wrong)
        and (perfect > wrong) != greater
    ):
        yield Finding(
            f"{name} of perfect predictions is {perfect:.4g}, of wrong ones {wrong:.4g}, and "
            f"greater_is_better is {greater}: the worst checkpoint is kept as the best",
            observed={"perfect": perfect, "wrong": wrong},
            expected="perfect predictions are better",
            where="greater_is_better",
            cause="greater_is_better defaults to True for every metric whose name does not "
            "end with loss"
            if greater
            else None,
            fix=f"greater_is_better={not greater}",
            repairs=(setting("args", "greater_is_better", not greater),),
        )


def _cut(scored: Scored) -> Iterator[Finding]:
    """Yield metrics that cut logits at 0.5, where they were to cut probabilities."""
    for name, value in scored.perfect.items():
        values = (value, scored.at_half.get(name), scored.at_zero.get(name))
        right, at_half, at_zero = map(number, values)
        if added(name) or right is None or at_half is None or at_zero is None:
            continue
        if at_half == right != at_zero:
            yield Finding(
                f"{name} is {right:.4g} for right logits around 0.5 and {at_zero:.4g} for right "
                "logits around 0: it counts a label as found above a logit of 0.5",
                observed=at_zero,
                expected=right,
                where="compute_metrics",
                cause="predictions are logits, and are cut as if they were probabilities: 0.5 is a "
                "probability of 62 %",
                fix="cut at 0, or at 0.5 after a sigmoid: 1 / (1 + np.exp(-predictions)) > 0.5",
            )


def _mixed(scored: Scored) -> Iterator[Finding]:
    """Yield metrics that are not best for right answers, and change with how sure one row is."""
    for name, value in scored.perfect.items():
        values = (value, scored.surer.get(name), scored.uneven.get(name))
        right, surer, uneven = map(number, values)
        if added(name) or right is None or surer is None or uneven is None:
            continue
        # A metric of probabilities follows how sure all rows are; one of classes does not.
        if not _best(right) and close(right, surer) and not close(right, uneven):
            yield Finding(
                f"{name} of right predictions is {right:.4g}, and {uneven:.4g} where one row of "
                "each batch is surer of the same right class",
                observed=uneven,
                expected=right,
                where="compute_metrics",
                cause="rows are mixed: argmax (or max) over all predictions, without an axis",
                fix="predictions.argmax(-1): one class for each row",
            )


def _unpaired(scored: Scored) -> Iterator[Finding]:
    """Yield metrics that are the same whichever row a right answer is given to."""
    for name, value in scored.perfect.items():
        parts = (value, scored.moved.get(name), scored.single.get(name), scored.alike.get(name))
        right, moved, single, alike = map(number, parts)
        if added(name) or right is None or moved is None or single is None or alike is None:
            continue
        asks = not close(right, single) and not close(right, alike)
        # A difference of means has no pairs, and is 0 for right answers; a ratio is 1.
        if asks and not _best(right) and close(right, moved):
            yield Finding(
                f"{name} of right predictions is {right:.4g}, and {moved:.4g} where each is given "
                "to another row: predictions are not held against the label of their own row",
                observed=moved,
                expected="another value than for right ones",
                where="compute_metrics",
                cause="predictions of shape [N, 1] and labels of [N] broadcast to [N, N]: all "
                "predictions are compared with all labels",
                fix="predictions.squeeze(-1), or predictions.reshape(labels.shape)",
            )


def _unasked(scored: Scored) -> Iterator[Finding]:
    """Yield metrics all of which are the same for right, wrong and equal predictions."""
    names = [name for name in scored.perfect if not added(name)]
    judged, follow = [], False
    for name in names:
        given = (scored.perfect, scored.wrong, scored.moved, scored.single, scored.metrics)
        found = [number(of.get(name)) for of in given]
        known = [one for one in found if one is not None]
        if len(known) < len(found) or not all(close(known[0], one) for one in known):
            return
        alike = number(scored.alike.get(name))
        follow |= alike is not None and not close(known[0], alike)
        judged.append(f"{name} is {known[0]:.4g}")
    if judged and follow:
        yield Finding(
            f"{', '.join(judged)} for right predictions, for wrong ones, and for those of the "
            "model: no metric depends on what is predicted",
            observed="the same for all predictions",
            expected="another value for wrong ones",
            where="compute_metrics",
            cause="argmax over one output per row is always 0; or what is compared with the labels "
            "is not made of the predictions",
            fix="predictions.squeeze(-1) > 0 of one logit a row, predictions.argmax(-1) of several",
        )


def _best(value: float) -> bool:
    return any(close(value, one) for one in (0.0, 1.0, 100.0))
