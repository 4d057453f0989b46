"""TS320 collator.evaluation_is_masked_alike."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.eval_masks import COMMON, Mask
from trainsanity.types import Finding, Measured, Severity

LEAST = 8
"""Rows of each set that say how it is masked: where one row in four is otherwise, eight are alike
by chance in a tenth of the runs at most, and both sets have to be."""

NEARLY_ALL = 0.95
"""Share of rows that are masked in one way: a few lose their question or answer to a cut."""


@check("TS320", "collator.evaluation_is_masked_alike", rules_out="evaluation")
def evaluation_is_masked_alike(eval_masks: list[Mask]) -> Iterator[Measured | Finding]:
    """Evaluation counts the kind of tokens that training does.

    What it checks: whether training rows, and evaluation rows, begin with tokens that the loss does
    not count, as questions are where answers alone are trained; both by the same collator.

    Why it matters: an `eval_loss` over questions and answers is mostly one of questions, which the
    model never learns.  It stays high while training goes well, lies about overfitting, and
    `load_best_model_at_end` and early stopping choose by it.

    How it is measured: exact, on 64 training and 32 evaluation rows.  All but a twentieth of the
    training rows begin with hidden tokens, and all but a twentieth of the evaluation rows have
    none.  It is a failure where the tokens behind which the targets of training rows begin stand in
    the evaluation rows, too: then they are questions with answers like those.  Else, or where
    another evaluation set is masked as training is, it is a warning, and so is the reverse: answers
    alone may be measured on purpose.

    How to fix: make the labels of both sets by one function.

    Bad::

        train = rows.map(hide_questions)
        held_out = other_rows.map(tokenize)

    Good::

        rows = rows.map(hide_questions).train_test_split(0.1)

    Known false alarms: an evaluation of whole conversations on purpose.

    References: hiyouga/LlamaFactory#3148.
    """
    train, *evals = eval_masks
    alike = any(_is_hidden(one) for one in evals)
    for one in evals:
        if _is_hidden(train) and _is_whole(one):
            same = one.marked >= COMMON * one.rows
            yield Finding(
                f"questions are masked in training and count in evaluation: {train.hidden} of "
                f"{train.rows} training rows begin with hidden tokens, none of {one.rows} rows of "
                f"{one.name} does",
                observed=one.counted / one.tokens,
                expected=train.counted / train.tokens,
                where=one.name,
                cause="the labels of the evaluation data are a copy of its ids: they were made by "
                "another function than those of the training data",
                fix="make the labels of both sets by one function, which hides the same part",
                severity=Severity.FAILURE if same and not alike else Severity.WARNING,
            )
        elif _is_whole(train) and _is_hidden(one):
            yield Finding(
                f"questions count in training and are masked in evaluation: {one.hidden} of "
                f"{one.rows} rows of {one.name} begin with hidden tokens, none of {train.rows} "
                "training rows does",
                observed=one.counted / one.tokens,
                expected=train.counted / train.tokens,
                where=one.name,
                cause="the labels of the two sets were made by different functions",
                fix="nothing, if answers alone are measured on purpose; else make the labels of "
                "both sets by one function",
                severity=Severity.WARNING,
            )
    shares = ", ".join(
        f"{one.counted / one.tokens:.0%} of the tokens of {one.name}" if one.tokens else one.name
        for one in eval_masks
    )
    yield Measured(
        f"targets are {shares}; rows that begin with hidden tokens: "
        + ", ".join(f"{one.hidden} of {one.rows}" for one in eval_masks),
        {one.name: one.counted / one.tokens for one in eval_masks if one.tokens},
    )


def _is_hidden(one: Mask) -> bool:
    return one.rows >= LEAST and one.hidden >= NEARLY_ALL * one.rows


def _is_whole(one: Mask) -> bool:
    return one.rows >= LEAST and one.whole >= NEARLY_ALL * one.rows
