"""A few rows through the model in several arrangements: padded elsewhere, a token changed ...

One batch shape for all of them, so that what differs is the model's doing; what two shapes differ
by anyway is measured beside it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.fields import logits_of
from trainsanity.forwards import token_model
from trainsanity.maths.tolerances import largest, logits_difference
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.claims import causal_claim, promised_width
from trainsanity.measurements.model.probe_rows import Rows, probe_rows
from trainsanity.measurements.model.raised import Asked, Precision, in_float32
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

WIDER = 64
"""Columns of padding added to ask for a larger multiple; the largest that collators are set to."""

FEWER = 8
"""The same for a model of few positions, which it does not tell."""

COLUMNS = 256
"""Logits of a token that are kept: of a vocabulary, words in even steps."""

OWN = "as trained"
OTHER = {"left": "right", "right": "left"}


@dataclass(frozen=True, eq=False)
class Outputs:
    """The model's answers to some rows; each a list of float64 tensors on the CPU, one per row.

    Attributes:
        logits: ``[C]``, or ``[n, C]`` at the row's own tokens where each has logits.
        states: ``[n, H]``, the state of each of the row's tokens under the head; None where it is
            not visible.
        width: outputs per item, before any were left out.
    """

    logits: list[Tensor]
    states: list[Tensor] | None
    width: int


@dataclass(frozen=True)
class Probes:
    """The same rows in several arrangements.

    Attributes:
        rows: the rows themselves.
        side: where the pipeline pads.
        own: padded as the pipeline pads.
        again: the same a second time.
        cached: the same with ``use_cache`` on and off; empty if the model has no such switch.
        wider: with :data:`WIDER` more columns of padding, or fewer if that is all it takes.
        more: how many more.
        elsewhere: padded on the other side, by what positions were given; of states alone.
        refilled: with text ids in place of PAD, under mask 0.
        unmasked: the same with a mask of ones.
        changed: with another last token.
        alone: each row by itself without any padding, where a mask is often not made at all.
        alone_padded: each by itself with the padding that it has beside the others.
        alone_changed: the longest by itself with another last token.
        read_at: by row, the last token that the row's logits react to; for rows whose logits do not
            react to their last.
        logits_noise: largest difference of logits between a row alone and among copies of itself.
        states_noise: largest relative difference of a token's state there.
        logits_unit: what roundings make of the logits, by one unit in the last place of the
            weights; 0 where that was not asked.
        states_unit: the same of a token's state, relative.
        precision: in which dtype the model was asked.
        layers: of the model; 1 if its config does not tell.
        causal: what says that the model is causal; empty if nothing does.
        head_width: outputs that config and task promise; None if they promise nothing.
    """

    rows: Rows
    side: str
    own: Outputs
    again: Outputs
    cached: list[Outputs]
    wider: Outputs
    more: int
    elsewhere: dict[str, Outputs]
    refilled: Outputs
    unmasked: Outputs
    changed: Outputs
    alone: list[Outputs]
    alone_padded: list[Outputs]
    alone_changed: Outputs
    read_at: dict[int, int | None]
    logits_noise: float
    states_noise: float
    logits_unit: float
    states_unit: float
    precision: Precision
    layers: int
    causal: str
    head_width: int | None
    inputs: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def per_token(self) -> bool:
        """Each token has logits of its own."""
        return self.own.logits[0].dim() == 2

    @property
    def allowed_logits(self) -> float:
        """Return the difference of logits that arithmetic explains."""
        size = largest(float(one.abs().max()) for one in self.own.logits)
        return logits_difference(self.dtype, self.logits_noise, size, self.logits_unit)

    @property
    def allowed_states(self) -> float:
        """Return the difference that arithmetic explains, relative to a state's norm.

        The least that is allowed is one operation's.  A state has been through every layer, and
        independent roundings add up as a random walk does.
        """
        return logits_difference(
            self.dtype, self.states_noise, math.sqrt(self.layers), self.states_unit
        )

    @property
    def dtype(self) -> Any:
        """Return the dtype in which the model was asked (``torch.dtype``)."""
        return self.precision.dtype


@measurement(Cost.FORWARD, forwards=lambda pipeline: 20)
def probes(pipeline: Pipeline, batch: Batch) -> Probes:
    """Run three rows through the model in twenty-two passes, at most 64 tokens of each.

    In float32 where that can be had, evaluation mode, no gradients.  The passes are: as trained,
    twice, and with every weight moved by one unit in its last place; with ``use_cache`` on and
    off; wider; on the other side, without and with explicit positions; padding refilled, and
    unmasked; the last token changed, in the batch and in the longest row alone; each row alone,
    alone with its padding, and among copies.  One more for each row whose logits do not react to
    its last token.

    Raises:
        Skip: the rows of the batch cannot be told from their padding, or the model returns no
            logits.
    """
    return in_float32(pipeline, lambda asked: _probed(pipeline, batch, asked))


def _probed(pipeline: Pipeline, batch: Batch, asked: Asked) -> Probes:
    rows = probe_rows(pipeline, batch)
    width, side = rows.within(rows.longest + 8), rows.side
    if rows.guessed:
        width = (rows.longest + width) // 2  # the other half is for the wider ones
    ask = ModelProbe(pipeline, rows)
    inputs = rows.stacked(width, side)
    own = ask(inputs, side)
    cache = (True, False) if "use_cache" in ask.parameters else ()
    alone, padded, copies = [], [], []
    for k in range(len(rows.tokens)):
        one = rows.only(k)
        alone.append(ask(one.stacked(one.longest, side), side, one))
        padded.append(ask(one.stacked(width, side), side, one))
        copied = rows.only(*[k] * len(rows.tokens))
        copies.append(ask(copied.stacked(one.longest, side), side, copied))
    if own.logits[0].dim() == 1 and own.logits[0].shape != alone[0].logits[0].shape:
        raise Skip("a row has one output for each row of the batch: it cannot be asked alone")
    altered = rows.with_last_changed()
    first = altered.only(0)
    refilled = rows.stacked(width, side, refill=True)
    with asked.nudged() as possible:
        moved = ask(inputs, side) if possible else own
    wider, more = _wider(ask, rows, width)
    found = Probes(
        rows=rows,
        side=side,
        own=own,
        again=ask(inputs, side),
        cached=[ask({**inputs, "use_cache": on}, side) for on in cache],
        wider=wider,
        more=more,
        elsewhere=_elsewhere(ask, rows, width),
        refilled=ask(refilled, side),
        unmasked=ask({**refilled, "attention_mask": _ones(refilled)}, side),
        changed=ask(altered.stacked(width, side), side),
        alone=alone,
        alone_padded=padded,
        alone_changed=ask(first.stacked(first.longest, side), side, first),
        read_at={},
        logits_noise=largest(
            difference(a.logits * len(c.logits), c.logits)
            for a, c in zip(alone, copies, strict=True)
        ),
        states_noise=largest(
            relative(a.states * len(c.states), c.states)
            for a, c in zip(alone, copies, strict=True)
            if a.states is not None and c.states is not None
        ),
        logits_unit=asked.roundings(
            difference(moved.logits, own.logits),
            largest(float(one.abs().max()) for one in own.logits),
        ),
        states_unit=asked.roundings(relative(moved.states or [], own.states or []), 1.0),
        precision=asked.precision,
        layers=getattr(pipeline.config, "num_hidden_layers", None) or 1,
        causal=causal_claim(pipeline),
        head_width=promised_width(pipeline),
        inputs=inputs,
    )
    if not found.per_token:
        for k in unresponsive_rows(found):
            found.read_at[k] = last_influential_token(found, ask, k, width)
    return found


def _wider(ask: ModelProbe, rows: Rows, width: int) -> tuple[Outputs, int]:
    """Return the rows' outputs with more padding, as much as the model has positions for."""
    more = rows.within(width + WIDER) - width
    try:
        return ask(rows.stacked(width + more, rows.side), rows.side), more
    except Skip:
        if rows.guessed:
            raise
        return ask(rows.stacked(width + FEWER, rows.side), rows.side), FEWER


