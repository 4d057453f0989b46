"""The Trainer's own ``evaluate()`` on a few rows, for predictions of known worth."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.isolation.overrides import own_evaluation
from trainsanity.isolation.random_states import global_random_states
from trainsanity.measurements.runs.answers import Answers, ignored
from trainsanity.measurements.runs.draws import draws
from trainsanity.measurements.runs.evaluating import evaluating
from trainsanity.measurements.runs.few_rows import few_rows
from trainsanity.measurements.runs.kept_weights import KeptWeights, keepers, kept_by
from trainsanity.measurements.runs.oracle import Written, ask_oracle
from trainsanity.measurements.runs.repeated import Repeated, ask_repeatedly
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


HALF = 0.5
"""Where probabilities are cut, and what a forgotten sigmoid leaves as the cut of logits."""

Step = tuple[Any, Any, Any]


@dataclass
class EvaluatedBatch:
    """One call of ``compute_loss`` while ``evaluate()`` ran.

    Attributes:
        loss: what it returned.
        rows: of the batch.
        items: what the loss counts; the rows where the labels are no tokens.
    """

    loss: float
    rows: int
    items: int


@dataclass
class Scored:
    """Metrics that ``evaluate()`` returned for the model's own predictions, and for others.

    Attributes:
        metrics: for the model's own predictions.
        perfect: for predictions that are the labels; empty where nobody knows how to make them.
        wrong: for predictions that are labels of other items.
        surer: for the perfect ones of a classifier, twice as large.
        uneven: for the perfect ones, twice as large in the last row of each batch alone.
        moved: for the perfect ones, each in another row's place.
        single: for one row's perfect ones in all rows.
        alike: for the perfect ones, with one row's label in all rows.
        padded: for the perfect ones, with as many columns of padding again.
        in_place: for a causal model that predicts at each position the token that stands there.
        at_zero: of several labels a row, for logits that are just above and below 0.
        at_half: the same around 0.5, which is where probabilities are cut.
        batches: one for each call of ``compute_loss``.
        training: names of modules that were in training mode while the model ran.
        draws: the loss of the first labelled batch, the same again with the same random numbers,
            and with others; empty where it was not asked.
        drawn_by_loss: no module of the model, or of one beside it, drew random numbers there.
        fields: names of what the collator returned.
        labelled: whether ``prediction_step`` returned a loss or labels; None if it was not called.
        scored: how often ``compute_metrics`` was called.
        error: what the evaluation raised; empty if it went through.
        ignored_breaks: with perfect predictions it raises, too, and goes through where -100 is
            replaced by the id of the padding.
        rows: how many were evaluated.
        shifts: whether the objective predicts the next token.
        limit: tokens after which generation stops; None where nothing is generated.
        targets: lengths of the labels where something is generated.
        prompted: rows that a decoder was told to go on from.
        behind_padding: those of them that end with padding, which it goes on from.
        writes: a decoder generates in the user's own ``prediction_step``.
        written: metrics of answers put into the place of what it generates.
        repeated: metrics of the same predictions again.
        kept: what it left and kept of the weights; None where it raised.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    perfect: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, Any] = field(default_factory=dict)
    surer: dict[str, Any] = field(default_factory=dict)
    uneven: dict[str, Any] = field(default_factory=dict)
    moved: dict[str, Any] = field(default_factory=dict)
    single: dict[str, Any] = field(default_factory=dict)
    alike: dict[str, Any] = field(default_factory=dict)
    padded: dict[str, Any] = field(default_factory=dict)
    in_place: dict[str, Any] = field(default_factory=dict)
    at_zero: dict[str, Any] = field(default_factory=dict)
    at_half: dict[str, Any] = field(default_factory=dict)
    batches: list[EvaluatedBatch] = field(default_factory=list)
    training: tuple[str, ...] = ()
    draws: list[float] = field(default_factory=list)
    drawn_by_loss: bool = False
    fields: tuple[str, ...] = ()
    labelled: bool | None = None
    scored: int = 0
    error: str = ""
    ignored_breaks: bool = False
    rows: int = 0
    shifts: bool = False
    limit: int | None = None
    targets: list[int] = field(default_factory=list)
    prompted: int = 0
    behind_padding: int = 0
    writes: bool = False
    written: Written = field(default_factory=Written)
    repeated: Repeated = field(default_factory=Repeated)
    kept: KeptWeights | None = None


