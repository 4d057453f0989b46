"""A large log is read in blocks as it is read line by line."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest

from trainsanity.diagnose import blocks, reading
from trainsanity.diagnose.entries import Entry
from trainsanity.errors import UsageError


def entries(count, seed=1):
    rng = random.Random(seed)
    return [
        {"loss": round(5.7 - i / count + rng.random(), 4), "grad_norm": round(rng.random(), 3),
         "learning_rate": round(1e-5 * (1 - i / count), 9), "epoch": round(i / 700, 2)}
        for i in range(count)
    ]  # fmt: skip


def printed(rows):
    return [f"{row}\n" for row in rows]


def steps(rows):
    return [{"step": i + 1, **row} for i, row in enumerate(rows)]


def changed(rows, at, **values):
    return [*rows[:at], {**rows[at], **values}, *rows[at + 1 :]]


MANY = entries(6_000)
LINES = printed(MANY)
AT = 3_503
"""Somewhere within a block."""

ODD = {
    "as Trainer prints them": LINES,
    "values in quotes": printed([{k: str(v) for k, v in row.items()} for row in MANY]),
    "JSON lines with steps": [json.dumps(row) + "\n" for row in steps(MANY)],
    "Windows": [line.replace("\n", "\r\n") for line in LINES],
    "no norm": printed([{"loss": row["loss"], "epoch": row["epoch"]} for row in MANY]),
    "further columns": printed([{**row, "num_tokens": 7.0, "accuracy": 0.5} for row in MANY]),
    "nan": printed(changed(changed(MANY, AT, loss=float("nan")), AT + 9, grad_norm=float("inf"))),
    "a norm of 0": printed(changed(MANY, AT, grad_norm=0.0)),
    "run starts again": printed(steps(MANY[:AT]) + steps(MANY[AT:])),
    "run was resumed": printed(steps(MANY[:AT]) + steps(MANY)[AT - 900 :]),
    "a run resumed without steps": printed(MANY[:AT] + MANY[AT - 900 :]),
    "each twice": [line for line in printed(steps(MANY)) for _ in (1, 2)],
    "one twice": printed([*steps(MANY)[:AT], *steps(MANY)[AT - 1 :]]),
    "one number is none": printed(changed(MANY, AT, loss="?")),
    "numbers as numpy prints them": printed(changed(MANY, AT, loss="nan(1)"))[:AT]
    + [line.replace("'loss': ", "'loss': np.float64(").replace(", 'g", "), 'g")
       for line in LINES[AT:]],
    "a number in words": [*LINES[:AT], LINES[AT].replace("'loss': ", "'loss': nan(1) "),
                          *LINES[AT:]],
    "a rate is none": printed(changed(MANY, AT, learning_rate="1e-05 (peak)")),
    "other order": printed([dict(sorted(row.items())) if i == AT else row
                            for i, row in enumerate(MANY)]),
    "a word between": [*LINES[:AT], "Saving model checkpoint to out\n", *LINES[AT:]],
    "settings between": [*LINES[:AT], "  Total optimization steps = 1,000\n", *LINES[AT:]],
    "an empty line": [*LINES[:AT], "\n", *LINES[AT:]],
    "a progress bar": [*LINES[:AT], "  1%|#| 1/2\r  2%|#| 2/2\r" + LINES[AT], *LINES[AT:]],
    "evaluations": [
        one for i, line in enumerate(LINES)
        for one in ([line, "{'eval_loss': 5.5, 'epoch': 1.0}\n"] if i % 1500 == 7 else [line])
    ],
    "a summary": [*LINES, "{'train_runtime': 5.0, 'train_loss': 4.0}\n"],
    "no ASCII": [*LINES[:AT], "größe\n", *LINES[AT:]],
    "a line that is cut": [*LINES[:AT], LINES[AT][:30] + "\n", *LINES[AT:]],
    "cut at the end": [*LINES, LINES[AT][:30]],
    "no newline at the end": [*LINES, LINES[-1].strip()],
    "a long line": [*LINES[:AT], "x" * 30_000 + "\n", *LINES[AT:]],
    "nested": [*LINES[:AT], '{"a": {"loss": 4.5, "step": 3}}\n', *LINES[AT:]],
    "a table": ["step,loss,grad_norm\n", *(f"{i},5.{i},2.5\n" for i in range(5000))],
    "a comma in a key": printed([{"loss, mean": 1.0, **row} for row in MANY]),
    "two losses": printed([{"train_loss": 1.0, **row} for row in MANY]),
    "byte order mark": ["\ufeff" + LINES[0], *LINES[1:]],
}  # fmt: skip


def read(path):
    try:
        return dataclasses.asdict(reading.read(str(path)))
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize("name", ODD)
def test_blocks_are_read_as_lines_are(name, tmp_path, monkeypatch):
    path = tmp_path / "x.log"
    path.write_bytes("".join(ODD[name]).encode())
    line_by_line = read(path)
    monkeypatch.setattr(reading, "LARGE", 0)
    monkeypatch.setattr(blocks, "FIRST", 512)
    monkeypatch.setattr(blocks, "BLOCK", 20_000)
    # As text: nan is not equal to nan.
    assert str(read(path)) == str(line_by_line)


def test_few_entries_of_an_even_log_are_made(tmp_path, monkeypatch):
    made = []

    def entry(*given, **named):
        made.append(given)
        return Entry(*given, **named)

    monkeypatch.setattr(blocks, "Entry", entry)
    monkeypatch.setattr("trainsanity.diagnose.entries.Entry", entry)
    monkeypatch.setattr(reading, "LARGE", 0)
    path = tmp_path / "x.log"
    path.write_text("".join(printed(entries(100_000))))
    assert reading.read(str(path)).count == 100_000
    # The first block line by line, and then those that are kept.
    assert 4_096 < len(made) < 20_000


def test_a_document_over_several_lines_is_read_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LARGE", 0)
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"max_steps": 9, "log_history": steps(MANY[:50])}, indent=1))
    log = reading.read(str(path))
    assert (log.count, log.facts) == (50, {"max_steps": 9})
