"""Language models that run beside the trained one on its tokens: teachers and references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.measurements.model.checkpoint_tokens import tokens_of
from trainsanity.measurements.model.origin import checkpoint_folder
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

SHOWN = 3


@dataclass(frozen=True)
class Beside:
    """A model that is given the trained model's tokens.

    Attributes:
        attribute: of the Trainer that holds it.
        kind: its class.
        checkpoint: the folder whose tokenizer it was trained with.
        shared: ids that both tokenizers have a token for.
        others: how many of them mean another token there.
        examples: id, own token and its, of some of them.
    """

    attribute: str
    kind: str
    checkpoint: str
    shared: int
    others: int
    examples: tuple[tuple[int, str, str], ...] = ()


@measurement(Cost.STATIC)
def beside(pipeline: Pipeline) -> list[Beside]:
    """Compare the vocabularies of models that the Trainer holds beside the trained one.

    Such are language models with as many outputs as it has, whose checkpoint has a tokenizer on
    this machine.
    """
    import torch

    own = unwrapped(pipeline.model)
    size = _vocabulary(own)
    if size is None or pipeline.tokenizer is None or pipeline.trainer is None:
        return []
    if getattr(pipeline.trainer, "teacher_tokenizer", None) is not None:
        return []  # the teacher is given ids of its own
    found, seen = [], {id(part) for part in (pipeline.model, own)}
    for name, value in vars(pipeline.trainer).items():
        # Settings of some libraries answer to any name.
        model = unwrapped(value) if isinstance(value, torch.nn.Module) else None
        if model is None or id(model) in seen or _vocabulary(model) != size:
            continue
        seen.add(id(model))
        folder = checkpoint_folder(getattr(model, "config", None))
        theirs = None if folder is None else tokens_of(folder)
        if folder is None or not theirs:
            continue
        ours = {i: token for token, i in pipeline.tokenizer.get_vocab().items()}
        shared = sorted(ours.keys() & theirs.keys())
        others = [i for i in shared if ours[i] != theirs[i]]
        step = max(1, len(others) // SHOWN)
        found.append(
            Beside(
                name,
                type(model).__name__,
                folder.name,
                len(shared),
                len(others),
                tuple((i, str(ours[i]), theirs[i]) for i in others[::step][:SHOWN]),
            )
        )
    return found


def _vocabulary(model: Any) -> int | None:
    """Return how many tokens a language model tells apart; None if it is none."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    if head is None:
        return None
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(text, "vocab_size", None)
    return size if isinstance(size, int) else None
