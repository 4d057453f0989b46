"""The user's collator, observed: what it is given is noted, and what the Trainer reads stays."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

Observe = Callable[[Callable[[Any], Any], Any], Any]
"""Is given the collator's own call and the rows, and returns the batch."""


def observed(collator: Any, observe: Observe) -> Any:
    """Return a collator that calls ``observe``; it has the attributes of the user's own.

    Trainers read more of a collator than its call: sentence-transformers its label columns, TRL its
    settings, a loader its signature.  An object gets a subclass of its class that shares its
    attributes, so that what is set on one is set on the other; a function is wrapped.
    """
    cls = type(collator)
    call = inspect.getattr_static(cls, "__call__", None)
    if not hasattr(collator, "__dict__") or not inspect.isfunction(call):
        return _wrapped(collator, observe)

    @functools.wraps(call)
    def called(self: Any, rows: Any, *args: Any, **kwargs: Any) -> Any:
        return observe(lambda given: call(self, given, *args, **kwargs), rows)

    # Named as the original: messages and caches name the class.
    names = {"__call__": called, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    try:
        metaclass: Any = type(cls)
        twin: Any = object.__new__(metaclass(cls.__name__, (cls,), names))
        object.__setattr__(twin, "__dict__", collator.__dict__)
    except TypeError:  # a class that cannot be derived from, or has slots beside its attributes
        return _wrapped(collator, observe)
    return twin


def _wrapped(collator: Any, observe: Observe) -> Any:
    def called(rows: Any, *args: Any, **kwargs: Any) -> Any:
        return observe(lambda given: collator(given, *args, **kwargs), rows)

    functools.update_wrapper(called, collator)
    return called
