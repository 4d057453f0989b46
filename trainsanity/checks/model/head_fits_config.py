"""TS415 model.head_fits_config."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.probes import Probes
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS415",
    "model.head_fits_config",
    cost=Cost.FORWARD,
    requires=("model.eval_is_repeatable",),
    rules_out="head size",
    stops=True,
)
def head_fits_config(probes: Probes) -> Iterator[Measured | Finding]:
    """The head has as many outputs as the config says.

    What it checks: the last dimension of the logits against ``config.num_labels``, or
    ``config.vocab_size`` for a language model.

    Why it matters: what is saved is loaded by its config.  A head that was swapped without changing
    the config is drawn anew then, in silence or with an error, and generic losses that reshape
    logits by ``num_labels`` pair them with the wrong rows.

    How it is measured: exact comparison of two numbers.

    How to fix: ``from_pretrained(..., num_labels=N)``, or ``model.config.num_labels = N`` beside
    the new head.

    Known false alarms: vocabularies padded beyond ``vocab_size`` for alignment, where the config
    is not changed.

    References: huggingface/peft#577.
    """
    if probes.head_width is None:
        raise Skip("the config names no number of outputs")
    if probes.own.width != probes.head_width:
        yield Finding(
            f"the model returns {probes.own.width} logits, its config says {probes.head_width}",
            observed=probes.own.width,
            expected=probes.head_width,
            where="model.config",
            cause="head or config was changed after loading, the one without the other",
            fix=f"model.config.num_labels = {probes.own.width}, or a head of {probes.head_width}",
        )
    yield Measured(
        f"the model returns {probes.own.width} logits, its config says {probes.head_width}",
        probes.own.width,
        probes.head_width,
    )
