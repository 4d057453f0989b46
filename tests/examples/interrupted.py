"""Checks that are interrupted with Ctrl-C, again and again, and what is left of the pipeline.

``python interrupted.py FACTORY TIMES``: a real SIGINT at as many moments, spread over a run of the
checks.  Prints one line for each: how far it was, and what had changed; and a last one: whether two
steps of training after all of them are those of a pipeline that nobody looked at.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from typing import Any

from tests.untouched import differences, everything
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import Cost


def judge(pipeline: Pipeline) -> float:
    start = time.perf_counter()
    run(pipeline, registry().select(max_cost=Cost.STEP))
    return time.perf_counter() - start


def interrupted(pipeline: Pipeline, seconds: float) -> str:
    """What is being measured when SIGINT arrives, or that it came too late."""
    pipeline.session = None
    at = [""]
    Session.of(pipeline).measurements.on_start = lambda name: at.__setitem__(0, name)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        judge(pipeline)
        timer.cancel()
        timer.join()
    except KeyboardInterrupt:
        return at[0]
    return "too late"


def trained(pipeline: Pipeline) -> Any:
    import torch

    torch.manual_seed(1)
    pipeline.trainer.args.max_steps = 2
    pipeline.trainer.train()
    return [row["loss"] for row in pipeline.trainer.state.log_history if "loss" in row]


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    build = getattr(importlib.import_module(module), name)
    pipeline = PipelineSpec(name, build).make()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    judge(pipeline)  # imports what it needs
    pipeline.session = None
    whole = judge(pipeline)
    times = int(sys.argv[2])
    for k in range(times):
        before = everything(pipeline)
        at = interrupted(pipeline, whole * (k + 1) / (times + 1))
        changed = differences(before, everything(pipeline))
        print(f"SEEN {at}: {', '.join(changed) or 'as it was'}", flush=True)  # noqa: T201
    untouched = PipelineSpec(name, build).make()
    same = trained(pipeline) == trained(untouched)
    print(f"SEEN trains {'as if nothing had been' if same else 'otherwise'}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
