"""TS317 collator.supervision_is_declared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.declared import ASSISTANT_ALONE, EVERYTHING, Declared
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check("TS317", "collator.supervision_is_declared", rules_out="loss mask")
def supervision_is_declared(pipeline: Pipeline, declared: Declared) -> Iterator[Measured | Finding]:
    """Targets are the tokens that ``supervise`` declares.

    What it checks: if ``supervise`` is declared, that the tokens which it names are targets and no
    others are. ``"assistant"``: the contents of the assistant's messages, of each turn;
    ``"completion"``: what follows the prompt (the column ``prompt``, or what stands before the last
    answer); ``"all"``: every token.

    Why it matters: what the loss supervises is decided by a template's markers, a collator, three
    arguments and the columns of the data together. Training on questions by mistake, or on the
    last turn alone, lowers the loss as training on answers does.

    How it is measured: exact, on 64 rows as the user's collator labels them. Messages are found by
    the chat template's headers. Headers, closers and the special tokens at the end of a row belong
    to nobody here: `collator.stop_is_taught` judges those.

    How to fix: what the finding names; or declare what is meant.

    Bad::

        [tool.trainsanity]
        supervise = "assistant"          # and SFTConfig(assistant_only_loss=False)

    Good::

        [tool.trainsanity]
        supervise = "assistant"          # and SFTConfig(assistant_only_loss=True)

    A factory says the same of its own Trainer by an attribute: `build.supervise = "assistant"`.

    Known false alarms: none known; without a declaration nothing is judged.

    References: meta-pytorch/torchtune#2453, axolotl-ai-cloud/axolotl#511, huggingface/trl#3927.
    """
    said = f"supervise={declared.supervise!r}"
    for part in declared.parts:
        if not part.broken:
            continue
        state = "no targets" if part.wanted else "targets"
        yield Finding(
            f"{part.broken} of {part.tokens} of {part.name} tokens are {state}, against {said}: "
            f"{part.example!r} (in {part.rows} of {declared.rows} rows)",
            observed=part.broken,
            expected=0,
            where=None if part.row is None else in_training_order(part.row),
            cause=_cause(pipeline, declared.supervise, part.wanted),
            fix="look at the rows with `trainsanity show`, and change the mask or the declaration",
        )
    told = ", ".join(
        f"{part.tokens - part.broken if part.wanted else part.broken} of {part.tokens} of "
        f"{part.name} tokens"
        for part in declared.parts
    )
    yield Measured(
        f"declared is {said}; targets are {told}, in {declared.rows} rows",
        sum(part.broken for part in declared.parts),
        0,
    )


def _cause(pipeline: Pipeline, supervise: str, wanted: bool) -> str:
    args = pipeline.args
    for name in ("assistant_only_loss", "completion_only_loss"):
        value = getattr(args, name, None)
        if value is not None and bool(value) == (supervise == EVERYTHING):
            return f"{name} is {value}"
    if wanted and supervise == ASSISTANT_ALONE:
        return "some turns of the assistant are masked, or the mask misses an end of them"
    if wanted:
        return "a mask, or the collator, leaves them out"
    return "the labels are a copy of the ids there: no mask, or one that nobody reads"
