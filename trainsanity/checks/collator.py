"""TS301, TS302, TS311: the collator returns the rows that it is given, with padding around them.

TS303 and TS304 are in ``collator_padding``, TS305 to TS307 in ``collator_labels``, TS308 to TS310
in ``collator_calls``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..collating import Collating, Made
from ..measurements.batch import Batch
from ..registry import check
from ..strategies import Rows
from ..types import Finding, Seen, Skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@check("TS301", "collator.mask_is_exact", needs=("data_collator",), acquits="attention mask")
def mask_is_exact(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """The attention mask is 1 on the rows' own tokens and 0 on padding.

    What it checks: ``attention_mask`` against the places where the source rows lie in
    ``input_ids``, in the first optimizer step's batches and in small ragged ones.

    Why it matters: a mask of ones on padding lets texts attend to it (with padding on the left
    also real tokens change), a zero on a token hides it; the loss shows neither.

    How it is measured: exact.  The place of a row is found by its ids, not by the mask.  Beside
    the training batch, Hypothesis cuts pieces from its rows (ragged, of one length, alone, with a
    longest that is a multiple already), tries both padding sides and several multiples where the
    collator has such settings, and shrinks a failure to its smallest.

    How to fix: let ``tokenizer.pad`` make the mask (``DataCollatorWithPadding`` does), after the
    rows were tokenized without padding.

    Known false alarms: none known.  Collators that pack several texts into a row are skipped.

    References: huggingface/transformers#24265; jy-yuan/KIVI#46 for a mask lost with left padding.
    """
    collating = Collating(pipeline, batch)

    def wrong(rows: Rows, made: Made) -> str | None:
        return _wrong_mask(collating, rows, made)

    objection = collating.objection(wrong)
    if objection:
        yield Finding(
            f"the attention mask is not that of the rows: {objection}",
            cause="the collator makes the mask by itself instead of from the rows' lengths",
            fix="let tokenizer.pad make it: DataCollatorWithPadding(tokenizer)",
        )
    tokens = sum(batch.lengths)
    positions = sum(len(micro.rows) * micro.width for micro in batch)
    ones = sum(int(m.inputs["attention_mask"].sum()) for m in batch if "attention_mask" in m.inputs)
    yield Seen(
        f"{ones} of {positions} positions are attended, the rows have {tokens} tokens"
        f"{collating.tried()}",
        ones,
        tokens,
    )


def _wrong_mask(collating: Collating, rows: Rows, made: Made) -> str | None:
    if "attention_mask" not in made:
        return "the batch has none"
    masks = made["attention_mask"].tolist()
    for i, where in enumerate(collating.placed(rows, made)):
        if where is None:
            continue  # collator.rows_recovered speaks of that
        expected = where.mask()
        own = rows[i].get("attention_mask")
        if own is not None:
            expected[where.start : where.start + where.length] = list(own)
        if masks[i] != expected:
            shown = f": {masks[i]}" if len(expected) <= 12 else ""
            return (
                f"row {i} has {where.length} tokens in {where.width} positions "
                f"and a mask with {sum(masks[i])} ones{shown}"
            )
    return None


@check(
    "TS302", "collator.rows_recovered", needs=("data_collator",), acquits="truncation in the batch"
)
def rows_recovered(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """Every row comes out whole and in its place.

    What it checks: that ``input_ids`` holds each source row whole at the left or right end, and
    that rows keep their order.

    Why it matters: a collator that truncates, sorts or shifts trains on other data than was
    prepared.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts, padded on either side, shrunk to the smallest failure.  What a masked
    language model's collator masked is read from its labels.

    How to fix: keep order and length in the collator; truncate when tokenizing.

    Known false alarms: a collator that changes ids on purpose, other than by masking.  Collators
    that pack are skipped.

    References: modelscope/ms-swift#6961 for tails that were cut.
    """
    collating = Collating(pipeline, batch)

    def wrong(rows: Rows, made: Made) -> str | None:
        return _not_recovered(collating, rows, made)

    objection = collating.objection(wrong)
    if objection:
        yield Finding(
            f"the collator does not return its rows: {objection}",
            cause="the collator truncates, reorders or changes ids",
            fix="keep rows whole and in order; truncate when tokenizing",
        )
    rows = len(batch.lengths)
    yield Seen(f"{rows} of {rows} rows come out whole{collating.tried()}", rows, rows)


def _not_recovered(collating: Collating, rows: Rows, made: Made) -> str | None:
    padded = made["input_ids"].tolist()
    if len(padded) != len(rows):
        return f"{len(rows)} rows went in and {len(padded)} came out"
    for i, where in enumerate(collating.placed(rows, made)):
        if where is None:
            row = rows[i]["input_ids"]
            return (
                f"row {i} {_shown(row)} of {len(row)} tokens came out as "
                f"{_shown(padded[i])} in {len(padded[i])} positions"
            )
    return None


def _shown(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 12 else f"[{', '.join(map(str, ids[:12]))}, ...]"


@check(
    "TS311",
    "collator.padding_value",
    needs=("data_collator",),
    requires=("tokenizer.config_agrees", "collator.rows_recovered"),
    acquits="padding value",
)
def padding_value(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """Rows are padded with PAD, the id that tokenizer and model know as padding.

    What it checks: the ids around each row in ``input_ids`` against the tokenizer's PAD, of which
    ``tokenizer.config_agrees`` has seen that the model's config agrees, or else the config's.

    Why it matters: heads that pool the last token that is not PAD read a padding position if
    rows are padded with anything else, and code that looks for PAD takes padding for text.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts, padded on either side and to several multiples, shrunk to the smallest
    failure.

    How to fix: ``tokenizer.pad``, or ``pad_sequence(..., padding_value=tokenizer.pad_token_id)``.

    Known false alarms: none known.  Skipped where neither tokenizer nor config has a PAD, and for
    collators that pack.

    References: huggingface/trl#422; ``torch.nn.utils.rnn.pad_sequence`` pads with 0 unless told.
    """
    pad = getattr(pipeline.tokenizer, "pad_token_id", None)
    if pad is None:
        pad = getattr(pipeline.config, "pad_token_id", None)
    if pad is None:
        raise Skip("neither the tokenizer nor the model's config has a PAD")
    collating = Collating(pipeline, batch)

    def wrong(rows: Rows, made: Made) -> str | None:
        for i, where in enumerate(collating.placed(rows, made)):
            around = where.outside(made["input_ids"][i].tolist()) if where else []
            if set(around) - {pad}:
                return f"row {i} is padded with {sorted(set(around))}, PAD is {pad}"
        return None

    objection = collating.objection(wrong)
    if objection:
        yield Finding(
            f"the collator pads with another id than PAD: {objection}",
            expected=pad,
            cause="a fill value of its own, or the PAD of another tokenizer",
            fix="pad with tokenizer.pad, or padding_value=tokenizer.pad_token_id",
        )
    yield Seen(f"padding is PAD {pad}{collating.tried()}", pad, pad)
