"""TS920 loop.teachers_are_quiet."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.repairs import repair
from trainsanity.types import Cost, Finding, Measured


@check("TS920", "loop.teachers_are_quiet", cost=Cost.STEP, rules_out="noise of another model")
def teachers_are_quiet(recording: Recording) -> Iterator[Measured | Finding]:
    """Reference and teacher models run in eval mode.

    What it checks: every other model that runs without a gradient in the recorded steps: whether
    dropout is on in it, and whether its weights stay the same.

    Why it matters: a teacher, a reward model or a feature extractor that nobody put into eval mode
    answers each question otherwise each time, and the model is drawn towards noise.

    How it is measured: exact, by hooks on all modules. A model whose weights move during the steps
    is a mean of the trained one and may be noisy on purpose. References of preference trainers are
    judged by loss.reference_is_the_policy.

    How to fix: call eval() on it once, where it is made::

        # bad
        teacher = AutoModel.from_pretrained(name).requires_grad_(False).train()
        # good
        teacher = AutoModel.from_pretrained(name).requires_grad_(False).eval()

    Known false alarms: a frozen model whose dropout is meant, as in Monte Carlo dropout.

    References: yxuansu/TaCL#11.
    """
    noisy = [one for one in recording.teachers if one.dropping and not one.moved]
    for teacher in noisy:
        yield Finding(
            f"{teacher.name} runs beside the trained model with {teacher.dropping} dropout layers "
            "on, without a gradient, and its weights stay as they are",
            observed=teacher.dropping,
            expected=0,
            where=teacher.name,
            cause="a teacher in training mode: its answers are drawn anew each time",
            fix="call eval() on it",
            repairs=(repair("teacher.eval()", "teachers_quiet"),),
        )
    yield Measured(
        f"{len(recording.teachers)} other models run beside the trained one; dropout is on in "
        f"{len(noisy)} of those whose weights stay",
        len(noisy),
        0,
    )
