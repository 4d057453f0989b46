"""TS308 to TS310: the collator as a function: what goes in, what comes out, what it remembers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from ..collating import Collating, Made
from ..measurements.batch import Batch
from ..measurements.drawn import listed
from ..measurements.state import random_states, restored
from ..pipeline import has_places
from ..registry import check
from ..strategies import Case
from ..tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, known
from ..types import Finding, Seen

if TYPE_CHECKING:
    from ..pipeline import Pipeline

OWN = ("input_ids", "attention_mask", "labels")
"""Keys that other checks judge."""


@dataclass(frozen=True)
class Forward:
    """What a model's ``forward`` takes.

    Attributes:
        names: its parameters by name, those of a typed ``**kwargs`` included.
        open: it has a ``**kwargs`` that does not say what it takes.
    """

    names: frozenset[str]
    open: bool


@check(
    "TS308",
    "collator.model_takes_batch",
    needs=("data_collator",),
    acquits="lost columns",
)
def model_takes_batch(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """The model takes every key of the batch, and gets every column that it could take.

    What it checks: the batch's keys against the parameters of the model's ``forward``, those of a
    typed ``**kwargs`` included; the rows' columns that are among these parameters against the
    batch; the labels' dtype and shape against the loss of the task.

    Why it matters: a model with ``**kwargs`` swallows a misspelt key without a word, and without
    ``position_ids`` or ``token_type_ids`` it makes its own, which for packed texts or pairs are
    others.

    How it is measured: exact, on the first optimizer step's batches.  A column whose values are
    what the model would make by itself (all zeros, or 0, 1, 2 ...) may be missing.

    How to fix: return the model's own names, and pad every column that the model takes.

    Known false alarms: none known.  Keys are not judged where the Trainer has a ``compute_loss`` of
    its own, which may want more, nor where ``**kwargs`` is not typed.

    References: huggingface/trl#3705 for positions that were lost on the way, and
    huggingface/transformers#47496 for wrong ones.
    """
    forward = _forward(pipeline)
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
            cause="the collator passes on input_ids, attention_mask and labels alone",
            fix="pad these columns, too, and return them",
        )
    wrong = _wrong_labels(pipeline, made)
    if wrong:
        yield Finding(
            f"the labels do not suit the loss: {wrong}",
            cause="labels of another type or shape than the task's",
            fix="labels as the task wants them, or config.problem_type as the labels are",
        )
    keys = sorted(made)
    yield Seen(f"the model takes all {len(keys)} of {', '.join(keys)}; the rows have no more", keys)


def _forward(pipeline: Pipeline) -> Forward:
    model = pipeline.model
    if hasattr(model, "get_base_model"):  # PEFT passes on whatever it is given
        model = model.get_base_model()
    names: set[str] = set()
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
    from transformers import Trainer

    trainer = pipeline.trainer
    stock = trainer is None or type(trainer).compute_loss is Trainer.compute_loss
    return forward.open or not stock


def _as_default(values: Any) -> bool:
    """Whether the model would make the same by itself."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, list):
        return False
    return not any(values) or values == list(range(len(values)))


def _wrong_labels(pipeline: Pipeline, made: Made) -> str | None:
    labels, task = made.get("labels"), pipeline.task
    if labels is None:
        present = sorted(set(made) - set(OWN))
        own = [
            name for name in getattr(pipeline.trainer, "label_names", None) or () if name in made
        ]
        return None if own else f"the batch has none, only {', '.join(present) or 'inputs'}"
    if not known(task):
        return None
    rows, width = made["input_ids"].shape[:2]
    outputs = getattr(pipeline.config, "num_labels", 1)
    floating = task.name in (MULTI_LABEL, REGRESSION)
    if labels.is_floating_point() != floating:
        wanted = "floating point" if floating else "integers"
        return f"{task.name} wants {wanted}, they are {str(labels.dtype).removeprefix('torch.')}"
    if task.name == SINGLE_LABEL:
        size = rows
    elif floating:
        size = rows * outputs
    else:
        size = rows * width
    if labels.numel() != size:
        return f"{task.name} wants {size} for {rows} rows, their shape is {tuple(labels.shape)}"
    return None


