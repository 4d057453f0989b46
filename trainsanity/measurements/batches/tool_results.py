"""What tools returned, inside what a model is trained to say."""

from __future__ import annotations

import bisect
import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.documents import Documents
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

REQUESTS = "search|query|tool|tool_call|function_call|call|code|python|execute|browse|sql|action"
RESULTS = (
    "results?|information|observation|documents?|search_results?|tool_results?|tool_response|"
    "function_results?|execution_results?|interpreter"
)
"""Names of tags around what a model asks of a tool, and around what comes back, as in Search-R1
(search, information), ReSearch and ARPO (search or python, result), ToRL and Qwen (tool_call,
tool_response)."""

ROUND = re.compile(
    rf"<(?P<asked>{REQUESTS})>.*?</(?P=asked)>\s*<(?P<given>{RESULTS})>(?P<inside>.*?)</(?P=given)>"
    r"|\nAction Input:[^\n]*\n+Observation:(?P<observed>[^\n]+)",
    re.DOTALL,
)
"""A question to a tool with its answer right behind it; the second form is ReAct's."""


@dataclass
class ToolResults:
    """Answers of tools in a few rows.

    Attributes:
        rows: rows that hold a question to a tool with its answer.
        tokens, counted: tokens of the answers, and those of them that are targets.
        learnt: numbers of rows in which most of them are.
        example: the first of those.
    """

    rows: int = 0
    tokens: int = 0
    counted: int = 0
    learnt: list[int] = field(default_factory=list)
    example: str = ""


@measurement(Cost.STATIC)
def tool_results(pipeline: Pipeline, documents: Documents) -> ToolResults:
    """Look for answers of tools right behind what was asked of them, in one turn.

    Raises:
        Skip: there is no tokenizer, the labels are shifted, or no row holds one.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None:
        raise Skip("the pipeline has no tokenizer")
    if documents.shifted:
        raise Skip("the labels are those of the next token: collator.labels_aligned judges that")
    found = ToolResults()
    with preserved(pipeline), quiet(pipeline):
        known = {
            token: str(tokenizer.decode([token], skip_special_tokens=False))
            for token in {token for one in documents.found for token in one.ids}
        }
    for one in documents.found:
        pieces = [known[token] for token in one.ids]
        begins = [0, *itertools.accumulate(map(len, pieces))]
        counted = set(one.counted)
        inside: list[int] = []
        example = ""
        for hit in ROUND.finditer("".join(pieces)):
            group = "inside" if hit["given"] else "observed"
            first = bisect.bisect_left(begins, hit.start(group))
            last = bisect.bisect_left(begins, hit.end(group))
            inside += range(first, last)
            example = example or hit[0]
        if not inside:
            continue
        found.rows += 1
        trained = sum(place in counted for place in inside)
        found.tokens += len(inside)
        found.counted += trained
        if 2 * trained > len(inside):
            found.learnt.append(one.row)
            found.example = found.example or example
    if not found.rows:
        raise Skip("no row holds a question to a tool with the tool's answer right behind it")
    return found
