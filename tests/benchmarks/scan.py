"""What the dataset stage costs: `python tests/benchmarks/scan.py [ROWS ...] [--json FILE]`.

For each number of rows (by default 300,000, 1,000,000 and the incident's 2,988,208) a dataset with
the incident's lengths is written to an Arrow file by code, in record batches of 1,000 rows as
`Dataset.map` writes them, and the whole dataset stage (every TS2 check on a pipeline with that
data) runs beside bare reductions over the same buffers: lowest and highest id, lowest mask,
lengths and labels counted, once with numpy, batch by batch, and once with pyarrow.compute.
The stage answers more than these: null, empty and uneven rows, padding, each row's first and last
id, rows that repeat or contradict others.  What the same answers cost without its shortcuts is told
beside them: numpy for the numbers, and a set of every row's bytes for the repeats; one round, since
it is no bound.
Rounds alternate, so that all of them meet the same load; told are medians of processor time, and of
the rounds' ratios.  Memory is what the process holds besides the file's own pages (RssAnon), at its
highest, less what it held before.  Exits with 1 if the stage has, at the last number of rows, less
than half the speed of the numpy reduction, takes 1 GiB, or grows faster than its rows.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

ROWS = (300_000, 1_000_000, 2_988_208)
ROUNDS = 7
WRITTEN = 1_000
"""Rows of a record batch, `datasets.config.DEFAULT_MAX_BATCH_SIZE`."""

SPEED, MEMORY, GROWTH = 0.5, 2**30, 1.25
"""At least this much of the bare speed, below these bytes, and time per row at most this many times
that of fewer rows."""


def write(path: Path, rows: int) -> None:
    """A tokenized dataset with the incident's lengths, ids and labels drawn evenly."""
    import numpy
    import pyarrow as pa

    from fixtures import corpus

    draw = numpy.random.default_rng(0)
    lengths = numpy.array([round(corpus._quantile((k + 0.5) / rows)) for k in range(rows)])
    draw.shuffle(lengths)
    schema = pa.schema({"input_ids": pa.list_(pa.int32()), "attention_mask": pa.list_(pa.int8()),
                        "label": pa.int64()})  # fmt: skip
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for at in range(0, rows, WRITTEN):
            some = lengths[at : at + WRITTEN]
            ends = numpy.concatenate([[0], numpy.cumsum(some)]).astype(numpy.int32)
            ids = draw.integers(0, 151_643, ends[-1], dtype=numpy.int32)
            mask = numpy.ones(ends[-1], numpy.int8)
            labels = draw.integers(0, corpus.NUM_LABELS, len(some))
            columns = [pa.ListArray.from_arrays(ends, ids), pa.ListArray.from_arrays(ends, mask),
                       pa.array(labels)]  # fmt: skip
            writer.write_batch(pa.record_batch(columns, schema=schema))


def with_numpy(table: Any) -> None:
    """The least that a loop over the batches can do."""
    import numpy

    low, high, mask = [], [], []
    lengths, labels = numpy.zeros(1_000, numpy.int64), numpy.zeros(1_000, numpy.int64)
    for batch in table.to_batches():
        ids = batch.column("input_ids")
        values = ids.values.to_numpy()
        low.append(values.min())
        high.append(values.max())
        mask.append(batch.column("attention_mask").values.to_numpy().min())
        lengths += numpy.bincount(numpy.diff(ids.offsets.to_numpy()), minlength=1_000)
        labels += numpy.bincount(batch.column("label").to_numpy(), minlength=1_000)


def with_pyarrow(table: Any) -> None:
    """The same in Arrow's own compute functions, column by column."""
    import pyarrow.compute as pc

    pc.min_max(pc.list_flatten(table.column("input_ids")))
    pc.min_max(pc.list_flatten(table.column("attention_mask")))
    pc.value_counts(pc.list_value_length(table.column("input_ids")))
    pc.value_counts(table.column("label"))


def plainly(table: Any) -> None:
    """The stage's own questions, put as one would without it."""
    import numpy

    with_numpy(table)
    seen: set[tuple[bytes, int]] = set()
    rows: set[bytes] = set()
    copies = contradictions = uneven = empty = nulls = 0
    firsts, lasts = [], []
    for batch in table.to_batches():
        ids, mask = batch.column("input_ids"), batch.column("attention_mask")
        ends, values = ids.offsets.to_numpy(), ids.values.to_numpy()
        nulls += ids.null_count
        uneven += int((numpy.diff(ends) != numpy.diff(mask.offsets.to_numpy())).sum())
        empty += int((numpy.diff(ends) == 0).sum())
        firsts.append(values[ends[:-1]])
        lasts.append(values[ends[1:] - 1])
        bounds = ends.tolist()
        labels = batch.column("label").to_pylist()
        for begin, end, label in zip(bounds, bounds[1:], labels, strict=False):
            row = hashlib.blake2b(values[begin:end], digest_size=16).digest()
            copies += (row, label) in seen
            contradictions += row in rows and (row, label) not in seen
            rows.add(row)
            seen.add((row, label))
    assert copies + contradictions + uneven + empty + nulls == 0
    numpy.concatenate(firsts), numpy.concatenate(lasts)