@measurement(Cost.STEP)
def scored(pipeline: Pipeline) -> Scored:
    """Evaluate a few rows of the evaluation data, then the same with predictions of known worth.

    The model runs once: for the others, what ``prediction_step`` returned is given again with
    other logits in it.

    Raises:
        Skip: there is no Trainer, several processes, or no evaluation data that can be cut.
    """
    trainer = pipeline.trainer
    if trainer is None:
        raise Skip("a custom training loop has no evaluate()")
    if pipeline.other_processes:
        raise Skip("metrics are judged in one process")
    if not trainer.eval_dataset:
        raise Skip("there is no eval_dataset")
    stock = type(trainer).prediction_step.__module__.partition(".")[0] == "transformers"
    if not stock and not evaluates(trainer):  # it may generate, which takes long
        raise Skip("nothing is evaluated: no compute_metrics, and eval_strategy is no")
    data = few_rows(trainer.eval_dataset, trainer.args.eval_batch_size)
    parts = [data, *(data.values() if isinstance(data, Mapping) else ())]
    seen = Scored(rows=sum(len(one) for one in parts[1:] or parts if isinstance(one, Sized)))
    answers = Answers(pipeline)
    seen.shifts = answers.shifts
    callbacks = keepers(trainer)
    with evaluating(pipeline, data, callbacks):
        _take(pipeline, seen, answers, callbacks)
    return seen


def evaluates(trainer: Any) -> bool:
    """Return whether the run evaluates, or is at least told how to."""
    return trainer.compute_metrics is not None or strategy(trainer.args) != "no"


def strategy(args: Any) -> str:
    """Return ``eval_strategy`` as a word."""
    return str(getattr(args.eval_strategy, "value", args.eval_strategy))


def _take(pipeline: Pipeline, seen: Scored, answers: Answers, callbacks: list[Any]) -> None:
    trainer, model = pipeline.trainer, pipeline.model
    own = own_evaluation(trainer)
    made: list[Step] = []
    training: dict[str, None] = {}

    def note_training(module: Any, _inputs: Any) -> None:
        training.update({name: None for name, one in module.named_modules() if one.training})

    handle = model.register_forward_pre_hook(note_training)
    put_back = global_random_states()
    model.train()  # as it is when a run evaluates
    try:
        with _recorded(trainer, seen, made, answers):
            seen.metrics, seen.kept = kept_by(pipeline, trainer.evaluate, callbacks, own)
    except Exception as error:
        seen.error = f"{type(error).__name__}: {first_line(error)}"
    finally:
        handle.remove()
    seen.training = tuple(training)
    if not made:
        return

    def again(change: Callable[[Any, Any], Any | None], labels: Any = None) -> dict[str, Any]:
        put_back()
        given = []
        for loss, logits, wanted in made:
            changed = change(logits, wanted)
            if changed is None:
                return {}
            given.append((loss, changed, wanted if labels is None else labels(wanted)))
        try:
            with _given(trainer, given):
                return dict(trainer.evaluate() or {})
        except Exception:
            # What these predictions alone break is no evidence against the metric.
            return {}

    if seen.error:
        fill = answers.fill
        # An error that comes once, or of the model's own predictions, is none of the -100.
        seen.ignored_breaks = (
            any(ignored(part) for _, _, part in made)
            and not again(answers.perfect)
            and bool(
                again(
                    lambda logits, wanted: answers.perfect(logits, wanted, fill=fill),
                    answers.filled,
                )
            )
        )
        return
    if trainer.compute_metrics is None:
        return
    if seen.writes:
        put_back()
        seen.written = ask_oracle(trainer, answers, trainer.evaluate)
    seen.perfect = again(answers.perfect)
    if not seen.perfect:
        return
    _ask_the_metric(seen, again, answers, [wanted for *_, wanted in made])


def _ask_the_metric(
    seen: Scored, again: Callable[..., dict[str, Any]], answers: Answers, labels: list[Any]
) -> None:
    """Note what the metric says of other predictions than the perfect ones."""
    seen.wrong = again(answers.wrong)
    seen.moved = again(answers.of_the_next_row)
    if seen.moved:
        seen.single = again(answers.of_one_row)
        seen.alike = again(answers.perfect, answers.alike)
    seen.surer = again(answers.surer)
    if seen.surer:
        seen.uneven = again(answers.surer_at_the_end)
    seen.padded = again(answers.perfect_and_padding, answers.padded)
    if answers.shifts:
        seen.in_place = again(answers.in_place)
    seen.at_zero = again(functools.partial(answers.around, 0.0))
    if seen.at_zero:
        seen.at_half = again(functools.partial(answers.around, HALF))
    seen.repeated = ask_repeatedly(again, answers.perfect, answers.wrong, labels)


