"""TS107 tokenizer.bos_once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

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
    """No text begins with its first special token twice.

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
    tokenizer = pipeline.tokenizer
    ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "cls")}
    starts = {name: int(start) for name, start in ids.items() if start is not None}
    for split in scan.splits:
        for name, start in starts.items():
            found = split.special[start]
            if found.first_doubled is not None:
                yield Finding(
                    f"{found.doubled:,} of {split.counted} in {split.name} begin with "
                    f"{tokenizer.convert_ids_to_tokens(start)!r} (id {start}) twice",
                    observed=found.doubled,
                    expected=0,
                    where=split.row(found.first_doubled),
                    cause=f"the template wrote {name.upper()} and the tokenizer added another",
                    fix="tokenize the rendered text with add_special_tokens=False",
                )
    counts = {name: scan.train.special[start].leading for name, start in starts.items()}
    told = ", ".join(f"{n:,} begin with {name.upper()}" for name, n in counts.items())
    yield Measured(
        f"of {scan.train.counted} none begins with a special token twice"
        f" ({told or 'the tokenizer has no BOS'})",
        0,
        0,
    )
