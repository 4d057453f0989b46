"""Judge the repaired incident at full size, on one GPU, under other seeds and sizes of batches.

    python -m tests.measure_seeds --seeds 10 --batches 4 8 24

The model stage is asked. Prints a line of JSON for each; TRAINSANITY_RECORD names a file that gets
the lines as well, and what it holds already is not judged again. ``--until`` ends after so many
seconds, before the next begins.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import time
from pathlib import Path
from typing import Any

GIB = 2**30


def main() -> None:
    """Judge each seed with each size of batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 24])
    parser.add_argument("--until", type=float, default=float("inf"))
    asked = parser.parse_args()
    begin, path = time.perf_counter(), os.environ.get("TRAINSANITY_RECORD")
    lines = Path(path).read_text().splitlines() if path and Path(path).exists() else []
    done = {json.loads(line)["pipeline"] for line in lines}
    for seed in range(asked.seeds):
        for batch in asked.batches:
            name = f"qwen3_4b:repaired, seed {seed}, batches of {batch}"
            if name in done or time.perf_counter() - begin > asked.until:
                continue
            line = judged(name, seed=seed, per_device_train_batch_size=batch)
            print(json.dumps(line), flush=True)  # noqa: T201 - for whoever watches
            if path:
                with open(path, "a", encoding="utf-8") as file:
                    file.write(f"{json.dumps(line)}\n")


def judged(name: str, **settings: Any) -> dict[str, Any]:
    """Return how the model stage ended, and how near each probe came to its bound."""
    import torch

    import trainsanity
    from fixtures.pipelines import qwen3_4b
    from trainsanity.engine.registry import registry
    from trainsanity.engine.runner import run

    begin = time.perf_counter()
    spec = trainsanity.PipelineSpec(name, lambda: qwen3_4b.repaired(**settings))
    report = spec.visit(lambda pipeline: run(pipeline, registry().select(["model"])))
    gc.collect()
    torch.cuda.empty_cache()
    by_status: dict[str, list[str]] = {}
    for result in report.results:
        by_status.setdefault(str(result.status), []).append(result.check.name)
    peaks = [seen.peak_bytes or 0 for seen in report.passes.values()]
    return {
        "date": datetime.date.today().isoformat(),
        "pipeline": name,
        **{key: report.environment[key] for key in ("torch", "transformers", "device")},
        "seconds": round(time.perf_counter() - begin, 1),
        "peak_gib": round(max(peaks, default=0) / GIB, 2),
        "exit_code": int(report.exit_code()),
        "ran": report.ran,
        **{status: sorted(by_status.get(status, [])) for status in ("fail", "warning", "error")},
        "said": {
            result.check.name: result.message
            for result in report.results
            if result.message and ("differ" in result.message or "noise" in result.message)
        },
    }


if __name__ == "__main__":
    main()
