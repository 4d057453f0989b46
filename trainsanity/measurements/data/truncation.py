"""How many rows have the greatest length, and what tells whether their texts go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.measurements.data.retokenized import PROBES, attended, text_columns, written
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array
    from trainsanity.pipeline import Pipeline

SHARED = 8
"""Tokens at an end of a row that have to be those of a text, before the row counts as a piece of
it.  Chosen: a template shares fewer with the texts beside it."""

RAGGED = 8
"""Different lengths below the greatest that rows have before these count as ragged.  Chosen: texts
of a fixed form differ by a few tokens, blocks of grouped text have a few remainders."""

ROUND = (8, 10)
"""A length that people choose is a multiple of one of these; one length in five is by chance."""


@dataclass(frozen=True)
class Truncation:
    """Rows of the training data that have the greatest length.

    Attributes:
        rows: rows with at least one token.
        longest: the greatest length.
        capped: rows that have it.
        probed: of these, rows whose text was found and tokenized again.
        cut: of these, rows whose text goes on.
        kept: share of the cut texts' tokens that their rows hold.
        evidence: what tells that all capped rows are cut, where no text was found; empty if
            nothing does.
    """

    rows: int
    longest: int
    capped: int
    probed: int = 0
    cut: int = 0
    kept: float = 1.0
    evidence: str = ""

    @property
    def share(self) -> float:
        """Share of all rows that are cut, as far as anything tells."""
        if self.probed:
            return self.capped * self.cut / self.probed / self.rows
        return self.capped / self.rows if self.evidence else 0.0


@measurement(Cost.STATIC)
def truncation(pipeline: Pipeline, scan: Scan) -> Truncation:
    """Tokenize the texts of a few of the longest rows again, or look for other evidence."""
    import numpy

    from trainsanity.isolation.snapshot import preserved
    from trainsanity.measurements.batches.batch import quiet

    train = scan.train
    train.require_one_sequence()
    rows = int((train.lengths > 0).sum())
    if not rows:
        raise Skip("no row of train_dataset has a token")
    capped = numpy.flatnonzero(train.lengths == train.longest)
    found = Truncation(rows, train.longest, len(capped))
    if pipeline.tokenizer is None:
        return found
    at = numpy.unique(numpy.linspace(0, len(capped) - 1, PROBES).round().astype(int))
    with preserved(pipeline), quiet(pipeline):
        texts = _judge_by_text(pipeline, train, capped[at])
    if texts is not None:
        probed, cut, kept = texts
        return Truncation(rows, train.longest, len(capped), probed, cut, kept)
    evidence = _evidence(pipeline, train, capped)
    return Truncation(rows, train.longest, len(capped), evidence=evidence)


def _judge_by_text(
    pipeline: Pipeline, train: Split, places: Array
) -> tuple[int, int, float] | None:
    """Return rows probed, rows cut, and the share of the latter's tokens that is left.

    None if no column holds text of the rows.
    """
    columns = text_columns(pipeline, train)
    if not columns:
        return None
    tokenizer = pipeline.tokenizer
    special = set(tokenizer.all_special_ids)
    rows = train.rows.read(places)
    after = train.rows.read((places + 1) % len(train.rows))
    probed = cut = kept = total = 0
    for row, following in zip(rows, after, strict=True):
        ids = [token for token in attended(row)["input_ids"] if token not in special]
        relations = set()
        for column in columns:
            text = written(tokenizer, row.get(column)) or ""
            plain = [
                token
                for token in (
                    tokenizer(text, add_special_tokens=False)["input_ids"] if text else ()
                )
                if token not in special
            ]
            relation = _relation(tokenizer, ids, plain, text)
            # A text that several rows share is spread over them, and nothing of it is lost.
            if relation == "cut" and following.get(column) == row.get(column):
                relation = "whole"
            if relation == "cut":
                kept, total = kept + min(len(ids), len(plain)), total + len(plain)
            relations.add(relation)
        probed += bool(relations - {""})
        cut += "cut" in relations
    # A column beside the rows may share a few words with one of them.
    return (probed, cut, kept / total if total else 1.0) if 2 * probed > len(rows) else None


def _relation(tokenizer: Any, ids: list[int], plain: list[int], text: str) -> str:
    """Return "whole" if a row holds a text, "cut" if it ends or begins inside it, else nothing."""
    if not ids or not plain:
        return ""
    if any(ids[k : k + len(plain)] == plain for k in range(len(ids) - len(plain) + 1)):
        return "whole"
    if _ends_inside(ids, plain) or _ends_inside(ids[::-1], plain[::-1]):
        return "cut"
    shown = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return "whole" if text.strip() and text.strip() in shown else ""


def _ends_inside(ids: Sequence[int], plain: Sequence[int]) -> bool:
    """Return whether a row's last tokens are the first of a text that goes on after them."""
    shared = min(SHARED, len(ids))
    return any(
        len(ids) - k < len(plain) and ids[k:] == plain[: len(ids) - k]
        for k in range(len(ids) - shared + 1)
    )


