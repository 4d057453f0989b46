"""What `SanityCallback` costs: `python tests/benchmarks/callback.py [PAIRS] [--json FILE]`.

One run of the incident's pipeline in its tiny form, twelve micro-batches of 4 rows a step, in which
every second step is watched by the callback: each pair of steps is a pair of measurements under the
same load. Told are the median ratio of the pairs with its standard error, which on a busy machine
is mostly noise, and the share of a watched step that is spent inside the callback, which is not.
What is done once, the first step's loss and the comparison of the weights, is told apart. Exits
with 1 if the share, or the ratio beyond four standard errors, is 0.5 % or more.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

LIMIT = 0.005
PRINTERS = ("PrinterCallback", "ProgressCallback")
EVENTS = ("on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_log")
FIRST, WEIGHTS = 0, 20
"""Where the first loss is recomputed, and where the weights are compared: after ten watched steps
with a learning rate above 0, which the first has not.  As indices."""


def measure(steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each step, and those of them inside the callback; even steps are not watched."""
    from transformers import TrainerCallback

    import trainsanity
    from fixtures.pipelines import tiny_qwen3

    class Clock(TrainerCallback):
        """Notes when each step begins."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begins.append(time.perf_counter())
            inside.append(0.0)

    def every_second(event: Any) -> Any:
        def call(args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            if len(begins) % 2 == 0:
                return control
            start = time.perf_counter()
            try:
                return event(args, state, control, **kwargs)
            finally:
                inside[-1] += time.perf_counter() - start

        return call

    begins: list[float] = []
    inside: list[float] = []
    trainer = tiny_qwen3.repaired(max_steps=steps, warmup_steps=2)
    handler = trainer.callback_handler
    handler.callbacks = [c for c in handler.callbacks if type(c).__name__ not in PRINTERS]
    with tempfile.TemporaryDirectory() as folder:
        callback = trainsanity.SanityCallback("stop", Path(folder) / "sanity.json")
        for event in EVENTS:
            setattr(callback, event, every_second(getattr(callback, event)))
        trainer.add_callback(callback)
        trainer.add_callback(Clock())
        trainer.train()
    begins.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(begins)], inside


def main() -> int:
    """Print the figures; the exit code says whether they are good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pairs", nargs="?", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    steps = 2 * options.pairs + WEIGHTS + 2
    seconds, inside = measure(steps)
    watched = range(WEIGHTS + 2, steps, 2)
    ratios = [seconds[k] / seconds[k + 1] - 1 for k in watched]
    share = statistics.median(inside[k] / seconds[k] for k in watched)
    ratio = statistics.median(ratios)
    # Of a median, for a normal spread.
    error = math.sqrt(math.pi / 2) * statistics.stdev(ratios) / math.sqrt(len(ratios))
    print(  # noqa: T201
        f"a step takes {statistics.median(seconds) * 1e3:.0f} ms; inside the callback "
        f"{share:.3%} of it; {len(ratios)} pairs of steps: {ratio:+.2%} +- {error:.2%}; once "
        f"{inside[FIRST] * 1e3:.0f} ms for the first loss, "
        f"{inside[WEIGHTS] * 1e3:.0f} ms for the weights"
    )
    if options.json:
        told = {
            "step_ms": round(statistics.median(seconds) * 1e3, 3),
            "inside_ms": round(statistics.median(inside[k] for k in watched) * 1e3, 3),
            "share": share,
            "pairs": len(ratios),
            "ratio": ratio,
            "standard_error": error,
            "first_loss_ms": round(inside[FIRST] * 1e3, 3),
            "weights_ms": round(inside[WEIGHTS] * 1e3, 3),
        }
        options.json.write_text(json.dumps({"callback": told}, indent=2) + "\n", encoding="utf-8")
    return int(share >= LIMIT or ratio - 4 * error >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
