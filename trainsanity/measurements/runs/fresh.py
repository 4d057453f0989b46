"""``python -m trainsanity.measurements.runs.fresh REQUEST``: resume a run in a process of its own.

The request is a JSON file that :mod:`.resume` writes.  The pipeline is built again from the words
that follow ``trainsanity run``; the record is written to ``report.json`` beside the request.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.errors import UsageError, first_line
from trainsanity.measurements.runs.rows_read import rows_of
from trainsanity.measurements.runs.trace import Plan, Trace, trace
from trainsanity.sources.factory import sources_of
from trainsanity.types import OUTCOMES

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def main(path: str) -> None:
    """Execute the request, and write the report."""
    import torch

    request = json.loads(Path(path).read_text(encoding="utf-8"))
    folder = Path(path).parent
    sys.path += [entry for entry in request["path"] if entry not in sys.path]
    torch.set_num_threads(request["threads"])
    target, *arguments = request["command"]
    report: dict[str, Any] = {}
    try:
        (source,) = sources_of([target], arguments, {})
        seen = source.visit(lambda pipeline: _go_on(pipeline, request, report))
        _write_weights(seen, folder)
        report["trace"] = asdict(replace(seen, weights={}, sources={}))
    except UsageError as error:
        report["unusable"] = str(error)
    except OUTCOMES as why:
        report["skip"] = str(why)
    except Exception as error:
        report["error"] = f"{type(error).__name__}: {first_line(error)}"
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


def _go_on(pipeline: Pipeline, request: dict[str, Any], report: dict[str, Any]) -> Trace:
    report["built"] = True
    if request["kill"]:
        _die_in_the_middle(request["kill"])
    seen = trace(
        pipeline,
        Plan(**request["plan"]),
        request["output"],
        resume=request["resume"],
        saves=request["saves"],
    )
    expected = request["batches"]
    if any(expected.get(str(step)) != names for step, names in seen.batches.items()):
        seen.rows = rows_of(pipeline, seen.batches, seen.sources)
    return seen


def _die_in_the_middle(checkpoint: str) -> None:
    """End this process with SIGKILL as soon as the checkpoint's optimizer state is on disk."""
    import torch

    save = torch.save

    def saving(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        save(obj, f, *args, **kwargs)
        here = isinstance(f, str | os.PathLike) and Path(f).parent == Path(checkpoint)
        if here and Path(f).name.startswith("optimizer"):
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = saving


def _write_weights(seen: Trace, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(
        {name: w.contiguous() for name, w in seen.weights.items()},
        str(folder / "weights.safetensors"),
    )


if __name__ == "__main__":
    main(sys.argv[1])
