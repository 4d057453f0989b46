"""Distillation: the distribution of a teacher, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainsanity.objectives.base import IGNORED
from trainsanity.objectives.outputs import Call, Mistake, OfOutputs, Terms, given
from trainsanity.objectives.preference import of_classes
from trainsanity.objectives.registry import objective
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

DISTILLATION = "distillation"

DIVERGENCES = ("GKDTrainer",)
"""Trainers whose loss is the generalised Jensen-Shannon divergence alone."""

TRAINERS = (*DIVERGENCES, "GOLDTrainer", "DistillationTrainer", "MiniLLMTrainer")


@objective
@dataclass(frozen=True)
class Distillation(OfOutputs):
    """The generalised Jensen-Shannon divergence from a teacher, for each token of an answer.

    Between the divergences of the teacher from the mixture ``(1 - beta) student + beta teacher``,
    and of the student from it; at beta 0 the divergence of the teacher from the student, at 1 that
    of the student from the teacher.
    """

    name: ClassVar[str] = DISTILLATION
    item_word: ClassVar[str] = "tokens"
    by_trainer: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("logits",)

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether TRL's Trainer follows a teacher."""
        return of_classes(pipeline.trainer, TRAINERS)

    def settings(self, trainer: Any) -> Mapping[str, Any]:
        """Return beta.

        Raises:
            Skip: the Trainer has another loss, or beside it.
        """
        if not of_classes(trainer, DIVERGENCES):
            raise Skip(f"no formula for {type(trainer).__name__}")
        if getattr(trainer, "use_liger_gkd_loss", False):
            raise Skip("a fused loss shows no logits")
        beta = getattr(trainer.args, "beta", None)
        if beta is None or not 0 <= float(beta) <= 1:
            raise Skip(f"no formula for beta={beta}")
        return {"beta": float(beta)}

    def terms(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Terms:
        """Return the tokens that are counted."""
        student, teacher, kept = _sides(calls, inputs)
        return Terms.mean(_divergences(student[kept], teacher[kept], settings["beta"]))

    def mistakes(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Mistake]:
        """Yield wrong formulas of a divergence."""
        import torch

        student, teacher, kept = _sides(calls, inputs)
        beta = settings["beta"]
        (ids,) = given(inputs, "input_ids")
        mask = inputs.get("attention_mask")
        real = torch.ones_like(kept) if mask is None else mask[:, 1:].bool()

        def each(kept: Tensor, beta: float = beta) -> Tensor:
            return _divergences(student[kept], teacher[kept], beta)

        if bool((real & ~kept).any()):
            yield (
                "tokens of the prompt are counted",
                "labels are -100 on the prompt, and the divergence is taken where they are not",
                lambda: each(real).mean(),
            )
        if not bool(kept.all()):
            yield (
                "padding and prompt are counted",
                "take the divergence where labels are not -100",
                lambda: each(torch.ones_like(kept)).mean(),
            )
        yield (
            "the divergence is summed over the tokens of a row",
            "divide by the number of tokens whose label is not -100",
            lambda: each(kept).sum() / len(ids),
        )
        yield (
            "the divergence is summed over the tokens and not averaged",
            "divide by the number of tokens whose label is not -100",
            lambda: each(kept).sum(),
        )
        yield (
            "the mean is taken over the vocabulary, too",
            "sum over the vocabulary, and average over tokens (batchmean)",
            lambda: each(kept).mean() / student.shape[-1],
        )
        if beta != 0.5:
            yield (
                "student and teacher are exchanged: beta weighs the other one",
                f"beta={beta:g} is the teacher's weight in the mixture",
                lambda: each(kept, 1 - beta).mean(),
            )
            if 0 < beta < 1:
                yield (
                    "the weights of student and teacher in the mixture are exchanged",
                    f"the mixture is {1 - beta:g} student + {beta:g} teacher",
                    lambda: _divergences(student[kept], teacher[kept], beta, 1 - beta).mean(),
                )
        late = inputs["labels"] != IGNORED
        yield (
            "logits are not shifted: each position is counted where its own token is the answer's",
            "logits[:, :-1] beside labels[:, 1:]",
            lambda: _divergences(_of(calls, True)[late], _of(calls, False)[late], beta).mean(),
        )


def _of(calls: Sequence[Call], graded: bool) -> Tensor:
    """Return the student's logits, or the teacher's."""
    found = [call.outputs["logits"] for call in calls if call.graded is graded]
    if len(found) != 1:
        raise Skip("the loss did not call one student and one teacher")
    return found[0]


def _sides(calls: Sequence[Call], inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits that predict something, of both, and where that is counted."""
    (labels,) = given(inputs, "labels")
    student, teacher = _of(calls, True), _of(calls, False)
    if student.dim() != 3 or student.shape != teacher.shape or labels.shape != student.shape[:2]:
        raise Skip("student and teacher have no logits for each label over one vocabulary")
    return student[:, :-1], teacher[:, :-1], labels[:, 1:] != IGNORED


def _divergences(
    student: Tensor, teacher: Tensor, beta: float, share: float | None = None
) -> Tensor:
    """Return the divergence of each token, ``[M]``, in the dtype of the logits.

    Args:
        student: its logits, ``[M, C]``.
        teacher: the same of the teacher.
        beta: weight of the divergence of the teacher.
        share: of the teacher in the mixture; as ``beta`` if it is not given.
    """
    import torch

    p, q = teacher.log_softmax(-1), student.log_softmax(-1)

    def divergence(of: Tensor, to: Tensor) -> Tensor:
        return (of.exp() * (of - to)).sum(-1)

    if beta == 0:
        return divergence(p, q)
    if beta == 1:
        return divergence(q, p)
    share = beta if share is None else share
    mixture = torch.logaddexp(q + math.log1p(-share), p + math.log(share))
    return beta * divergence(p, mixture) + (1 - beta) * divergence(q, mixture)
