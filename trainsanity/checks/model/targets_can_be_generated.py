"""TS451 model.targets_can_be_generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.ends import ends_of
from trainsanity.objectives.base import IGNORED
from trainsanity.pipeline import unwrapped
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MOST, SOME = 0.5, 0.1
"""Shares of the targets that a setting forbids, from which it is no matter of taste, and from which
it is worth a word. Choices: one summary in twenty repeats three words, and a setting that forbids
this is meant."""

ENOUGH = 4
"""Targets from which on a share of them is told."""


@check(
    "TS451",
    "model.targets_can_be_generated",
    requires=("dataset.targets_end",),
    rules_out="settings of generation that forbid the targets",
)
def targets_can_be_generated(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Generation is allowed to say what the model is taught to say.

    What it checks: the targets of the first step of an encoder-decoder, word by word, against what
    its generation config forbids: ``min_length``, ``min_new_tokens``, ``no_repeat_ngram_size``,
    ``bad_words_ids`` and ``suppress_tokens``.

    Why it matters: a checkpoint brings the settings of the task that it was made for. With
    ``min_length=56`` of news summaries a model that has learnt titles goes on behind their end, and
    the metrics of generated texts are poor whatever is learnt.

    How it is measured: exact. The library's own logits processors are asked at each place of each
    target, with the words before it, whether the next one is allowed. Where a setting forbids half
    of the targets it is a failure if evaluation generates (``predict_with_generate``), otherwise a
    warning; so is one that forbids a tenth of them.

    How to fix: set what the targets need in the generation config::

        model.generation_config.min_length = 0
        model.generation_config.no_repeat_ngram_size = 0

    Known false alarms: settings that are given to ``generate()`` by hand.

    References: huggingface/transformers#5674.
    """
    import torch

    model = unwrapped(pipeline.model)
    config = getattr(model, "generation_config", None)
    if config is None or not getattr(pipeline.config, "is_encoder_decoder", False):
        raise Skip("the model is no encoder-decoder with a generation config")
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(pipeline.config, "decoder_start_token_id", None)
    if not isinstance(start, int):
        raise Skip("no token is set with which generation begins")
    targets: list[list[int]] = []
    for micro in batch:
        labels = micro.inputs.get("labels")
        if not torch.is_tensor(labels) or labels.dim() != 2 or labels.is_floating_point():
            raise Skip("the labels are no sequences of tokens")
        rows = [[y for y in row if y != IGNORED] for row in labels.tolist()]
        targets += [row for row in rows if row]
    settings = _settings(config, sorted(ends_of(model)))
    forbidden = {
        name: [row for row in targets if _is_forbidden(processor, start, row)]
        for name, processor in settings.items()
    }
    generates = bool(getattr(pipeline.args, "predict_with_generate", False))
    for name, rows in forbidden.items():
        if len(targets) < ENOUGH or len(rows) < SOME * len(targets):
            continue
        most = len(rows) > MOST * len(targets)
        lengths = sorted(len(row) for row in rows)
        yield Finding(
            f"{name}={_shown(getattr(config, name))} of the generation config forbids "
            f"{len(rows)} of {len(targets)} targets (of {lengths[0]} to {lengths[-1]} tokens): "
            "generate() can never say them",
            observed=len(rows),
            expected=0,
            where=f"model.generation_config.{name}",
            cause="the checkpoint's settings for generation are those of another task",
            fix=f"model.generation_config.{name} = {_free(name)}",
            severity=Severity.FAILURE if most and generates else Severity.WARNING,
        )
    free = len(targets) - max(map(len, forbidden.values()), default=0)
    told = ", ".join(settings) or "nothing"
    yield Measured(
        f"{free} of {len(targets)} targets of the first step may be generated (set: {told})",
        free,
        len(targets),
    )


def _settings(config: Any, ends: list[int]) -> dict[str, Any]:
    """Return by name what the generation config forbids words by."""
    from transformers.generation import logits_process as made

    makers: dict[str, Callable[[Any], Any]] = {
        "min_length": lambda value: made.MinLengthLogitsProcessor(value, ends),
        "min_new_tokens": lambda value: made.MinNewTokensLengthLogitsProcessor(1, value, ends),
        "no_repeat_ngram_size": made.NoRepeatNGramLogitsProcessor,
        "bad_words_ids": lambda value: made.NoBadWordsLogitsProcessor(value, ends),
        "suppress_tokens": made.SuppressTokensLogitsProcessor,
    }
    found = {}
    for name, make in makers.items():
        value = getattr(config, name, None)
        if value and (ends or not name.startswith("min_")):
            found[name] = make(value)
    return found


def _is_forbidden(processor: Any, start: int, target: list[int]) -> bool:
    """Return whether a target has a token that may not follow those before it."""
    import torch

    said = torch.tensor([[start, *target]])
    scores = torch.zeros(1, int(said.max()) + 1 + _largest(processor))
    for k, token in enumerate(target, 1):
        if processor(said[:, :k], scores.clone())[0, token] == -torch.inf:
            return True
    return False


def _largest(processor: Any) -> int:
    """Return the largest id that a processor may ask for."""
    named = getattr(processor, "suppress_tokens", None)
    words = getattr(processor, "sequence_bias", None) or {}
    ends = getattr(processor, "eos_token_id", None)
    ids = [
        *(int(one) for one in (() if named is None else named)),
        *(int(one) for word in words for one in word),
        *(int(one) for one in (() if ends is None else ends)),
    ]
    return max(ids, default=0)


def _shown(value: Any) -> str:
    return f"[{len(value)} of them]" if isinstance(value, list | tuple) else str(value)


def _free(name: str) -> str:
    return "None" if name in ("bad_words_ids", "suppress_tokens") else "0"
