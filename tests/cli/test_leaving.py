"""A factory's own code does not choose how the process ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("status", [0, 1])
def test_a_factory_that_leaves_is_not_green(tmp_path, status):
    tmp_path.joinpath("mod.py").write_text(
        f"import os\ndef build():\n    os._exit({status})\n    return 1\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "trainsanity", "run", "mod:build", "--json", "r.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3
    assert ended.stderr.splitlines()[-1] == (
        f"trainsanity: error: the pipeline's own code called os._exit({status}): there is no report"
    )
    assert not tmp_path.joinpath("r.json").exists()
