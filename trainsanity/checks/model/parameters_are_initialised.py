"""TS418 model.parameters_are_initialised."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.initialised import Initialised
from trainsanity.measurements.model.lost_buffers import LostBuffers
from trainsanity.repairs import repair
from trainsanity.types import Cost, Finding, Measured, Severity


@check(
    "TS418",
    "model.parameters_are_initialised",
    cost=Cost.STATIC,
    rules_out="uninitialised memory",
)
def parameters_are_initialised(
    initialised: Initialised, lost_buffers: LostBuffers
) -> Iterator[Measured | Finding]:
    """No parameter or buffer is left uninitialised.

    What it checks: parameters with values that no initialiser gives (NaN, above a million, or
    nearly 0 and not 0); and new parameters and buffers of a model from ``from_pretrained`` that its
    own ``_init_weights`` does not know.

    Why it matters: ``torch.empty`` returns whatever was in memory.  transformers 5 builds a model
    without memory and fills what the checkpoint does not have by ``_init_weights`` alone: a
    parameter of one's own that ``__init__`` set to ones holds garbage, another one in each run, and
    so does a buffer: class weights, a table of positions.

    How it is measured: values are read where they are.  Then the model is built once more without
    memory, the new parameters are filled with NaN, and ``_init_weights`` is called for the modules
    that hold them: what is still NaN is not initialised.  Strange values are a failure; a
    forgotten parameter that holds plausible ones is a warning, because it may have been set by hand
    after loading (all elements equal, and not 0, counts as set).  A buffer that holds zeros or
    garbage is a failure where the model, built once more, gives it other values; all else counts as
    set after loading.

    How to fix: say in ``_init_weights`` what a parameter begins with::

        # bad: lost in from_pretrained
        self.gate = nn.Parameter(torch.ones(size))
        # good
        def _init_weights(self, module):
            super()._init_weights(module)
            if isinstance(module, Gated):
                transformers.initialization.ones_(module.gate)

    Known false alarms: none known.

    References: huggingface/transformers#42418, #46002; ``PreTrainedModel.from_pretrained``.
    """
    forgotten = initialised.forgotten or []
    strange = {one.name for one in initialised.strange}
    for one in initialised.strange:
        known = one.name in forgotten
        yield Finding(
            f"{one.name} holds values that no initialiser gives: the largest is {one.largest:.3g}"
            + f", {one.tiny} of its first {one.elements} are nearly 0 and not 0" * bool(one.tiny),
            observed=one.largest if math.isfinite(one.largest) else str(one.largest),
            expected="finite values of ordinary size",
            where=one.name,
            cause="it is uninitialised memory: from_pretrained builds it empty and _init_weights "
            "does not know it, so that what __init__ wrote is lost"
            if known
            else "it may be uninitialised memory (torch.empty), or it has overflowed",
            fix="initialise it in _init_weights" if known else "initialise it where it is made",
            repairs=(repair(f"{one.name} drawn anew", "drawn_anew", names=(one.name,)),),
        )
    for name in forgotten:
        if name in strange or name in initialised.constant:
            continue
        what = "zeros" if name in initialised.zero else "plausible values"
        yield Finding(
            f"{name} is not in the checkpoint, and _init_weights does not initialise it: it holds "
            f"{what}, which may be uninitialised memory",
            observed=what,
            expected="a value that _init_weights gives",
            where=name,
            cause="from_pretrained builds the model empty: what __init__ wrote is lost",
            fix="initialise it in _init_weights",
            severity=Severity.WARNING,
        )
    for buffer in lost_buffers.lost:
        yield Finding(
            f"{buffer.name}, a buffer that the checkpoint does not have, holds {buffer.holds}; "
            f"__init__ gives it {buffer.given}",
            observed=buffer.holds,
            expected=buffer.given,
            where=buffer.name,
            cause="from_pretrained builds the model empty and _init_weights does not know the "
            "buffer: what __init__ wrote is lost",
            fix="write it in _init_weights, too",
        )
    yield Measured(
        f"{len(initialised.strange)} of {initialised.parameters} parameters hold values that no "
        f"initialiser gives; _init_weights passes over {len(forgotten)} new ones, and "
        f"{len(lost_buffers.lost)} of {lost_buffers.asked or 0} buffers that no checkpoint has are "
        "lost",
        len(initialised.strange) + len(lost_buffers.lost),
        0,
    )
