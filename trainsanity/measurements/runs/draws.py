"""Whether a loss is another one with other random numbers, and whose draws make it so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trainsanity.isolation.random_states import global_random_states, random_hashes


def draws(ask: Callable[[], Any]) -> tuple[list[float], bool]:
    """Return a loss, the same with the same random numbers, and with other ones.

    And whether no module drew any: a loss may hide a share of the words by itself, or add noise to
    what it gives the model.  Empty where the loss is no single number.
    """
    import torch

    put_back = global_random_states()
    losses: list[float] = []
    with _watched() as drew:
        for again in range(3):
            if again < 2:
                put_back()
            returned = ask()
            loss = returned[0] if isinstance(returned, tuple) else returned
            if not torch.is_tensor(loss) or loss.numel() != 1:
                return [], False
            losses.append(float(loss))
            torch.rand(1)  # what draws a fixed number of times would else begin anew
    put_back()
    return losses, not drew


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Record the classes of outermost modules during whose forward a random state moves."""
    from torch.nn.modules import module as hooks

    drew: list[str] = []
    open_calls: list[Any] = []
    before: list[dict[str, str]] = []

    def entering(module: Any, _: Any) -> None:
        if not open_calls:
            before[:] = [random_hashes()]
        open_calls.append(module)

    def leaving(module: Any, *_: Any) -> None:
        if open_calls:
            open_calls.pop()
        if not open_calls and before and random_hashes() != before[0]:
            drew.append(type(module).__name__)

    handles = [
        hooks.register_module_forward_pre_hook(entering),
        hooks.register_module_forward_hook(leaving, always_call=True),
    ]
    try:
        yield drew
    finally:
        for handle in handles:
            handle.remove()
