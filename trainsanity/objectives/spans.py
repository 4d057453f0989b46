"""Extractive question answering: the first and the last token of an answer in its context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainsanity.objectives.base import head_classes
from trainsanity.objectives.outputs import Call, Mistake, OfOutputs, Terms, entropies, given, only
from trainsanity.objectives.registry import objective
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

QUESTION_ANSWERING = "question_answering"

ENDS = ("start", "end")


@objective
@dataclass(frozen=True)
class QuestionAnswering(OfOutputs):
    """The mean of two cross entropies over the positions of a row, that of its begin and its end.

    An end that lies behind the row, where the window does not hold the answer, is not counted.
    """

    name: ClassVar[str] = QUESTION_ANSWERING
    item_word: ClassVar[str] = "ends of spans"
    reads: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the head marks a span."""
        return "ForQuestionAnswering" in head_classes(pipeline)

    def terms(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Terms:
        """Return the ends that are counted; those of begins weigh as much as those of ends."""
        del settings
        import torch

        call = only(calls)
        losses, weights = [], []
        for end in ENDS:
            logits, where = call.outputs[f"{end}_logits"], _positions(inputs, end)
            kept = _inside(logits, where)
            if not bool(kept.any()):
                raise Skip(f"no {end} of an answer lies in its row")
            part = entropies(logits[kept], where[kept].clamp(min=0))
            losses.append(part)
            weights.append(torch.full_like(part.detach(), 0.5 / len(part)))
        return Terms(torch.cat(losses), torch.cat(weights))

    def mistakes(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Mistake]:
        """Yield wrong formulas of spans."""
        call = only(calls)
        logits = {end: call.outputs[f"{end}_logits"] for end in ENDS}
        where = {end: _positions(inputs, end) for end in ENDS}

        def of(read: str, target: str) -> Tensor:
            kept = _inside(logits[read], where[target])
            return entropies(logits[read][kept], where[target][kept].clamp(min=0)).mean()

        both = "average the cross entropies of start_logits and end_logits"
        yield (
            "begin and end are added and not averaged",
            f"{both}: (start_loss + end_loss) / 2",
            lambda: of("start", "start") + of("end", "end"),
        )
        yield (
            "begins and ends are exchanged",
            "compare start_logits with start_positions, end_logits with end_positions",
            lambda: (of("start", "end") + of("end", "start")) / 2,
        )
        for counted, other in (("start", "end"), ("end", "start")):
            yield (
                f"the loss counts the {counted} of a span alone",
                both,
                lambda counted=counted: of(counted, counted),  # type: ignore[misc]
            )
            yield (
                f"both outputs are compared with the {counted} of a span",
                f"compare {other}_logits with {other}_positions",
                lambda counted=counted: (  # type: ignore[misc]
                    (of("start", counted) + of("end", counted)) / 2
                ),
            )
        yield (
            "the loss is summed over rows and not averaged",
            'reduction="mean"',
            lambda: sum(
                (of(end, end) * int(_inside(logits[end], where[end]).sum()) / 2 for end in ENDS),
                logits["start"].new_zeros(()),
            ),
        )


def _positions(inputs: Mapping[str, Any], end: str) -> Tensor:
    (where,) = given(inputs, f"{end}_positions")
    where = where.squeeze(-1) if where.dim() == 2 else where
    if where.dim() != 1:
        raise Skip(f"{end}_positions are not one position a row")
    return where  # type: ignore[no-any-return]


def _inside(logits: Tensor, where: Tensor) -> Tensor:
    """Return which positions are counted: transformers takes those before the row for its first."""
    if logits.dim() != 2 or len(logits) != len(where):
        raise Skip("the outputs are not one number a position")
    return where < logits.shape[1]