def _elsewhere(ask: ModelProbe, rows: Rows, width: int) -> dict[str, Outputs]:
    side = OTHER[rows.side]
    inputs = rows.stacked(width, side)
    ways = {"the model's own positions": ask(inputs, side)}
    # Nobody promises that a model that takes no positions can be padded on either side.
    if "position_ids" not in ask.parameters:
        return {}
    if "position_ids" not in inputs:
        mask = inputs["attention_mask"].long()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        ways["positions from the mask"] = ask({**inputs, "position_ids": positions}, side)
    return ways


def _ones(inputs: dict[str, Any]) -> Any:
    return inputs["attention_mask"].new_ones(inputs["attention_mask"].shape)


def unresponsive_rows(found: Probes) -> list[int]:
    """Return the rows whose logits do not react to their last token."""
    pairs = zip(found.changed.logits, found.own.logits, strict=True)
    return [k for k, (a, b) in enumerate(pairs) if difference([a], [b]) <= found.allowed_logits]


def last_influential_token(found: Probes, ask: ModelProbe, k: int, width: int) -> int | None:
    """Return the last token that a row's logits react to: each is changed in turn, in one batch."""
    one = found.rows.only(k)
    each = one.with_each_changed()
    outputs = ask(each.stacked(width, found.side), found.side, each).logits
    moved = [difference([a], [found.own.logits[k]]) > found.allowed_logits for a in outputs]
    return max((place for place, has in enumerate(moved) if has), default=None)


