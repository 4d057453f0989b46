"""TS107 tokenizer.bos_once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks._splits import rows_finding, tally
from trainsanity.engine.registry import check
from trainsanity.measurements.data.scan import Scan
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS107",
    "tokenizer.bos_once",
    needs=("tokenizer", "train_dataset"),
    rules_out="special tokens",
)
def bos_once(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """No text begins with BOS or CLS twice.

    What it checks: whether rows begin with BOS, or CLS, twice.

    Why it matters: a chat template writes BOS and the tokenizer adds another when it is given the
    rendered text.  The model has never seen a text begin so; generation with one BOS then is
    another distribution than training with two.

    How it is measured: exact, on the first two attended ids of each row.

    How to fix: ``apply_chat_template(..., tokenize=True)``, or tokenize the rendered text with
    ``add_special_tokens=False``.

    Known false alarms: none known.

    References: OpenRLHF/OpenRLHF#393.
    """
    scan.train.require_tokens()
    tokenizer = pipeline.tokenizer
    ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "cls")}
    starts = {name: int(start) for name, start in ids.items() if start is not None}
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
