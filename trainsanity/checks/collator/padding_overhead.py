"""TS304 collator.padding_overhead."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.batches.padding import USUAL_MULTIPLE, Padding, PaddingTimes, round_up
from trainsanity.measurements.data.economics import Economics
from trainsanity.types import Cost, Finding, Measured, Severity

BEST_ALIGNMENT_GAIN = 1 / 0.65
"""The most that alignment has been seen to gain: Qwen3-4B geometry on an H100, batch 2, forward +
backward with pad_to_multiple_of=8 took 0.65 of the time without (field measurement, medians of one
run).  A width stretched by more than this cannot be paid back by alignment."""


@check(
    "TS304",
    "collator.padding_overhead",
    cost=Cost.BACKWARD,
    needs=("data_collator",),
    requires=("collator.rows_recovered", "collator.pad_to_multiple_of"),
    rules_out="pad_to_multiple_of",
)
def padding_overhead(
    padding: Padding, economics: Economics, padding_times: PaddingTimes
) -> Iterator[Measured | Finding]:
    """The width that batches are padded to is worth its padding.

    What it checks: how much wider the batches are than their longest rows, against what that width
    can gain.

    Why it matters: time goes with positions, not with tokens.  A multiple of 8 costs about one
    point of padding and gains a third of the step time on tensor cores; a fixed width can double
    the bill and gain nothing.

    How it is measured: waste = 1 - tokens / positions, now, at the least (each batch padded to its
    longest row), and for each usual multiple.  On a GPU forward + backward of the first batch is
    timed with each: it may be slower than no multiple by what a multiple of 8 can cost at the
    most, 7 positions on the longest row, squared since attention's time goes with the square of
    the width, and by the noise of the clock: two measurements of one setting, or 4 standard errors
    of the medians where that is more.
    Elsewhere the stretch (positions / least positions) must stay below
    1 / 0.65, the most that alignment has been seen to gain (see BEST_ALIGNMENT_GAIN), or below
    what a multiple of 8 makes of these rows, where that is more: the hardware asks for it, and it
    costs 7 positions at the most.  Padding costs time and changes no number, and
    ``padding="max_length"`` is a choice that people make, transformers' examples among them: this
    check warns, and fails no run.

    What an epoch will waste is computed from the lengths of all rows: with batches drawn at random
    exactly, from the distribution of a batch's longest row; grouped by length as the Trainer's own
    sampler orders them; and sorted, which is the least.  That is reported and not judged.

    How to fix: ``pad_to_multiple_of=8`` with ``padding=True``, and
    ``train_sampling_strategy="group_by_length"`` (``group_by_length=True`` in transformers 4) if
    the least waste itself is high.

    Known false alarms: fixed shapes for a compiler (``torch.compile``, XLA) pay in another coin.

    References: NVIDIA's tensor-core guide on multiples of 8; the timings on the
    evidence page of the documentation.
    """
    numbers = {
        "waste": round(padding.waste, 4),
        "least_waste": round(padding.least_waste, 4),
        "stretch": round(padding.stretch, 4),
        "waste_by_multiple": _by_name(padding.table),
        "seconds_by_multiple": {str(m): round(s, 4) for m, s in padding_times.seconds.items()},
    }
    numbers["epoch"] = {
        "counted": economics.counted,
        "at_random": _by_name(economics.drawn),
        "by_length": _by_name(economics.grouped),
        "sorted": round(economics.least, 4),
    }
    most = max(padding.aligned, BEST_ALIGNMENT_GAIN)
    expected: dict[str, float] = {"stretch_below": most}
    ratio, noise, gain = 1.0, 0.0, ""
    too_much = not within(padding.stretch, most)
    if times := padding_times.seconds:
        ratio, noise = times[padding.multiple or 1] / times[1], padding_times.noise
        limit = (1 + (USUAL_MULTIPLE - 1) / padding.longest[0]) ** 2 + noise
        expected = {"time_ratio_at_most": round(limit, 4)}
        gain = f", {ratio:.2f} x the step time"
        too_much = not within(ratio, limit)
        numbers["time_ratio"] = round(ratio, 4)
    if too_much:
        yield Finding(
            f"batches are {padding.stretch:.2f} x as wide as their longest rows: "
            f"{padding.waste:.1%} of all positions are padding, {padding.least_waste:.1%} "
            f"would do{gain and gain + ' of no multiple'}",
            observed=numbers,
            expected=expected,
            where="the rows of the dataset"
            if padding.stored
            else f"pad_to_multiple_of={padding.multiple}",
            factor=padding.stretch,
            cause='all rows are tokenized to one width, as padding="max_length" does'
            if padding.stored
            else "the multiple, or a fixed width, is far beyond the rows' lengths",
            fix=("tokenize with padding=False, and " if padding.stored else "")
            + "DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{_advice(padding, economics, times, noise)} ({_table(padding, economics)})",
        numbers,
        expected,
    )


def _advice(padding: Padding, economics: Economics, times: dict[int, float], noise: float) -> str:
    """Return the advice about the multiple: keep it, or take another that is faster."""
    multiple = padding.multiple or 1
    others = {m: times[m] / times[1] for m in times if m > 1}
    fastest = min(others, key=others.__getitem__, default=1)
    if padding.packed:
        return f"rows are packed: {padding.waste:.1%} of the positions are padding"
    if multiple == 1 and others and others[fastest] < 1 - noise:
        return f"take {fastest}: {_price(padding, economics, fastest, others)}"
    if multiple == 1:
        return f"no multiple: {padding.waste:.1%} of the positions are padding"
    keep = "keep " if others and others[multiple] < 1 - noise else ""
    return f"{keep}{multiple}: {_price(padding, economics, multiple, others)}"


def _price(padding: Padding, economics: Economics, multiple: int, ratios: dict[int, float]) -> str:
    # A width that is fixed, or rows that are packed, do not follow the lengths.
    follows = padding.widths == [round_up(n, padding.multiple or 1) for n in padding.longest]
    if follows:
        points = economics.now[multiple] - economics.now[1]
    elif multiple == (padding.multiple or 1):
        points = padding.waste - padding.least_waste
    else:
        points = padding.table[multiple] - padding.least_waste
    time = f", {ratios[multiple]:.2f} x the step time" if ratios else ""
    return f"{100 * points:+.1f} points of padding{time}"


def _table(padding: Padding, economics: Economics) -> str:
    orders = {"drawn at random": economics.drawn, "grouped by length": economics.grouped}
    if padding.packed:
        return f"padded they would waste {_listed(economics.drawn)}"
    now, other = list(orders)[:: -1 if economics.by_length else 1]
    return (
        f"{economics.counted} {now}: waste {_listed(orders[now])}; {other} "
        f"{orders[other][padding.multiple or 1]:.1%}"
    )


def _by_name(table: dict[int, float]) -> dict[str, float]:
    return {("none" if m == 1 else str(m)): round(share, 4) for m, share in table.items()}


def _listed(table: dict[int, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in _by_name(table).items())
