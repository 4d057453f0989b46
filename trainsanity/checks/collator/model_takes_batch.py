"""TS308 collator.model_takes_batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.batches.asked_of_inputs import asked_of_inputs
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.collating import Made
from trainsanity.measurements.batches.whose_loss import labels_reach_model, own_loss
from trainsanity.objectives.base import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from trainsanity.objectives.preference import POLICY, PREFERENCE
from trainsanity.pipeline import unwrapped
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


OWN = ("input_ids", "attention_mask", "labels")
"""Keys that other checks judge."""


@check(
    "TS308",
    "collator.model_takes_batch",
    needs=("data_collator",),
    rules_out="lost columns",
)
def model_takes_batch(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """The model's forward takes the batch's keys, and the loss its labels.

    What it checks: the batch's keys against the parameters of the model's ``forward``, those of a
    typed ``**kwargs`` included; the rows' columns that are among these parameters, or that a
    ``compute_loss`` of your own reads from its inputs, against the batch; the labels' dtype and
    shape against the loss of the task, where the model is given them.

    Why it matters: a model with ``**kwargs`` silently swallows a misspelt key, and without
    ``position_ids`` or ``token_type_ids`` it makes its own, which for packed texts or pairs are
    others.

    How it is measured: exact, on the first optimizer step's batches.  A column whose values are
    what the model would make by itself (all zeros, or 0, 1, 2 ...) may be missing.

    How to fix: return the model's own names, and pad every column that the model takes.

    Known false alarms: none known.  Keys are not judged where the Trainer has a ``compute_loss`` of
    its own, which may want more, nor where ``**kwargs`` is not typed.

    References: huggingface/transformers#25054 for a weight of rows that compute_loss asked for,
    huggingface/trl#3705 for positions that were lost on the way, and
    huggingface/transformers#47496 for wrong ones.
    """
    forward = _forward(pipeline)
    if batch.by_loss:
        made, rows = dict(batch.texts[0]), batch.micro_batches[0].sources
    else:
        batch.require_made()
        made, rows = batch.micro_batches[0].inputs, batch.micro_batches[0].rows
    foreign = [] if _may_want_more(pipeline, forward) else sorted(set(made) - forward.names)
    if foreign:
        yield Finding(
            f"the model does not know {', '.join(foreign)} of the batch",
            observed=sorted(made),
            expected=sorted(forward.names),
            cause="a misspelt key, or a column that the collator should not pass on",
            fix="return the names of the model's forward(), and nothing else",
        )
    label = pipeline.label_column(rows[0])
    lost = [
        key
        for key in rows[0]
        if key in forward.names
        and key not in (*made, *OWN, label)
        and not all(_as_default(row[key]) for row in rows)
    ]
    if lost:
        yield Finding(
            f"the rows have {', '.join(lost)}, which the model takes, and the batch does not",
            observed=sorted(made),
            expected=sorted({*made, *lost}),
            cause="the collator passes on some columns only",
            fix="pad these columns, too, and return them",
        )
    yield from _unread(pipeline, made, rows[0])
    wrong = _wrong_labels(pipeline, made, forward)
    if wrong:
        yield Finding(
            f"the labels do not suit the loss: {wrong}",
            cause="labels of another type or shape than the task's",
            fix="labels as the task wants them, or config.problem_type as the labels are",
        )
    keys = sorted(made)
    yield Measured(
        f"the batch has {', '.join(keys)}, {len(foreign)} of these unknown to the model; "
        f"{len(lost)} columns that the model takes are in the rows and not in the batch",
        keys,
    )


@dataclass(frozen=True)
class Forward:
    """The arguments of a model's ``forward``.

    Attributes:
        names: its parameters by name, those of a typed ``**kwargs`` included.
        open: it has a ``**kwargs`` that does not say what it takes.
    """

    names: frozenset[str]
    open: bool


def _forward(pipeline: Pipeline) -> Forward:
    model = unwrapped(pipeline.model)  # PEFT passes on whatever it is given
    names: set[str] = set()
    if model is not pipeline.model:  # and takes some for itself: Poly's task_ids
        around = inspect.signature(pipeline.model.forward).parameters.values()
        names |= {one.name for one in around if one.kind is one.POSITIONAL_OR_KEYWORD}
    is_open = False
    try:
        signature = inspect.signature(model.forward, eval_str=True)
    except NameError:  # annotations that only a type checker imports
        signature = inspect.signature(model.forward)
    for name, parameter in signature.parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            names.add(name)
            continue
        # **kwargs: Unpack[TransformersKwargs]
        typed = next(iter(get_args(parameter.annotation)), None)
        known_names = getattr(typed, "__annotations__", None)
        names |= set(known_names or ())
        is_open = not known_names
    return Forward(frozenset(names), is_open)


def _may_want_more(pipeline: Pipeline, forward: Forward) -> bool:
    # A custom training loop gives the model what it likes of the batch.
    return forward.open or own_loss(pipeline)


def _as_default(values: Any) -> bool:
    """Return whether the model would make the same by itself."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, list):
        return False
    return not any(values) or values == list(range(len(values)))


