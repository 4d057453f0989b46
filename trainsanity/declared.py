"""What a user may declare of a pipeline, and the values that each setting takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainsanity.errors import UsageError

DECLARED: Mapping[str, tuple[str, ...] | None] = {
    "objective": None,
    "supervise": ("assistant", "completion", "all"),
}
"""Settings that a user may declare, with the values that each takes: in ``[tool.trainsanity]``,
as an attribute of the factory, or of a :class:`Pipeline`.  The names of objectives are known to
their registry alone."""


def refuse_undeclarable(name: str, value: Any, where: str = "") -> None:
    """Refuse a value that a declared setting does not have.

    Args:
        name: of :data:`DECLARED`.
        value: as the user gave it.
        where: what the error begins with.

    Raises:
        UsageError: the text names the values that it has.
    """
    allowed = DECLARED[name]
    if allowed is not None and value not in allowed:
        values = ", ".join(map(repr, allowed))
        raise UsageError(f"{where}{name} is {value!r}; it may be {values}")
