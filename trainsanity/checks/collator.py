"""TS3: what the collator makes of the rows it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..alignment import placements
from ..measurements.batch import Batch
from ..measurements.padding import Padding, round_up
from ..measurements.state import preserved
from ..registry import check
from ..strategies import Rows, ragged_rows, smallest
from ..types import Cost, Finding, Seen, Skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline

BEST_ALIGNMENT_GAIN = 1 / 0.65
"""The most that alignment has been seen to gain: Qwen3-4B geometry on an H100, batch 2, forward +
backward with pad_to_multiple_of=8 took 0.65 of the time without (field measurement, medians of one
run).  A width stretched by more than this cannot be paid back by alignment."""

USUAL_MULTIPLE = 8
"""The multiple that tensor cores want for 16-bit types (NVIDIA's guide), and the one advised."""


@check("TS301", "collator.mask_is_exact", needs=("data_collator",), acquits="attention mask")
def mask_is_exact(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """The attention mask is 1 on the rows' own tokens and 0 on padding.

    What it checks: ``attention_mask`` against the places where the source rows lie in
    ``input_ids``, in the first optimizer step's batches and in small ragged ones.

    Why it matters: a mask of ones on padding lets texts attend to it (with padding on the left
    also real tokens change), a zero on a token hides it; the loss shows neither.

    How it is measured: exact.  The place of a row is found by its ids, not by the mask.  Ragged
    rows come from Hypothesis (padded on both sides), which shrinks a failure to its smallest.

    How to fix: let ``tokenizer.pad`` make the mask (``DataCollatorWithPadding`` does), after the
    rows were tokenized without padding.

    Known false alarms: collators that pack several texts into a row are skipped.

    References: huggingface/transformers#24265; jy-yuan/KIVI#46 for a mask lost with left padding.
    """

    def wrong(rows: Rows, made: Mapping[str, Any]) -> str | None:
        return _wrong_mask(rows, made, side)

    for micro in batch:
        side = "the training batch"
        objection = wrong(micro.rows, micro.inputs)
        if objection:
            yield _mask_finding(objection)
            break
    else:
        for side in _sides(pipeline):
            objection = _search(pipeline, batch, side, wrong)
            if objection:
                yield _mask_finding(objection)
    tokens = sum(batch.lengths)
    positions = sum(len(micro.rows) * micro.width for micro in batch)
    ones = sum(int(m.inputs["attention_mask"].sum()) for m in batch if "attention_mask" in m.inputs)
    yield Seen(f"{ones} of {positions} positions are attended, the rows have {tokens} tokens",
               ones, tokens)  # fmt: skip


def _mask_finding(objection: str) -> Finding:
    return Finding(
        f"the attention mask is not that of the rows: {objection}",
        cause="the collator makes the mask by itself instead of from the rows' lengths",
        fix="let tokenizer.pad make it: DataCollatorWithPadding(tokenizer)",
    )


def _wrong_mask(rows: Rows, made: Mapping[str, Any], side: str) -> str | None:
    if "attention_mask" not in made:
        return f"{side}: the batch has none"
    masks = made["attention_mask"].tolist()
    for i, (where, mask) in enumerate(zip(placements(rows, made), masks, strict=True)):
        if where is None:
            continue  # collator.rows_recovered speaks of that
        expected = where.mask()
        own = rows[i].get("attention_mask")
        if own is not None:
            expected[where.start : where.start + where.length] = list(own)
        if mask != expected:
            return (
                f"{side}: row {i} has {where.length} tokens in {where.width} positions "
                f"and a mask with {sum(mask)} ones{_shown(rows, mask)}"
            )
    return None


@check("TS302", "collator.rows_recovered", needs=("data_collator",), acquits="labels")
def rows_recovered(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """Every row comes out as it went in, beside its own label, with PAD around it.

    What it checks: that ``input_ids`` holds each source row whole at the left or right end, that
    everything else there is PAD, that rows keep their order and ``labels`` is theirs.

    Why it matters: a collator that truncates, sorts or shifts trains on other data than was
    prepared, and a label beside the wrong row is noise that no loss curve names.

    How it is measured: exact, on the first optimizer step's batches and on ragged rows from
    Hypothesis padded on either side, shrunk to the smallest failure.

    How to fix: keep order and length in the collator; truncate when tokenizing.

    Known false alarms: collators that change ids on purpose (masked language modelling) and those
    that pack are skipped.

    References: huggingface/transformers#47394 for labels that moved.
    """
    pad = getattr(pipeline.tokenizer, "pad_token_id", None)
    column = pipeline.label_column(batch.micro_batches[0].rows[0])

    def wrong(rows: Rows, made: Mapping[str, Any]) -> str | None:
        return _not_recovered(rows, made, pad, column)

    for micro in batch:
        objection = wrong(micro.rows, micro.inputs)
        if objection:
            yield _recovery_finding(f"in the training batch, {objection}")
            break
    else:
        for side in _sides(pipeline):
            objection = _search(pipeline, batch, side, wrong)
            if objection:
                yield _recovery_finding(f"padding on the {side}, {objection}")
    rows = len(batch.lengths)
    yield Seen(f"{rows} of {rows} rows come out whole beside their labels", rows, rows)


def _recovery_finding(objection: str) -> Finding:
    return Finding(
        f"the collator does not return its rows: {objection}",
        cause="the collator truncates, reorders or pads with something else than PAD",
        fix="keep rows whole and in order; truncate when tokenizing, pad with tokenizer.pad",
    )


def _not_recovered(
    rows: Rows, made: Mapping[str, Any], pad: int | None, column: str | None
) -> str | None:
    padded = made["input_ids"].tolist()
    if len(padded) != len(rows):
        return f"{len(rows)} rows went in and {len(padded)} came out"
    for i, where in enumerate(placements(rows, made)):
        if where is None:
            return f"row {i} {list(rows[i]['input_ids'])[:12]} came out as {padded[i][:12]}"
        rest = padded[i][: where.start] + padded[i][where.start + where.length :]
        if pad is not None and any(token != pad for token in rest):
            return f"row {i} is padded with {sorted(set(rest))}, PAD is {pad}"
    if column is not None and "labels" in made:
        given, got = [row[column] for row in rows], made["labels"]
        # Compared in the collator's dtype: a number need not survive float32 in full.
        if not isinstance(given[0], list) and got.tolist() != got.new_tensor(given).tolist():
            return f"labels {given} came out as {got.tolist()}"
    return None


@check(
    "TS303",
    "collator.pad_to_multiple_of",
    needs=("data_collator",),
    requires=("collator.rows_recovered",),
    acquits="pad_to_multiple_of",
)
def pad_to_multiple_of(padding: Padding, pipeline: Pipeline) -> Iterator[Seen | Finding]:
    """Batches are padded to the least multiple that holds their longest row.

    What it checks: each micro-batch's width against ``pad_to_multiple_of`` of the collator.

    Why it matters: a multiple that is not kept loses the tensor cores' fast path that it was set
    for; one that is overshot pays for padding twice.

    How it is measured: exact.  Width = the longest row rounded up to the multiple (1 if none is
    set); ``padding="max_length"`` rounds ``max_length`` up instead.

    How to fix: pass ``pad_to_multiple_of`` to the collator and leave padding to it.

    Known false alarms: a collator without such a setting is skipped.

    References: ``transformers.DataCollatorWithPadding``.
    """
    if padding.multiple is None and not hasattr(pipeline.data_collator, "pad_to_multiple_of"):
        raise Skip("the collator has no pad_to_multiple_of")
    multiple = padding.multiple or 1
    fixed = getattr(pipeline.data_collator, "max_length", None)
    whole = fixed if getattr(pipeline.data_collator, "padding", True) == "max_length" else None
    expected = [round_up(whole or n, multiple) for n in padding.longest]
    for i, (width, right) in enumerate(zip(padding.widths, expected, strict=True)):
        if width != right:
            yield Finding(
                f"micro-batch {i} is {width} wide; its longest row has {padding.longest[i]} tokens "
                f"and pad_to_multiple_of is {padding.multiple}, so {right} is enough",
                observed=width,
                expected=right,
                where=f"micro-batch {i}",
                factor=width / right,
                cause="the collator does not keep its own setting",
                fix="leave padding to tokenizer.pad(..., pad_to_multiple_of=...)",
            )
            break
    yield Seen(
        f"pad_to_multiple_of={padding.multiple} is kept: widths {min(padding.widths)} to "
        f"{max(padding.widths)}",
        padding.widths,
        expected,
    )


@check(
    "TS304",
    "collator.padding_overhead",
    cost=Cost.BACKWARD,
    needs=("data_collator",),
    requires=("collator.rows_recovered", "collator.pad_to_multiple_of"),
    acquits="pad_to_multiple_of",
)
def padding_overhead(padding: Padding, padding_times: dict[int, float]) -> Iterator[Seen | Finding]:
    """Padding costs less than it brings.

    What it checks: how much wider the batches are than their longest rows, against what that width
    can gain.

    Why it matters: time goes with positions, not with tokens.  A multiple of 8 costs about one
    point of padding and gains a third of the step time on tensor cores; a fixed width can double
    the bill and gain nothing.

    How it is measured: waste = 1 - tokens / positions, now, at the least (each batch padded to its
    longest row), and for each usual multiple.  On a GPU forward + backward of the first batch is
    timed with each: it may be slower than no multiple by what a multiple of 8 can cost at the
    most, 7 positions on the longest row, and by the spread of two looks at the same setting.
    Elsewhere the stretch (positions / least positions) must stay below
    1 / 0.65, the most that alignment has been seen to gain (see BEST_ALIGNMENT_GAIN).

    How to fix: ``pad_to_multiple_of=8`` with ``padding=True``, and length grouping if the least
    waste itself is high.

    Known false alarms: fixed shapes for a compiler (``torch.compile``, XLA) pay in another coin.

    References: NVIDIA's tensor-core guide on multiples of 8; the timings in the README.
    """
    table = {("none" if m == 1 else str(m)): round(w, 4) for m, w in padding.table.items()}
    numbers = {
        "waste": round(padding.waste, 4),
        "least_waste": round(padding.least_waste, 4),
        "stretch": round(padding.stretch, 4),
        "waste_by_multiple": table,
        "seconds_by_multiple": {str(m): round(s, 4) for m, s in padding_times.items() if m},
    }
    chosen = padding.multiple or 1
    expected: dict[str, float] = {"stretch_below": BEST_ALIGNMENT_GAIN}
    gain = ""
    too_much = padding.stretch > BEST_ALIGNMENT_GAIN
    if padding_times:
        ratio = padding_times[chosen] / padding_times[1]
        noise = abs(padding_times[0] / padding_times[1] - 1)
        limit = 1 + (USUAL_MULTIPLE - 1) / padding.longest[0] + noise
        expected = {"time_ratio_at_most": round(limit, 4)}
        gain = f", {ratio:.2f} x the step time of no multiple"
        too_much = not ratio <= limit
        numbers["time_ratio"] = round(ratio, 4)
    points = 100 * (padding.waste - padding.least_waste)
    if too_much:
        yield Finding(
            f"batches are {padding.stretch:.2f} x as wide as their longest rows: "
            f"{padding.waste:.1%} of all positions are padding, {padding.least_waste:.1%} "
            f"would do{gain}",
            observed=numbers,
            expected=expected,
            where=f"pad_to_multiple_of={padding.multiple}",
            factor=padding.stretch,
            cause="the multiple, or a fixed width, is far beyond the rows' lengths",
            fix="DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)",
        )
    by_table = ", ".join(f"{name} {waste:.1%}" for name, waste in table.items())
    yield Seen(
        f"pad_to_multiple_of={padding.multiple} adds {points:.1f} points of padding{gain} "
        f"(waste {by_table})",
        numbers,
        expected,
    )


def _sides(pipeline: Pipeline) -> tuple[str, ...]:
    padder = getattr(pipeline.data_collator, "tokenizer", None)
    return ("right", "left") if hasattr(padder, "padding_side") else ("own",)


def _search(
    pipeline: Pipeline,
    batch: Batch,
    side: str,
    wrong: Callable[[Rows, Mapping[str, Any]], str | None],
) -> str | None:
    """The smallest ragged rows that the collator gets wrong when it pads on ``side``."""
    collator = pipeline.data_collator
    if len({len(row["input_ids"]) for micro in batch for row in micro.rows}) == 1:
        return None  # rows of one length need no padding, and some collators can only stack
    if getattr(collator, "mlm", False):
        raise Skip("the collator masks tokens at random: its rows are not meant to come back")
    template = batch.micro_batches[0].rows[0]
    special = set(getattr(pipeline.tokenizer, "all_special_ids", ()) or ())
    tokens = [t for t in dict.fromkeys(template["input_ids"]) if t not in special]
    if not tokens:
        raise Skip("the first row has special tokens only: there is nothing to make rows of")

    def broken(rows: Rows) -> str | None:
        objection = wrong(rows, collator([dict(row) for row in rows]))
        return objection and f"{objection} (smallest case: lengths {_lengths(rows)})"

    with preserved(pipeline):
        if side != "own":
            collator.tokenizer.padding_side = side
        return smallest(ragged_rows(template, tokens), broken)


def _lengths(rows: Rows) -> list[int]:
    return [len(row["input_ids"]) for row in rows]


def _shown(rows: Rows, mask: list[int]) -> str:
    return f": {mask}" if len(mask) <= 12 else ""
