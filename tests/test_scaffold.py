"""The scaffold of a new check: what it writes loads, and it overwrites nothing."""

from __future__ import annotations

import ast
import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load():
    spec = importlib.util.spec_from_file_location("scaffold", ROOT / ".ci" / "scaffold.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path):
    for folder in ("trainsanity/checks/dataset", "fixtures/faults"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def test_a_check_and_its_fault_are_begun(copy):
    left = load().scaffold("dataset.rows_rhyme", copy)
    module = (copy / "trainsanity/checks/dataset/rows_rhyme.py").read_text(encoding="utf-8")
    faults = (copy / "fixtures/faults/dataset.py").read_text(encoding="utf-8")
    assert "def rows_rhyme(" in module
    ast.parse(module)
    assert "def breaks_rows_rhyme(" in faults
    ast.parse(faults)
    assert "tests/snapshots/checks/dataset.rows_rhyme.json" in left


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dataset", "give STAGE.INVARIANT"),
        ("weather.rain", "one of tokenizer"),
        ("dataset.no_duplicates", "is there already"),
    ],
)
def test_what_cannot_be_begun(copy, name, says):
    with pytest.raises(SystemExit, match=says):
        load().scaffold(name, copy)
