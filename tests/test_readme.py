"""What README.md shows is what the tool prints and what was measured."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.test_tiny_qwen3 import DEFECT

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_generated_blocks_are_current():
    blocks = ["checks", "score", "mutation", "benchmarks", "measured"] + (
        ["report:incident"] if DEFECT else []
    )
    said = subprocess.run(
        [sys.executable, ".ci/readme.py", "--check", *blocks],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()
