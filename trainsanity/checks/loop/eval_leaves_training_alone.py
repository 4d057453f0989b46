"""TS907 loop.eval_leaves_training_alone."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.loop._resume import not_finite
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, within
from trainsanity.measurements.runs.evaluated import Evaluated
from trainsanity.types import Cost, Finding, Measured

LEFT = {
    "weights": "the weights differ from those before it",
    "trainable": "other parameters are trainable than before it",
    "settings": "attributes of modules differ from those before it",
    "optimizer": "the optimizer's state differs from that before it",
    "learning rate": "the learning rate differs from that before it",
    "scheduler": "the scheduler is at another step than before it",
}
"""The states that an evaluation must not change.  Random states are not among them: every data
loader draws a number when it begins, in evaluation as well."""


@check(
    "TS907",
    "loop.eval_leaves_training_alone",
    cost=Cost.RUN,
    needs=("trainer", "eval_dataset"),
    follows=("loop.evaluation_keeps_weights",),
    rules_out="evaluating while training",
)
def eval_leaves_training_alone(evaluated: Evaluated) -> Iterator[Measured | Finding]:
    """An evaluation does not change the training that follows it.

    What it checks: weights, buffers, what is trainable, the optimizer's state, learning rate and
    schedule before and after ``evaluate()``; the rows, losses and weights of the steps after it
    against a run without it; and that it does not set the random numbers back to a seed.

    Why it matters: a metric that averages weights in place, or an evaluation that seeds the
    generators, changes the run each time it is evaluated.  After an evaluation that sets a seed,
    dropout and sampling are always the same.

    How it is measured: the Trainer trains a few steps, then the same steps with two calls of its
    own ``evaluate()`` in the middle, on the first rows of the evaluation data and with the user's
    ``compute_metrics``.  States are compared bit by bit.  Random states are restored before the
    next step, because any data loader draws from them; between the two evaluations a number is
    drawn from each generator, so that both end in the same state only if something set it.  The
    final weights may differ by four times the difference of two runs without evaluation; losses and
    weights that are not finite are a finding, equal or not.

    An optimizer that is free of schedules moves the weights to where it evaluates, and back as the
    next step begins: both runs do that at the same place, and what else changes is compared.

    How to fix: change copies; seed generators of your own in place of the global ones.

    Known false alarms: none known.

    References: ``Trainer.evaluate``, ``transformers.set_seed``.
    """
    plan, straight = evaluated.plan, evaluated.straight
    step = f"the evaluation after step {plan.cut}"
    found = [*not_finite(straight)]
    states = [name for name in LEFT if evaluated.before.get(name) != evaluated.after.get(name)]
    for name, what in LEFT.items():
        before, after = evaluated.before.get(name), evaluated.after.get(name)
        if name in states:
            changed = (
                [k for k in before if before[k] != after.get(k)]
                if isinstance(before, dict) and isinstance(after, dict)
                else []
            )
            found.append(
                Finding(
                    f"after evaluate() {what}",
                    observed=len(changed) or "changed",
                    expected=0 if changed else "unchanged",
                    where=", ".join(changed[:3]) or step,
                    cause="evaluate(), compute_metrics or the model's eval mode writes to it",
                    fix="let the evaluation work on copies, and restore what it replaces",
                )
            )
    (first_before, first_after), (then_before, then_after) = evaluated.random
    seeded = [
        name
        for name in first_after
        if first_after[name] == then_after[name] and first_before[name] != then_before[name]
    ]
    if seeded:
        found.append(
            Finding(
                f"evaluate() sets the random state of {' and '.join(seeded)} to the same value "
                "each time: dropout and sampling repeat after every evaluation",
                observed=seeded,
                expected=[],
                where=step,
                cause="a seed is set inside the evaluation",
                fix="draw from a separate generator, torch.Generator().manual_seed(...)",
            )
        )
    other = evaluated.evaluated.batches
    rows = [k for k, batch in straight.batches.items() if batch != other.get(k)]
    if rows:
        found.append(
            Finding(
                f"step {rows[0] + 1} trains on other rows if there was an evaluation before it",
                observed="other rows",
                expected="the same rows",
                where=f"step {rows[0] + 1}",
                cause="training and evaluation share a sampler or an iterator",
                fix="give each data loader its own",
            )
        )
    allowed = MARGIN * evaluated.noise
    if not found and not within(evaluated.difference, allowed):
        found.append(
            Finding(
                f"with an evaluation in between, the weights after step {plan.steps} differ by up "
                f"to {evaluated.difference:.3g}; two runs without one by {evaluated.noise:.3g}",
                observed=evaluated.difference,
                expected=allowed,
                where=step,
                cause="evaluate() changes something that is none of the compared states, such as "
                "an object in a module's attribute",
                fix="compare the modules' attributes before and after evaluate()",
            )
        )
    yield from found
    yield Measured(
        f"an evaluation after step {plan.cut}: {len(states)} of {len(LEFT)} states "
        f"({', '.join(LEFT)}) change, {len(seeded)} of {len(first_after)} random states are set to "
        f"a fixed value, {len(rows)} of {len(straight.batches)} steps train on other rows, and the "
        f"weights after step {plan.steps} differ by up to {evaluated.difference:.3g} "
        f"(up to {allowed:.2g} allowed)",
        {"states": states, "seeded": seeded, "steps": len(rows), "weights": evaluated.difference},
        {"states": [], "seeded": [], "steps": 0, "weights": allowed},
    )
