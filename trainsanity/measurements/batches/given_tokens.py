"""The tokens that a loss makes of texts: what the model is given inside ``compute_loss``.

Collators that hand texts on, as a cross-encoder's does, leave the tokenizing to the loss. It is run
up to its call of the model, and stopped there: no forward takes place.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.fields import IDS, MASK

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


class _Given(BaseException):
    """Ends a loss at its call of the model; no ``except Exception`` of its own catches it."""

    def __init__(self, tokens: dict[str, Tensor]) -> None:
        super().__init__()
        self.tokens = tokens


def of_texts(made: Any) -> bool:
    """Return whether a batch holds texts, and no token ids under any name."""
    return (
        isinstance(made, Mapping)
        and not any(str(name).endswith(IDS) for name in made)
        and any(isinstance(v, list | tuple) and v and isinstance(v[0], str) for v in made.values())
    )


def given_tokens(
    pipeline: Pipeline, made: Mapping[str, Any], rows: list[dict[str, Any]]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]] | None:
    """Return the tokens of a batch of texts, and those of each of its rows alone.

    Args:
        pipeline: whose Trainer's loss is asked.
        made: the batch, on the Trainer's device.
        rows: that it was made of, as the collator was given them.

    Returns:
        None where the loss does not call the model with token ids and a mask, a sequence for each
        row.
    """
    whole = _asked(pipeline, made)
    if whole is None or len(whole[IDS]) != len(rows):
        return None
    alone = []
    for row in rows:
        one = pipeline.trainer._prepare_inputs(pipeline.data_collator([copy.deepcopy(row)]))
        tokens = _asked(pipeline, one)
        if tokens is None or len(tokens[IDS]) != 1:
            return None
        shown = tokens[MASK][0].bool()
        alone.append({IDS: tokens[IDS][0][shown].tolist()})
    return whole, alone


def _asked(pipeline: Pipeline, made: Mapping[str, Any]) -> dict[str, Tensor] | None:
    import torch

    def stop(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        features = args[0] if args and isinstance(args[0], Mapping) else named
        tensors = {str(name): v.detach() for name, v in features.items() if torch.is_tensor(v)}
        raise _Given(tensors)

    hook = pipeline.model.register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
    try:
        pipeline.trainer.compute_loss(pipeline.model, dict(made))
    except _Given as found:
        tokens = found.tokens
    except Exception:  # it may need more of rows than one; the step tells what it raises
        return None
    else:
        return None
    finally:
        hook.remove()
    ids, mask = tokens.get(IDS), tokens.get(MASK)
    of_rows = ids is not None and mask is not None and ids.dim() == 2 and mask.shape == ids.shape
    return tokens if of_rows else None


def tokens_of_texts(
    pipeline: Pipeline, pairs: list[tuple[Any, list[dict[str, Any]]]]
) -> list[tuple[dict[str, Tensor], list[dict[str, Any]], list[dict[str, Any]]]]:
    """Return for each batch of texts its tokens, its rows' tokens and its rows; none if not so."""
    if not pairs or not all(of_texts(made) for made, _ in pairs):
        return []
    found = []
    for made, rows in pairs:
        tokens = given_tokens(pipeline, made, rows)
        if tokens is None:
            return []
        found.append((*tokens, rows))
    return found
