"""Where the rows hold EOS, for tokenizers whose PAD is EOS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.session import Session, objective_of
from trainsanity.engine.store import measurement
from trainsanity.measurements.data.scan_rows import lists
from trainsanity.objectives.base import UNKNOWN
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.batches.documents import Documents
    from trainsanity.measurements.data.scan import Scan, Split
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class SharedPad:
    """Places where a PAD that is EOS can do harm.

    Attributes:
        rows: rows of all datasets that hold EOS; None if PAD is not EOS, or they cannot be read.
        targets: labels of these rows that are EOS; None in the same cases.
        why: the reason why the rows cannot be read; empty if they can.
        told_apart: rows of a language model that hold EOS, as the user's collator makes them: each
            has its own EOS attended and as a target, so that neither mask nor labels were made by
            the id; 0 if one has not, or none was seen.
        frozen: the input embedding gives EOS no gradient, because its ``padding_idx`` is that id.
    """

    rows: int | None = None
    targets: int | None = None
    why: str = ""
    told_apart: int = 0
    frozen: bool = False

    @property
    def harmless(self) -> bool:
        """Return whether no row and no target is EOS, as counted."""
        return self.rows == 0 and self.targets == 0

    @property
    def held(self) -> str:
        """Return where EOS is, in words."""
        if self.rows is None or self.targets is None:
            return f"the rows cannot be searched for it: {self.why}"
        return f"it stands in {self.rows:,} rows, and is a label {self.targets:,} times"


@measurement(Cost.STATIC)
def shared_pad(pipeline: Pipeline) -> SharedPad:
    """Count EOS in rows and labels if it is PAD."""
    tokenizer = pipeline.tokenizer
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is None or tokenizer.pad_token_id != eos:
        return SharedPad()
    try:
        # Only here: a pipeline whose rows cannot be read still has its two ids compared.
        scan: Scan = Session.of(pipeline).measurements.get("scan")
    except Skip as skip:
        return SharedPad(why=str(skip))
    objective = objective_of(pipeline)
    # Labels of other objectives are classes, and EOS is no class.
    of_tokens = objective.shifts or objective.name == UNKNOWN
    return SharedPad(
        sum(_rows_with(split, int(eos)) for split in scan.splits),
        sum(_targets(split, int(eos)) for split in scan.splits) if of_tokens else 0,
        told_apart=_told_apart(pipeline, int(eos)),
        frozen=_frozen(pipeline, int(eos)),
    )


def _told_apart(pipeline: Pipeline, eos: int) -> int:
    """Return in how many rows EOS is attended and a target; 0 if it is not in one that holds it."""
    try:
        documents: Documents = Session.of(pipeline).measurements.get("documents")
    except Skip:
        return 0
    holding = [one for one in documents.found if eos in one.ids[1:]]
    # A label that is shifted already stands one place before its token.
    if not holding or any(eos not in one.labels for one in holding):
        return 0
    ids, mask = documents.inputs["input_ids"], documents.inputs.get("attention_mask")
    if mask is not None and mask.shape == ids.shape:
        for r, spans in enumerate(documents.spans):
            own = [t for start, stop in spans for t in range(start, stop)]
            if bool((mask[r, own] == 0).any()):
                return 0
    return len(holding)


def _frozen(pipeline: Pipeline, eos: int) -> bool:
    """Return whether the input embedding, one that is no head as well, leaves EOS as it is."""
    model = unwrapped(pipeline.model)
    try:
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return False
    weight = getattr(table, "weight", None)
    if weight is None or not weight.requires_grad or getattr(head, "weight", None) is weight:
        return False
    return getattr(table, "padding_idx", None) == eos


def _rows_with(split: Split, eos: int) -> int:
    """Return how many rows hold EOS at attended places, or at an end that has no mask."""
    if eos not in split.special:  # rows of pixels or sounds: no ids were read
        return 0
    held = split.special[eos].rows
    if "attention_mask" not in split.rows.table.column_names:
        # Rows that hold it inside as well may be counted twice.
        held += int((split.lengths < split.widths).sum())
    return held


def _targets(split: Split, eos: int) -> int:
    """Return how many labels are EOS."""
    labels = split.labels
    if labels is None or not labels.is_list or labels.kind != "integer":
        return 0
    return sum(
        int((lists(batch.column(labels.column), labels.column).values == eos).sum())
        for _, batch in split.rows.blocks([labels.column])
    )
