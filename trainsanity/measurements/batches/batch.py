"""The micro-batches of the first optimizer step, beside the rows they were made from."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import UsageError
from trainsanity.fields import IDS, MASK, flat_batch, sequences_of
from trainsanity.isolation.collectives import broadcast_from_zero, rank
from trainsanity.isolation.fsdp import beside_model
from trainsanity.isolation.shards import in_parts
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.workers import disable_workers
from trainsanity.maths.alignment import Placement, placements, turned
from trainsanity.measurements.batches.given_tokens import tokens_of_texts
from trainsanity.measurements.batches.observed_collator import observed
from trainsanity.measurements.batches.rewards import usable_rewards
from trainsanity.measurements.batches.whose_loss import refuse_unlabelled
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class MicroBatch:
    """A batch as the collator returned it, and the rows that it was given.

    Attributes:
        inputs: the batch; the choices of a row are rows of their own.
        rows: the sequences that lie in ``input_ids``, one for each of its rows; as given where
            these are rows of ``input_ids`` already, or hold none.
        given: the rows as the collator was given them, where that is something else; else None.
        turned: the collator has put the rows in another order, which ``rows`` follow.
        made: the batch as the collator returned it, where its choices are no rows; else None.
    """

    inputs: dict[str, Tensor]
    rows: list[dict[str, Any]]
    given: list[dict[str, Any]] | None = None
    turned: bool = False
    made: dict[str, Tensor] | None = None

    @classmethod
    def of(
        cls, made: Mapping[str, Any], rows: list[dict[str, Any]], collator: Any = None
    ) -> MicroBatch:
        """Return the sequences of these rows beside the batch that was made of them."""
        sequences = sequences_of(rows, made, collator)
        flat = flat_batch(made)
        each = max(1, len(sequences or ()) // max(1, len(rows)))
        order = None if sequences is None else turned(sequences, flat, each)
        # Choices that change places within their question leave the rows where they were.
        others = any(k // each != one // each for k, one in enumerate(order or ()))
        if sequences is None or (rows and IDS in rows[0] and flat.keys() == {*made} and len(
            sequences) == len(rows)):  # fmt: skip
            return cls(dict(made), [rows[k] for k in order] if order else rows, turned=others)
        found = [sequences[k] for k in order] if order else sequences
        return cls(flat, found, rows, others, dict(made))

    @property
    def model_inputs(self) -> dict[str, Tensor]:
        """The batch as the model takes it."""
        return self.inputs if self.made is None else self.made

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The rows as the collator was given them."""
        return self.rows if self.given is None else self.given

    @property
    def of_tokens(self) -> bool:
        """Return whether rows and batch hold token ids."""
        return IDS in self.inputs and all(IDS in row for row in self.rows)

    @cached_property
    def placements(self) -> list[Placement | None]:
        """Return where each row lies in ``input_ids``; None where it is not there whole."""
        return placements(self.rows, self.inputs)

    @property
    def width(self) -> int:
        """The padded length."""
        return int(self.inputs["input_ids"].shape[-1])

    @property
    def lengths(self) -> list[int]:
        """Tokens per source row; those that the row's own mask hides are padding already."""
        return [attended(row)[1] for row in self.rows]


def attended(row: Mapping[str, Any]) -> tuple[int, int]:
    """``(last attended place, number of attended tokens)`` of a source row."""
    mask = list(row.get("attention_mask", ())) or [1] * len(row["input_ids"])
    return max((k for k, one in enumerate(mask) if one), default=-1), sum(map(bool, mask))


