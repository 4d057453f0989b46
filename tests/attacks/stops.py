"""pytest, Ctrl-C and time limits."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

import torch
from transformers import Trainer

from .base import digest, trainer
from .green import TEST, module
from .oracle import Odd, attack, command, short, state

NAN = "t = base.trainer()\nt.model.score.weight.data.fill_(float('nan'))\nreturn t"
SELECT = "@trainsanity.parametrize_with_checks(SPEC, select=['TS4', 'TS501'])\n"


def _pytest(test: str, *more: str, body: str = NAN) -> Any:
    files = {**module(body), "test_it.py": TEST + SELECT + test}
    return command("test_it.py", "-q", *more, files=files, program=("-m", "pytest"), limit=180)


@attack(146)
def never_called() -> str:
    ended = _pytest("def test_sanity(pipeline, check):\n    assert check is not None\n")
    return "" if ended.code == 1 else f"exit code {ended.code}: {short(ended.out)}"


@attack(147)
def two_workers() -> str:
    test = "def test_sanity(pipeline, check):\n    check(pipeline)\n"
    broken = []
    for body, code in ((NAN, 1), ("return base.trainer()", 0)):
        ended = [_pytest(test, *more, body=body) for more in (("-n", "0"), ("-n", "2"))]
        last = [e.out.strip().splitlines()[-1].split(" in ")[0] for e in ended]
        if [e.code for e in ended] != [code, code] or last[0] != last[1]:
            broken.append(f"{last} with exit codes {[e.code for e in ended]}")
    return "; ".join(broken)


@attack(148)
def raises_anything() -> str:
    ended = _pytest(
        "def test_sanity(pipeline, check):\n"
        "    import pytest\n"
        "    try: check(pipeline)\n"
        "    except Exception: pass\n"
    )
    return "" if ended.code == 1 else f"exit code {ended.code}: {short(ended.out)}"


@state(149)
def interrupted() -> Odd:
    class Slow(Trainer):
        def training_step(self, *args, **more):
            if self.judged:
                self.judged = False
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
            return super().training_step(*args, **more)

    made = trainer(cls=Slow)
    made.judged = False
    generator = torch.random.get_rng_state

    def judged(trainer):
        import trainsanity

        trainer.judged = True
        # A shell has what it starts in the background ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before = generator()
        try:
            trainsanity.judge(trainer)
            raise AssertionError("was not interrupted")
        except KeyboardInterrupt:
            pass
        assert torch.equal(before, generator())
        trainer.judged = False
        return trainsanity.judge(trainer)

    return Odd(made, lambda: digest(made), judged=judged)


@state(150)
def swallows_the_limit() -> Odd:
    class Slow(Trainer):
        slow = False

        def compute_loss(self, *args, **more):
            for _ in range(30 if self.slow else 0):
                with contextlib.suppress(Exception):
                    time.sleep(0.1)
            return super().compute_loss(*args, **more)

    made = trainer(cls=Slow)

    def judged(trainer):
        import trainsanity

        trainer.slow = True
        report = trainsanity.judge(trainer, timeout=1)
        trainer.slow = False
        assert report.exit_code() == 3, report.exit_code()
        assert threading.active_count() == 1, threading.enumerate()
        return report

    return Odd(made, lambda: digest(made), judged=judged, green=(3,))
