"""TS547 loss.follows_its_teacher."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

LEAST = 8
"""Outputs that all go one way by chance once in a hundred steps, where each may go either way."""

NEARLY_ALL = 0.95
"""Share of the outputs that go one way: of a few the change is next to nothing."""


@check(
    "TS547",
    "loss.follows_its_teacher",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="another model's words",
)
def follows_its_teacher(recording: Recording) -> Iterator[Measured | Finding]:
    """What a teacher says of a position is learnt at that position; a reference draws to itself.

    What it checks: the gradient at the trained model's logits, where another model that runs beside
    it without a gradient, on the same tokens, is made to say something else.

    Why it matters: logits of student and teacher that are a place apart, as after a shift of one of
    them alone, teach the student to repeat what was to be said before the word that it has read. A
    divergence from the reference that is taken from the loss, and not added to it, rewards a policy
    for leaving what it was. Both losses fall, and nothing raises.

    How it is measured: exact, without a formula. The first micro-batch is taken again, up to three
    times with the teacher's logits in another order at one position: the outputs that then have
    another gradient are those that are held to it. And, where the batch has advantages, with
    those at 0 and the reference's logits of the next tokens raised: an output that is drawn to the
    reference goes up with them. Targets of a later place may be meant, by a draft that looks
    ahead: a warning.

    How to fix: cut both in the same way, and add the divergence::

        # bad
        F.kl_div(student[:, 1:].log_softmax(-1), teacher[:, :-1].softmax(-1))
        loss = policy_loss - beta * divergence
        # good
        F.kl_div(student[:, :-1].log_softmax(-1), teacher[:, :-1].softmax(-1))
        loss = policy_loss + beta * divergence

    Known false alarms: none known.

    References: DeepOpt-com/WrinkleFree-Monorepo#13, qiancheng0/ToolRL#52.
    """
    seen = recording.guided
    if not seen.places and not seen.nearer + seen.farther:
        raise Skip("no other model says something of each token that the trained one is held to")
    shift = seen.shift
    if shift:
        side = "behind" if shift > 0 else "before"
        where = f"{abs(shift)} place{'s' * (abs(shift) > 1)} {side} it"
        yield Finding(
            f"what {seen.name} says at a position is learnt by the output {where}: in "
            f"{len(seen.places)} of {len(seen.places)} positions, student and teacher are not "
            "aligned",
            observed=shift,
            expected=0,
            where="the loss of the first micro-batch",
            cause="the logits of one of the two models are shifted by a place, those of the other "
            "are not",
            fix="cut both alike: student[:, :-1] beside teacher[:, :-1], and labels[:, 1:] as the "
            "mask",
            # A draft may learn ahead what its teacher says later; never what it said before.
            severity=Severity.FAILURE if shift > 0 else Severity.WARNING,
        )
    heard = seen.nearer + seen.farther
    if heard >= LEAST and seen.farther >= NEARLY_ALL * heard:
        yield Finding(
            f"the loss drives the policy away from {seen.name}, its reference: with advantages of "
            f"0, {seen.farther} of {heard} outputs go down where the reference goes up",
            observed=seen.farther,
            expected=0,
            where="the loss of the first micro-batch",
            cause="the KL divergence from the reference has the wrong sign: it is taken from the "
            "loss",
            fix="loss = policy_loss + beta * divergence, with beta above 0",
        )
    told = ", ".join("several" if one is None else f"{one:+d}" for one in seen.places)
    yield Measured(
        f"outputs that hear of a position of {seen.name} stand beside it by {told or '-'}; "
        f"{seen.nearer} of {heard} outputs go the way of it with advantages of 0",
        {"places": seen.places, "nearer": seen.nearer, "farther": seen.farther},
    )
