"""TS533 loss.experts_are_balanced."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.batch import Batch
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

SWITCH, COEFFICIENT = "output_router_logits", "router_aux_loss_coef"
"""As transformers names them in all mixtures of experts that have such a loss."""

OF_EXPERTS = re.compile(r"(^|[._])(experts?|router|gate)([._]|$)")
"""In the names of parameters; a dense layer's ``gate_proj`` is none."""


@check("TS533", "loss.experts_are_balanced", rules_out="auxiliary loss")
def experts_are_balanced(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """The auxiliary loss of the router is computed where its coefficient is set.

    What it checks: of a mixture of experts that is trained, ``router_aux_loss_coef`` against
    ``output_router_logits``, in the config and in the batch.

    Why it matters: transformers adds the balance only while the model returns its routers' logits,
    which it does not unless it is asked.  The coefficient looks as if it were in use; nothing keeps
    the router from sending all tokens to a few experts.

    How it is measured: exact, by reading the two settings.

    How to fix: ``model.config.output_router_logits = True``, or a coefficient of 0 if it is meant.

    Known false alarms: fine-tuning without the balance, on purpose: it is never more than a
    warning.

    References: huggingface/transformers#44586.
    """
    config = _with_switch(pipeline.config)
    if config is None:
        raise Skip("the model is no mixture of experts with a loss of its own")
    weight = float(getattr(config, COEFFICIENT, 0.0) or 0.0)
    given = [micro.inputs.get(SWITCH) for micro in batch if isinstance(micro.inputs, Mapping)]
    on = bool(getattr(config, SWITCH)) or any(bool(one) for one in given if one is not None)
    trained = [
        name
        for name, p in pipeline.model.named_parameters()
        if p.requires_grad and OF_EXPERTS.search(name)
    ]
    if weight > 0 and not on and trained:
        yield Finding(
            f"{COEFFICIENT} is {weight:g}, and the model computes no loss that it weighs: "
            f"{SWITCH} is off",
            observed=False,
            expected=True,
            where=f"model.config.{SWITCH}",
            cause=f"experts and routers are trained ({len(trained)} tensors, {trained[0]}), and "
            "nothing balances them",
            fix=f"model.config.{SWITCH} = True, or {COEFFICIENT} = 0 if it is meant",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{COEFFICIENT} is {weight:g}, {SWITCH} {'on' if on else 'off'}; {len(trained)} tensors of "
        "experts and routers are trained",
        on,
    )


def _with_switch(config: Any) -> Any:
    """Return the config, or the part of it, that has the switch and a coefficient; else None."""
    parts = [config, getattr(config, "text_config", None)] if config is not None else []
    for one in parts:
        if hasattr(one, SWITCH) and hasattr(one, COEFFICIENT):
            return one
    return None
