"""TS209 dataset.eval_is_unseen."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks._splits import rows_finding, tally
from trainsanity.engine.registry import check
from trainsanity.fields import NUMBERS
from trainsanity.maths.chance import ONCE_IN_A_THOUSAND, chance_of_as_many
from trainsanity.measurements.data.continued import Continued
from trainsanity.measurements.data.overlaps import Overlap
from trainsanity.measurements.data.scan import Scan
from trainsanity.measurements.data.scan_repeats import Repeats
from trainsanity.measurements.data.turned import Turned
from trainsanity.types import Finding, Measured, Severity

MANY = 0.1
"""Share of evaluation rows that overlap where windows were split at random: nearly all of them do,
unless a window's neighbours are all held out, too.  Chosen, not measured, far below that."""

LEAST = 3
"""Rows: one or two lie over the cut wherever a text is split in the middle."""


@check(
    "TS209",
    "dataset.eval_is_unseen",
    needs=("train_dataset",),
    rules_out="evaluation",
)
def eval_is_unseen(
    scan: Scan,
    repeats: Repeats,
    overlaps: dict[str, Overlap],
    continued: dict[str, Continued],
    turned: dict[str, Turned],
) -> Iterator[Measured | Finding]:
    """No evaluation row is trained on.

    What it checks: rows of the evaluation data whose ids, padding aside, are those of a training
    row. Of tables, whose rows hold numbers, rows whose label is the same, too. And rows of ids that
    begin with what a training row ends with, as neighbours do among windows that overlap; or that a
    longer training row begins with, as a conversation that grows by an answer a row.  And
    pictures that are a training picture, flipped or turned.

    Why it matters: the score on such rows measures memory.  Early stopping and the choice of a
    checkpoint then prefer the run that overfits most.

    How it is measured: exact up to equal 128-bit hashes, every evaluation split against all
    training rows.  Rows with a picture, a sound or other numbers beside their ids are equal where
    these are equal, too.  Without evaluation data nothing can leak, and the check passes.  A
    warning where rows with the same numbers have different labels: then a table of few categories,
    or with many gaps, has equal rows by nature.  One row in both is none where its labels count
    at other places: a graph some of whose nodes are trained on and others evaluated.  So it is
    where texts recur: one or two evaluation rows, or less than a tenth, and not more than there are
    training rows with a twin of their own (Fisher's exact test, one in a thousand).

    Of windows the first 16 tokens of up to 256 evaluation rows are looked for in the training rows,
    4 million tokens of them at the most; a hit counts if all is alike from there to the training
    row's end, both rows are of one length, and as many tokens are shared as by the others: windows
    have one size and one stride.  A common beginning, as a system prompt, is at the same place and
    none; nor is a run of less than 8 different tokens, or one that more than a twentieth of the
    training rows hold.  It is a failure from a tenth of the rows on, a warning from three: where a
    text is split in the middle, a window or two lie over the cut.

    Of whole rows of 18 tokens and more, 256 at the most, the same training rows are asked whether
    they begin with them and go on: a failure from a tenth of the rows on, a warning from three.
    What more than a twentieth of the training rows begin with, as a greeting, is no row of theirs.

    Of pictures up to 64 are looked for among training pictures of 16 million values in all; equal
    ones have all their values at the places where a flip or a turn by 90 degrees puts them.  A
    failure from three on; pictures of fewer than 32 different values do not count.

    How to fix: drop duplicates first and split then; split by group where texts have near twins,
    and texts before they are cut into windows::

        # bad
        parts = windows(text, stride=256).train_test_split(0.1)
        parts = (pictures + flipped(pictures)).train_test_split(0.1)
        # good
        train, held_out = windows(text[:cut], stride=256), windows(text[cut:], stride=256)
        train, held_out = pictures[:cut] + flipped(pictures[:cut]), pictures[cut:]

    Known false alarms: an evaluation on training rows on purpose, to watch overfitting.

    References: Elangovan et al. 2021, "Memorization vs. Generalization";
    Y-debug-sys/Diffusion-TS#67, h2oai/h2o-llmstudio#422, robinreni96/Font_Recognition-DeepFont#2.
    """
    for split in scan.evals:
        leak = repeats.leaks[split.name]
        if leak.first is not None and not leak.apart:
            place, twin = leak.first
            numbers = split.content.role == NUMBERS
            by_nature = numbers and (leak.unlike > 0 or repeats.contradictions > 0)
            recurs = _recurs(leak.rows, len(split.rows), repeats.copies, len(scan.train.rows))
            yield rows_finding(
                split,
                leak.rows,
                place,
                f"are in {scan.train.name}, too: "
                f"row {split.rows.number(place)} is row {scan.train.rows.number(twin)} there",
                cause="rows with the same numbers have different labels, too: equal rows may be "
                "others by nature"
                if by_nature
                else "texts recur in these data: as many of the training rows are there twice"
                if recurs
                else "the data was split before duplicates were dropped, or one file is in both",
                fix="drop duplicates, then split",
                severity=Severity.WARNING if by_nature or recurs else Severity.FAILURE,
            )
        overlap = overlaps.get(split.name, Overlap())
        if overlap.first is not None and overlap.rows >= LEAST:
            place, twin = overlap.first
            many = overlap.rows >= MANY * overlap.looked_at * overlap.share
            yield Finding(
                f"{overlap.rows} of {overlap.looked_at} rows looked at in {split.name} overlap "
                f"with training rows: row {split.rows.number(place)} begins with what row "
                f"{scan.train.rows.number(twin)} of {scan.train.name} ends with; each shares "
                f"{overlap.tokens} tokens",
                observed=overlap.rows,
                expected=0,
                where=split.row(place),
                cause="windows that overlap were made of one text, and split at random afterwards",
                fix="split the text first, and cut each part into windows then",
                severity=Severity.FAILURE if many else Severity.WARNING,
            )
        longer = continued.get(split.name, Continued())
        if longer.first is not None and longer.rows >= LEAST:
            place, twin = longer.first
            yield Finding(
                f"{longer.rows} of {longer.looked_at} rows looked at in {split.name} are the "
                f"beginning of a longer training row: row {split.rows.number(place)} is that of "
                f"row {scan.train.rows.number(twin)} of {scan.train.name}",
                observed=longer.rows,
                expected=0,
                where=split.row(place),
                cause="each answer of a conversation is a row with all that was said before, and "
                "the rows were split at random",
                fix="split conversations first, and make rows of their turns then",
                severity=Severity.FAILURE
                if longer.rows >= MANY * longer.looked_at
                else Severity.WARNING,
            )
        copies = turned.get(split.name, Turned())
        if copies.first is not None:
            place, twin = copies.first
            yield Finding(
                f"{copies.rows} of {copies.looked_at} pictures looked at in {split.name} are "
                f"pictures of {scan.train.name} in another position: row {place} is row {twin} "
                f"there, {copies.how}",
                observed=copies.rows,
                expected=0,
                where=f"row {place} of {split.name}",
                cause="the data was augmented before it was split: copies of one picture are on "
                "both sides",
                fix="split first, and augment the training pictures then",
                severity=Severity.FAILURE if copies.rows >= LEAST else Severity.WARNING,
            )
    leaks = [repeats.leaks[split.name].rows for split in scan.evals]
    found = tally(scan.evals, leaks) or "there is no evaluation data"
    partly = sum(one.rows for one in overlaps.values())
    said = f"; {partly} overlap with training rows" if partly else ""
    copied = sum(one.rows for one in turned.values())
    held = sum(one.rows for one in continued.values())
    said += f"; {held} are the beginning of longer training rows" if held else ""
    said += f"; {copied} are turned training pictures" if copied else ""
    yield Measured(f"evaluation rows that are trained on: {found}{said}", sum(leaks), 0)


def _recurs(leaked: int, evaluated: int, copies: int, trained: int) -> bool:
    """Return whether evaluation rows stand among training rows as these do among themselves.

    A copy and the row that it repeats have a twin each. Where a tenth of the rows leak, a score is
    off, whatever the reason.
    """
    twins = min(2 * copies, trained)
    chance = chance_of_as_many(leaked, evaluated, twins, trained)
    few = leaked < max(LEAST, MANY * evaluated)
    return few and chance > ONCE_IN_A_THOUSAND
