"""TS330 collator.results_are_ignored."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.measurements.batches.tool_results import ToolResults
from trainsanity.types import Finding, Measured, Severity

MOST = 0.5
"""Share of rows with results from which those that are trained are no exception."""


@check("TS330", "collator.results_are_ignored", needs=("tokenizer",), rules_out="tools' results")
def results_are_ignored(tool_results: ToolResults) -> Iterator[Measured | Finding]:
    """What a tool returned inside an answer is no target.

    What it checks: rows in which an answer asks a tool and what the tool returned stands right
    behind it (`<search>...</search> <result>...</result>`, `<tool_call>` with `<tool_response>`,
    `Action Input:` with `Observation:`): whether the result's tokens are targets.

    Why it matters: the model writes what it is trained on. At inference it goes on after its
    question and makes up the result, in place of waiting for the tool; and a good part of the loss
    is about texts that nobody can know.

    How it is measured: exact, on 64 rows as the user's collator labels them. A row counts if more
    than half of the tokens between the result's tags are targets; a failure from half of the rows
    with results on. Only a result right behind a question is one: tags such as `<result>` alone are
    a form of answers like any other. Messages of their own (the role `tool`) are the matter of
    collator.targets_fit_messages.

    How to fix: set the labels from the opening to the closing tag to -100, or give the tool's words
    a message of their own.

    Bad::

        labels = input_ids

    Good::

        labels[first : last + 1] = [-100] * (last + 1 - first)   # <result> to </result>

    Known false alarms: a model that is to predict what tools return.

    References: RUC-NLPIR/ARPO#9.
    """
    found = tool_results
    if found.learnt:
        yield Finding(
            f"in {len(found.learnt)} of {found.rows} rows what a tool returned is learnt, "
            f"{found.counted} of {found.tokens} of its tokens: {found.example[:120]!r}",
            observed=len(found.learnt),
            expected=0,
            where=in_training_order(found.learnt[0]),
            cause="the result stands in the assistant's message, and all of that is trained",
            fix="labels of -100 from the result's opening to its closing tag, or a message of the "
            "role tool",
            severity=Severity.FAILURE
            if len(found.learnt) >= MOST * found.rows
            else Severity.WARNING,
        )
    yield Measured(
        f"{found.counted} of {found.tokens} tokens that tools returned are targets, in "
        f"{len(found.learnt)} of {found.rows} rows with such results",
        found.counted,
        0,
    )
