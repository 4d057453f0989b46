"""The special tokens as tokenizer, config and checkpoint files have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.errors import UsageError, first_line
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.special_tokens import align_special_tokens
from trainsanity.measurements.data.stored_files import stored_file
from trainsanity.pipeline import embedding_rows
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

NAMES = ("pad_token_id", "eos_token_id", "bos_token_id")


@dataclass(frozen=True)
class SpecialTokens:
    """Ids by name and place.

    Attributes:
        ids: name to ``{"tokenizer", "before", "training"}``: the config's ids before ``train()``
            and inside it; without the last for a model that has no config.
        pad_token: the tokenizer's PAD, as text.
        checkpoint: where the tokenizer was loaded from.
        checkpoint_pad: PAD as that checkpoint's tokenizer_config.json declares it.
        highest_id: the tokenizer's highest id.
        embedding_rows: rows of the input embedding; None if the model does not show it.
        named: the ids that the live configs (inside ``train()``) and the model's checkpoint files
            name, by place and name.
        known: the tokenizer's special and added ids, with their tokens.
        generates: whether the model is a language model, or can generate.
    """

    ids: dict[str, dict[str, Any]]
    pad_token: str | None
    checkpoint: str
    checkpoint_pad: str | None
    highest_id: int
    embedding_rows: int | None
    named: dict[str, dict[str, Any]]
    known: dict[int, str]
    generates: bool = True


@measurement(Cost.STATIC)
def special_tokens(pipeline: Pipeline) -> SpecialTokens:
    """Read the ids, let the library align a copy of the config, read them again."""
    from trainsanity.measurements.batches.batch import quiet

    tokenizer, config = pipeline.tokenizer, pipeline.config
    generation = getattr(pipeline.model, "generation_config", None)
    ids = {
        name: {"tokenizer": getattr(tokenizer, name), "before": getattr(config, name, None)}
        for name in NAMES
    }
    with preserved(pipeline), quiet(pipeline):
        align_special_tokens(pipeline)
        for name in NAMES if config is not None else ():
            ids[name]["training"] = getattr(config, name, None)
        named = {"model.config": _ids(vars(config)) if config is not None else {}}
        if generation is not None:
            named["model.generation_config"] = _ids(vars(generation))
    source = str(getattr(config, "_name_or_path", "") or "")
    for file in ("config.json", "generation_config.json"):
        named[f"{file} of {source}"] = _ids(_file(source, file))
    checkpoint = str(getattr(tokenizer, "name_or_path", "") or "")
    return SpecialTokens(
        ids=ids,
        pad_token=tokenizer.pad_token,
        checkpoint=checkpoint,
        checkpoint_pad=declared_pad(checkpoint),
        highest_id=len(tokenizer) - 1,
        embedding_rows=embedding_rows(pipeline.model),
        named={place: found for place, found in named.items() if found},
        known={
            **{int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()},
            **dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)),
        },
        generates=_generates(pipeline),
    )


def _generates(pipeline: Pipeline) -> bool:
    """Return whether special ids may steer generation; True where that is not known."""
    objective = objective_of(pipeline)
    if objective.shifts:
        return True
    can_generate = getattr(pipeline.model, "can_generate", None)
    return bool(can_generate()) if callable(can_generate) else True


def _ids(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of :data:`NAMES` that are set."""
    return {name: settings[name] for name in NAMES if settings.get(name) is not None}


def declared_pad(checkpoint: str) -> str | None:
    """``pad_token`` of the checkpoint's tokenizer_config.json, from this machine's files only."""
    pad = _file(checkpoint, "tokenizer_config.json").get("pad_token")
    return pad.get("content") if isinstance(pad, dict) else pad


def _file(checkpoint: str, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint, from this machine's files only; empty if it is not there."""
    if not checkpoint:
        return {}
    path = stored_file(checkpoint, name)
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON ({first_line(error)}): get it anew") from error
    return found if isinstance(found, dict) else {}
