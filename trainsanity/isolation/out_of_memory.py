"""Recognise an error that ran out of memory, and free what its frames hold."""

from __future__ import annotations

import gc
import re
import sys
import traceback

from trainsanity.errors import text_of
from trainsanity.isolation.time_limit import TimedOut

_ASKED = re.compile(r"(?i)tr(?:ied|ying) to allocate ([\d.]+ ?\w+)")


def out_of_memory(error: BaseException) -> str | None:
    """Return what the error asked for, to follow "ran out of memory"; None for other errors.

    torch raises OutOfMemoryError for accelerators and a RuntimeError for the CPU.
    """
    torch = sys.modules.get("torch")
    kinds = (MemoryError, *((torch.OutOfMemoryError,) if torch is not None else ()))
    text = text_of(error)
    known = isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and "CPUAllocator" in text and "memory" in text
    )
    if not known:
        return None
    asked = _ASKED.search(text)
    return f" (it asked for {asked[1]} more)" if asked else ""


def give_back(error: BaseException) -> None:
    """Free what the frames of the error hold, and torch's pool of device memory."""
    seen: set[int] = set()
    chain: BaseException | None = error
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def described(who: str, error: BaseException) -> str:
    """Return in one sentence what happened to the check or measurement."""
    if isinstance(error, TimedOut):
        return str(error)
    asked = out_of_memory(error)
    if asked is not None:
        return (
            f"{who} ran out of memory{asked}: give a smaller per_device_train_batch_size, or leave "
            "out with --max-cost what takes so much"
        )
    return f"{who} raised {type(error).__name__}: {text_of(error)}"