@dataclass(frozen=True)
class Batch:
    """All micro-batches of one optimizer step on this process."""

    micro_batches: list[MicroBatch]

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.micro_batches)

    made_up: bool = False
    """The collator hands its rows on, and these are prompts that are padded for looking at."""

    texts: tuple[Mapping[str, Any], ...] = ()
    """The collator's own batches, where these are texts of which the loss makes the tokens."""

    @property
    def by_loss(self) -> bool:
        """Return whether the loss makes the tokens that the model is given."""
        return bool(self.texts)

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The rows of the step as the collator was given them."""
        return [row for micro in self for row in micro.sources]

    @property
    def of_tokens(self) -> bool:
        """Return whether rows and batches hold token ids."""
        return all(micro.of_tokens for micro in self)

    def require_made(self) -> None:
        """Stop what compares the collator's batch with its rows.

        Raises:
            Skip: it hands the rows on as they are.
        """
        if self.made_up:
            raise Skip("the collator hands its rows on as they are: the Trainer makes the batches")
        if self.by_loss:
            raise Skip("the collator hands texts on: the loss makes the model's tokens of them")

    def require_ids(self) -> None:
        """Stop what asks about the token ids of the batch.

        Raises:
            Skip: the batch has none.
        """
        self.require_made()
        for micro in self:
            if IDS not in micro.inputs:
                raise Skip(f"the batch has no input_ids (it has {', '.join(micro.inputs)})")

    def require_tokens(self) -> None:
        """Stop what asks how the collator lays token ids of its rows out.

        Raises:
            Skip: the batch or its rows hold none.
        """
        self.require_ids()
        if not self.of_tokens:
            raise Skip("the collator is given rows without token ids: they are not compared with "
                       "the batch")  # fmt: skip

    def require_placed(self) -> None:
        """Stop what asks where rows lie in their batch, whoever has laid them out.

        Raises:
            Skip: the batch or its rows hold no token ids.
        """
        if not self.by_loss:
            self.require_tokens()

    @property
    def lengths(self) -> list[int]:
        """Tokens per source row, over all micro-batches."""
        return [n for micro in self for n in micro.lengths]


@measurement(Cost.STATIC)
def batch(pipeline: Pipeline) -> Batch:
    """Draw the first optimizer step's micro-batches from the Trainer's own data loader.

    A custom training loop has the first rows of its data collated.
    """
    trainer = pipeline.trainer
    if trainer is None:
        with preserved(pipeline), quiet(pipeline):
            taken, collator = next(drawn(pipeline, 1)), pipeline.data_collator
            return Batch([MicroBatch.of(one.inputs, one.rows, collator) for one in taken])
    steps = trainer.args.gradient_accumulation_steps
    with preserved(pipeline), quiet(pipeline), usable_rewards(trainer):
        calls = record_collator(trainer)
        inputs = []
        for collated in trainer.get_train_dataloader():
            inputs.append(beside_model(pipeline, trainer._prepare_inputs(collated)))
            if len(inputs) == steps:
                break
    if not inputs:
        raise UsageError("the Trainer's data loader yields no batch: give it at least one row")
    if not calls:
        raise Skip("the data loader does not call the collator: which rows it reads is not seen")
    # The loader reads ahead: there may be more calls than batches.
    pairs = shared(pipeline, list(zip(inputs, calls[: len(inputs)], strict=True)))
    if any(not isinstance(made, Mapping) for made in inputs):
        return _prompts(pipeline, [rows for _, rows in pairs])
    refuse_unlabelled(trainer, inputs[0], calls[0][0])
    if all(COMPLETION in made and IDS not in made for made in inputs):
        return Batch([_generated(made, rows) for made, rows in pairs], made_up=True)
    with preserved(pipeline), quiet(pipeline):
        if texts := tokens_of_texts(pipeline, pairs):
            made = tuple(own for own, _ in pairs)
            return Batch([MicroBatch(*one) for one in texts], texts=made)
    collator = pipeline.data_collator
    return Batch([MicroBatch.of(made, rows, collator) for made, rows in pairs])


COMPLETION = "completion_ids"
"""Key of an answer's tokens in a Trainer that lets its model generate."""


def _generated(made: Mapping[str, Any], rows: list[dict[str, Any]]) -> MicroBatch:
    """Return prompts and the answers that were generated for them as one sequence each."""
    import torch

    names = [name for name in ("prompt_ids", COMPLETION) if name in made]
    parts: list[Any] = [made[name] for name in names]
    masks: list[Any] = []
    for name, part in zip(names, parts, strict=True):
        mask = made.get(name.replace("_ids", "_mask"))
        masks.append(torch.ones_like(part) if mask is None else mask.long())
    joined = {IDS: torch.cat(parts, -1), MASK: torch.cat(masks, -1)}
    ids = [[token for token, one in zip(*pair, strict=True) if one]
           for pair in zip(joined[IDS].tolist(), joined[MASK].tolist(), strict=True)]  # fmt: skip
    return MicroBatch(joined, [{IDS: row} for row in ids], rows)


