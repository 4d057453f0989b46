"""TS914 loop.evaluates_in_eval_mode."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.scored import Scored
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS914",
    "loop.evaluates_in_eval_mode",
    cost=Cost.STEP,
    needs=("trainer", "eval_dataset"),
    requires=("loss.train_equals_eval",),
    rules_out="dropout in evaluation",
)
def evaluates_in_eval_mode(scored: Scored) -> Iterator[Measured | Finding]:
    """``evaluate()`` puts the model into eval mode before it runs it.

    What it checks: which modules are in training mode when the model runs inside ``evaluate()``.

    Why it matters: ``torch.no_grad()`` turns off gradients and nothing else.  With dropout on, the
    evaluation's loss is too high and random, and it is what the best checkpoint is chosen by; batch
    norms in training mode take their statistics from the evaluation data.

    How it is measured: exact.  The model is in training mode before, as in a run that evaluates
    between two steps, and the Trainer's own ``evaluate()`` runs on a few rows.

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
    yield Measured(
        f"evaluate() on {scored.rows} rows runs the model with {len(scored.training)} of its "
        "modules in training mode",
        len(scored.training),
        0,
    )
