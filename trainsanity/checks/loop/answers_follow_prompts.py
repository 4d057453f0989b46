"""TS927 loop.answers_follow_prompts."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.scored import Scored
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS927",
    "loop.answers_follow_prompts",
    cost=Cost.STEP,
    needs=("trainer", "eval_dataset"),
    rules_out="padding behind prompts",
)
def answers_follow_prompts(scored: Scored) -> Iterator[Measured | Finding]:
    """A decoder that generates in ``evaluate()`` goes on from the last word of each prompt.

    What it checks: the prompts that ``generate`` is given while the Trainer's own ``evaluate()``
    runs, for padding at their right end.

    Why it matters: a decoder says what comes after the last column. Where that is padding, the
    first word of the answer is what the model says after a padding token, and all others follow
    from it. The scores of all rows but the longest are noise, the best checkpoint is chosen by
    them, and nothing raises. Training pads on the right, and nothing is wrong with that.

    How it is measured: exact, by the attention mask that ``generate`` is given; without one by the
    padding token's id, unless that ends texts as well. Encoder-decoders read their prompts in the
    encoder, and are left out.

    How to fix: pad prompts on the left::

        # bad
        batch = tokenizer(prompts, padding=True, return_tensors="pt")
        # good
        batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")

    Known false alarms: a ``generate`` of the model's own that moves its prompts to the right.

    References: huggingface/transformers#26569.
    """
    if not scored.prompted:
        raise Skip("evaluate() calls no generate() of a decoder")
    if scored.behind_padding:
        yield Finding(
            f"generate() is given {scored.behind_padding} of {scored.prompted} prompts with "
            "padding on the right: their answers go on from padding tokens",
            observed=scored.behind_padding,
            expected=0,
            where="generate() in evaluate()",
            cause="the prompts are padded on the right, as training batches are",
            fix='padding_side="left" for what is generated from: '
            'tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")',
        )
    yield Measured(
        f"{scored.behind_padding} of {scored.prompted} prompts that evaluate() generates from end "
        "with padding",
        scored.behind_padding,
        0,
    )
