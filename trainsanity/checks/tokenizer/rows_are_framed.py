"""TS116 tokenizer.rows_are_framed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.objectives.base import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from trainsanity.pipeline import of_transformers
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class _Frame:
    """Ids that a tokenizer writes around a text; None where it writes none of those counted."""

    first: int | None
    last: int | None


@check(
    "TS116",
    "tokenizer.rows_are_framed",
    needs=("tokenizer", "train_dataset"),
    rules_out="missing special tokens",
)
def rows_are_framed(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """Rows have the special tokens that the tokenizer writes around a text.

    What it checks: whether rows of training and evaluation data begin with BOS or CLS alike, and
    end alike with what the tokenizer writes at an end; and, where an encoder classifies rows,
    whether they begin with the CLS that its tokenizer writes.

    Why it matters: a head that reads the first token reads the text's first word where CLS is
    missing, a different one in each row. Evaluation rows that were tokenized by another function
    than the training rows measure another model.

    How it is measured: exact, on all rows. A failure where all rows of one dataset begin (or end)
    so and none of the other does. Training rows of one length are blocks of a text, which begin
    anywhere. A missing CLS is a failure where a model of transformers reads it, since its heads
    read the first token; a warning where the model is the user's own, which may take a mean.

    How to fix: tokenize all rows by one function, with the tokenizer's own special tokens.

    Bad::

        tokenizer(text, add_special_tokens=False)

    Good::

        tokenizer(text, truncation=True)

    Known false alarms: a checkpoint that was trained without CLS.

    References: microsoft/LMOps#123 for BOS in evaluation alone; read: transformers.BertPooler,
    which takes hidden_states[:, 0].
    """
    scan.train.require_one_sequence()
    frame = _frame(pipeline)
    names = ("bos_token_id", "cls_token_id")
    opening = {getattr(pipeline.tokenizer, name, None) for name in names} - {None}
    blocks = len(scan.train.rows) > 1 and scan.train.shortest == scan.train.longest
    told = []
    for split in (one for one in scan.evals if len(one.rows)):
        for where, ids in (("begin", opening), ("end", {frame.last} - {None})):
            for token in sorted(int(i) for i in ids if i is not None):
                train, other = (_count(one, token, where) for one in (scan.train, split))
                told.append(f"{other:,} of {len(split.rows):,} rows of {split.name} {where} with "
                            f"{_text(pipeline, token)}, {train:,} training rows do")  # fmt: skip
                apart = {train / len(scan.train.rows), other / len(split.rows)} == {0, 1}
                if apart and not blocks:
                    yield Finding(
                        f"{'all' if train else 'no'} training rows {where} with "
                        f"{_text(pipeline, token)}, and {'none' if train else 'all'} of the rows "
                        f"of {split.name}",
                        observed=other,
                        expected=len(split.rows) if train else 0,
                        where=split.name,
                        cause="the two were tokenized by different calls: add_special_tokens=False "
                        "in one of them, or ids that were put together by hand",
                        fix="tokenize both by one function",
                    )
    cls = getattr(pipeline.tokenizer, "cls_token_id", None)
    if cls is not None and frame.first == cls and _classifies(pipeline):
        yield from _of_cls(pipeline, scan.train, int(cls), told)
    elif not told:
        raise Skip("there are no evaluation rows, and no encoder whose head reads CLS")
    yield Measured("; ".join(told), len(told))


def _of_cls(pipeline: Pipeline, train: Split, token: int, told: list[str]) -> Iterator[Finding]:
    count = _count(train, token, "begin")
    told.append(
        f"{count:,} of {len(train.rows):,} training rows begin with {_text(pipeline, token)}"
    )
    if count == 0 and len(train.rows):
        own = not of_transformers(pipeline.model)
        yield Finding(
            f"no training row begins with {_text(pipeline, token)}, which the tokenizer writes "
            "before a text and the head reads",
            observed=0,
            expected=len(train.rows),
            where=train.row(0),
            cause="add_special_tokens=False, or ids that were put together by hand",
            fix="tokenizer(text, truncation=True), which writes them",
            severity=Severity.WARNING if own else Severity.FAILURE,
        )


def _frame(pipeline: Pipeline) -> _Frame:
    """Return what the tokenizer writes before and behind a text."""
    tokenizer: Any = pipeline.tokenizer
    with preserved(pipeline), quiet(pipeline):
        try:
            bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
            ids = list(tokenizer("a")["input_ids"])
        except (TypeError, ValueError, KeyError):
            return _Frame(None, None)
    counted = {
        getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "cls", "eos", "sep")
    }
    first = ids[0] if ids and ids[:1] != bare[:1] and ids[0] in counted else None
    last = ids[-1] if ids and ids[-1:] != bare[-1:] and ids[-1] in counted else None
    return _Frame(first, last)


def _classifies(pipeline: Pipeline) -> bool:
    """Return whether an encoder has a label for each row."""
    config = pipeline.config
    return objective_of(pipeline).name in (SINGLE_LABEL, MULTI_LABEL, REGRESSION) and not getattr(
        config, "is_decoder", False
    )


def _count(split: Split, token: int, where: str) -> int:
    found = split.special[token]
    return found.leading if where == "begin" else found.trailing


def _text(pipeline: Pipeline, token: int) -> str:
    return repr(pipeline.tokenizer.convert_ids_to_tokens(token))
