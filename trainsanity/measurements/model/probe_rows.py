"""The rows that probes ask about, taken out of the training batch and padded anew."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainsanity.fields import has_choices
from trainsanity.forwards import token_model
from trainsanity.measurements.batches.batch import Batch, MicroBatch
from trainsanity.measurements.model.forward import without_labels
from trainsanity.pipeline import unwrapped
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

LENGTHS = (64, 51, 38)
"""Tokens kept of the longest, a middle and the shortest row of the step.  Unequal, so that there is
padding; short, so that one token among them shows and a vocabulary of logits stays small."""

SHARES = (0.5, 0.375, 0.25)
"""Of a batch's width, kept of the same rows where nothing pads: the rest is room for what is hidden
from the model, without a position that it was never given."""

SHORT = 8
"""Tokens below which those shares are no rows of unequal lengths."""

IDS, MASK, POSITIONS = "input_ids", "attention_mask", "position_ids"
DECODER = "decoder_input_ids"

BORDERS = ("cu_seq_lens", "max_length", "seq_idx")
"""Beginnings of the names of inputs that tell attention where documents of a packed row end."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows without padding, and how the pipeline's batch pads them.

    Attributes:
        tokens: for each row its values by input, ``[n]`` each; the ids among them.
        whole: for each row the inputs that do not go by token.
        fill: by input, what stands where padding is.
        side: where the pipeline pads.
        texts: ids that occur in the rows and are not special, to change tokens into.
        choices: the model takes rows of several choices, and is asked about each alone.
        room: the batch's width where its rows are not padded and nothing tells what they would be
            padded with; a module with as many positions as its rows have takes no more. Else None.
    """

    tokens: list[dict[str, Tensor]]
    whole: list[dict[str, Tensor]]
    fill: dict[str, int]
    side: str
    texts: list[int]
    choices: bool = False
    room: int | None = None

    @property
    def guessed(self) -> bool:
        """Nothing pads: what a mask hides is asked with ids that nobody calls padding."""
        return self.room is not None

    def within(self, width: int) -> int:
        """Return a width, or the widest that the model was ever given where nothing pads."""
        return width if self.room is None else min(width, self.room)

    def asked(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return inputs as the model takes them: rows of one choice each, if it takes choices."""
        if not self.choices:
            return inputs
        return {
            name: value[:, None] if getattr(value, "ndim", 0) == 2 else value
            for name, value in inputs.items()
        }

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row[IDS]) for row in self.tokens]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def only(self, *places: int) -> Rows:
        """Some of the rows, in that order."""
        return replace(
            self,
            tokens=[self.tokens[k] for k in places],
            whole=[self.whole[k] for k in places],
        )

    def targets(self, shape: tuple[int, ...]) -> list[int]:
        """Return how many tokens a decoder is given of each row; empty if not of that shape."""
        sizes = [len(row[DECODER]) for row in self.whole if DECODER in row]
        return sizes if sizes and tuple(shape) == (len(self.whole), max(sizes)) else []

    def spans(self, width: int, side: str) -> list[slice]:
        """Return where each row lies when padded to ``width`` on that side."""
        return [slice(0, n) if side == "right" else slice(width - n, width) for n in self.lengths]

    def stacked(self, width: int, side: str, *, refill: bool = False) -> dict[str, Any]:
        """The model's inputs with these rows padded; ``refill`` puts text ids where PAD was."""
        import torch

        made: dict[str, Any] = {}
        for name, first in self.tokens[0].items():
            fill = self.fill.get(name, 0)
            block = first.new_full((len(self.tokens), width), fill)
            for k, span in enumerate(self.spans(width, side)):
                if refill and name == IDS:
                    block[k] = self.another(int(fill))
                block[k, span] = self.tokens[k][name]
            made[name] = block
        for name in self.whole[0]:
            values = [row[name] for row in self.whole]
            if len({one.shape[:1] for one in values}) > 1:
                # What a decoder is given, whose later tokens do not change what comes before.
                fill = self.fill.get(IDS, 0) if name.endswith("ids") else 0
                made[name] = torch.nn.utils.rnn.pad_sequence(
                    values, batch_first=True, padding_value=fill
                )
            else:
                made[name] = torch.stack(values)
        return made

    def another(self, token: int) -> int:
        """A text id other than this one.

        Raises:
            Skip: the rows have none.
        """
        found = next((one for one in self.texts if one != token), None)
        if found is None:
            raise Skip("all tokens of the rows are alike: none can be changed into another")
        return found

    def with_last_changed(self) -> Rows:
        """The rows, each with another last token."""
        return replace(self, tokens=[self._changed(row, len(row[IDS]) - 1) for row in self.tokens])

    def with_each_changed(self) -> Rows:
        """The first row as often as it has tokens, each time with another one changed."""
        row = self.tokens[0]
        count = len(row[IDS])
        changed = [self._changed(row, place) for place in range(count)]
        return replace(self, tokens=changed, whole=[self.whole[0]] * count)

    def _changed(self, row: dict[str, Tensor], place: int) -> dict[str, Tensor]:
        ids = row[IDS].clone()
        ids[place] = self.another(int(ids[place]))
        return {**row, IDS: ids}


