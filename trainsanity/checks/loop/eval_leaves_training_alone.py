"""TS907 loop.eval_leaves_training_alone."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.loop.resume_equals_straight import not_finite
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, within
from trainsanity.measurements.runs.evaluated import Evaluated
from trainsanity.types import Cost, Finding, Measured

LEFT = {
    "weights": "the weights are others than before it",
    "trainable": "other parameters are trainable than before it",
    "settings": "attributes of modules are others than before it",
    "optimizer": "the optimizer remembers something else than before it",
    "learning rate": "the learning rate is another than before it",
    "scheduler": "the schedule stands at another step than before it",
}
"""What must be after an evaluation what it was before.  The random numbers go on: the data loader
draws one when it begins, in evaluation as well."""


@check(
    "TS907",
    "loop.eval_leaves_training_alone",
    cost=Cost.RUN,
    needs=("trainer", "eval_dataset"),
    rules_out="evaluating while training",
)
def eval_leaves_training_alone(evaluated: Evaluated) -> Iterator[Measured | Finding]:
    """Training with an evaluation in between equals training without.

    What it checks: weights, buffers, what is trainable, the optimizer's state, learning rate and
    schedule before and after ``evaluate()``; the rows, losses and weights of the steps after it
    against a run without it; and that it does not set the random numbers back to a seed.

    Why it matters: a metric that averages weights in place, or an evaluation that seeds the
    generators, changes the run each time it looks at it.  With a seed in it, every evaluation is
    followed by the same dropout and the same sampling.

    How it is measured: the Trainer trains a few steps, then the same steps with two calls of its
    own ``evaluate()`` in the middle, on the first rows of the evaluation data and with the user's
    ``compute_metrics``.  States are compared by bits.  Random states are put back before the next
    step, because any data loader draws from them; between the two evaluations a number is drawn
    from each generator, so that both end in the same state only if something set it.  The final
    weights may differ by four times what two straight runs differ by; losses and weights that are
    no numbers are a finding, equal or not.

    How to fix: change copies; seed generators of your own in place of the global ones.

    Known false alarms: none known.

    References: ``Trainer.evaluate``, ``transformers.set_seed``.
    """
    seen = evaluated
    step = f"the evaluation after step {seen.plan.cut}"
    found = [*not_finite(seen.straight)]
    for name, said in LEFT.items():
        before, after = seen.before.get(name), seen.after.get(name)
        if before != after:
            changed = (
                [k for k in before if before[k] != after.get(k)]
                if isinstance(before, dict) and isinstance(after, dict)
                else []
            )
            found.append(
                Finding(
                    f"after evaluate() {said}",
                    observed=len(changed) or "changed",
                    expected=0 if changed else "unchanged",
                    where=", ".join(changed[:3]) or step,
                    cause="evaluate(), compute_metrics or the model's eval mode writes to it",
                    fix="let the evaluation work on copies, and put back what it swaps in",
                )
            )
    (first_before, first_after), (then_before, then_after) = seen.random
    seeded = [
        name
        for name in first_after
        if first_after[name] == then_after[name] and first_before[name] != then_before[name]
    ]
    if seeded:
        found.append(
            Finding(
                f"evaluate() sets the random numbers of {' and '.join(seeded)} to the same state "
                "each time: what follows an evaluation follows every one",
                observed=seeded,
                expected=[],
                where=step,
                cause="a seed is set inside the evaluation",
                fix="draw from a generator of its own, torch.Generator().manual_seed(...)",
            )
        )
    other = seen.evaluated.batches
    rows = [k for k, batch in seen.straight.batches.items() if batch != other.get(k)]
    if rows:
        found.append(
            Finding(
                f"step {rows[0] + 1} trains on other rows when there was an evaluation before it",
                observed="other rows",
                expected="the same rows",
                where=f"step {rows[0] + 1}",
                cause="training and evaluation share a sampler or an iterator",
                fix="give each data loader its own",
            )
        )
    if not found and not within(seen.difference, MARGIN * seen.noise):
        found.append(
            Finding(
                f"with an evaluation in between, the weights after step {seen.plan.steps} differ "
                f"by up to {seen.difference:.3g}; two runs without differ by {seen.noise:.3g}",
                observed=seen.difference,
                expected=MARGIN * seen.noise,
                where=step,
                cause="evaluate() leaves something changed that is no weight: a flag of a module",
                fix="compare the modules' attributes before and after evaluate()",
            )
        )
    yield from found
    same = "bit for bit" if not seen.difference else "within noise"
    yield Measured(
        f"an evaluation after step {seen.plan.cut} leaves weights, optimizer and schedule as they "
        f"were, and the weights after step {seen.plan.steps} are those of a run without it, {same}",
        0,
        0,
    )
