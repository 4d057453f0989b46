"""TS904 loop.saved_tokenizer_is_the_one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.runs.saved import Saved
from trainsanity.types import Cost, Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS904",
    "loop.saved_tokenizer_is_the_one",
    cost=Cost.RUN,
    needs=("trainer", "tokenizer"),
    rules_out="what is saved",
)
def saved_tokenizer_is_the_one(pipeline: Pipeline, saved: Saved) -> Iterator[Measured | Finding]:
    """The saved tokenizer is the one that the model was trained with.

    What it checks: a tokenizer is saved, and ``AutoTokenizer`` loads one from the folder that has
    the same special ids and gives the same ids for texts.

    Why it matters: this tokenizer is loaded with the model.  If it lacks added tokens, has another
    special token or normalises text otherwise, the model gets other ids than it was trained on, and
    no error is raised.

    How it is measured: special tokens by id; ids of a few fixed texts with white space, digits,
    accents and other scripts, of the first rows decoded, of added tokens and of the special ones.
    Exact.

    How to fix: give the tokenizer to the Trainer as ``processing_class``, and save by its own
    ``save_model``.

    Known false alarms: a class of the user's own, which ``AutoTokenizer`` does not know.

    References: huggingface/transformers#40610.
    """
    used, loaded, texts = pipeline.tokenizer, saved.tokenizer, saved.texts
    before = _special(used)
    if loaded is None:
        differing, special = len(texts), len(before)
        yield Finding(
            f"no tokenizer can be loaded from what save_model wrote: "
            f"{saved.tokenizer_error or saved.error}",
            observed=saved.files[:8],
            expected="a tokenizer",
            where=type(used).__name__,
            cause="save_model writes no tokenizer, or one that AutoTokenizer cannot load",
            fix="give the tokenizer to the Trainer as processing_class, and call its save_model",
        )
    else:
        # A tokenizer that is called keeps the truncation that it was called with.
        with preserved(pipeline):
            after = _special(loaded)
            other = [(t, used(t)["input_ids"], loaded(t)["input_ids"]) for t in texts]
            other = [row for row in other if row[1] != row[2]]
        wrong = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        differing, special = len(other), len(wrong)
        yield from _findings(before, after, wrong, other, len(texts))
    yield Measured(
        f"{differing} of {len(texts)} texts get other or no ids from the saved tokenizer; "
        f"special ids that differ or are missing: {special} of {len(before)}",
        {"texts": differing, "special_ids": special},
        {"texts": 0, "special_ids": 0},
    )


def _findings(
    before: dict[str, Any],
    after: dict[str, Any],
    wrong: list[str],
    other: list[tuple[str, list[int], list[int]]],
    count: int,
) -> Iterator[Finding]:
    """Yield what is wrong with the loaded tokenizer.

    Args:
        before: special ids of the tokenizer in use.
        after: those of the loaded one.
        wrong: names of those that differ.
        other: texts whose ids differ, with the ids of both.
        count: how many texts there are.
    """
    fix = "save the tokenizer that made the rows, after the last change to it"
    if wrong:
        yield Finding(
            f"the saved tokenizer has another {' and '.join(wrong)} than the one that is used",
            observed={name: after.get(name) for name in wrong},
            expected={name: before.get(name) for name in wrong},
            where=wrong[0],
            cause="another tokenizer is saved than the rows were made with",
            fix=fix,
        )
    if other:
        text, right, made = other[0]
        yield Finding(
            f"{len(other)} of {count} texts get other ids from the saved tokenizer",
            observed=made[:8],
            expected=right[:8],
            where=repr(text[:60]),
            cause="another tokenizer is saved than the rows were made with, or one without its "
            "added tokens",
            fix=fix,
        )


def _special(tokenizer: Any) -> dict[str, Any]:
    """Return the special ids that a tokenizer has, by name."""
    names = ("pad", "eos", "bos", "unk", "sep", "cls", "mask")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in names}
    return {name: value for name, value in ids.items() if value is not None}
