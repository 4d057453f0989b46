"""TS006 speed.attention_is_quick."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.speed._alternatives import listed, numbers, of_kinds, quicker, untried
from trainsanity.engine.registry import check
from trainsanity.measurements.speed.figures import Clocked
from trainsanity.types import Cost, Finding, Measured


@check("TS006", "speed.attention_is_quick", cost=Cost.RUN, rules_out="slow attention")
def attention_is_quick(clocked: Clocked) -> Iterator[Measured | Finding]:
    """No other implementation of attention makes the steps quicker.

    What it checks: what a step takes with each other implementation that the model has here.

    Why it matters: eager attention writes the square of the width into memory for each head.

    How it is measured: the last micro-batch of the timed steps, with the run's implementation and
    the other in turns; the loss has to agree, within four roundings of the dtype.  Flash attention
    is tried where its package is installed and the weights have 16 bits.

    How to fix: ``from_pretrained(..., attn_implementation="sdpa")``.

    Known false alarms: attention weights that are wanted as outputs exist with eager alone.

    References: transformers' guide to attention backends; TS411 compares the logits.
    """
    found = of_kinds(clocked.alternatives, "attention")
    yield from quicker(
        found,
        "attention is {now}: with {name} a step takes {ratio} as long",
        "this implementation does more, or writes more to memory",
        {"attention": 'attn_implementation="{name}"'},
    )
    yield Measured(
        (listed(found) or "the model has no other attention that could be taken here")
        + untried(clocked.untried, "attention"),
        numbers(found),
    )