@check("TS309", "collator.repeatable", needs=("data_collator",), acquits="collator with a memory")
def repeatable(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """The same rows give the same batch, whatever was collated before.

    What it checks: a batch made again from the same rows and the same random states, at once and
    after another batch.

    Why it matters: a collator that counts its calls, keeps what it saw or draws random numbers
    that no seed reaches makes runs that nobody can repeat, and after a resume or with several
    workers other batches than without.

    How it is measured: exact, on pieces of the training batch's rows, shrunk to the smallest
    failure.  In between the states of Python's, NumPy's and torch's global random
    generators, and of generators that are attributes of the collator, are put back: a collator
    that masks at random is repeatable if it draws from these.

    How to fix: no state in the collator; random numbers from torch's global generator, or from one
    that the collator keeps as an attribute.

    Known false alarms: a curriculum that depends on the number of calls.  Name the check in
    expected_failures with that reason.

    References: the ``seed`` of ``transformers.DataCollatorForLanguageModeling``.
    """
    collating = Collating(pipeline, batch, packing=True)
    other = Case(batch.micro_batches[-1].rows)

    def broken(case: Case) -> str | None:
        put_back = random_states(collating.collator)
        before = collating.made(case)
        for when, between in (("at once", ()), ("after another batch", (other,))):
            for one in between:
                put_back()
                collating.made(one)
            put_back()
            differing = _differing(before, collating.made(case))
            if differing:
                return f"made again {when}, {', '.join(differing)} came out differently"
        return None

    objection = collating.search(broken)
    if objection:
        yield Finding(
            f"the collator does not repeat itself: {objection}",
            cause="it counts its calls, keeps what it saw, or draws from a source without a seed",
            fix="keep no state; draw from torch's global generator",
        )
    yield Seen(f"asked 2 times, the same rows give the same batch{collating.tried()}")


def _differing(one: Made, other: Made) -> list[str]:
    keys = sorted({*one, *other})
    return [key for key in keys if listed(one).get(key) != listed(other).get(key)]


@check("TS310", "collator.rows_unchanged", needs=("data_collator",), acquits="rows in memory")
def rows_unchanged(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """The collator leaves the dataset's rows as they were.

    What it checks: the rows before and after they were collated, and whether the dataset hands out
    the same objects each time it is asked.

    Why it matters: a list of rows in memory keeps what a collator pads, cuts or pops.  From the
    second epoch on other rows are trained on.

    How it is measured: exact, on pieces of the training batch's rows, shrunk to the smallest
    failure.  A dataset that makes its rows anew at each read (``datasets.Dataset`` does) is not
    harmed; that the collator changes them is told then, and passes.

    How to fix: work on copies: ``rows = [dict(row) for row in rows]``, and new lists inside.

    Known false alarms: none known.

    References: huggingface/transformers#27333 and #30603, ThilinaRajapakse/simpletransformers#974.
    """
    collating = Collating(pipeline, batch, packing=True)

    def broken(case: Case) -> str | None:
        rows = copy.deepcopy(case.rows)
        collating.collator(rows)
        return _changed(case.rows, rows)

    objection = collating.search(broken)
    kept = _keeps_rows(pipeline.train_dataset)
    if objection and kept:
        yield Finding(
            f"the collator changes the training data: {objection}",
            cause="it pads, cuts or pops in place, and the dataset hands out the same rows again",
            fix="rows = [dict(row) for row in rows] first, and new lists instead of changed ones",
        )
    harmless = " in place, which this dataset makes anew at each read" if objection else ""
    told = "changed" + harmless if objection else "left as they were"
    rows = sum(len(micro.rows) for micro in batch)
    yield Seen(f"{rows} rows are {told}{collating.tried()}", bool(objection), None)


def _changed(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str | None:
    if len(before) != len(after):
        return f"{len(after)} of {len(before)} rows are left"
    for i, (row, now) in enumerate(zip(before, after, strict=True)):
        for key in sorted({*row, *now}):
            if key not in now:
                return f"{key} of row {i} is gone"
            if row.get(key) != now[key]:
                return f"{key} of row {i} is {now[key]} afterwards"
    return None


def _keeps_rows(dataset: Any) -> bool:
    """Whether reading a row twice gives the same row, or the same list inside it."""
    if not has_places(dataset):
        return False
    with restored(()):  # rows may be drawn when they are read
        one, again = dataset[0], dataset[0]
    if one is again:
        return True
    shared = {id(value) for value in one.values() if isinstance(value, list)}
    return any(id(value) in shared for value in again.values())
