"""Find attacks and run one."""

from __future__ import annotations

import importlib
import pkgutil

from tests import attacks

from .oracle import ATTACKS


def numbers(asked: list[str]) -> list[int]:
    """Return the numbers that are asked for; all, if none is."""
    for module in pkgutil.iter_modules(attacks.__path__):
        if module.name != "__main__":
            importlib.import_module(f"tests.attacks.{module.name}")
    chosen = []
    for item in asked or [f"{min(ATTACKS)}-{max(ATTACKS)}"]:
        first, _, last = item.partition("-")
        chosen += range(int(first), int(last or first) + 1)
    return [number for number in chosen if number in ATTACKS]


def one(number: int) -> str:
    """Run an attack; return what broke, or nothing."""
    try:
        return " ".join(ATTACKS[number]().split())
    except Exception as error:
        return f"the attack itself: {type(error).__name__}: {error}"
