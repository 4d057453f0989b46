"""TS441 model.parts_are_registered."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.unregistered import Unregistered
from trainsanity.types import Cost, Finding, Measured

NAMED = 3
"""Parameters that are named in a finding."""


@check(
    "TS441",
    "model.parts_are_registered",
    cost=Cost.FORWARD,
    needs=("model",),
    rules_out="parameters outside of the model",
)
def parts_are_registered(unregistered: Unregistered) -> Iterator[Measured | Finding]:
    """Every trainable tensor that the forward uses is a registered parameter.

    What it checks: trainable parameters in lists and dictionaries of the model's modules, alone or
    in modules, that are not among ``model.parameters()``.

    Why it matters: torch registers modules that are attributes, and not those in a plain list. They
    are used, and no optimizer moves them, no checkpoint has them and no ``to(device)`` reaches
    them: a loaded model computes with other weights.

    How it is measured: exact. The outputs of the first micro-batch are differentiated by what is
    found; what a gradient comes to is used. A frozen teacher that is kept in a list on purpose, or
    one that runs without gradients, is none.

    How to fix: ``nn.ModuleList``, ``nn.ModuleDict``, ``nn.ParameterList``.

    Bad::

        self.layers = [nn.Linear(size, size) for _ in range(2)]

    Good::

        self.layers = nn.ModuleList([nn.Linear(size, size) for _ in range(2)])

    Known false alarms: a second model in a list that is trained and saved by code of its own.

    References: pytorch/pytorch#59925.
    """
    seen = unregistered
    if seen.used:
        some = list(seen.used)
        yield Finding(
            f"the forward uses {len(some)} parameters ({sum(seen.used.values()):,} numbers) that "
            "are not part of the model",
            observed=len(some),
            expected=0,
            where=", ".join(some[:NAMED]) + (", ..." if len(some) > NAMED else ""),
            cause="they are kept in a plain list or dictionary, where torch does not register "
            "them: they are neither trained nor saved nor moved to a device",
            fix="nn.ModuleList, nn.ModuleDict or nn.ParameterList in place of the list or dict",
        )
    yield Measured(
        f"{seen.known} parameters are the model's, and the forward uses {len(seen.used)} others "
        "from lists and dictionaries",
        len(seen.used),
        0,
    )
