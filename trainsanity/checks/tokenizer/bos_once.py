"""TS107 tokenizer.bos_once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks._splits import rows_finding, tally
from trainsanity.checks.tokenizer._collated_ids import Collated, collated_ids
from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.measurements.data.scan import Scan
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

HALF = 0.5
"""Share of answers.  A definition: tokenized one by one, all of them have it."""


@check(
    "TS107",
    "tokenizer.bos_once",
    needs=("tokenizer", "train_dataset"),
    rules_out="special tokens",
)
def bos_once(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """No text begins with BOS or CLS twice.

    What it checks: whether rows begin with BOS, or CLS, twice; of rows of texts, which the collator
    tokenizes, those of a micro-batch.  Of a language model, whether answers begin with a BOS of
    their own behind their prompt.

    Why it matters: a chat template writes BOS and the tokenizer adds another when it is given the
    rendered text.  The model has never seen a text begin so; generation with one BOS then is
    another distribution than training with two.  A prompt and an answer that are tokenized one by
    one have a BOS each: the model is taught to begin its answer with it.

    How it is measured: exact, on the first two attended ids of each row; and on the first target
    behind something that is none, in the documents of a few batches: a failure where it is BOS in
    half of them, and the prompt begins with one, too. A BOS that one token follows in all of them
    begins the header of a turn, as ``<|im_start|>`` does.

    How to fix: ``apply_chat_template(..., tokenize=True)``, or tokenize the rendered text with
    ``add_special_tokens=False``.

    Known false alarms: a model that is told by BOS where its answer begins, on purpose.

    References: OpenRLHF/OpenRLHF#393, sambanova/generative_data_prep#60.
    """
    tokenizer = pipeline.tokenizer
    yield from _of_answers(pipeline)
    ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "cls")}
    starts = {name: int(start) for name, start in ids.items() if start is not None}
    try:
        scan.train.require_tokens()
    except Skip:
        if not (texts := collated_ids(pipeline, scan)):
            raise
        yield from _of_batch(pipeline, texts, starts)
        return
    for split in scan.splits:
        for name, start in starts.items():
            found = split.special[start]
            if found.first_doubled is not None:
                yield rows_finding(
                    split,
                    found.doubled,
                    found.first_doubled,
                    f"begin with {tokenizer.convert_ids_to_tokens(start)!r} (id {start}) twice",
                    cause=f"a template and the tokenizer may both have added {name.upper()}",
                    fix="tokenize the rendered text with add_special_tokens=False",
                )
    doubled = [sum(s.special[start].doubled for start in starts.values()) for s in scan.splits]
    leading = ", ".join(
        f"{scan.train.special[start].leading:,} training rows begin with {name.upper()}"
        for name, start in starts.items()
    )
    yield Measured(
        f"rows that begin with BOS or CLS twice: {tally(scan.splits, doubled)} "
        f"({leading or 'the tokenizer has neither'})",
        sum(doubled),
        0,
    )


def _of_batch(
    pipeline: Pipeline, texts: list[Collated], starts: dict[str, int]
) -> Iterator[Measured | Finding]:
    """Judge the texts of a micro-batch as the collator tokenized them."""
    doubled = {
        name: [text for text in texts if text.ids[:2] == [start, start]]
        for name, start in starts.items()
    }
    for name, found in doubled.items():
        if found:
            token = pipeline.tokenizer.convert_ids_to_tokens(starts[name])
            yield Finding(
                f"{len(found)} of {len(texts)} texts of a micro-batch begin with {token!r} (id "
                f"{starts[name]}) twice",
                observed=len(found),
                expected=0,
                where=f"{found[0].name}, row {found[0].row}",
                cause=f"the text brings {name.upper()}, and the tokenizer adds it",
                fix="leave it out of the text",
            )
    count = sum(map(len, doubled.values()))
    yield Measured(f"{count} of {len(texts)} texts of a micro-batch begin twice", count, 0)


def _of_answers(pipeline: Pipeline) -> Iterator[Finding]:
    """Find answers whose first target is BOS, where BOS is not what ends texts, too.

    The prompt has one of its own where both were tokenized alike: behind a picture's places BOS
    begins the text. Where one token follows it in all rows, both are the header of a turn.
    """
    tokenizer = pipeline.tokenizer
    bos = tokenizer.bos_token_id
    if bos is None or bos == tokenizer.eos_token_id:
        return
    try:
        documents = Session.of(pipeline).measurements.get("documents")
    except Skip:
        return
    # The first token of a row is never a target.
    asked = [one for one in documents.found if one.counted and one.counted[0] > 1]
    found = [one for one in asked if one.ids[one.counted[0]] == bos == one.ids[0]]
    if documents.shifted or len(found) < max(1, HALF * len(asked)):
        return
    behind = {tuple(one.ids[one.counted[0] + 1 :][:1]) for one in found}
    if len(found) > 1 and len(behind) == 1:
        return
    yield Finding(
        f"the first target behind the prompt is {tokenizer.convert_ids_to_tokens(bos)!r} (id "
        f"{bos}) in {len(found)} of {len(asked)} rows",
        observed=len(found),
        expected=0,
        where=in_training_order(found[0].row),
        cause="prompt and answer are tokenized one by one, and the tokenizer begins each with BOS",
        fix="tokenize the answer with add_special_tokens=False, and end it with EOS yourself",
    )
