"""TS9: what is saved at the end is what was trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..measurements.saved import Saved
from ..measurements.state import preserved
from ..registry import check
from ..tolerances import logits_difference, within
from ..types import Cost, Finding, Seen

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@check(
    "TS903",
    "loop.save_load_equal",
    cost=Cost.RUN,
    needs=("trainer",),
    acquits="what is saved",
)
def save_load_equal(saved: Saved) -> Iterator[Seen | Finding]:
    """The model that is loaded from what the Trainer saved gives the same logits.

    What it checks: ``trainer.save_model()`` into an empty folder, ``from_pretrained`` of the same
    class from it (for adapters: the base as it was before training, and ``PeftModel`` on it), and
    the logits of both for the rows of the first micro-batch.

    Why it matters: a head that no adapter file holds, a wrapper that saves its inside only or a key
    that is left out is drawn anew when the model is loaded.  The training looked well, and so did
    its evaluation; the model that is used guesses.

    How it is measured: the trainable weights are moved a little first, as training does, so that
    untrained and trained ones can be told apart; they are put back.  Both models run in evaluation
    mode.  In one dtype on one device the logits are equal; allowed is the difference between two
    passes of one model, times four, and no less than the dtype's own precision.

    How to fix: name what is new in ``LoraConfig(modules_to_save=[...])``; save the whole model, by
    the Trainer's own ``save_model``.

    Known false alarms: a model whose constructor needs arguments that its config does not hold.

    References: huggingface/peft#310, #577, #1070.
    """
    files = ", ".join(saved.files[:8]) or "nothing"
    allowed = logits_difference(saved.dtype, saved.noise, saved.size) if saved.dtype else 0.0
    if saved.error:
        yield Finding(
            f"what save_model wrote cannot be used: {saved.error}",
            observed=saved.error,
            expected="a model",
            where=files,
            cause="the folder lacks what from_pretrained needs",
            fix="let save_model write the whole model with its config: super().save_model()",
        )
    elif saved.missing:
        yield Finding(
            f"{len(saved.missing)} parameters are not in what save_model wrote, and are drawn anew "
            "when the model is loaded",
            observed=len(saved.missing),
            expected=0,
            where=", ".join(saved.missing[:3]),
            cause="only a part of the model is saved, or under other names",
            fix="save trainer.model itself, not a module inside it",
        )
    elif not within(saved.difference, allowed):
        yield Finding(
            f"the loaded model's logits differ from the saved one's by up to "
            f"{saved.difference:.3g}, of logits up to {saved.size:.3g}",
            observed=saved.difference,
            expected=allowed,
            where=files,
            cause="something that is trained is no part of what is saved, most often the new head",
            fix="name it in LoraConfig(modules_to_save=[...]), or save the whole state dict",
        )
    yield Seen(
        f"saved and loaded, {saved.rows} rows give logits that differ by "
        f"{saved.difference:.3g} (allowed {allowed:.2g})",
        saved.difference,
        allowed,
    )


@check(
    "TS904",
    "loop.saved_tokenizer_is_the_one",
    cost=Cost.RUN,
    needs=("trainer", "tokenizer"),
    acquits="what is saved",
)
def saved_tokenizer_is_the_one(pipeline: Pipeline, saved: Saved) -> Iterator[Seen | Finding]:
    """The tokenizer that is saved beside the model is the one that was trained with.

    What it checks: a tokenizer is saved, and ``AutoTokenizer`` loads one from the folder that has
    the same special ids and gives the same ids for texts.

    Why it matters: who loads the model loads this tokenizer.  If tokens were added, a special token
    was changed or the text was normalised otherwise, the model is asked in another language than it
    learnt, and no error is raised.

    How it is measured: special tokens by id; ids of a few fixed texts with white space, digits,
    accents and other scripts, of the first rows decoded, of added tokens and of the special ones.
    Exact.

    How to fix: give the tokenizer to the Trainer as ``processing_class``, and save by its own
    ``save_model``.

    Known false alarms: a class of the user's own, which ``AutoTokenizer`` does not know.

    References: huggingface/transformers#40610.
    """
    used, loaded = pipeline.tokenizer, saved.tokenizer
    if loaded is None:
        yield Finding(
            f"no tokenizer can be loaded from what save_model wrote: "
            f"{saved.tokenizer_error or saved.error}",
            observed=saved.files[:8],
            expected="a tokenizer",
            where=type(used).__name__,
            cause="save_model writes the model alone",
            fix="give the tokenizer to the Trainer as processing_class, and call its save_model",
        )
    else:
        # A tokenizer that is called keeps the truncation that it was called with.
        with preserved(pipeline):
            found = list(_compared(used, loaded, saved.texts))
        yield from found
    count = len(saved.texts)
    yield Seen(f"the saved tokenizer gives the same ids for {count} texts", count, count)


def _compared(used: Any, loaded: Any, texts: list[str]) -> Iterator[Finding]:
    fix = "save the tokenizer that made the rows, after the last change to it"
    before, after = _special(used), _special(loaded)
    wrong = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if wrong:
        yield Finding(
            f"the saved tokenizer has another {' and '.join(wrong)} than the one that is used",
            observed={name: after.get(name) for name in wrong},
            expected={name: before.get(name) for name in wrong},
            where=wrong[0],
            cause="another tokenizer is saved than the rows were made with",
            fix=fix,
        )
    other = [(t, used(t)["input_ids"], loaded(t)["input_ids"]) for t in texts]
    other = [row for row in other if row[1] != row[2]]
    if other:
        text, right, made = other[0]
        yield Finding(
            f"{len(other)} of {len(texts)} texts get other ids from the saved tokenizer",
            observed=made[:8],
            expected=right[:8],
            where=repr(text[:60]),
            cause="another tokenizer is saved than the rows were made with, or one without its "
            "added tokens",
            fix=fix,
        )


def _special(tokenizer: Any) -> dict[str, Any]:
    names = ("pad", "eos", "bos", "unk", "sep", "cls", "mask")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in names}
    return {name: value for name, value in ids.items() if value is not None}