def pipeline(data: Any) -> Any:
    """A Trainer for that data.  Its model is narrow: the guard hashes weights, not rows."""
    from fixtures.pipelines import build, tiny_qwen3

    narrow = {**tiny_qwen3.GEOMETRY, "hidden_size": 8}
    model = build.random_model(narrow, dtype="float32", device="cpu", seed=0)
    settings = build.Settings(rows=24, use_cpu=True)
    trainer = build.build_trainer(model, tiny_qwen3._tokenizer(), settings)
    trainer.train_dataset, trainer.eval_dataset = data, None
    return trainer


def stage(trainer: Any) -> None:
    """Every check of the dataset stage."""
    from trainsanity import Status
    from trainsanity.engine.registry import registry
    from trainsanity.engine.runner import run
    from trainsanity.pipeline import Pipeline

    # Rows drawn at random repeat nothing and lack nothing: a verdict other than pass is a defect.
    report = run(Pipeline.from_trainer(trainer), registry().select(["TS2"]))
    wrong = [result for result in report.results if result.status is not Status.PASS]
    assert not wrong, wrong


def seconds(function: Callable[[Any], None], argument: Any) -> float:
    """How long the processor works on it: all of them use one core, and neighbours do not count."""
    start = time.process_time()
    function(argument)
    return time.process_time() - start


def held() -> int:
    """Bytes of this process that are no file's pages."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most that is held in the block beyond what was held before, as the list's one value."""
    most, stop = [0], threading.Event()
    before = held()

    def watch() -> None:
        while not stop.wait(0.005):
            most[0] = max(most[0], held() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        stop.set()
        watcher.join()


def measure(rows: int, folder: Path) -> dict[str, Any]:
    """Seconds, ratios and memory for that many rows."""
    from datasets import Dataset

    path = folder / f"{rows}.arrow"
    write(path, rows)
    data = Dataset.from_file(str(path))
    trainer = pipeline(data)
    table = data.data.table
    with_numpy(table)  # the file's pages are in memory from here on
    with peak() as extra:
        stage(trainer)
    rounds = [
        (seconds(stage, trainer), seconds(with_numpy, table), seconds(with_pyarrow, table))
        for _ in range(ROUNDS)
    ]
    plain = seconds(plainly, table)
    path.unlink()
    ours, by_numpy, by_pyarrow = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {
        "rows": rows,
        "tokens": int(count_ids(table)),
        "seconds": round(ours, 3),
        "numpy_seconds": round(by_numpy, 3),
        "pyarrow_seconds": round(by_pyarrow, 3),
        "plain_seconds": round(plain, 3),
        "of_numpy_speed": round(statistics.median(b / a for a, b, _ in rounds), 3),
        "of_pyarrow_speed": round(statistics.median(c / a for a, _, c in rounds), 3),
        "extra_mib": round(extra[0] / 2**20, 1),
        "seconds_per_million_rows": round(ours / rows * 1e6, 3),
    }


def count_ids(table: Any) -> int:
    """Ids in the table."""
    return sum(len(chunk.values) for chunk in table.column("input_ids").chunks)


def main() -> int:
    """Print the figures side by side; the exit code says whether they are good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", type=int, default=ROWS)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="trainsanity-") as folder:
        for rows in options.rows:
            row = measure(rows, Path(folder))
            found.append(row)
            print(  # noqa: T201
                f"{rows:>9,} rows, {row['tokens']:>11,} ids: dataset stage {row['seconds']:.2f} s, "
                f"numpy {row['numpy_seconds']:.2f} s, pyarrow {row['pyarrow_seconds']:.2f} s: "
                f"{row['of_numpy_speed']:.2f} and {row['of_pyarrow_speed']:.2f} of their speed, "
                f"the same answers plainly {row['plain_seconds']:.1f} s, "
                f"{row['extra_mib']:.0f} MiB, {row['seconds_per_million_rows']:.2f} s a million",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"scan": found}, indent=2) + "\n", encoding="utf-8")
    slow = found[-1]["of_numpy_speed"] < SPEED
    large = any(row["extra_mib"] * 2**20 >= MEMORY for row in found)
    steep = any(
        more["seconds_per_million_rows"] > GROWTH * fewer["seconds_per_million_rows"]
        for fewer, more in itertools.pairwise(found)
    )
    return int(slow or large or steep)


if __name__ == "__main__":
    sys.exit(main())
