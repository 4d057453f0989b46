"""What torch, transformers, peft, trl and accelerate warn of while a pipeline is built and stepped.

Filters and verbosity decide what is shown, and the libraries say some things once a process; so the
calls that warn are listened to, and not what comes out of them.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate")

LONGEST = 500
"""Characters of a warning that are kept: some list every parameter."""

JUDGED = ("The tokenizer has new PAD/BOS/EOS tokens that differ from the model config",)
"""Beginnings of warnings whose question a check answers: tokenizer.config_agrees."""

CUT = "..."
"""At the end of a warning of which more was said."""

COLOURS = re.compile("\x1b\\[[0-9;]*m")
"""What a library writes for a terminal's colours."""

ONCE = ("transformers.utils.logging", "accelerate.logging")
"""Modules with a ``warning_once`` that keeps what it said for the process."""


@dataclass(frozen=True)
class LibraryWarning:
    """A warning of a library.

    Attributes:
        library: the package.
        text: what it says, in one line.
        category: the class of the warning; ``log`` for a line of a logger.
    """

    library: str
    text: str
    category: str

    @property
    def of_age(self) -> bool:
        """Whether it is about a name or an argument that will go, and not about this run."""
        return "Deprecat" in self.category or self.category == "FutureWarning"

    @property
    def spoken(self) -> bool:
        """Whether the library said it about this run, so that a report repeats it.

        What a check judges is told by that.
        """
        return not (self.of_age or self.category == "load" or self.text.startswith(JUDGED))


class Listener:
    """Keeps each warning once, in the order in which they come.

    Attributes:
        heard: the warnings.
        paused: nothing is kept while it is set.
    """

    def __init__(self, heard: list[LibraryWarning]) -> None:
        self.heard = heard
        self.paused = False

    def keep(self, module: str, text: Any, category: str) -> None:
        """Keep a warning if it is a library's."""
        library = module.partition(".")[0]
        if self.paused or library not in LIBRARIES:
            return
        plain = " ".join(COLOURS.sub("", str(text)).split())
        if len(plain) > LONGEST:
            plain = f"{plain[: LONGEST - len(CUT)]}{CUT}"
        one = LibraryWarning(library, plain, category)
        if one.text and one not in self.heard:
            self.heard.append(one)


@contextlib.contextmanager
def listening(heard: list[LibraryWarning]) -> Iterator[Listener]:
    """Keep what the libraries warn of in the block; everything is shown as it would be."""
    listener = Listener(heard)
    _forget_what_was_said()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(warnings, "warn", functools.partial(_warn, listener)))
        for name in ("warning", "warn", "error"):
            told = functools.partial(_log, listener)
            stack.enter_context(_replaced(logging.Logger, name, told))
        try:
            yield listener
        finally:
            # A module that was imported meanwhile may hold on to the function that listens.
            listener.paused = True


def _forget_what_was_said() -> None:
    """Clear the caches of ``warning_once``, so that each pipeline is told anew."""
    for name in ONCE:
        module = sys.modules.get(name)
        for owner in (module, getattr(module, "MultiProcessAdapter", None)):
            clear = getattr(getattr(owner, "warning_once", None), "cache_clear", None)
            if clear is not None:
                clear()


@contextlib.contextmanager
def _replaced(owner: Any, name: str, around: Callable[..., Any]) -> Iterator[None]:
    original = vars(owner).get(name)
    if original is None:  # Logger.warn is gone from Python 3.13 on
        yield
        return
    replacement = around(original)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        # Somebody may have replaced it in turn, in the user's own code: that is not undone.
        if vars(owner).get(name) is replacement:
            setattr(owner, name, original)


def _warn(listener: Listener, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def warn(
        message: Any, category: Any = None, stacklevel: int = 1, *more: Any, **how: Any
    ) -> Any:
        with contextlib.suppress(Exception):
            kind = type(message) if isinstance(message, Warning) else category or UserWarning
            module = sys._getframe(1).f_globals.get("__name__", "")
            listener.keep(str(module), message, kind.__name__)
        # One frame more lies between here and the place that is blamed.
        return original(message, category, stacklevel + 1, *more, **how)

    return warn


def _log(listener: Listener, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def log(self: logging.Logger, msg: Any, *args: Any, **how: Any) -> Any:
        with contextlib.suppress(Exception):
            listener.keep(self.name, str(msg) % args if args else msg, "log")
        # The logger looks for its caller: one frame more lies between.
        return original(self, msg, *args, **{**how, "stacklevel": how.get("stacklevel", 1) + 1})

    return log


UNLOADED = "load_state_dict(strict=False) on"
"""How a call begins that took less than it was given; torch itself says nothing of it."""


def loads(listener: Listener) -> dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """Return by name what replaces ``Module.load_state_dict``, and notes what a call left over."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def load_state_dict(self: Any, state_dict: Any, *args: Any, **how: Any) -> Any:
            result = original(self, state_dict, *args, **how)
            caller = str(sys._getframe(1).f_globals.get("__name__", "")).partition(".")[0]
            if caller not in LIBRARIES and result.unexpected_keys and result.missing_keys:
                named = dict(self.named_parameters())
                missing = [name for name in result.missing_keys if name in named]
                first = (missing or result.missing_keys)[0]
                # The unknown name that is the missing one but for a prefix tells most.
                alike = [k for k in result.unexpected_keys if k.endswith(f".{first}")]
                listener.keep(
                    "torch",
                    f"{UNLOADED} {type(self).__name__} took {len(named) - len(missing)} of "
                    f"{len(named)} parameters; {len(result.unexpected_keys)} names of the state "
                    f"are unknown to it, {(alike or result.unexpected_keys)[0]} among them; "
                    f"missing is {first}",
                    "load",
                )
            return result

        return load_state_dict

    return {"load_state_dict": wrap}
