"""Factories whose rows are bad, each in one way: `cli_factories.healthy` with another dataset."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cli_factories
import pyarrow as pa
import torch
from datasets import Dataset


def columns(rows: int = 14) -> dict[str, list[Any]]:
    """By column; all rows are different."""
    made = cli_factories._rows(rows)
    return {name: [row[name] for row in made] for name in made[0]}


def trainer(data: Any) -> Any:
    made = cli_factories._trainer()
    made.train_dataset = data
    return made


def changed(value: Any, *names: str) -> Any:
    """That value in row 2 of four, which are one batch: no step is without it."""
    made = {**columns(4), "labels": [0, 1, 2, 0]}
    for name in names:
        made[name][2] = value
    return trainer(Dataset.from_dict(made))


def ids_missing() -> Any:
    return trainer(Dataset.from_dict(columns()).remove_columns("input_ids"))


def ids_misnamed() -> Any:
    return trainer(Dataset.from_dict(columns()).rename_column("input_ids", "ids"))


def text_only() -> Any:
    return trainer(Dataset.from_dict({"text": ["a text"] * 14, "label": [0] * 14}))


def words() -> Any:
    return trainer(Dataset.from_dict({**columns(), "input_ids": ["a text"] * 14}))


def labels_misnamed() -> Any:
    return trainer(Dataset.from_dict(columns()).rename_column("labels", "category"))


def labels_ragged() -> Any:
    made = columns()
    return trainer(Dataset.from_dict({**made, "labels": [[0, 1], [2]] * 7}))


def label_null() -> Any:
    return changed(None, "labels")


def label_too_high() -> Any:
    return changed(3, "labels")


def id_negative() -> Any:
    return changed([4, 7, -7, 5, 2, 9], "input_ids")


def id_too_high() -> Any:
    return changed([4, 7, 50, 5, 2, 9], "input_ids")


def row_null() -> Any:
    return changed(None, "input_ids")


def id_null() -> Any:
    return changed([4, 7, None, 5, 2, 9], "input_ids")


def row_empty() -> Any:
    return changed([], "input_ids", "attention_mask")


def mask_shorter() -> Any:
    return changed([1, 1], "attention_mask")


def no_rows() -> Any:
    return trainer(Dataset.from_dict(columns()).select([]))


def no_rows_to_evaluate() -> Any:
    made = trainer(Dataset.from_dict(columns()))
    made.eval_dataset = made.train_dataset.select([])
    return made


def _written(rows: int) -> Path:
    """The rows in a file as `datasets` writes it, in a folder that its Trainer's end removes."""
    path = Path(tempfile.mkdtemp(prefix="trainsanity-test-")) / "data.arrow"
    kinds = {
        "input_ids": pa.list_(pa.int32()),
        "attention_mask": pa.list_(pa.int8()),
        "labels": pa.int64(),
    }
    table = pa.table(columns(rows), schema=pa.schema(kinds))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return path


def _read(path: Path) -> Any:
    """What is mapped into memory needs no name any more."""
    try:
        return trainer(Dataset.from_file(str(path)))
    finally:
        path.unlink()
        path.parent.rmdir()


def corrupted() -> Any:
    """A row ends where there is nothing."""
    path = _written(14)
    content = path.read_bytes()
    right = struct.pack("<5i", 0, 6, 12, 18, 24)
    path.write_bytes(content.replace(right, struct.pack("<5i", 0, 6, 999, 18, 24)))
    return _read(path)


def cut_short() -> Any:
    path = _written(2_000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return _read(path)


def not_arrow() -> Any:
    path = _written(14)
    path.write_bytes(b"input_ids,labels\n" * 40)
    return _read(path)


class Stream(torch.utils.data.IterableDataset[Any]):
    """Rows one after the other, as often as one asks."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        yield from cli_factories._rows(self.rows)


class Once(Stream):
    """Rows one after the other, for the first who asks."""

    def __init__(self, rows: int) -> None:
        self.left = iter(cli_factories._rows(rows))

    def __iter__(self) -> Iterator[Any]:
        return self.left


def stream() -> Any:
    return trainer(Stream(14))


def stream_without_rows() -> Any:
    return trainer(Stream(0))


def stream_read_once() -> Any:
    return trainer(Once(14))


def stream_misnamed() -> Any:
    data = Dataset.from_dict(columns()).rename_column("input_ids", "ids")
    return trainer(data.to_iterable_dataset())
