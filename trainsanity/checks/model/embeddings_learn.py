"""TS414 model.embeddings_learn."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.embedding import EmbeddingGradient
from trainsanity.types import Cost, Finding, Measured, Severity, Skip


@check(
    "TS414",
    "model.embeddings_learn",
    cost=Cost.BACKWARD,
    requires=("model.eval_is_repeatable",),
    rules_out="special tokens",
)
def embeddings_learn(embedding_gradient: EmbeddingGradient) -> Iterator[Measured | Finding]:
    """Special tokens receive a gradient in the embedding.

    What it checks: the gradient of the input embedding at the row of each special or added token
    that occurs in a few rows of the first step; and that some token's row gets one at all.

    Why it matters: a token that was added starts from a random vector.  If a hook or an index that
    is off by one keeps its gradient at zero, it stays noise in every text that has it.

    How it is measured: a random projection of the last hidden states is differentiated, whose
    gradient at an attended token is zero only if something holds it there.  Exactly zero fails; a
    warning where ordinary tokens are held, too, and others of the special ones move.

    How to fix: take the hook off, or let it keep the rows that are to be trained; add tokens
    before the optimizer is built.

    Known false alarms: special tokens kept as they were on purpose.  PAD is left out, ordinary
    tokens may be held fixed, and a frozen embedding is skipped.

    References: huggingface/transformers#29897, huggingface/transformers#35022.
    """
    norms = {
        token: norm
        for token, norm in embedding_gradient.norms.items()
        if token != embedding_gradient.pad
    }
    if not norms:
        raise Skip("the rows have no token but PAD")
    unread = embedding_gradient.unread
    special = {
        t: text for t, text in embedding_gradient.special.items() if t in norms and t not in unread
    }
    broken = [token for token, norm in norms.items() if not math.isfinite(norm)]
    moving = [token for token, norm in norms.items() if norm > 0]
    still = [token for token in special or norms if token not in moving]
    if broken:
        yield Finding(
            f"the gradients of {len(broken)} of {len(norms)} attended tokens in the input "
            f"embedding are not finite, the first is id {broken[0]}",
            observed=len(broken),
            expected=0,
            where=f"id {broken[0]}",
            cause="an operation whose derivative is infinite where its value is not",
            fix="find it with torch.autograd.detect_anomaly",
        )
    elif still and (special or not moving):
        # Where no ordinary token moves, the old rows are held on purpose, and new ones are not.
        meant = bool(moving) and all(token in special for token in moving)
        name = f"{special[still[0]]} ({still[0]})" if special else f"id {still[0]}"
        kind = "special tokens" if special else "tokens"
        yield Finding(
            f"{len(still)} of {len(special or norms)} attended {kind} get no gradient in the input "
            f"embedding, the first is {name}",
            observed=len(still),
            expected=0,
            where=name,
            cause="a hook on the embedding, or its padding_idx, holds these rows"
            if moving
            else "the graph is cut between the embedding and the last layer, or a hook zeroes all "
            "rows of the embedding",
            fix="remove the hook, or let it pass the rows that are to be trained"
            if moving
            else "find the detach(), the no_grad() or the hook below the head",
            severity=Severity.WARNING if meant else Severity.FAILURE,
        )
    named = ", ".join(special.values()) or "none"
    yield Measured(
        f"{len(moving)} of {len(norms)} attended tokens get a gradient in the input embedding; "
        f"special tokens that are judged: {named}",
        len(moving),
        len(norms),
    )
