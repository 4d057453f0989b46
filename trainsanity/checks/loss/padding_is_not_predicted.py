"""TS519 loss.padding_is_not_predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.model.ends import ends_of, pad_of
from trainsanity.measurements.step.pull import at_padding
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS519",
    "loss.padding_is_not_predicted",
    cost=Cost.STEP,
    requires=("loss.finite", "loss.padding_does_not_matter"),
    rules_out="outputs at padding in the loss",
)
def padding_is_not_predicted(
    pipeline: Pipeline, recording: Recording
) -> Iterator[Measured | Finding]:
    """Outputs at padded positions receive no gradient.

    What it checks: the gradient of the first step's loss at the logits, position by position:
    where the mask says padding, or behind the last label of a decoder, it has to be zero.  A run of
    the padding's id behind the token that ends a decoder's target is padding, too.

    Why it matters: targets that are tokenized with ``padding="max_length"`` keep the padding's id,
    which the models of transformers do not ignore: the loss falls because padding is easy.  A term
    that forgets the mask (label smoothing, a distillation or an entropy written by hand, a mean
    over all positions) pulls on outputs that are never read. A row's loss then depends on how long
    the others in its batch are.

    How it is measured: a hook on the logits notes the norm of each position's gradient while the
    first step is taken. What is ignored or multiplied by a mask gives exactly 0, so that no
    tolerance is needed. The share is that of the sum of norms.

    How to fix: ``labels[labels == tokenizer.pad_token_id] = -100``; multiply every term by the mask
    before it is summed, and divide by the mask's sum.

    Bad::

        smooth = -logits.log_softmax(-1).mean(-1)
        loss = nll.sum() / counted.sum() + 0.1 * smooth.mean()

    Good::

        loss = (nll + 0.1 * smooth)[counted].mean()

    Known false alarms: none known.

    References: huggingface/transformers#16455, k-tahiro/bert-summarizer#41,
    NovaSky-AI/SkyRL#462.
    """
    pulls, micros = recording.pulls, recording.first.micro_steps
    if len(pulls.norms) != len(micros):
        raise Skip("the model's passes are not one a micro-batch, with logits for each token")
    inside = total = 0.0
    count, labelled, source = 0, 0, ""
    ends, pad = ends_of(pipeline.model), pad_of(pipeline)
    for micro, norms in zip(micros, pulls.norms, strict=True):
        found = at_padding(micro, norms, two_sided=pulls.two_sided, ends=ends, pad=pad)
        if found is None:
            raise Skip("neither a mask nor the labels name the padding of the logits")
        source = found.source
        labelled += found.labelled
        count += int(found.places.sum())
        inside += float(norms[found.places].sum())
        total += float(norms.sum())
    if not count:
        raise Skip("no position of the first step is padding")
    if not total > 0:
        raise Skip("no gradient arrives at the logits")
    share = inside / total
    if share != 0 and labelled:
        yield Finding(
            f"the loss counts padding: {labelled} labels behind the end of a target are the "
            f"padding's id, {pad}, and {share:.2%} of the gradient comes from them",
            observed=share,
            expected=0.0,
            where="labels",
            cause="targets are padded where they are tokenized, and keep the padding's id",
            fix="labels[labels == tokenizer.pad_token_id] = -100, or tokenize targets with "
            "padding=False and let DataCollatorForSeq2Seq pad them",
        )
    elif share != 0:
        yield Finding(
            f"{share:.2%} of the gradient at the logits comes from padding: a term of the loss "
            "counts it",
            observed=share,
            expected=0.0,
            where=f"{count} positions that {source} leaves out",
            cause="a term of the loss is taken over all positions, without the mask",
            fix="multiply every term by the mask before it is summed, and divide by the mask's sum",
        )
    yield Measured(
        f"{count} positions are padding; {share:.2%} of the gradient at the logits comes from them",
        share,
        0.0,
    )
