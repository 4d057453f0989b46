"""Settings of the process that a step, or the caller, changes."""

from __future__ import annotations

import asyncio
import decimal
import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

from .base import collate, digest, trainer
from .oracle import Odd, state


def _changed(change: Callable[[], Any], seen: Callable[[], Any]) -> Odd:
    """A collator changes a setting, and it has to be what it was."""

    def changing(items):
        change()
        return collate(items)

    return Odd(trainer(None, changing), seen)


@state(54)
def default_dtype() -> Odd:
    # In the step and not in the collator: the rest of the step would not be float32.
    made = trainer()
    own = made.training_step

    def step(*args, **more):
        loss = own(*args, **more)
        torch.set_default_dtype(torch.float64)
        return loss

    made.training_step = step
    return Odd(made, lambda: str(torch.get_default_dtype()))


@state(55)
def threads() -> Odd:
    return _changed(lambda: torch.set_num_threads(2), torch.get_num_threads)


@state(56)
def anomaly_and_determinism() -> Odd:
    def change():
        torch.autograd.set_detect_anomaly(True, check_nan=False)
        torch.use_deterministic_algorithms(True, warn_only=True)

    return _changed(
        change,
        lambda: (torch.is_anomaly_enabled(), torch.are_deterministic_algorithms_enabled()),
    )


@state(57)
def precision() -> Odd:
    def change():
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.benchmark = True

    return _changed(
        change, lambda: (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark)
    )


@state(58)
def filters() -> Odd:
    return _changed(
        lambda: warnings.filterwarnings("ignore", message="attack"), lambda: str(warnings.filters)
    )


@state(59)
def root_logger() -> Odd:
    root = logging.getLogger()

    def change():
        root.addHandler(logging.NullHandler())
        root.setLevel(logging.ERROR)

    return _changed(change, lambda: (len(root.handlers), root.level))


@state(60)
def verbosity() -> Odd:
    return _changed(transformers.logging.set_verbosity_error, transformers.logging.get_verbosity)


@state(61)
def signals() -> Odd:
    def change():
        signal.signal(signal.SIGUSR1, _handler)
        signal.signal(signal.SIGTERM, _handler)

    return _changed(
        change, lambda: [str(signal.getsignal(s)) for s in (signal.SIGUSR1, signal.SIGTERM)]
    )


def _handler(*rest):
    pass


@state(62)
def directory_and_environment() -> Odd:
    os.environ["ATTACK"] = "before"
    os.makedirs("there")

    def change():
        if os.path.isdir("there"):
            os.chdir("there")
        os.environ.pop("ATTACK", None)
        os.environ["ATTACK_NEW"] = "1"

    def seen():
        # Each of the two processes that are compared has a temporary folder of its own.
        kept = {k: v for k, v in sorted(os.environ.items()) if k not in ("TMPDIR", "PWD")}
        return os.path.isdir("there"), kept

    return _changed(change, seen)


@state(63)
def stdout_and_path() -> Odd:
    class Tee:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

    def change():
        if not isinstance(sys.stdout, Tee):
            sys.stdout = Tee(sys.stdout)
        if "/attack" not in sys.path:
            sys.path.append("/attack")

    return _changed(change, lambda: (type(sys.stdout).__name__, "/attack" in sys.path))


@state(64)
def numbers() -> Odd:
    def change():
        decimal.getcontext().prec = 5
        np.seterr(all="ignore")
        gc.disable()

    return _changed(change, lambda: (decimal.getcontext().prec, np.geterr(), gc.isenabled()))


@state(65)
def exception_hooks() -> Odd:
    def change():
        sys.excepthook = _handler
        threading.excepthook = _handler

    return _changed(change, lambda: (sys.excepthook is _handler, threading.excepthook is _handler))


RC = {"font": {"size": 10}, "dpi": 100}


@state(66)
def module_settings() -> Odd:
    def change():
        RC["font"]["size"] += 1  # type: ignore[index]
        RC["new"] = 1

    return _changed(change, lambda: RC)


def _judged(trainer: Any) -> Any:
    import trainsanity

    return trainsanity.judge(trainer)


@state(67)
def no_grad() -> Odd:
    made = trainer()

    def judged(trainer):
        with torch.no_grad():
            try:
                return _judged(trainer)
            finally:
                assert not torch.is_grad_enabled()

    # train() fails in such a block, too: a sentence that says so is as good as a verdict.
    return Odd(made, torch.is_grad_enabled, judged=judged, named="gradients are off here")


@state(68)
def inference_mode() -> Odd:
    made = trainer()

    def judged(trainer):
        with torch.inference_mode():
            try:
                return _judged(trainer)
            finally:
                assert torch.is_inference_mode_enabled()

    return Odd(made, lambda: digest(made), judged=judged, named="gradients are off here")


@state(69)
def callers_dtype() -> Odd:
    made = trainer()

    def judged(trainer):
        torch.set_default_dtype(torch.float64)
        report = _judged(trainer)
        assert torch.get_default_dtype() == torch.float64
        torch.set_default_dtype(torch.float32)
        return report

    return Odd(made, lambda: digest(made), judged=judged)


@state(70)
def other_thread() -> Odd:
    def judged(trainer):
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(_judged(trainer)))
        thread.start()
        thread.join()
        return got[0]

    made = trainer()
    return Odd(made, lambda: digest(made), judged=judged)


@state(71)
def event_loop() -> Odd:
    async def inside(trainer):
        return _judged(trainer)

    made = trainer()
    return Odd(made, lambda: digest(made), judged=lambda t: asyncio.run(inside(t)))


@state(72)
def timer() -> Odd:
    made = trainer()

    def judged(trainer):
        import trainsanity

        signal.signal(signal.SIGALRM, _handler)
        signal.setitimer(signal.ITIMER_REAL, 500)
        report = trainsanity.judge(trainer, timeout=60)
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert signal.getsignal(signal.SIGALRM) is _handler
        assert 300 < left < 500, left
        signal.setitimer(signal.ITIMER_REAL, 0)
        return report

    return Odd(made, lambda: digest(made), judged=judged)


@state(73)
def warnings_as_errors() -> Odd:
    made = trainer()

    def judged(trainer):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            before = list(warnings.filters)
            report = _judged(trainer)
            assert before == list(warnings.filters)
        return report

    return Odd(made, lambda: digest(made), judged=judged)
