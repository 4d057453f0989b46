"""TS416 model.documents_are_apart."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import largest, within
from trainsanity.measurements.model.packed import Packed
from trainsanity.types import Cost, Finding, Measured, Severity


@check("TS416", "model.documents_are_apart", cost=Cost.FORWARD, rules_out="packing")
def documents_are_apart(packed: Packed) -> Iterator[Measured | Finding]:
    """Documents packed into one row do not attend to each other.

    What it checks: other tokens in the first document of a packed row leave the outputs of the
    documents behind it as they were.

    Why it matters: the model learns to answer out of a neighbour that is there by chance, and at
    inference there is none.  transformers finds the borders by position ids that start again, and
    only where no attention mask is given; a mask of ones beside them, or lengths that are dropped
    as an unused column, lets every document attend to all before it.

    How it is measured: two forwards of one shape that differ in the first document's ordinary
    tokens; the largest change of a token's state under the head, relative to its norm.  Allowed is
    torch.testing's relative tolerance for the dtype times the root of the number of layers; a
    model that is right moves by exactly 0 on most devices.  Borders are where position_ids start
    again, where seq_idx changes, and what cu_seq_lens and seq_lengths say.

    How to fix: give the model position_ids that start again, and no attention mask beside them.

    Bad::

        batch = DataCollatorWithFlattening()(rows)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])

    Good::

        batch = DataCollatorWithFlattening()(rows)  # position_ids alone

    Known false alarms: none known where something says that documents are to be apart.  Blocks of
    one length that hold several documents between EOS (packing_strategy="wrapped", run_clm.py) are
    a warning with its size: pre-training does so on purpose.

    References: huggingface/transformers#46634, huggingface/trl#3705, huggingface/trl#805.
    """
    moved = largest(packed.moved)
    leaking = [k for k, by in enumerate(packed.moved) if not within(by, packed.allowed)]
    if leaking:
        told = (
            f"{packed.apart} says that they are apart"
            if packed.apart
            else "nothing in the batch draws a border between them"
        )
        yield Finding(
            f"{len(leaking)} of {len(packed.moved)} documents behind the first one of a row "
            f"attend to it: other tokens there change document {leaking[0] + 2} by "
            f"{packed.moved[leaking[0]]:.3g} of its states; {told}",
            observed=moved,
            expected=f"at most {packed.allowed:.3g}",
            where=f"documents 1 and {leaking[0] + 2} of a row of {packed.documents}",
            cause=_cause(packed),
            fix="position_ids that start again in each document and no attention mask beside them"
            if packed.apart
            else 'packing_strategy="bfd", or a collator that gives position_ids, if documents are '
            "to be apart",
            severity=Severity.FAILURE if packed.apart else Severity.WARNING,
        )
    yield Measured(
        f"other tokens in the first of {packed.documents} documents of a row change the states of "
        f"the others by up to {moved:.2g} (allowed {packed.allowed:.2g}); borders: "
        f"{packed.apart or 'EOS alone'}{packed.precision}",
        moved,
        packed.allowed,
    )


def _cause(packed: Packed) -> str:
    if not packed.apart:
        return "documents are laid end to end in blocks without borders"
    if packed.apart in ("seq_lengths", "position_ids of the rows"):
        return f"the column with the {packed.apart} is dropped: positions run through all of them"
    return "an attention mask of ones beside position_ids, or an attention that ignores them"