def _prompts(pipeline: Pipeline, calls: list[list[dict[str, Any]]]) -> Batch:
    """Tokenize and pad the prompts of rows that the collator hands on, as for generation.

    Raises:
        Skip: the rows have no prompt, or there is no tokenizer.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None or any("prompt" not in row for rows in calls for row in rows):
        raise Skip("the data loader yields rows that are no batch, and have no prompt")
    micros = []
    with preserved(pipeline), quiet(pipeline):
        for rows in calls:
            ids = [_prompt_ids(tokenizer, row["prompt"]) for row in rows]
            made = tokenizer.pad(
                {IDS: ids}, padding=True, padding_side="left", return_tensors="pt"
            ).to(pipeline.device)
            micros.append(MicroBatch(dict(made), [{IDS: one} for one in ids], rows))
    return Batch(micros, made_up=True)


def _prompt_ids(tokenizer: Any, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        text = prompt
    else:
        try:
            text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # jinja's, or whatever a template raises
            raise Skip(f"the chat template does not take the prompts: {error}") from error
    return list(tokenizer(text, add_special_tokens=False)[IDS])


def drawn(pipeline: Pipeline, steps: int) -> Iterator[Batch]:
    """Yield micro-batches for the steps of a custom training loop, of rows in their order.

    Of several processes each takes a micro-batch by turns, as prepared data loaders hand them out.

    Raises:
        UsageError: there are too few rows, or the collator returns no ``input_ids``.
        Skip: there is nothing to collate.
    """
    if pipeline.train_dataset is None or pipeline.data_collator is None:
        raise Skip("this pipeline has no train_dataset and data_collator to make a batch of")
    size, count = pipeline.args.train_batch_size, pipeline.args.gradient_accumulation_steps
    rows = _own_rows(_rows(pipeline.train_dataset), size, (pipeline.other_processes or 0) + 1)
    for number in range(steps):
        micros = []
        for _ in range(count):
            chosen = [dict(row) for row in itertools.islice(rows, size)]
            if len(chosen) < size:
                break
            made = pipeline.data_collator(copy.deepcopy(chosen))
            micros.append(MicroBatch(prepared(pipeline, made), chosen))
        if len(micros) < count:
            if number:
                return
            raise UsageError(
                f"train_dataset has too few rows for one optimizer step of {count} x {size}: "
                "pass more rows or a smaller batch"
            )
        yield Batch(micros)


def _own_rows(rows: Iterator[Any], size: int, processes: int) -> Iterator[Any]:
    """Yield this process's rows, ``size`` at a time."""
    for number, row in enumerate(rows):
        if number // size % processes == rank() % processes:
            yield row


def shared(pipeline: Pipeline, pairs: list[Any]) -> list[Any]:
    """Return rank 0's batches on every process where each holds a part of the model.

    A forward is a collective operation there: all have to ask the same questions, as many as the
    rows give rise to.
    """
    if not in_parts(pipeline.model):
        return pairs
    import torch

    shared = broadcast_from_zero(
        [(_moved(made, torch.device("cpu")), rows) for made, rows in pairs]
    )
    device = pipeline.trainer.args.device
    return [(_moved(made, device), rows) for made, rows in shared]


def _moved(made: Any, device: Any) -> Any:
    if not isinstance(made, Mapping):
        return made
    return {name: one.to(device) if hasattr(one, "to") else one for name, one in made.items()}


def _rows(data: Any) -> Iterator[Any]:
    return iter(data) if hasattr(data, "__iter__") else (data[i] for i in range(len(data)))


def prepared(pipeline: Pipeline, made: Any) -> dict[str, Any]:
    """Return a collator's batch on the model's device, moved by the Trainer if there is one.

    Raises:
        UsageError: it is no mapping of names to tensors.
    """
    import torch

    if not isinstance(made, Mapping):
        raise UsageError(
            f"the data_collator returned {type(made).__name__}: return a dict of tensors"
        )
    if pipeline.trainer is not None:
        return dict(beside_model(pipeline, pipeline.trainer._prepare_inputs(made)))
    return {
        name: value.to(pipeline.device) if torch.is_tensor(value) else value
        for name, value in made.items()
    }


def record_collator(trainer: Any) -> list[list[dict[str, Any]]]:
    """Record the rows that the Trainer's collator is given; undone by :func:`preserved`."""
    calls: list[list[dict[str, Any]]] = []

    def recording(call: Callable[[Any], Any], rows: list[Any]) -> Any:
        calls.append([dict(row) for row in rows])
        # The dataset may keep its rows: a collator that changes them would change the user's.
        return call(copy.deepcopy(rows))

    trainer.data_collator = observed(trainer.data_collator, recording)
    disable_workers(trainer.args)
    return calls


@contextmanager
def quiet(pipeline: Pipeline) -> Iterator[None]:
    """Silence transformers' warnings while its parts are used in ways it warns about."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
