"""TS119 tokenizer.teachers_share_the_ids."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.beside import Beside
from trainsanity.types import Finding, Measured, Severity, Skip

MOST, SOME = 0.1, 0.01
"""Shares of the ids that mean another token, from which it is another vocabulary, and from which it
is worth a word. Choices: a tokenizer of the same family has a few reserved tokens by other names,
one of another family has next to none in common."""


@check(
    "TS119",
    "tokenizer.teachers_share_the_ids",
    needs=("trainer", "tokenizer"),
    rules_out="a teacher of another vocabulary",
)
def teachers_share_the_ids(beside: list[Beside]) -> Iterator[Measured | Finding]:
    """A teacher or reference reads the ids of the trained model's tokenizer.

    What it checks: language models that the Trainer holds beside the trained one, with as many
    tokens as it has: the tokens that their own checkpoint's tokenizer has for the ids, against
    those of the tokenizer that the rows are made with.

    Why it matters: such a model is given the rows' ids as they are. If they mean other words to it,
    it reads nonsense, and the student learns what it makes of that. Two vocabularies of one size
    raise no error, and the divergence falls.

    How it is measured: exact, from the files of the model's checkpoint on this machine. A failure
    where a tenth of the ids mean another token, a warning from a hundredth on.

    How to fix: a teacher of the student's family, or a Trainer that aligns two tokenizers::

        # bad
        GKDTrainer("Qwen/...", teacher_model="meta-llama/...")
        # good
        GKDTrainer("Qwen/...", teacher_model="Qwen/...")

    Known false alarms: a Trainer that tokenizes each text once more for its teacher.

    References: huggingface/trl#4562, arcee-ai/DistillKit#29.
    """
    if not beside:
        raise Skip("no other language model whose tokenizer is on this machine stands beside it")
    for one in beside:
        share = one.others / max(1, one.shared)
        if share < SOME:
            continue
        told = "; ".join(f"{i} is {ours!r} in the rows and {theirs!r} to it"
                         for i, ours, theirs in one.examples)  # fmt: skip
        yield Finding(
            f"{one.others} of {one.shared} ids mean another token to {one.attribute} "
            f"({one.kind} of {one.checkpoint}): {told}",
            observed=one.others,
            expected=0,
            where=f"trainer.{one.attribute}",
            cause="its vocabulary is another one of the same size: the teacher is given the "
            "student's ids and reads other words",
            fix="a teacher with the student's tokenizer, or distillation across tokenizers (GOLD)",
            severity=Severity.FAILURE if share >= MOST else Severity.WARNING,
        )
    names = ", ".join(one.attribute for one in beside)
    yield Measured(
        f"{sum(one.others for one in beside)} of {sum(one.shared for one in beside)} ids mean "
        f"another token to {names}",
        sum(one.others for one in beside),
        0,
    )
