"""Settings of the process that a step may change are put back."""

from __future__ import annotations

import decimal
import gc
import logging
import signal
import sys
import threading
import warnings

import numpy
import pytest
import torch
import transformers

from trainsanity.isolation.process_settings import process_settings, signals_kept


def nothing(*_):
    pass


def _add_handler():
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("datasets").setLevel(7)


CHANGES = {
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "default device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "precision": (
        lambda: torch.set_float32_matmul_precision("medium"),
        torch.get_float32_matmul_precision,
    ),
    "determinism": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
    ),
    "anomalies": (
        lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
    ),
    "cudnn": (
        lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
        lambda: torch.backends.cudnn.benchmark,
    ),
    "numpy's errors": (lambda: numpy.seterr(divide="raise"), numpy.geterr),
    "decimals": (
        lambda: setattr(decimal.getcontext(), "prec", 5),
        lambda: decimal.getcontext().prec,
    ),
    "garbage": (gc.disable, gc.isenabled),
    "recursion": (lambda: sys.setrecursionlimit(5000), sys.getrecursionlimit),
    "filters": (lambda: warnings.simplefilter("ignore"), lambda: list(warnings.filters)),
    "path": (lambda: sys.path.append("/nowhere"), lambda: list(sys.path)),
    "hooks": (
        lambda: (setattr(sys, "excepthook", nothing), setattr(threading, "excepthook", nothing)),
        lambda: (sys.excepthook, threading.excepthook),
    ),
    "loggers": (
        _add_handler,
        lambda: (list(logging.getLogger().handlers), logging.getLogger("datasets").level),
    ),
    "verbosity": (
        lambda: transformers.logging.set_verbosity(7),
        transformers.logging.get_verbosity,
    ),
    "logging": (lambda: logging.disable(logging.INFO), lambda: logging.root.manager.disable),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_is_put_back(name):
    change, read = CHANGES[name]
    before, restore = read(), process_settings()
    try:
        change()
        assert read() != before
    finally:
        restore()
    assert read() == before


def test_what_nobody_changed_is_not_set(monkeypatch):
    restore = process_settings()
    monkeypatch.setattr(torch, "set_default_dtype", None)
    monkeypatch.setattr(warnings, "_filters_mutated", None, raising=False)
    restore()


def test_handlers_of_signals_are_put_back():
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)
    with signals_kept():
        signal.signal(signal.SIGUSR1, nothing)
        signal.signal(signal.SIGTERM, nothing)
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)) == before
