"""What stands in the places that a masked language model is asked about."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.data.known_tokens import first_rows, flat
from trainsanity.objectives.base import IGNORED
from trainsanity.objectives.masked_lm import MASKED_LM
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

FRAME = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
"""Special tokens that a text does not hold itself."""


@dataclass
class Masks:
    """Targets of the first step that were hidden.

    Attributes:
        mask: the tokenizer's mask token.
        targets: places with a label.
        hidden: those at which something else stands than the label.
        by: id to how often it stands there, the most frequent first.
        special: the same for labels that are special tokens which frame a text.
        words: ids that the rows hold as text.
        names: of ids that are told.
    """

    mask: int
    targets: int = 0
    hidden: int = 0
    by: Counter[int] = field(default_factory=Counter)
    special: Counter[int] = field(default_factory=Counter)
    words: frozenset[int] = frozenset()
    names: dict[int, str] = field(default_factory=dict)


@measurement(Cost.STATIC)
def masks(pipeline: Pipeline, batch: Batch) -> Masks:
    """Count what stands where the labels of a masked language model ask for another token.

    Raises:
        Skip: no such model is trained, or its tokenizer has no mask token.
    """
    if objective_of(pipeline).name != MASKED_LM:
        raise Skip("no masked language model is trained")
    tokenizer = pipeline.tokenizer
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is None:
        raise Skip("the pipeline has no tokenizer with a mask token")
    known = (getattr(tokenizer, name, None) for name in FRAME)
    frame = {int(one) for one in known if one is not None}
    seen = Masks(int(mask))
    for micro in batch:
        ids, labels = micro.inputs.get("input_ids"), micro.inputs.get("labels")
        if ids is None or labels is None or ids.shape != labels.shape:
            raise Skip("the batch has no labels beside each of its tokens")
        asked = labels != IGNORED
        changed = asked & (labels != ids)
        seen.targets += int(asked.sum())
        seen.hidden += int(changed.sum())
        seen.by.update(ids[changed].tolist())
        seen.special.update(one for one in labels[changed].tolist() if one in frame)
    if not seen.hidden:
        raise Skip("no target of the first step is hidden")
    special = set(tokenizer.all_special_ids)
    seen.words = (
        frozenset(one for row in first_rows(pipeline) for one in flat(row.get("input_ids")))
        - special
    )
    told = {seen.mask, *seen.by, *seen.special}
    seen.names = {one: str(tokenizer.convert_ids_to_tokens(one)) for one in told}
    return seen
