"""Whether an adapter that moves its ranks while it trains is told to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainsanity.pipeline import is_adapted

if TYPE_CHECKING:
    from trainsanity.measurements.step.steps import Recording

ALLOCATE = "update_and_allocate"
"""What PEFT's adapters with a budget are to be called with after each step."""


@contextmanager
def allocations_counted(model: Any, seen: Recording) -> Iterator[None]:
    """Count the calls of ``update_and_allocate`` in the block, where the adapter has one."""
    adapter = getattr(model, "base_model", None) if is_adapted(model) else None
    allocate = getattr(adapter, ALLOCATE, None)
    if adapter is None or allocate is None or not _moves(model):
        yield
        return
    seen.allocations = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        if not seen.asking:
            seen.allocations = (seen.allocations or 0) + 1
        return allocate(*args, **kwargs)

    setattr(adapter, ALLOCATE, counted)
    try:
        yield
    finally:
        vars(adapter).pop(ALLOCATE, None)


def _moves(model: Any) -> bool:
    """Return whether an active adapter's configuration asks for ranks that move."""
    configs = [model.peft_config.get(name) for name in model.active_adapters]
    return any(
        getattr(one, "use_asa", False)
        or getattr(one, "target_r", None) not in (None, getattr(one, "init_r", None))
        for one in configs
    )