class ModelProbe:
    """Runs the model and keeps its outputs at the rows' own tokens."""

    def __init__(self, pipeline: Pipeline, rows: Rows) -> None:
        self.model, self.rows = token_model(pipeline.model), rows
        inner = unwrapped(self.model)
        self.parameters = set(inspect.signature(inner.forward).parameters)
        self.body = getattr(inner, "base_model", None)
        if self.body is inner:
            self.body = None

    def output(self, inputs: dict[str, Any]) -> Any:
        """Return what the model makes of rows that were padded anew.

        Raises:
            Skip: it does not take them; a decoder of its own wants other inputs, too.
        """
        import torch

        try:
            return self.model(**self.rows.asked(inputs))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # it ran on the training batch: this is not what it was made for
            problem = f"{type(error).__name__}: {first_line(error)}"
            raise Skip(f"the model does not take its rows padded anew: {problem}") from error

    def __call__(self, inputs: dict[str, Any], side: str, rows: Rows | None = None) -> Outputs:
        """Return the outputs of one forward over ``rows``, which were padded on that side."""
        with states_of(self.body) as seen:
            output = self.output(inputs)
        logits = logits_of(output)
        if logits is None:
            raise Skip("the model returns no logits")
        ids = inputs["input_ids"]
        spans = (rows or self.rows).spans(ids.shape[1], side)
        width = logits.shape[-1]
        sizes = (rows or self.rows).targets(tuple(logits.shape[:2])) if logits.dim() == 3 else []
        # A decoder's width may be that of the ids by chance.
        if logits.dim() == 3 and not sizes and logits.shape[:2] == ids.shape:
            kept = [logits[k, span][:, :: max(1, width // COLUMNS)] for k, span in enumerate(spans)]
        elif logits.dim() == 2 and len(logits) == len(ids):
            kept = list(logits)
        elif sizes:
            # A decoder answers at its own tokens, and these are all that its rows show.
            step = max(1, width // COLUMNS)
            answers = [_kept(logits[k, :size][:, ::step]) for k, size in enumerate(sizes)]
            return Outputs(answers, answers, width)
        else:
            raise Skip(f"the model returns logits of shape {tuple(logits.shape)}")
        states = seen[-1] if seen and seen[-1].shape[:2] == ids.shape else None
        if states is None and logits.dim() == 3:
            states = logits[..., :: max(1, width // COLUMNS)]
        by_row = None if states is None else [_kept(states[k, s]) for k, s in enumerate(spans)]
        return Outputs([_kept(one) for one in kept], by_row, width)


@contextmanager
def states_of(body: Any) -> Iterator[list[Tensor]]:
    """Record the last hidden states of each pass of ``body`` in the block."""
    import torch

    seen: list[Tensor] = []
    if body is None:
        yield seen
        return

    def at_end(_module: Any, _inputs: Any, output: Any) -> None:
        found = getattr(output, "last_hidden_state", None)
        if found is None and isinstance(output, tuple) and output:
            found = output[0]
        if torch.is_tensor(found) and found.dim() == 3:
            seen.append(found)

    handle = body.register_forward_hook(at_end)
    try:
        yield seen
    finally:
        handle.remove()


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu()


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest absolute difference of logits; NaN if any is."""
    return largest(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def relative(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest difference of a token's states, relative to their norm; NaN if any is."""
    return largest(_by_token(a, b) for a, b in zip(one, other, strict=True))


def _by_token(a: Tensor, b: Tensor) -> float:
    import torch

    if not len(a):
        return 0.0
    tiny = torch.finfo(b.dtype).tiny
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=tiny)).max())
