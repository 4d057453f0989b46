"""Bad data ends in one sentence: a wrong call, or one finding and nothing that follows from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Call = Callable[..., Result]
Complaint = Callable[..., str]

REFUSED = {
    "ids_missing": "train_dataset has no column 'input_ids' (it has attention_mask, labels): token",
    "ids_misnamed": "train_dataset has no column 'input_ids' (it has ids, attention_mask, labels)",
    "text_only": "train_dataset has no column 'input_ids' (it has text, label): tokenize it, and",
    "words": "input_ids of train_dataset is of type string; give each row a flat list of numbers",
    "labels_misnamed": "the batch has no labels (the collator is given rows with attention_mask, i",
    "no_rows": "train_dataset is empty: pass at least one batch of rows",
    "no_rows_to_evaluate": "eval_dataset is empty: pass rows, or None",
    "corrupted": "column 'attention_mask of train_dataset' is corrupted (a row ends before it ",
    "cut_short": "cli_data:cut_short raised OSError: Expected to be able to read",
    "not_arrow": "cli_data:not_arrow raised ArrowInvalid: Expected to read",
    "stream_without_rows": "train_dataset is empty: pass rows, or None",
    "stream_read_once": "train_dataset (Once) can be read only once: let its __iter__ return a new",
    "stream_misnamed": "train_dataset has no column 'input_ids' (it has ids, attention_mask, label",
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_cannot_be_judged(
    call: Call, complaint: Complaint, tmp_path: Path, name: str
) -> None:
    result = call("run", f"cli_data:{name}", "--json", "report.json")
    assert complaint(result).startswith(REFUSED[name])
    assert list(tmp_path.iterdir()) == []


FOUND = {
    "labels_ragged": ("TS202", "row 0 of train_dataset has a list<item: int64> in column 'labels'"),
    "label_null": (
        "TS202",
        "row 2 of train_dataset has no label in column 'labels'; single_label_",
    ),
    "label_too_high": (
        "TS201",
        "1 of 4 rows in train_dataset have the label 3; the head has outp",
    ),
    "id_negative": (
        "TS105",
        "row 2 of train_dataset has the id -7, the embedding has rows 0 to 49",
    ),
    "id_too_high": (
        "TS105",
        "row 2 of train_dataset has the id 50, the embedding has rows 0 to 49",
    ),
    "row_null": (
        "TS206",
        "1 of 4 rows in train_dataset are null, or have a null among their ids; ",
    ),
    "id_null": (
        "TS206",
        "1 of 4 rows in train_dataset are null, or have a null among their ids; ",
    ),
    "row_empty": (
        "TS206",
        "1 of 4 rows in train_dataset are without text; the first is row 2 of ",
    ),
    "mask_shorter": ("TS206", "1 of 4 rows in train_dataset are of another length than their att"),
}


@pytest.mark.parametrize("name", FOUND)
def test_rows_that_stop_the_step_are_the_one_thing_told(call: Call, name: str) -> None:
    result = call("run", f"cli_data:{name}", "--json", "-")
    assert result.exit_code == 1, result.stderr
    rows = json.loads(result.stdout)["results"]
    told = [row for row in rows if row["status"] not in ("pass", "skip", "blocked")]
    code, message = FOUND[name]
    # torch.tensor([[], [1, 2]]) has no element: beside an empty row the others are lost, too.
    besides = ["TS302"] if name == "row_empty" else []
    assert [(row["code"], row["status"]) for row in told] == [
        (one, "fail") for one in (code, *besides)
    ]
    assert told[0]["message"].startswith(message)
    blocked = [row["reason"] for row in rows if row["status"] == "blocked"]
    assert any(f"{code} {told[0]['name']} comes first" in reason for reason in blocked)


def test_a_stream_of_torch_is_judged_by_a_sample(call: Call) -> None:
    result = call("run", "cli_data:stream", "--json", "-")
    assert result.exit_code == 0, result.stderr
    rows = {row["name"]: row for row in json.loads(result.stdout)["results"]}
    assert "of 14 rows lie between" in rows["dataset.labels_in_range"]["message"]
    assert rows["loss.matches_reference"]["status"] == "pass"
