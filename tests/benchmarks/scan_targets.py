"""What it costs to count the targets of every row: `scan_targets.py [ROWS] [--json FILE]`.

Conversations of two turns (by default a million, 212 tokens each on average) are written to an
Arrow file by code, in record batches of 1,000 rows and of the types that `Dataset.map` gives them:
ids of 32 bits, and of 64 bits either the labels or a mask of the answers, both of which TRL has
stored.  `collator.rows_have_targets`, `collator.spans_are_alike` and the report's histogram are
made of what is measured here: targets by role, rows without any, runs of targets and the tokens
around them.  The measurement starts from a Trainer, and what it asks first (64 rows collated, the
template's headers) counts as its own.

Beside it stand a bare read, the sum of the same two buffers, and the least that numpy can be asked:
targets counted, and each row's share, with nothing said of roles or runs.  Rounds alternate, so
that all meet the same load; told are medians of processor time, and of the rounds' ratios.  Memory
is what the process holds besides the file's own pages, at its highest, less what it held before.
Exits with 1 if that is 1 GiB, or if the scan takes more than ten times the bare read.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.scan import MEMORY, WRITTEN, peak, seconds

ROWS = 1_000_000
ROUNDS = 5
TURNS = 2
QUESTION, ANSWER = (10, 50), (20, 90)
"""Fewest and most tokens of a message."""

TIMES = 10
"""The bare read adds up ids and labels; the scan has to look at each a few times, beside its
neighbours."""


def write(path: Path, rows: int, column: str, tokenizer: Any) -> None:
    """Write conversations with the headers and closers of the tokenizer's template."""
    import numpy
    import pyarrow as pa

    encode = tokenizer.encode
    header = {who: encode(f"<|im_start|>{who}\n") for who in ("user", "assistant")}
    end, line = encode("<|im_end|>"), encode("\n")
    # Of one turn: what is written each time, or None where a message's content stands; whether it
    # is trained.
    turn = [(header["user"], 0), (None, 0), (end + line, 0),
            (header["assistant"], 0), (None, 1), (end, 1), (line, 0)]  # fmt: skip
    pieces = turn * TURNS
    draw = numpy.random.default_rng(0)
    schema = pa.schema({"input_ids": pa.list_(pa.int32()), column: pa.list_(pa.int64())})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for at in range(0, rows, WRITTEN):
            some = min(WRITTEN, rows - at)
            sizes = numpy.empty((some, len(pieces)), numpy.int64)
            for k, (written, trained) in enumerate(pieces):
                low, high = ANSWER if trained else QUESTION
                sizes[:, k] = len(written) if written else draw.integers(low, high + 1, some)
            begins = numpy.cumsum(sizes.ravel()) - sizes.ravel()
            begins = begins.reshape(sizes.shape)
            ids = draw.integers(0, 256, sizes.sum(), dtype=numpy.int32)
            for k, (written, _) in enumerate(pieces):
                for step, token in enumerate(written or ()):
                    ids[begins[:, k] + step] = token
            trained = numpy.array([one for _, one in pieces])
            mask = numpy.repeat(numpy.tile(trained, some), sizes.ravel())
            stored = mask if column != "labels" else numpy.where(mask, ids.astype(int), -100)
            ends = numpy.concatenate([[0], numpy.cumsum(sizes.sum(1))]).astype(numpy.int32)
            lists = [pa.ListArray.from_arrays(ends, values) for values in (ids, stored)]
            writer.write_batch(pa.record_batch(lists, schema=schema))


def bare(table: Any) -> None:
    """Add up all values."""
    for name in table.column_names:
        for chunk in table.column(name).chunks:
            chunk.values.to_numpy().sum()


def least(table: Any) -> None:
    """Count targets, and each row's share of them."""
    import numpy

    total, bins = 0, numpy.zeros(20, numpy.int64)
    for batch in table.to_batches():
        lists = batch.column(1)
        values, ends = lists.values.to_numpy(), lists.offsets.to_numpy()
        counted = values != -100 if table.column_names[1] == "labels" else values != 0
        total += int(counted.sum())
        of_rows = numpy.add.reduceat(counted, ends[:-1], dtype=numpy.int64)
        shares = of_rows / numpy.diff(ends)
        bins += numpy.bincount(numpy.minimum((shares * 20).astype(int), 19), minlength=20)
    assert total


def masked(features: list[dict[str, Any]]) -> dict[str, Any]:
    """Make labels of a mask, as TRL's collator did."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(row["input_ids"]) for row in features]
    masks = [torch.tensor(row["assistant_masks"]) for row in features]
    labels = [torch.where(mask > 0, one, -100) for one, mask in zip(ids, masks, strict=True)]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def stage(trainer: Any) -> None:
    """Count targets as a session of its own does."""
    from trainsanity.engine.session import Session
    from trainsanity.pipeline import Pipeline

    found = Session.of(Pipeline.from_trainer(trainer)).measurements.get("supervised")
    rows = len(trainer.train_dataset)
    assert found.whole
    assert (found.rows, found.spans, found.silent) == (rows, TURNS * rows, 0)
    assert found.roles["assistant"][1] == found.counted


def measure(rows: int, column: str, folder: Path) -> dict[str, Any]:
    """Seconds, ratios and memory where that column says what is trained."""
    from datasets import Dataset

    from fixtures.templates import trainer as of_template

    path = folder / f"{column}.arrow"
    trainer = of_template("chatml", rows=2)
    write(path, rows, column, trainer.processing_class)
    trainer.train_dataset = Dataset.from_file(str(path))
    if column != "labels":
        trainer.data_collator, trainer.args.remove_unused_columns = masked, False
    table = trainer.train_dataset.data.table
    bare(table)  # the file's pages are in memory from here on
    with peak() as extra:
        stage(trainer)
    rounds = [
        (seconds(stage, trainer), seconds(bare, table), seconds(least, table))
        for _ in range(ROUNDS)
    ]
    size = path.stat().st_size
    path.unlink()
    ours, plain, counted = (statistics.median(one) for one in zip(*rounds, strict=True))
    return {
        "column": column,
        "rows": rows,
        "tokens": sum(len(chunk.values) for chunk in table.column("input_ids").chunks),
        "gib": round(size / 2**30, 2),
        "seconds": round(ours, 3),
        "bare_seconds": round(plain, 3),
        "least_seconds": round(counted, 3),
        "of_bare": round(statistics.median(a / b for a, b, _ in rounds), 2),
        "of_least": round(statistics.median(a / c for a, _, c in rounds), 2),
        "rows_per_second": round(rows / ours),
        "extra_mib": round(extra[0] / 2**20, 1),
    }


def main() -> int:
    """Print the figures; the exit code says whether they are good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="?", type=int, default=ROWS)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="trainsanity-") as folder:
        for column in ("labels", "assistant_masks"):
            row = measure(options.rows, column, Path(folder))
            found.append(row)
            print(  # noqa: T201
                f"{row['rows']:,} conversations, {row['tokens']:,} tokens, {column}, {row['gib']} "
                f"GiB: {row['seconds']:.2f} s, {row['rows_per_second']:,} rows a second, a bare "
                f"sum {row['bare_seconds']:.2f} s ({row['of_bare']} times), shares alone "
                f"{row['least_seconds']:.2f} s ({row['of_least']} times), "
                f"{row['extra_mib']:.0f} MiB",
                flush=True,
            )
    if options.json:
        document = {"scan_targets": found}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    large = any(row["extra_mib"] * 2**20 >= MEMORY for row in found)
    return int(large or any(row["of_bare"] > TIMES for row in found))


if __name__ == "__main__":
    sys.exit(main())
