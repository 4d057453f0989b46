"""Does the output that predicts a token change with that token, whatever the model is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.fields import logits_of
from trainsanity.maths.tolerances import same_shape_difference, within
from trainsanity.measurements.model.raised import Asked, Precision, in_float32
from trainsanity.measurements.step.pull import FEW, Aims, ModelCall, given_ids
from trainsanity.measurements.step.steps import Recording
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

LONG = 4
"""Tokens of a row from which on one in the middle has others before and behind it."""

MOST = 0.95
"""Share of the targets that have to be the next token of the row, as those that were replaced on
purpose are not."""


@dataclass(frozen=True)
class NextTokens:
    """Outputs before a token that was changed.

    Attributes:
        place: of the token.
        moved: greatest difference of the outputs that precede it.
        behind: of those from it on.
        at: of those at its place.
        size: their largest absolute value.
        precision: in which dtype the model was asked.
        unit: what roundings make of the outputs, by one unit in the last place of the weights; 0
            where the difference is so small that nobody asks.
    """

    place: int
    moved: float
    behind: float
    size: float
    precision: Precision
    unit: float = 0.0
    at: float = 0.0

    @property
    def allowed(self) -> float:
        """Return the difference that arithmetic explains."""
        import torch

        eps = float(torch.finfo(self.precision.dtype).eps)
        return same_shape_difference(eps, self.size, self.unit)


@measurement(Cost.STEP)
def next_tokens(pipeline: Pipeline, recording: Recording) -> NextTokens:
    """Change one token of the first micro-batch, and call the model as the step called it.

    Raises:
        Skip: the loss does not predict the next token of what the model was given, as far as the
            calls of ``cross_entropy`` show.
    """
    import torch

    call = recording.model_call
    if call is None:
        raise Skip("no call of the model was seen")
    found = next(
        (
            value
            for value in call.values()
            if torch.is_tensor(value)
            and value.dim() == 2
            and value.shape[1] >= LONG
            and not value.is_floating_point()
            and _predicted(recording, value)
        ),
        None,
    )
    aims = recording.pulls.aims
    if found is None and aims.ahead == 1:
        # The loss is computed where nobody watches it, inside the model for one.
        found = given_ids(call.values(), aims.shape)
    if found is None or found.shape[1] < LONG:
        raise Skip("no cross entropy has the next tokens of the model's input as its targets")
    return in_float32(pipeline, lambda asked: _asked(pipeline, call, found, asked))


@dataclass(frozen=True)
class Aimed:
    """Where the tokens stand that the outputs are held against.

    Attributes:
        aims: as the first step's gradient shows them.
        asked: what a change of one token does to the outputs; None where nobody had to ask.
    """

    aims: Aims
    asked: NextTokens | None = None


@measurement(Cost.STEP)
def aimed(pipeline: Pipeline, recording: Recording) -> Aimed:
    """Look which token each output of a decoder is held against, and whether it is one that it saw.

    Raises:
        Skip: the gradient at the logits does not name tokens of the input.
    """
    aims, call = recording.pulls.aims, recording.model_call
    if call is None or aims.clear < FEW:
        raise Skip("the gradient at the model's outputs names no tokens of its input")
    if aims.ahead != 0:
        return Aimed(aims)
    ids = given_ids(call.values(), aims.shape)
    if ids is None or ids.shape[1] < LONG:
        raise Skip("the model's first call has no token ids")
    return Aimed(aims, in_float32(pipeline, lambda asked: _asked(pipeline, call, ids, asked)))


def _predicted(recording: Recording, ids: Tensor) -> bool:
    """Return whether a cross entropy's targets are the tokens that follow each of these."""
    import torch

    rows, width = ids.shape
    for call in recording.loss_calls:
        if not call.targets or len(call.targets) < call.items:
            continue
        targets, following = torch.tensor(call.targets), ids[:, 1:].cpu()
        if call.items == rows * width:
            targets = targets.reshape(rows, width)[:, :-1]
        elif call.items != rows * (width - 1):
            continue
        targets = targets.reshape(rows, width - 1)
        counted = targets != IGNORED
        if counted.any() and float((targets == following)[counted].float().mean()) >= MOST:
            return True
    return False


def _asked(pipeline: Pipeline, call: ModelCall, ids: Tensor, asked: Asked) -> NextTokens:
    place = ids.shape[1] // 2
    others = ids[0][ids[0] != ids[0, place]]
    if not len(others):
        raise Skip("all tokens of the first row are alike")
    changed = ids.clone()
    changed[0, place] = others[0]
    before = _outputs(pipeline, call)
    after = _outputs(pipeline, call.with_value(ids, changed))
    if before.shape[:2] != ids.shape:
        raise Skip(f"the model's first output has the shape {tuple(before.shape)}")
    difference = (after - before)[0].abs()
    found = NextTokens(
        place,
        float(difference[:place].max()),
        float(difference[place:].max()),
        float(before[0].abs().max()),
        asked.precision,
        at=float(difference[place].max()),
    )
    if within(found.moved, found.allowed):
        return found
    again = float((_outputs(pipeline, call) - before)[0].abs().max())
    if not within(again, found.allowed):
        raise Skip("the model answers one call in two ways: it draws random numbers of its own")
    with asked.nudged() as possible:
        shaken = _outputs(pipeline, call) if possible else before
    effect = float((shaken - before)[0].abs().max())
    return replace(found, unit=asked.roundings(effect, found.size))


def _outputs(pipeline: Pipeline, call: ModelCall) -> Tensor:
    import torch

    given: dict[str, Any] = {n: v for n, v in call.kwargs.items() if n != "labels"}
    try:
        made = pipeline.model(*call.args, **given)
    except Exception as error:
        raise Skip(f"the model does not take its first call again: {first_line(error)}") from error
    logits = made if torch.is_tensor(made) else logits_of(made)
    if logits is None or not torch.is_tensor(logits) or logits.dim() != 3:
        raise Skip("the model returns no output for each token")
    result: Tensor = logits.detach().double().cpu()
    return result
