"""What the dataset stage costs where rows are no `input_ids`.

`python tests/benchmarks/scan_roles.py [PAIRS] [--json FILE]` reads pairs as a preference Trainer
has them (by default two million, a prompt of 60 ids and two answers of 40 on average), and a table
of images as bytes (2,000 of 200 kB).  The scan and the search for repeated rows run beside a bare
sum over the same buffers.  Exits with 1 if either takes 1 GiB besides the file's own pages.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.scan import MEMORY, WRITTEN, peak, seconds

PAIRS = 2_000_000
IMAGES, BYTES = 2_000, 200_000
LENGTHS = {"prompt_ids": 60, "chosen_ids": 40, "rejected_ids": 40}
"""Ids on average; each row has between half and one and a half times as many."""


def write_pairs(path: Path, rows: int) -> None:
    """Prompts with two answers, ids drawn evenly."""
    import numpy
    import pyarrow as pa

    draw = numpy.random.default_rng(0)
    schema = pa.schema({name: pa.list_(pa.int32()) for name in LENGTHS})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for at in range(0, rows, WRITTEN):
            columns = []
            for mean in LENGTHS.values():
                sizes = draw.integers(mean // 2, mean + mean // 2, min(WRITTEN, rows - at))
                ends = numpy.concatenate([[0], numpy.cumsum(sizes)]).astype(numpy.int32)
                ids = draw.integers(0, 151_643, ends[-1], dtype=numpy.int32)
                columns.append(pa.ListArray.from_arrays(ends, ids))
            writer.write_batch(pa.record_batch(columns, schema=schema))


def write_images(path: Path, rows: int) -> None:
    """Images as `datasets` stores them: bytes and a path, no two alike."""
    import numpy
    import pyarrow as pa

    draw = numpy.random.default_rng(0)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": kind, "label": pa.int64()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for at in range(0, rows, 100):
            some = [{"bytes": draw.bytes(BYTES), "path": f"{at + k}.jpg"} for k in range(100)]
            columns = [pa.array(some, kind), pa.array(draw.integers(0, 10, 100))]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def bare(table: Any) -> None:
    """Add up all values."""
    import numpy

    for name in table.column_names:
        for chunk in table.column(name).chunks:
            part = chunk.field("bytes") if hasattr(chunk, "field") else chunk
            held = [buffer for buffer in part.buffers() if buffer is not None]
            numpy.frombuffer(max(held, key=len), numpy.uint8).sum()


def stage(data: Any) -> None:
    """Scan the rows and look for those that repeat."""
    import torch

    from trainsanity.engine.session import Session
    from trainsanity.pipeline import Pipeline

    args = SimpleNamespace(label_names=None, remove_unused_columns=False, world_size=1)
    pipeline = Pipeline(torch.nn.Linear(1, 1), train_dataset=data, args=args)
    found = Session.of(pipeline).measurements.get("repeats")
    assert found.copies == 0


def measure(what: str, rows: int, write: Callable[[Path, int], None]) -> dict[str, Any]:
    """Seconds and memory for that many rows."""
    from datasets import Dataset

    with tempfile.TemporaryDirectory(prefix="trainsanity-") as folder:
        path = Path(folder) / "rows.arrow"
        write(path, rows)
        data = Dataset.from_file(str(path))
        table = data.data.table
        bare(table)  # the file's pages are in memory from here on
        with peak() as extra:
            stage(data)
        ours, plain = seconds(stage, data), seconds(bare, table)
        return {
            "what": what,
            "rows": rows,
            "gib": round(path.stat().st_size / 2**30, 2),
            "seconds": round(ours, 3),
            "bare_seconds": round(plain, 3),
            "extra_mib": round(extra[0] / 2**20, 1),
        }


def main() -> int:
    """Print the figures; the exit code says whether memory is good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pairs", nargs="?", type=int, default=PAIRS)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    images = max(100, IMAGES * options.pairs // PAIRS // 100 * 100)
    found = [
        measure("pairs", options.pairs, write_pairs),
        measure("images", images, write_images),
    ]
    for row in found:
        print(  # noqa: T201
            f"{row['rows']:,} {row['what']}, {row['gib']} GiB: {row['seconds']:.2f} s, a bare sum "
            f"{row['bare_seconds']:.2f} s, {row['extra_mib']:.0f} MiB",
            flush=True,
        )
    if options.json:
        document = {"scan_roles": found}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return int(any(row["extra_mib"] * 2**20 >= MEMORY for row in found))


if __name__ == "__main__":
    sys.exit(main())
