"""TS406 model.eval_is_repeatable."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import Difference, largest, logits_difference
from trainsanity.measurements.model.probes import Probes, difference
from trainsanity.types import Cost, Finding, Measured

READABLE = (
    "collator.rows_recovered",
    "collator.mask_is_exact",
    "tokenizer.config_agrees",
    "model.logits_finite",
)
"""Without these it is not known where the rows are, or there is nothing to compare."""


@check(
    "TS406",
    "model.eval_is_repeatable",
    cost=Cost.FORWARD,
    requires=READABLE,
    rules_out="dropout in eval",
)
def eval_is_repeatable(probes: Probes) -> Iterator[Measured | Finding]:
    """The same rows give the same logits twice in eval mode.

    What it checks: two evaluation forwards over the same batch, one after the other.

    Why it matters: dropout that ``model.eval()`` does not switch off makes every evaluation a
    draw, keeps the best checkpoint from being the best, and hides what else differs.

    How it is measured: greatest absolute difference of the logits, in float32 where that can be
    had.  Same rows, same shape: what is allowed is torch.testing's relative tolerance for float32
    (four units in the last place of a dtype of 16 bits), for kernels that add in no fixed order.

    How to fix: ``torch.nn.functional.dropout(x, p, training=self.training)``, or a
    ``torch.nn.Dropout`` that is a submodule of the model.

    Known false alarms: models that sample by design.

    References: huggingface/transformers#33844.
    """
    size = largest(float(one.abs().max()) for one in probes.own.logits)
    allowed = logits_difference(probes.dtype, 0.0, size)
    compared = Difference(difference(probes.own.logits, probes.again.logits), allowed)
    if not compared.explained:
        yield Finding(
            f"two evaluation forwards over the same rows give different logits: {compared}",
            observed=compared.greatest,
            expected=f"at most {allowed:.3g}",
            where="the model in eval mode",
            cause="dropout or another random draw that ignores self.training, or a state that one "
            "forward leaves to the next",
            fix="F.dropout(x, p, training=self.training), or nn.Dropout as a submodule",
        )
    yield Measured(
        f"logits of two evaluation forwards: {compared}{probes.precision}",
        compared.greatest,
        allowed,
    )
