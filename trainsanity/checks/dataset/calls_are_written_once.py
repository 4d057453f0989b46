"""TS265 dataset.calls_are_written_once."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.written_calls import WrittenCalls
from trainsanity.types import Finding, Measured, Severity

ENOUGH = 4
"""Messages that say ``None`` before a call, from which on nobody said so: an answer may be that
word, but not again and again before a call."""


@check(
    "TS265",
    "dataset.calls_are_written_once",
    needs=("tokenizer", "train_dataset"),
    rules_out="tool calls",
)
def calls_are_written_once(written_calls: WrittenCalls) -> Iterator[Measured | Finding]:
    r"""Tool calls stand in the rows as the chat template writes them of objects.

    What it checks: that the arguments of calls are an object in the text that is trained, and no
    string that holds one; and that a message which only calls a tool does not say `None` first.

    Why it matters: the API of OpenAI gives arguments as a string, and most chat templates encode
    what they are given. The model learns to write `"{\"city\": \"Paris\"}"`, which no parser
    of calls takes for arguments. Its `content` is null beside a call, and an f-string, or a
    template under transformers 4, writes that as `None`.

    How it is measured: a call is rendered by the tokenizer's own template, once with an object and
    once with the same as text; both ways are looked for in up to 64 rows as they are trained. JSON
    inside an argument is text by nature and none. A template that takes text as it is, and one that
    refuses it, have nothing to encode twice.

    How to fix: give the template objects, and an empty content.

    Bad::

        {"name": "weather", "arguments": '{"city": "Paris"}'}

    Good::

        {"name": "weather", "arguments": {"city": "Paris"}}

    Known false alarms: a model whose publisher trained it on strings inside JSON, with a template
    that encodes whatever it is given.

    References: oumi-ai/oumi#2599, run-llama/llama_index#23142.
    """
    seen = written_calls
    if seen.encoded:
        yield Finding(
            f"the arguments of {seen.encoded} of {seen.count} calls are JSON that was encoded "
            f"twice: a string with escaped quotes, where the template writes an object "
            f"({seen.example}...)",
            observed=seen.encoded,
            expected=0,
            where="tool_calls",
            cause="arguments are a string in the data, as OpenAI's API has them, and the chat "
            "template encodes it once more",
            fix="arguments = json.loads(arguments) before the template is called",
        )
    if seen.empty:
        yield Finding(
            f"{seen.empty} messages that call a tool say None or null in front of it",
            observed=seen.empty,
            expected=0,
            where="messages",
            cause="their content is None, and was written as a word: by an f-string, or by a "
            "template that does not ask whether there is any",
            fix='message["content"] or "", before the text is made',
            severity=Severity.FAILURE if seen.empty >= ENOUGH else Severity.WARNING,
        )
    yield Measured(
        f"of {seen.count} calls {seen.encoded} have arguments that were encoded twice; "
        f"{seen.empty} stand behind an empty content that was written as a word",
        seen.encoded + seen.empty,
        0,
    )
