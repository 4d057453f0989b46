"""Settings of the process that a step may change: note them, and put back what differs.

Numbers of threads, the default dtype, filters of warnings, loggers, handlers of signals: nobody
owns them, and whoever sets one in a collator or a loss sets it for everything that comes after.
"""

from __future__ import annotations

import contextlib
import decimal
import functools
import gc
import locale
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

Setting = tuple[Callable[[], Any], Callable[[Any], Any]]
"""Reads a value; sets it."""


def process_settings() -> Callable[[], None]:
    """Return a function that puts the process's settings back."""
    noted = []
    for read, put in _settings():
        # Newer releases of torch refuse to tell a precision by a name that was not used to set it.
        with contextlib.suppress(RuntimeError):
            noted.append((read, put, read()))
    undo = [_lists(), _loggers(), _default_device()]

    def restore() -> None:
        with contextlib.ExitStack() as stack:
            for step in undo:
                stack.callback(step)
            for read, put, value in noted:
                stack.callback(_put, read, put, value)

    return restore


def _put(read: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> None:
    try:
        changed = read() != value
    except RuntimeError:
        changed = True
    if changed:
        put(value)


def _settings() -> Iterator[Setting]:
    import numpy
    import torch

    yield torch.get_default_dtype, torch.set_default_dtype
    yield torch.get_num_threads, torch.set_num_threads
    yield torch.is_grad_enabled, torch.set_grad_enabled
    yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    yield (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda was: torch.use_deterministic_algorithms(was[0], warn_only=was[1]),
    )
    yield (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda was: torch.autograd.set_detect_anomaly(*was),
    )
    for name in ("benchmark", "deterministic", "enabled"):
        yield _attribute(torch.backends.cudnn, name)
    yield numpy.geterr, lambda was: numpy.seterr(**was)
    for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp"):
        yield _attribute(decimal.getcontext(), name)
    yield gc.isenabled, lambda was: gc.enable() if was else gc.disable()
    yield sys.getrecursionlimit, sys.setrecursionlimit
    yield sys.getswitchinterval, sys.setswitchinterval
    for module, name in (
        (sys, "stdout"),
        (sys, "stderr"),
        (sys, "excepthook"),
        (threading, "excepthook"),
        (warnings, "showwarning"),
    ):
        yield _attribute(module, name)
    yield (
        lambda: locale.setlocale(locale.LC_ALL),
        lambda was: locale.setlocale(locale.LC_ALL, was),
    )


def _attribute(owner: Any, name: str) -> Setting:
    return functools.partial(getattr, owner, name), functools.partial(setattr, owner, name)


def _lists() -> Callable[[], None]:
    """Return the undo step of the search path and of the filters of warnings."""
    path, filters = list(sys.path), list(warnings.filters)

    def restore() -> None:
        if sys.path != path:
            sys.path[:] = path
        if warnings.filters != filters:
            kept: Any = warnings.filters
            kept[:] = filters
            # As after every change of the list: what was shown once may be shown again.
            vars(warnings)["_filters_mutated"]()

    return restore


def _loggers() -> Callable[[], None]:
    """Return the undo step of levels and handlers of all loggers that exist now."""
    manager = logging.root.manager
    every = [logging.root, *manager.loggerDict.values()]
    noted = [
        (one, one.level, one.handlers, list(one.handlers), one.disabled, one.propagate)
        for one in every
        if isinstance(one, logging.Logger)
    ]
    disabled = manager.disable

    def restore() -> None:
        for one, level, handlers, held, off, propagate in noted:
            if one.level != level:
                one.setLevel(level)
            if one.handlers is not handlers or handlers != held:
                handlers[:] = held
                one.handlers = handlers
            one.disabled, one.propagate = off, propagate
        if manager.disable != disabled:
            logging.disable(disabled)

    return restore


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Put the handlers of signals back at the end; Python lets the main thread alone set some.

    It belongs around what defers Ctrl-C by a handler of its own.  The alarm is the time limit's,
    which puts back what it finds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = signal.valid_signals() - {getattr(signal, "SIGALRM", None)}
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # None is a handler that was not set from Python, and cannot be set from there.
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _default_device() -> Callable[[], None]:
    import torch

    def current() -> Any:
        context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
        return getattr(context, "device", None)

    before = current()

    def restore() -> None:
        if current() != before:
            torch.set_default_device(before)

    return restore
