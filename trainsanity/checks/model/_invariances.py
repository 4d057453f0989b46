"""Shared by checks that compare the same rows in two arrangements."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.fields import IDS, MASK
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.probes import Outputs, Probes, relative
from trainsanity.pipeline import of_transformers, unwrapped
from trainsanity.types import Abstain, Finding

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

OTHER_INPUTS = ("pixel_values", "input_features", "input_values")
"""Names of inputs that convolutions read in place of tokens."""


def not_numbers(outputs: Mapping[str, Outputs]) -> Finding | None:
    """Return a finding for the first arrangement with a NaN or an infinity at a row's own token."""
    for arrangement, output in outputs.items():
        values = [*output.logits, *(output.states or ())]
        bad = sum(int((~one.isfinite()).sum()) for one in values)
        if bad:
            return Finding(
                f"{bad} logits or states of the rows' own tokens are not finite: {arrangement}",
                observed=bad,
                expected=0,
                where=arrangement,
                cause="an overflow, or a softmax over a row that the mask hides as a whole",
                fix="run the model on these rows in float32, with torch.autograd.detect_anomaly",
            )
    return None


def change_before_the_last(changed: Outputs, before: Outputs) -> float:
    """Return how much the states before the last token moved, relative to their norm."""
    assert changed.states is not None
    assert before.states is not None
    return relative([one[:-1] for one in changed.states], [one[:-1] for one in before.states])


def abstain_if_hidden(probes: Probes) -> None:
    """Abstain where rows differ from each other by no more than arithmetic.

    Raises:
        Abstain: they do.
    """
    if probes.per_token or len(probes.own.logits) < 2:
        return
    import torch

    between = float(torch.stack(probes.own.logits).std(dim=0).mean())
    if probes.allowed_logits >= between:
        raise Abstain(
            f"rows differ from each other by {between:.2g}, "
            f"which arithmetic noise of {probes.allowed_logits:.2g} would hide"
        )


def padded_alike(pipeline: Pipeline, batch: Batch) -> bool:
    """Return whether each row has the same padding in every batch: all are as wide as the batch."""
    widths = {micro.width for micro in batch}
    stored = {len(row[IDS]) for micro in batch for row in micro.rows}
    to_one = getattr(pipeline.data_collator, "padding", None) == "max_length"
    return len(widths) == 1 and (stored == widths or to_one)


def takes_no_mask(pipeline: Pipeline) -> bool:
    """Return whether the model's forward has no attention mask among its parameters."""
    return MASK not in inspect.signature(unwrapped(pipeline.model).forward).parameters


def mixes_by_design(pipeline: Pipeline) -> str:
    """Return what in a model of transformers' own lets padding reach a text's end; else empty.

    Convolutions over tokens do so, as CANINE, ConvBERT and Nystromformer have them: their mask
    hides padding from attention alone.  Patches of images (a stride as wide as the kernel) and
    causal convolutions, which pad by themselves, are none of these.
    """
    import torch

    model = unwrapped(pipeline.model)
    takes = inspect.signature(model.forward).parameters
    if not of_transformers(model) or any(name in takes for name in OTHER_INPUTS):
        return ""
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d)
    mixing = (name for name, one in model.named_modules() if isinstance(one, kinds) and _mixes(one))
    return next(mixing, "")


def _mixes(convolution: Any) -> bool:
    widest: int = max(convolution.kernel_size)
    return widest > 1 and tuple(convolution.kernel_size) != tuple(convolution.stride)
