"""TS710 update.groups_are_read."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.step.owners import of_a_library
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

KNOWN = {"params", "param_names", "initial_lr", "swap", "name"}
"""Keys that torch itself puts into a group, or that are a label."""


@check("TS710", "update.groups_are_read", rules_out="settings of groups that nobody reads")
def groups_are_read(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """The optimizer's parameter groups have no settings that nothing reads.

    What it checks: the keys of the groups of an optimizer that you built, beside those that its
    class has a default for: whether the code of the optimizer, of the scheduler, of the Trainer or
    of its callbacks, where they are your own or a third party's, reads them.

    Why it matters: torch keeps any key. ``lr_scale``, ``learning_rate`` or ``weigth_decay`` in a
    group change nothing, and every layer is trained at one rate.

    How it is measured: exact for the optimizer's own settings, from ``optimizer.defaults``; for the
    rest the source of these classes' modules is searched for ``["key"]`` and ``.get("key"``.
    Labels, which are no numbers, are left alone.

    How to fix: multiply the scale into the group's ``lr``::

        # bad
        AdamW([{"params": layer, "lr_scale": 0.1}], lr=1e-3)
        # good
        AdamW([{"params": layer, "lr": 1e-4}], lr=1e-3)

    Known false alarms: a key that is read under a name that is put together.

    References: huggingface/pytorch-image-models#2532.
    """
    trainer = pipeline.trainer
    optimizer = pipeline.optimizer if trainer is None else trainer.optimizer
    optimizer = getattr(optimizer, "optimizer", optimizer)
    groups: list[dict[str, Any]] = getattr(optimizer, "param_groups", None) or []
    if not groups:
        raise Skip("the Trainer builds the optimizer")
    if not type(optimizer).__module__.startswith("torch.optim."):
        raise Skip(f"what {type(optimizer).__name__} reads is not torch's to say")
    numbers = {
        key
        for group in groups
        for key, value in group.items()
        if key not in KNOWN and key not in optimizer.defaults and _is_number(value)
    }
    scheduler = pipeline.lr_scheduler if trainer is None else trainer.lr_scheduler
    scheduler = getattr(scheduler, "scheduler", scheduler)
    sources = _sources(pipeline, optimizer, scheduler)
    # A scheduler of torch puts settings of its own there, and puts their names together.
    its_own = _source(sys.modules.get(type(scheduler).__module__))
    unread = sorted(
        key
        for key in numbers
        if f'"{key}"' not in its_own and not any(_reads(one, key) for one in sources)
    )
    for key in unread:
        values = sorted({group[key] for group in groups if key in group})
        yield Finding(
            f"{sum(key in group for group in groups)} of {len(groups)} parameter groups have "
            f"{key}, from {values[0]:g} to {values[-1]:g}, and {type(optimizer).__name__} does not "
            "read it",
            observed=values[:6],
            where="optimizer.param_groups",
            cause="a setting of another library's optimizer, or a misspelt one: torch keeps any "
            f"key and reads {', '.join(sorted(set(optimizer.defaults))[:6])}",
            fix="multiply it into the group's lr, or use the name that the optimizer reads",
        )
    yield Measured(
        f"{len(groups)} groups with {len(numbers)} settings that {type(optimizer).__name__} has no "
        f"default for, {len(unread)} of them unread",
        unread,
        [],
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sources(pipeline: Pipeline, optimizer: Any, scheduler: Any) -> list[str]:
    """Return the source of the modules in which a group could be read."""
    trainer = pipeline.trainer
    holders = [optimizer, scheduler, trainer, pipeline.train_step]
    holders += getattr(getattr(trainer, "callback_handler", None), "callbacks", None) or []
    found = [] if pipeline.captured is None else _of_the_script()
    for one in holders:
        kinds = type(one).__mro__ if not inspect.isfunction(one) else (one,)
        for kind in kinds:
            module = sys.modules.get(getattr(kind, "__module__", ""))
            own = module is not None and not of_a_library(kind)
            if own or one is optimizer:
                found.append(_source(module if own else kind))
    return found


def _source(of: Any) -> str:
    """Return the source of a module or a class; empty for what has none, as in a notebook."""
    try:
        return inspect.getsource(of)
    except (OSError, TypeError):
        return ""


def _of_the_script() -> list[str]:
    """Return the source of the user's own modules, where a script's loop may read its groups."""
    found = []
    for module in list(sys.modules.values()):
        # Some libraries put objects there that make up attributes.
        names = getattr(module, "__dict__", {})
        file, name = str(names.get("__file__") or ""), str(names.get("__name__"))
        library = file.startswith((sys.prefix, sys.base_prefix)) or "site-packages" in file
        if library or not os.path.isabs(file) or name.partition(".")[0] == "trainsanity":
            continue
        with contextlib.suppress(OSError, UnicodeDecodeError), open(file, encoding="utf-8") as code:
            found.append(code.read())
    return found


def _reads(source: str, key: str) -> bool:
    return bool(re.search(rf"(\[|\.get\()\s*[\"']{re.escape(key)}[\"']", source))
