"""TS118 tokenizer.ids_are_the_checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.checkpoint_tokens import MANY
from trainsanity.measurements.model.vocabulary import Vocabulary
from trainsanity.types import Finding, Measured, Severity


@check(
    "TS118",
    "tokenizer.ids_are_the_checkpoints",
    needs=("tokenizer",),
    rules_out="another vocabulary",
)
def ids_are_the_checkpoints(vocabulary: Vocabulary) -> Iterator[Measured | Finding]:
    """Ids mean the tokens whose embeddings the checkpoint has there.

    What it checks: the ids of the first rows: that the tokenizer's token of an id is the one that
    the tokenizer of the model's checkpoint has, as long as the embedding's row is the checkpoint's.

    Why it matters: a tokenizer that was trained on one's own texts, or is another checkpoint's of
    the same size, gives words the embeddings of other words. Nothing fails. The loss begins above
    that of a guess, and all that the embeddings knew is lost.

    How it is measured: exact: the tokenizer against the checkpoint's `tokenizer.json`, and the rows
    of the input embedding against the checkpoint's. Rows that were drawn anew, or moved with their
    tokens to other ids, are none of the checkpoint's and owe nothing.

    How to fix: load the tokenizer from the checkpoint; add tokens to it instead of training a new
    one; or bring the rows along.

    Bad::

        tokenizer = old.train_new_from_iterator(texts, vocab_size=len(old))

    Good::

        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        tokenizer.add_tokens(new_words)
        model.resize_token_embeddings(len(tokenizer))

    Known false alarms: none known. A few reserved tokens with other names are a warning; skipped
    where the checkpoint's tokenizer or its weights are not on this machine.

    References: huggingface/transformers#27583.
    """
    seen = vocabulary
    if seen.others:
        shown = ", ".join(
            f"{i} is {here!r} and there {there!r}"
            for i, (here, there) in list(seen.others.items())[:3]
        )
        many = len(seen.others) >= MANY * seen.ids
        yield Finding(
            f"{len(seen.others)} of {seen.ids} ids of the first rows are other tokens in the "
            f"tokenizer of the checkpoint, whose embeddings the model has: {shown}",
            observed=len(seen.others),
            expected=0,
            where="processing_class",
            cause="the tokenizer was trained anew, or is that of another checkpoint"
            if many
            else "reserved tokens were given other names",
            fix="load the checkpoint's own tokenizer, and add tokens to it"
            if many
            else "nothing, if their embeddings are trained",
            severity=Severity.FAILURE if many else Severity.WARNING,
        )
    yield Measured(
        f"{seen.ids - len(seen.others)} of {seen.ids} ids of the first rows are the checkpoint's "
        "tokens, or have embeddings of their own",
        len(seen.others),
        0,
    )
