"""TS108 tokenizer.truncation_spares_ends."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


SOURCE = "overflow_to_sample_mapping"
"""Column in which a tokenizer says of which text a window is."""

LOOKED_AT = 1_000
"""Rows that are held against their neighbours, at the most."""

MOST = 0.5
"""Share of them that has to go on in another row: the last window of a text may have been dropped
where it is short."""

FEW = 4
"""Rows that may share a single token with their neighbour by chance, and more."""


@check(
    "TS108",
    "tokenizer.truncation_spares_ends",
    needs=("tokenizer", "train_dataset"),
    rules_out="truncation",
)
def truncation_spares_ends(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """Truncated rows keep the special tokens at their ends.

    What it checks: if all shorter rows begin, or end, with one and the same special token, whether
    the rows of the greatest length do, too.

    Why it matters: truncation after the special tokens were added cuts a template's tail off, or
    with ``truncation_side="left"`` its head.  A model that never sees long texts end does not
    learn to end them, and a head that reads the last token reads a word instead of the token that
    closes the text.

    How it is measured: exact, on the first and last attended id of each row of the training data.
    What all shorter rows share is the expectation; an ordinary token that they share by chance is
    none.  Rows that go on in the row beside them, overlapping with it as windows of one long text
    do, lose nothing.

    How to fix: let the tokenizer truncate (it keeps room for its own special tokens), or truncate
    the content before the template is applied.

    Known false alarms: packed rows, cut where they are full, if their last row ends with a special
    token.

    References: modelscope/ms-swift#6961.
    """
    train = scan.train
    train.require_tokens()
    if train.reach is not None:
        raise Skip("a row holds several sequences: which of them was cut is not seen")
    capped = train.lengths == train.longest
    shorter = (train.lengths > 0) & ~capped
    share = f"{capped.mean():.2%} of {train.counted} have the greatest length, {train.longest}"
    found, closing = [], _closing(pipeline)
    # Blocks of one stream are cut where they are full; its last one ends where the stream does.
    blocks = _wrapped(pipeline) or int(shorter.sum()) == 1 < int(capped.sum())
    for side, ids in (("begin", train.first), ("end", train.last)):
        if ids is None or not shorter.any() or blocks:
            continue
        shared = int(ids[shorter][0])
        if shared not in closing or not (ids[shorter] == shared).all():
            continue
        token = pipeline.tokenizer.convert_ids_to_tokens(shared)
        lost = capped & (ids != shared)
        if lost.any() and (windows := _windows(train, lost, at_end=side == "end")):
            found.append(f"{windows} rows of the greatest length overlap with the row beside them")
            continue
        found.append(
            f"{int(shorter.sum()):,} shorter rows {side} with {token!r}, "
            f"{int((capped & ~lost).sum()):,} of {int(capped.sum()):,} longest ones do"
        )
        if lost.any():
            at = int(lost.argmax())
            lost_side = "left" if side == "begin" else "right"
            yield Finding(
                f"{int(lost.sum()):,} of {int(capped.sum()):,} rows of the greatest length "
                f"{train.longest} do not {side} with {token!r}, and all {int(shorter.sum()):,} "
                f"shorter ones do: truncation on the {lost_side} cut it off ({share})",
                observed=int(lost.sum()),
                expected=0,
                where=train.row(at),
                cause="rows were cut after the template, or the special tokens, were added",
                fix="truncate the text before the template is applied, "
                "or let the tokenizer do it: tokenizer(text, truncation=True, max_length=...)",
            )
    yield Measured("; ".join([share, *found]), round(float(capped.mean()), 6))


def _windows(train: Split, lost: Any, *, at_end: bool) -> int:
    """Return how many of some rows go on in the row beside them; 0 unless nearly all do.

    A long text that is cut into windows loses nothing: each but its last ends where another row
    takes the text up, with so many tokens of overlap or, by ``overflow_to_sample_mapping``, none.
    """
    import numpy

    places = numpy.flatnonzero(lost)[:LOOKED_AT]
    others = places + (1 if at_end else -1)
    inside = (others >= 0) & (others < len(train.rows))
    places, others = places[inside], others[inside]
    if not len(places):
        return 0
    if SOURCE in train.rows.table.column_names:
        made = train.rows.read(numpy.union1d(places, others))
        source = dict(zip(numpy.union1d(places, others).tolist(), made, strict=True))
        same = sum(
            source[a][SOURCE] == source[b][SOURCE]
            for a, b in zip(places.tolist(), others.tolist(), strict=True)
        )
        return same if same >= MOST * len(places) else 0
    rows = _ids_of(train, numpy.union1d(places, others))
    pairs = [
        (rows[a], rows[b]) if at_end else (rows[b], rows[a])
        for a, b in zip(places.tolist(), others.tolist(), strict=True)
        if a in rows and b in rows
    ]
    overlaps = Counter(size for pair in pairs for size in _overlaps(*pair))
    if not overlaps:
        return 0
    size, count = overlaps.most_common(1)[0]
    # One token that two texts share by chance is no overlap.
    enough = count >= MOST * len(places) and (size > 1 or count > FEW)
    return count if enough else 0


def _ids_of(train: Split, places: Any) -> dict[int, list[int]]:
    """Return the attended ids of rows by their places."""
    made = {}
    for where, block in train.blocks(places):
        begins, spans, _ = block.extents
        for place, begin, span in zip(where.tolist(), begins, spans, strict=True):
            made[place] = block.ids.values[begin : begin + span].tolist()
    return made


def _overlaps(one: list[int], other: list[int]) -> list[int]:
    """Return the sizes in which a row's end is the beginning of another, none of them whole."""
    most = min(len(one), len(other))
    return [size for size in range(1, most) if one[-size:] == other[:size]]


def _wrapped(pipeline: Pipeline) -> bool:
    """Return whether TRL wraps the rows: it ends a stream of blocks with each batch of `map`."""
    args = pipeline.args
    packs = getattr(args, "packing", False)
    return bool(packs) and getattr(args, "packing_strategy", None) == "wrapped"


def _closing(pipeline: Pipeline) -> set[int]:
    """Return ids that a tokenizer or a template puts at an end of a text."""
    tokenizer = pipeline.tokenizer
    known = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    if getattr(tokenizer, "chat_template", None):
        from jinja2 import TemplateError

        turns = [{"role": role, "content": "a"} for role in ("user", "assistant")]
        with preserved(pipeline), quiet(pipeline), contextlib.suppress(TemplateError):
            rendered = tokenizer.apply_chat_template(turns, tokenize=False)
            known.update(tokenizer(rendered, add_special_tokens=False)["input_ids"][-1:])
    return known
