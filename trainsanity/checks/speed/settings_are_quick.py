"""TS007 speed.settings_are_quick."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.speed._alternatives import listed, numbers, of_kinds, quicker, untried
from trainsanity.engine.registry import check
from trainsanity.measurements.speed.figures import Clocked
from trainsanity.types import Cost, Finding, Measured

KINDS = ("tf32", "checkpointing", "optimizer")


@check(
    "TS007",
    "speed.settings_are_quick",
    cost=Cost.RUN,
    rules_out="TF32, checkpointing and the optimizer's kernel",
)
def settings_are_quick(clocked: Clocked) -> Iterator[Measured | Finding]:
    """TF32, checkpointing and the optimizer's kernel are set as they are quick.

    What it checks: what a step takes with TF32 on where products are taken in float32, without
    gradient checkpointing where that fits into memory, and with the optimizer's fused kernel.

    Why it matters: each of them is a word in the arguments, and on some devices a third of a step.

    How it is measured: the last micro-batch of the timed steps in turns with each setting and
    without; of the optimizer its ``step()``, where that takes more than 5 % of a step.  What does
    not fit is said so.

    How to fix: ``TrainingArguments(tf32=True)``; ``gradient_checkpointing=False``;
    ``optim="adamw_torch_fused"``.

    Known false alarms: checkpointing that a longer batch of the same run needs: ``trainsanity
    rehearse`` takes the longest.

    References: torch's notes on TF32; torch.optim on ``fused``.
    """
    found = of_kinds(clocked.alternatives, *KINDS)
    yield from quicker(
        of_kinds(found, "tf32"),
        "float32 products are taken without TF32: with it a step takes {ratio} as long",
        "torch leaves TF32 off unless it is asked for",
        {"tf32": "TrainingArguments(tf32=True), or torch.set_float32_matmul_precision('high')"},
    )
    yield from quicker(
        of_kinds(found, "checkpointing"),
        "gradient checkpointing is on, and this batch fits without: then a step takes {ratio} as "
        "long",
        "the backward pass computes each layer's activations again",
        {"checkpointing": "gradient_checkpointing=False, if `trainsanity rehearse` finds that the "
         "longest batch fits, too"},
    )  # fmt: skip
    yield from quicker(
        of_kinds(found, "optimizer"),
        "the optimizer steps {now}: with its fused kernel a step takes {ratio} as long",
        "each parameter is read and written several times",
        {"optimizer": 'optim="adamw_torch_fused", or fused=True'},
    )
    yield Measured(
        (listed(found) or "TF32, checkpointing and the fused optimizer: 0 of them could be "
         "otherwise and gain more than 5 %")
        + untried(clocked.untried, *KINDS),
        numbers(found),
    )  # fmt: skip
