"""`run --patch`: the proved repairs as a diff of the user's script, which is green with them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.conftest import EXAMPLES

pytestmark = pytest.mark.long

Call = Callable[..., Result]
Complaint = Callable[..., str]
Launch = Callable[..., subprocess.CompletedProcess[str]]

ILL = EXAMPLES / "ill"

CHANGES = {
    "adapter": ["+    model = PeftModel.from_pretrained(tiny(), folder, is_trainable=True)"],
    "mask": ["+trainer.data_collator = with_mask_of_rows"],
    "names": ["+trainer.model.config.label2id = {'billing': 0, 'shipping': 1, 'other': 2}"],
    "optimizer": ["-    optimizers=(optimizer, None),"],
    "warmup": ["-        warmup_steps=500,", "+        warmup_steps=0,"],
}
"""By script of ``tests/examples/ill``, the lines that its patch changes."""

LONG = pytest.mark.matrix


def test_each_script_has_its_lines() -> None:
    assert {path.stem for path in ILL.glob("*.py")} == set(CHANGES)


@pytest.mark.parametrize(
    "name", ["optimizer", *(pytest.param(n, marks=LONG) for n in CHANGES if n != "optimizer")]
)
def test_a_script_is_green_with_its_patch(name: str, launch: Launch, tmp_path: Path) -> None:
    script = tmp_path / f"{name}.py"
    shutil.copy(ILL / script.name, script)
    before = script.read_bytes()
    first = launch("run", script.name, "--patch", "fix.patch")
    assert first.returncode == 1, first.stderr
    assert script.read_bytes() == before
    assert f"patch: 1 proved repair of {name}.py, in fix.patch; git apply fix.patch" in first.stdout
    diff = (tmp_path / "fix.patch").read_text()
    assert f"--- a/{name}.py\n+++ b/{name}.py\n" in diff
    assert "proved: with " in diff.partition("---")[0]
    changed = [
        line for line in diff.splitlines() if line[0] in "+-" and line[1:3] not in ("--", "++")
    ]
    if name == "mask":  # a function around the collator
        assert set(CHANGES[name]) <= {*changed}
    else:
        expected = [line for line in CHANGES[name] if line[0] == "+"]
        assert [line for line in changed if line[0] == "+"] == expected
    subprocess.run(["git", "apply", "--check", "fix.patch"], cwd=tmp_path, check=True)
    subprocess.run(["patch", "-p1", "-i", "fix.patch"], cwd=tmp_path, check=True)
    again = launch("run", script.name, "--patch", "second.patch")
    assert again.returncode == 0, again.stdout
    assert "patch: nothing was written: nothing failed" in again.stdout
    assert not (tmp_path / "second.patch").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("no/such/fix.patch", "it cannot be written"), ("train.py", "that is code"), ("", "give the")],
)
def test_a_file_that_cannot_be_written(
    call: Call, complaint: Complaint, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "train.py").write_text("")
    said = complaint(call("run", "cli_factories:loud", "--patch", name))
    assert said.startswith("--patch")
    assert words in said


def test_a_class_that_is_handed_over_has_no_line(call: Call, tmp_path: Path) -> None:
    done = call("run", "cli_factories:loud", "--select", "loss.matches_reference",
                "--patch", "fix.patch")  # fmt: skip
    assert done.exit_code == 1
    last = done.stdout.splitlines()[-1]
    assert last == (
        "patch: nothing was written: no line is known to write it to: cli_factories.py has no call "
        "of LoudTrainer"
    )
    assert not (tmp_path / "fix.patch").exists()
