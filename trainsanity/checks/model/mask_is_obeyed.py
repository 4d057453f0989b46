"""TS408 model.mask_is_obeyed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.model._invariances import (
    mixes_by_design,
    not_numbers,
    padded_alike,
    takes_no_mask,
)
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import Difference, within
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.probes import Outputs, Probes, difference, relative
from trainsanity.pipeline import of_transformers
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS408",
    "model.mask_is_obeyed",
    cost=Cost.FORWARD,
    requires=("model.eval_is_repeatable",),
    rules_out="attention mask",
)
def mask_is_obeyed(
    pipeline: Pipeline, batch: Batch, probes: Probes
) -> Iterator[Measured | Finding]:
    """Masked positions do not affect outputs.

    What it checks: other ids in the place of PAD, with the mask still 0 there, leave the state of
    every token of the rows as it was.  Beside it stands what the same ids change under a mask of
    ones, which shows whether the mask is needed at all.

    Why it matters: a mask that gets lost on the way makes a text's meaning depend on how much
    padding stands before it.  On the left every token attends to it, on the right only where
    attention looks ahead.

    How it is measured: greatest difference of a token's state relative to its norm, between two
    batches of one shape; of the logits where no states are visible; in float32 where that can be
    had.  Allowed is four times what arithmetic makes of them: see model.batch_equals_single.
    States and not pooled logits, because generic heads find the end of a text by its ids, which are
    what is changed here.

    How to fix: pass ``attention_mask`` on to the model and to each layer that mixes tokens.

    A model that passes over its pad id (``EmbeddingBag(padding_idx=)``, MobileBERT's embeddings of
    three words) is no fault: there, more padding behind the texts changes nothing.

    Three are a warning. One that this run does not meet: no row is padded, nothing tells what would
    pad one, and ids are hidden at the rows' ends instead. Two in which training and prediction see
    the same: a model whose forward takes no
    mask (FNet), while all rows are padded to one width; and a model of transformers' own whose
    convolutions reach over the end of a text (CANINE, ConvBERT), with a mask that attention obeys.

    Known false alarms: models that find their positions by the pad id and are padded on the left.

    References: jy-yuan/KIVI#46, huggingface/transformers#35352.
    """
    broken = not_numbers({
        "as trained": probes.own,
        "with other ids under mask 0": probes.refilled,
        "with a mask of ones": probes.unmasked,
    })  # fmt: skip
    hidden, values = _moved(probes, probes.refilled)
    shown, _ = _moved(probes, probes.unmasked)
    place = "before the text" if probes.side == "left" else "behind the text"
    if broken:
        yield broken
    elif not hidden.explained and not _by_id(pipeline, probes, hidden, shown):
        partly = not within(abs(hidden.greatest - shown.greatest), hidden.allowed)
        convolution = mixes_by_design(pipeline) if partly else ""
        maskless = takes_no_mask(pipeline) and padded_alike(pipeline, batch)
        yield Finding(
            f"other ids under mask 0, {place}, change {values}: {hidden}",
            observed=hidden.greatest,
            expected=f"at most {hidden.allowed:.3g}",
            where=f"padding on the {probes.side}",
            cause=f"the convolution {convolution} reaches over the end of a text, as the model was "
            "made: only attention obeys the mask"
            if convolution
            else "the model takes no attention mask: padding is a part of each text"
            if maskless
            else "the attention mask does not reach every layer, is turned round (torch's "
            "key_padding_mask is True at padding), or positions are counted from ids"
            if partly
            else "the attention mask is dropped: a mask of ones changes as much",
            fix="pad to the same width wherever the model is used"
            if convolution or maskless
            else "pass attention_mask to the model and on to every layer that mixes tokens",
            severity=Severity.WARNING
            if convolution or maskless or probes.rows.guessed
            else Severity.FAILURE,
        )
    yield Measured(
        f"{values} under other ids {place}: masked, {hidden}; under a mask of ones they differ by "
        f"{shown.greatest:.2g}{probes.precision}",
        {"masked": hidden.greatest, "unmasked": shown.greatest},
        hidden.allowed,
    )


def _by_id(pipeline: Pipeline, probes: Probes, hidden: Difference, shown: Difference) -> bool:
    """Return whether padding changes nothing as long as it is padding, which is no fault.

    More of it behind the texts changes nothing, and other ids there do, whatever the mask, or in a
    model of transformers' own whose attention obeys the mask.
    """
    wider = difference(probes.wider.logits, probes.own.logits)
    maskless = within(abs(hidden.greatest - shown.greatest), hidden.allowed)
    made_so = of_transformers(pipeline.model)
    alike = within(wider, probes.allowed_logits)
    return probes.side == "right" and alike and (maskless or made_so)


def _moved(probes: Probes, output: Outputs) -> tuple[Difference, str]:
    """Return by how much an arrangement differs from the rows as trained, and what was compared."""
    if output.states is None or probes.own.states is None:
        by = difference(output.logits, probes.own.logits)
        return Difference(by, probes.allowed_logits), "logits"
    by = relative(output.states, probes.own.states)
    return Difference(by, probes.allowed_states, "of the norm"), "the tokens' states"
