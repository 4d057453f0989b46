"""TS232 dataset.arguments_are_the_tools."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.calls import Calls
from trainsanity.types import Finding, Measured

ENOUGH = 8
"""Calls from which on it is no chance that all of them name the same arguments."""


@check(
    "TS232",
    "dataset.arguments_are_the_tools",
    needs=("tokenizer", "train_dataset"),
    rules_out="tool calls",
)
def arguments_are_the_tools(calls: Calls) -> Iterator[Measured | Finding]:
    """Tool calls hold only the arguments of their own tool.

    What it checks: the calls in the rows as they are trained. It is a failure if every call names
    the same arguments, whichever tool it calls, and sets those of the other tools to None or null.

    Why it matters: a table of Arrow has one type for a column. Calls of several tools become rows
    of one struct with the arguments of all of them, None where a call has none; the template writes
    them out, and the model learns to name arguments that a tool does not have.

    How it is measured: exact, on up to 64 rows. How the chat template writes a call, a name, an
    argument and a missing value is found by rendering one. An argument counts as another tool's if
    all calls of one tool set it to None and calls of another tool do not.

    How to fix: take out what is None before the template is called.

    Bad::

        tokenizer.apply_chat_template(row["messages"])

    Good::

        {name: value for name, value in call["arguments"].items() if value is not None}

    or store the arguments as a JSON string.

    Known false alarms: none known. Arguments that are null by choice are those of the tool itself,
    and other tools do not name them.

    References: axolotl-ai-cloud/axolotl#2909.
    """
    seen = calls
    if seen.foreign and seen.alike and seen.count >= ENOUGH:
        tool, argument = next(iter(seen.foreign.items()))
        yield Finding(
            f"all {seen.count} calls of {len(seen.tools)} tools name the same "
            f"{len(seen.arguments)} arguments, with {seen.literal} where a tool has none: "
            f"{tool} is called with {argument}={seen.literal} each time",
            observed=sorted(seen.arguments),
            expected="each tool's own arguments",
            where="tool_calls",
            cause="the rows went through an Arrow table, which fills arguments that a call lacks "
            "with None, and the template writes them out",
            fix="take None values out of the messages before apply_chat_template, or store "
            "arguments as JSON strings",
        )
    yield Measured(
        f"{seen.count} calls of {len(seen.tools)} tools set {len(seen.arguments)} arguments to "
        f"{seen.literal}; {len(seen.foreign)} tools set one to it in each call that other tools do "
        "not",
        len(seen.foreign),
        0,
    )