def _evidence(pipeline: Pipeline, train: Split, capped: Array) -> str:
    """Return what tells that rows of the greatest length are cut, without their texts.

    Blocks of grouped text have one length, too, and lose nothing.  They have no label of their own,
    and do not begin with the token that opens a text.
    """
    import numpy

    if _overlap(train, capped):
        return ""
    setting = _setting(pipeline, train.longest)
    if setting == "tokenizer":
        return f"the tokenizer is set to truncate at {train.longest}"
    if not _one_text_a_row(pipeline, train):
        return ""
    if setting:
        return f"{setting} is {train.longest}"
    shorter = numpy.flatnonzero(train.histogram[1:-1])
    if len(shorter) >= RAGGED:
        return f"the other rows have {len(shorter)} different lengths"
    # Without a shorter row the ends are all there is: a tokenizer that closed each text cut it.
    if _wrapped(pipeline, train) and any(train.longest % number == 0 for number in ROUND):
        return f"{train.longest} is a round number, with the special tokens at both ends"
    return ""


def _setting(pipeline: Pipeline, longest: int) -> str:
    """Return what cuts texts at this length: the tokenizer, or the name of a setting."""
    backend = getattr(pipeline.tokenizer, "backend_tokenizer", None)
    truncation = getattr(backend, "truncation", None) or {}
    if truncation.get("max_length") == longest:
        return "tokenizer"
    if getattr(pipeline.tokenizer, "model_max_length", None) == longest:
        return "tokenizer.model_max_length"
    packs = getattr(pipeline.args, "packing", True)
    if not packs and getattr(pipeline.args, "max_length", None) == longest:
        return "args.max_length"
    return ""


def _one_text_a_row(pipeline: Pipeline, train: Split) -> bool:
    """Return whether each row has a label of its own, or begins with what opens a text."""
    labels = train.labels
    if labels is not None and (not labels.is_list or 2 * len(labels.uneven) > len(train.rows)):
        return True
    names = ("bos_token_id", "cls_token_id")
    ids = (getattr(pipeline.tokenizer, name, None) for name in names)
    opening = [train.special[int(i)] for i in ids if i is not None]
    return any(one.leading == one.total == len(train.rows) for one in opening)


def _wrapped(pipeline: Pipeline, train: Split) -> bool:
    """Return whether all rows begin and end with special tokens that the tokenizer adds."""

    def at(names: tuple[str, str], end: str) -> bool:
        ids = (getattr(pipeline.tokenizer, f"{name}_token_id", None) for name in names)
        found = [train.special[int(i)] for i in ids if i is not None]
        return any(getattr(one, end) == len(train.rows) for one in found)

    return at(("bos", "cls"), "leading") and at(("eos", "sep"), "trailing")


def _overlap(train: Split, capped: Array) -> bool:
    """Return whether a row goes on in the next: windows over a text, of which nothing is lost."""
    import numpy

    places = capped[capped + 1 < len(train.rows)]
    at = numpy.unique(numpy.linspace(0, len(places) - 1, PROBES).round().astype(int))
    if not len(places):
        return False
    places = places[at]
    special = {*train.special}
    pairs = zip(train.rows.read(places), train.rows.read(places + 1), strict=True)
    for row, following in pairs:
        ids, later = (
            [token for token in attended(one)["input_ids"] if token not in special]
            for one in (row, following)
        )
        if len(ids) >= SHARED and ids != later and _ends_inside(ids, later):
            return True
    return False
