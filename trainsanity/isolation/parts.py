"""The parts of a pipeline that hold state: what is saved, restored and fingerprinted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def configs(pipeline: Pipeline) -> list[Any]:
    """Return every config and generation config of the model and its parts, once each."""
    found: dict[int, Any] = {}
    for module in pipeline.model.modules():
        held, cls = vars(module), type(module)
        for name in ("config", "generation_config"):
            # A module searches parameters, buffers and modules for what it does not have.
            if name not in held and not hasattr(cls, name):
                continue
            config = getattr(module, name, None)
            if config is not None and id(config) not in found and hasattr(config, "to_dict"):
                found[id(config)] = config
                inner = config.get_text_config() if hasattr(config, "get_text_config") else config
                found[id(inner)] = inner
    return list(found.values())


def tokenizers(pipeline: Pipeline) -> list[Any]:
    """Return the tokenizers of the pipeline and of its collator, mostly the same one."""
    found = (getattr(pipeline.data_collator, "tokenizer", None), pipeline.tokenizer)
    return list({id(one): one for one in found if one is not None}.values())


def backend_settings(tokenizer: Any) -> tuple[Any, Any]:
    """Return truncation and padding of a fast tokenizer's backend, None where there is none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return getattr(backend, "truncation", None), getattr(backend, "padding", None)


def optimizer_and_scheduler(pipeline: Pipeline) -> tuple[Any, Any]:
    """Return the optimizer and the scheduler that the user built, the Trainer's or the loop's."""
    owner = pipeline if pipeline.trainer is None else pipeline.trainer
    return owner.optimizer, owner.lr_scheduler


def optimizer_tensors(optimizer: Any) -> list[Any]:
    """Return the tensors in an optimizer's state; none for None."""
    import torch

    states = optimizer.state.values() if optimizer is not None else ()
    return [value for state in states for value in state.values() if torch.is_tensor(value)]


def working_directory() -> str | None:
    """Return this process's working directory; None if the folder was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
