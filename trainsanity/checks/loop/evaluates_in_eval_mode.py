"""TS914 loop.evaluates_in_eval_mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, within
from trainsanity.measurements.batches.whose_loss import own_loss
from trainsanity.measurements.runs.scored import Scored
from trainsanity.pipeline import of_transformers
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROUNDED = 1e-6
"""Rounding of a loss in float32, relative to it."""


@check(
    "TS914",
    "loop.evaluates_in_eval_mode",
    cost=Cost.STEP,
    needs=("trainer", "eval_dataset"),
    requires=("loss.train_equals_eval", "model.eval_is_repeatable"),
    rules_out="dropout in evaluation",
)
def evaluates_in_eval_mode(pipeline: Pipeline, scored: Scored) -> Iterator[Measured | Finding]:
    """``evaluate()`` puts the model into eval mode before it runs it.

    What it checks: which modules are in training mode when the model runs inside ``evaluate()``;
    and whether the loss of a labelled batch is the same there with other random numbers.

    Why it matters: ``torch.no_grad()`` turns off gradients and nothing else.  With dropout on, the
    evaluation's loss is too high and random, and it is what the best checkpoint is chosen by; batch
    norms in training mode take their statistics from the evaluation data.

    How it is measured: exact.  The model is in training mode before, as in a run that evaluates
    between two steps, and the Trainer's own ``evaluate()`` runs on a few rows.  The first labelled
    batch is asked three times more: twice with the same random numbers, which says what the
    device's own noise is, and once with others.  Random numbers that no module draws are the
    loss's own: it may hide words, or add noise, before it asks the model.  Dropout that a model of
    transformers' own has in every mode, as SpeechT5 ahead of its decoder, is a warning.

    How to fix: switch the mode, and back::

        # bad
        with torch.no_grad():
            loss = model(**batch).loss
        # good
        model.eval()
        with torch.no_grad():
            loss = model(**batch).loss
        model.train()

    Known false alarms: dropout that is left on to sample predictions (Monte Carlo dropout).

    References: ipolharvard/ethos-ares#20, meta-pytorch/torchtune#1803.
    """
    named = [name for name in scored.training if name] or ["the model itself"]
    if scored.training:
        yield Finding(
            f"evaluate() runs the model with {len(scored.training)} of its modules in train mode: "
            "dropout is active in evaluation, and the evaluation's loss is random and too high",
            observed=len(scored.training),
            expected=0,
            where=", ".join(named[:3]),
            cause="eval() is not called before the evaluation's forward, or is overridden",
            fix="call model.eval() at the beginning of evaluate(), and model.train() at its end",
        )
    one, same, other = scored.draws or (0.0, 0.0, 0.0)
    allowed = max(abs(one - same) * MARGIN, ROUNDED * abs(one))
    # A loss that draws by itself, as one of diffusion does, says nothing about dropout.
    draws = not scored.drawn_by_loss and not within(abs(one - other), allowed)
    if not scored.training and draws:
        yield Finding(
            f"the loss of one batch in evaluation is {one:.5f}, and {other:.5f} with other random "
            "numbers: dropout is active although every module is in eval mode",
            observed=abs(one - other),
            expected=f"at most {allowed:.3g}",
            where="the model in eval mode",
            cause="a function such as scaled_dot_product_attention or F.dropout is given its "
            "dropout without asking self.training",
            fix="nothing: the model was made so"
            if (made_so := of_transformers(pipeline.model) and not own_loss(pipeline))
            else "dropout_p=self.p if self.training else 0.0",
            severity=Severity.WARNING if made_so else Severity.FAILURE,
        )
    yield Measured(
        f"evaluate() on {scored.rows} rows runs the model with {len(scored.training)} of its "
        f"modules in training mode; a batch's loss is {one:.5f}, with other random numbers "
        f"{other:.5f}",
        len(scored.training),
        0,
    )
