"""TS929 loop.evaluation_keeps_weights."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.scored import Scored
from trainsanity.types import Cost, Finding, Measured, Severity, Skip


@check(
    "TS929",
    "loop.evaluation_keeps_weights",
    cost=Cost.STEP,
    needs=("trainer", "eval_dataset"),
    rules_out="an evaluation that changes the weights",
)
def evaluation_keeps_weights(scored: Scored) -> Iterator[Measured | Finding]:
    """An evaluation leaves the weights as they are, and what is kept of them is a copy.

    What it checks: that every parameter and buffer is the same after an evaluation, with the user's
    own ``evaluate()``, ``compute_metrics`` and callbacks that take a ``state_dict()`` in
    ``on_evaluate``; and that no state dict that is kept there holds the model's own tensors.

    Why it matters: ``state_dict()`` copies nothing. The best weights of a run, kept so, are the
    last ones; and whoever loads a mean of the weights to evaluate it, and then what he kept of the
    model, has loaded the mean twice: training goes on from there.

    How it is measured: the Trainer's own ``evaluate()`` runs on a few rows, and hashes of all
    tensors before and after are compared. Where it is the user's own, the weights are moved by
    2⁻⁷ of themselves before, so that they differ from what was copied of them earlier. A tensor is
    the model's own if it begins at the same address. It is a failure where the class that keeps it,
    or a class of the user's own below it, calls ``load_state_dict``, and else a warning: it may be
    written to a file at once. Buffers to which modules in eval mode write by themselves while the
    model runs, such as a count or a cache, are the model's own affair.

    How to fix: copy::

        # bad
        self.best = model.state_dict()
        # good
        self.best = copy.deepcopy(model.state_dict())

    Known false alarms: none known.

    References: WenjieDu/PyPOTS#667, aqlaboratory/openfold#90; torch.nn.Module.state_dict.
    """
    kept = scored.kept
    if kept is None:
        raise Skip(f"evaluate() raised {scored.error}")
    if kept.left:
        yield Finding(
            f"{len(kept.left)} of {kept.weights} weights differ after evaluate()",
            observed=len(kept.left),
            expected=0,
            where=", ".join(kept.left[:3]),
            cause=f"{' or '.join(kept.by) or 'evaluate()'} writes to them; state_dict() holds "
            "references: what is loaded into the model is in there, too",
            fix="keep copy.deepcopy(model.state_dict()) before other weights are loaded, and load "
            "that afterwards; average weights into copies",
        )
    for name, loads in kept.shared.items():
        yield Finding(
            f"{name} holds the model's own tensors after an evaluation: they go on changing",
            observed=name,
            expected="a copy",
            where=name,
            cause="state_dict() returns references to the weights, and no copy",
            fix="keep copy.deepcopy(model.state_dict())",
            severity=Severity.FAILURE if loads else Severity.WARNING,
        )
    yield Measured(
        f"an evaluation{' with ' * bool(kept.by)}{', '.join(kept.by)}: {len(kept.left)} of "
        f"{kept.weights} weights differ after it, {len(kept.shared)} of what is kept are the "
        "model's own tensors",
        {"left": len(kept.left), "shared": [*kept.shared]},
        {"left": 0, "shared": []},
    )