def _unread(pipeline: Pipeline, made: Made, row: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield columns of the data that the user's own loss asks for, and that the batch has not."""
    trainer = pipeline.trainer
    if trainer is None:
        return
    columns = {*(getattr(pipeline.train_dataset, "column_names", None) or ()), *row}
    for key, method in asked_of_inputs(trainer).items():
        if key in made or key not in columns or key in (trainer.label_names or ()):
            continue
        removed = key not in row and pipeline.args.remove_unused_columns
        yield Finding(
            f"{method} asks the batch for {key!r}, which the rows have and the batch has not",
            observed=sorted(made),
            expected=key,
            where=f"{type(trainer).__name__}.{method}",
            cause=f"the Trainer removes the column {key!r}, which the model's forward does not take"
            if removed
            else f"the collator does not return {key!r}",
            fix="TrainingArguments(remove_unused_columns=False), and a collator that returns it"
            if removed
            else "return it from the collator",
        )


def _wrong_labels(pipeline: Pipeline, made: Made, forward: Forward) -> str | None:
    labels, task = made.get("labels"), objective_of(pipeline)
    if labels is None:
        # Losses of pairs and of rewards read no labels, nor does a loop's that is of inputs alone.
        unlabelled = own_loss(pipeline)
        # A model of the user's own may make its loss of the inputs alone.
        unlabelled |= not task.known or not (forward.open or "labels" in forward.names)
        if task.name in (PREFERENCE, POLICY) or unlabelled:
            return None
        present = sorted(set(made) - set(OWN))
        own = [
            name for name in getattr(pipeline.trainer, "label_names", None) or () if name in made
        ]
        return None if own else f"the batch has none, only {', '.join(present) or 'inputs'}"
    # A loss of the user's own takes them as it likes: those that judge the step look at its calls.
    if not task.known or not task.beside_inputs or not labels_reach_model(pipeline):
        return None
    rows, width = made["input_ids"].shape[:2] if "input_ids" in made else (len(labels), 1)
    outputs = getattr(pipeline.config, "num_labels", 1)
    floating = task.name in (MULTI_LABEL, REGRESSION)
    if labels.is_floating_point() != floating:
        wanted = "floating point" if floating else "integers"
        return f"{task.name} wants {wanted}, they are {str(labels.dtype).removeprefix('torch.')}"
    if task.of_choices:  # each of which is a row of tokens
        size = len(labels) if len(labels) and rows % len(labels) == 0 else rows
    elif task.name == SINGLE_LABEL:
        size = rows
    elif floating:
        size = rows * outputs
    else:
        size = rows * width
    if labels.numel() != size:
        return f"{task.name} wants {size} for {rows} rows, their shape is {tuple(labels.shape)}"
    return None
