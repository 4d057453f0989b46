"""TS417 model.targets_unseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.whose_loss import own_loss
from trainsanity.measurements.model.forward import predicting
from trainsanity.objectives.base import IGNORED, Objective
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

ENOUGH = 16
"""Targets from which on it is no chance that each stands where it is predicted: text whose tokens
all come twice in a row does not occur."""

KEPT = 10
"""One in so many tokens that are chosen for prediction stays as it is, in BERT and in
DataCollatorForLanguageModeling."""


@check("TS417", "model.targets_unseen", rules_out="a model that sees its targets")
def targets_unseen(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """No input position holds the token that it is to predict.

    What it checks: for a model whose targets are tokens, whether the input at a position (of the
    decoder, if there is one) is the position's own target.

    Why it matters: the loss falls to zero within a few steps, because the model copies what it
    sees. When it generates, that token is not there yet, and the output is gibberish.

    How it is measured: exact, on the first step's batches: with the shift of the objective, the
    input ids where a label is counted against those labels. Text repeats a word now and then; only
    if every one of at least 16 targets, of two kinds or more, is visible it is a failure. A masked
    language model keeps a tenth of its targets visible; where some are behind the mask token and
    more than half are not, what was not masked is counted, too.

    How to fix: shift the decoder's inputs to the right, or leave that to the model; mask the inputs
    of a masked language model; give a model that does not shift labels one position earlier.

    Bad::

        batch["decoder_input_ids"] = batch["labels"]

    Good::

        batch["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(batch["labels"])

    Known false alarms: none known.

    References: huggingface/transformers#11977, huggingface/transformers#30105,
    huggingface/transformers#20797.
    """
    objective = objective_of(pipeline)
    if not objective.of_words:
        raise Skip("the targets are no tokens of the vocabulary")
    if objective.name.startswith("masked") and pipeline.trainer is not None and own_loss(pipeline):
        raise Skip("a compute_loss of its own may mask what it gives the model, as diffusion does")
    seen: list[int] = []
    count = masked = 0
    mask = getattr(pipeline.tokenizer, "mask_token_id", None)
    for micro in batch:
        given = inputs_and_targets(pipeline, objective, micro.inputs)
        if given is None:
            raise Skip("the batch has no labels beside the ids that they are predicted from")
        ids, targets = given
        counted = targets != IGNORED
        count += int(counted.sum())
        seen += targets[counted & (ids == targets)].tolist()
        masked += 0 if mask is None else int((counted & (ids == mask)).sum())
    if count >= ENOUGH and len(seen) == count and len(set(seen)) > 1:
        yield Finding(
            f"all {count} targets are the tokens that the model is given where it predicts them",
            observed=len(seen),
            expected=0,
            where="the decoder's inputs" if not objective.beside_inputs else "input_ids",
            cause=_cause(objective),
            fix="shift the decoder's inputs by one: leave decoder_input_ids out, and the model "
            "makes them of the labels"
            if not objective.beside_inputs
            else "give each position the label of the next one: labels = [*ids[1:], -100]"
            if not objective.name.startswith("masked")
            else "mask the inputs: DataCollatorForLanguageModeling(tokenizer, mlm=True)",
        )
    elif (
        objective.name.startswith("masked") and masked and count >= ENOUGH and 2 * len(seen) > count
    ):
        yield Finding(
            f"{len(seen)} of {count} targets stand unmasked in the input; {masked} are behind the "
            "mask token",
            observed=len(seen),
            expected=count // KEPT,
            where="labels",
            cause="labels are the whole text: tokens that are not masked are targets, too, and the "
            "model learns to copy what it sees",
            fix="labels of -100 wherever nothing is masked; DataCollatorForLanguageModeling makes "
            "them so",
        )
    yield Measured(
        f"{len(seen)} of {count} targets are the token that the model is given where it predicts "
        "them",
        len(seen),
        None,
    )


def _cause(objective: Objective) -> str:
    if not objective.beside_inputs:
        return "the decoder is given the labels themselves, unshifted: it sees its own target"
    if objective.name.startswith("masked"):
        return "nothing is masked: each position sees its own target"
    return "labels equal to the ids, for a model that does not shift: it sees its own target"


def inputs_and_targets(
    pipeline: Pipeline, objective: Objective, inputs: Mapping[str, Any]
) -> tuple[Tensor, Tensor] | None:
    """Return ids ``[B, T]`` and the targets that are predicted at each; None if they do not fit."""
    import torch

    labels = inputs.get("labels")
    name = "input_ids" if objective.beside_inputs else "decoder_input_ids"
    ids = predicting(pipeline.model, dict(inputs)).get(name)
    if not (torch.is_tensor(labels) and torch.is_tensor(ids)):
        return None
    if labels.dim() != 2 or labels.shape != ids.shape or labels.is_floating_point():
        return None
    ids, labels = ids.cpu(), labels.cpu()
    return (ids[:, :-1], labels[:, 1:]) if objective.shifts else (ids, labels)