@contextmanager
def _recorded(trainer: Any, seen: Scored, made: list[Step], answers: Answers) -> Iterator[None]:
    """Note what the evaluation's own parts return; undone by the caller's ``preserved``."""
    import torch

    step, loss_of, metrics = trainer.prediction_step, trainer.compute_loss, trainer.compute_metrics
    # Generating costs a forward for each token, and what comes out is not what is judged.
    generate = getattr(trainer.model, "generate", None)
    config = getattr(trainer.model, "config", None)
    generates = bool(getattr(trainer.args, "predict_with_generate", False)) and generate
    given: dict[str, Any] = {}

    def prediction_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.fields = tuple(inputs)
        if generates and torch.is_tensor(inputs.get("labels")):
            seen.targets += answers.lengths(inputs["labels"])
        given.clear()
        given.update(inputs)
        returned = step(model, inputs, *args, **kwargs)
        labelled = returned[0] is not None or returned[2] is not None
        seen.labelled = bool(seen.labelled) or labelled
        made.append(tuple(returned))
        return returned

    def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
        labels = labels.clone() if torch.is_tensor(labels) else None
        values = inputs.values() if isinstance(inputs, Mapping) else ()
        # Labels first: of words, instances or nodes in one line there are more than of rows.
        tensors = [one for one in (labels, *values) if torch.is_tensor(one) and one.dim()]
        rows = len(tensors[0]) if tensors else 0
        asks = labels is not None and not seen.draws and not torch.is_grad_enabled()
        if asks:
            seen.draws, seen.drawn_by_loss = draws(
                lambda: loss_of(model, copy.copy(inputs), *args, **kwargs)
            )
        returned = loss_of(model, inputs, *args, **kwargs)
        loss = returned[0] if isinstance(returned, tuple) else returned
        if not torch.is_grad_enabled() and torch.is_tensor(loss) and loss.numel() == 1:
            seen.batches.append(EvaluatedBatch(float(loss), rows, answers.count(labels, rows)))
        return returned

    def compute_metrics(*args: Any, **kwargs: Any) -> Any:
        seen.scored += 1
        return metrics(*args, **kwargs)

    trainer.prediction_step, trainer.compute_loss = prediction_step, compute_loss
    if metrics is not None:
        trainer.compute_metrics = compute_metrics
    if generates:
        seen.limit = _limit(trainer)
        trainer.model.generate = lambda *_, **__: answers.generated(given)
    elif generate is not None and not getattr(config, "is_encoder_decoder", False):

        def noted(*args: Any, **kwargs: Any) -> Any:
            seen.writes = True
            _note_prompts(seen, *ends_of_prompts(args, kwargs, answers.pad))
            return generate(*args, **kwargs)

        trainer.model.generate = noted
    try:
        yield
    finally:
        # Both are methods: what was put on the instance hides them.
        for name in ("prediction_step", "compute_loss"):
            vars(trainer).pop(name, None)
        trainer.compute_metrics = metrics
        vars(trainer.model).pop("generate", None)


@contextmanager
def _given(trainer: Any, made: list[Step]) -> Iterator[None]:
    steps = iter(made)
    trainer.prediction_step = lambda *_, **__: next(steps)
    try:
        yield
    finally:
        vars(trainer).pop("prediction_step", None)


def _note_prompts(seen: Scored, rows: int, padded: int) -> None:
    seen.prompted, seen.behind_padding = seen.prompted + rows, seen.behind_padding + padded


def ends_of_prompts(args: Any, kwargs: Mapping[str, Any], pad: int | None) -> tuple[int, int]:
    """Return how many rows ``generate`` was given, and how many of them end with padding.

    Args:
        args: of the call.
        kwargs: of the call.
        pad: the id of the padding, by which rows are known that came without a mask; None if it
            may end a text, too.
    """
    import torch

    ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
    mask = kwargs.get("attention_mask")
    if torch.is_tensor(mask) and mask.dim() == 2:
        some = mask.bool()
    elif pad is not None and torch.is_tensor(ids) and ids.dim() == 2:
        some = ids != pad
    else:
        return 0, 0
    # A row without any token is no prompt.
    return len(some), int((some.any(1) & ~some[:, -1]).sum())


def _limit(trainer: Any) -> int | None:
    """Return how many tokens are generated at the most, as Seq2SeqTrainer asks for them."""
    config = trainer.model.generation_config
    asked = trainer.args.generation_max_length
    if asked is None:
        new = getattr(config, "max_new_tokens", None)
        # Left alone, transformers generates 20 tokens.
        asked = new + 1 if new is not None else getattr(config, "max_length", None) or 20
    return int(asked) - 1  # the start of the decoder counts