def probe_rows(pipeline: Pipeline, batch: Batch) -> Rows:
    """Three rows of the first optimizer step as the model was given them, their middles cut out.

    Raises:
        Skip: there is no mask to tell rows from padding, or rows lie in pieces.
    """
    found: list[tuple[MicroBatch, int, Tensor]] = []
    fill: dict[str, int] = {}
    side = ""
    for micro in batch:
        if IDS not in micro.inputs:
            raise Skip(f"the batch has no input_ids (it has {', '.join(micro.inputs)})")
        ids, mask = micro.inputs[IDS], micro.inputs.get(MASK)
        if mask is None:
            found += _without_mask(pipeline, micro)
            continue
        if mask.shape != ids.shape:
            raise Skip("the batch has no attention_mask that tells rows from padding")
        for k, places in enumerate(mask.bool()):
            steps = places.long().diff()
            if not places.any() or int((steps != 0).sum()) > (2 if not places[0] else 1):
                raise Skip("the attention_mask of a row has holes: its padding is not at an end")
            if not places.all():
                side = side or ("right" if bool(places[0]) else "left")
                fill = fill or _fill(pipeline, micro, k, places)
            found.append((micro, k, places))
    found.sort(key=lambda one: -int(one[2].sum()))
    room = _room(batch) if not side and _pad(pipeline) is None else None
    lengths: tuple[int, ...] = LENGTHS
    if room is not None:
        lengths = tuple(min(n, int(room * by)) for n, by in zip(LENGTHS, SHARES, strict=True))
    chosen = sorted({0, len(found) // 2, len(found) - 1})
    rows = [_row(pipeline, *found[k], limit) for k, limit in zip(chosen, lengths, strict=False)]
    tokenizer = pipeline.tokenizer
    if IDS not in fill:
        # The first id is one of any embedding, and under mask 0 it does not matter which it is.
        fill[IDS] = _pad(pipeline) or 0
    special = {fill[IDS], *(getattr(tokenizer, "all_special_ids", None) or ())}
    tokens, whole = [one for one, _ in rows], [rest for _, rest in rows]
    return Rows(
        tokens,
        whole,
        fill,
        side or getattr(tokenizer, "padding_side", None) or "right",
        [one for one in _distinct(row[IDS] for row in tokens) if one not in special],
        choices=any(has_choices(row) for micro in batch for row in (micro.given or ())[:1]),
        room=room,
    )


def _room(batch: Batch) -> int:
    """Return the width of a batch that is not padded.

    Raises:
        Skip: there is no mask to hide anything, or rows are too short to be cut.
    """
    if any(MASK not in micro.inputs for micro in batch):
        raise Skip("neither batch, tokenizer nor config says what rows are padded with")
    width = min(micro.inputs[IDS].shape[1] for micro in batch)
    if width < SHORT:
        raise Skip(f"rows of {width} tokens are not padded, and too short to be cut")
    return int(width)


def _without_mask(pipeline: Pipeline, micro: MicroBatch) -> list[tuple[MicroBatch, int, Tensor]]:
    """Return the documents of rows that a batch without a mask lays end to end, or its rows.

    A model attends to all tokens without a mask, and to those of a document alone where positions
    restart with each.

    Raises:
        Skip: the model takes no mask, without which padding cannot be told.
    """
    import torch

    if MASK not in inspect.signature(unwrapped(token_model(pipeline.model)).forward).parameters:
        raise Skip("the batch has no attention_mask, and the model takes none")
    ids, positions = micro.inputs[IDS], micro.inputs.get(POSITIONS)
    if positions is None or positions.shape != ids.shape:
        return [(micro, k, torch.ones_like(row, dtype=torch.bool)) for k, row in enumerate(ids)]
    found = []
    for k, row in enumerate(positions):
        starts = [*torch.nonzero(row == 0).flatten().tolist(), len(row)]
        for start, end in itertools.pairwise(starts):
            places = torch.zeros_like(row, dtype=torch.bool)
            places[start:end] = True
            found.append((micro, k, places))
    if not found:
        raise Skip("no row of the batch begins at position 0")
    return found


def _asked(pipeline: Pipeline, micro: MicroBatch) -> dict[str, Any]:
    """Return what the model takes of a batch; a loss of pairs reads more, masks of the answers."""
    asked = without_labels(micro.inputs)
    if micro.given is None:
        return asked
    parameters = inspect.signature(unwrapped(token_model(pipeline.model)).forward).parameters
    return {name: value for name, value in asked.items() if name in parameters}


def _row(
    pipeline: Pipeline, micro: MicroBatch, k: int, places: Tensor, limit: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    import torch

    by_token, whole = {}, {}
    for name, value in _asked(pipeline, micro).items():
        if MASK not in micro.inputs and name.startswith(BORDERS):
            continue  # of the rows as they lay; a document alone has none
        if not torch.is_tensor(value) or value.dim() == 0 or len(value) != len(micro.inputs[IDS]):
            raise Skip(f"the batch has {name!r}, which does not go by row")
        if value.shape == micro.inputs[IDS].shape and not name.startswith("decoder"):
            kept = value[k][places]
            before, after = (limit + 1) // 2, limit // 2
            # What opens and closes a text stays.
            by_token[name] = (
                kept if len(kept) <= limit else torch.cat([kept[:before], kept[-after:]])
            )
        else:
            whole[name] = value[k]
    if MASK not in micro.inputs:
        # The positions that a model counts by itself are those of a document alone.
        by_token.pop(POSITIONS, None)
        by_token[MASK] = torch.ones_like(by_token[IDS])
    return by_token, whole


def _fill(pipeline: Pipeline, micro: MicroBatch, k: int, places: Tensor) -> dict[str, int]:
    shape = micro.inputs[IDS].shape
    return {
        name: int(value[k][~places][0])
        for name, value in _asked(pipeline, micro).items()
        if getattr(value, "shape", None) == shape and not name.startswith("decoder")
    }


def _pad(pipeline: Pipeline) -> int | None:
    for owner in (pipeline.tokenizer, pipeline.config):
        pad = getattr(owner, "pad_token_id", None)
        if pad is not None:
            return int(pad)
    return None


def _distinct(rows: Iterable[Tensor]) -> list[int]:
    return list(dict.fromkeys(int(one) for row in rows for one in row))
