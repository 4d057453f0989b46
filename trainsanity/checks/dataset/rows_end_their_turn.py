"""TS234 dataset.rows_end_their_turn."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.measurements.data.endings import Endings
from trainsanity.types import Finding, Measured, Severity

MANY, FEW = 0.5, 0.05
"""Shares of answers from which an open end is a failure, and a warning."""


@check(
    "TS234",
    "dataset.rows_end_their_turn",
    needs=("tokenizer", "train_dataset"),
    rules_out="open turns",
)
def rows_end_their_turn(endings: Endings) -> Iterator[Measured | Finding]:
    """Answers end with their own turn, without the header of another one.

    What it checks: that trained answers do not end with what ``add_generation_prompt=True`` writes:
    the header of another turn of the assistant.

    Why it matters: behind its end each answer opens a turn of the assistant once more.  The model
    learns to go on where it is to stop, and answers itself.

    How it is measured: exact, on the ids of up to 64 rows as the collator gives them: completed
    answers, chosen and rejected ones.  A row that is a prompt and nothing else ends so by right; it
    has the header once, or no target in it.

    How to fix: give the generation prompt to prompts alone.

    Bad::

        tokenizer.apply_chat_template(prompt + answer, add_generation_prompt=True)

    Good::

        tokenizer.apply_chat_template(prompt + answer)

    Known false alarms: none known.  Where fewer than half of the answers end so it is a warning.

    References: Goekdeniz-Guelmez/mlx-lm-lora#83.
    """
    share = len(endings.open) / max(endings.answers, 1)
    if share > FEW:
        yield Finding(
            f"{len(endings.open)} of {endings.answers} answers end with {endings.header!r}: behind "
            "their end they open another turn of the assistant",
            observed=len(endings.open),
            expected=0,
            where=in_training_order(endings.open[0]),
            cause="finished conversations were rendered with add_generation_prompt=True",
            fix="render them with add_generation_prompt=False, and prompts alone with it",
            severity=Severity.FAILURE if share >= MANY else Severity.WARNING,
        )
    yield Measured(
        f"{len(endings.open)} of {endings.answers} answers end with the generation prompt "
        f"{endings.header!r}",
        len(endings.open),
        0,
    )
