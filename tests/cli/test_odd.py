"""Odd things that users do: none ends in a traceback, and each exit code says what happened."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]

Call = Callable[..., Result]

LOG = "{'loss': 5.7, 'grad_norm': 2.0, 'learning_rate': 1e-05, 'step': 1}\n"

FACTORIES = """
import os, random, shutil, sys, warnings
import numpy, torch
from cli_factories import _rows, _trainer

def changes_directory():
    os.chdir("/")
    return _trainer()

def removes_its_folder():
    trainer = _trainer()
    shutil.rmtree(os.getcwd())
    return trainer

def seeds_everything():
    random.seed(0); numpy.random.seed(0); torch.manual_seed(0)
    return _trainer()

def switches_gradients_off():
    torch.set_grad_enabled(False)
    return _trainer()

def takes_the_streams():
    sys.stdout = sys.stderr = None
    return _trainer()

def closes_stdout():
    sys.stdout.close()
    return _trainer()

def warns():
    warnings.warn("a warning of mine")
    return _trainer()

def trained_already():
    trainer = _trainer()
    trainer.args.max_steps = 2
    trainer.train()
    trainer.args.max_steps = 10
    return trainer

shared = []

def one_of_two():
    shared.extend([_trainer(), _trainer()])
    shared[1].model = shared[0].model
    return shared[0]

def metrics_raise():
    trainer = _trainer()
    trainer.compute_metrics = lambda predictions: 1 / 0
    return trainer

def fäctory_of_mine():
    return _trainer()

def returns_a_subprocess_of_output():
    os.system("echo child 1>&2")
    return _trainer()
"""

HARMLESS = [
    "changes_directory",
    "removes_its_folder",
    "seeds_everything",
    "takes_the_streams",
    "closes_stdout",
    "warns",
    "one_of_two",
    "metrics_raise",
    "fäctory_of_mine",
    "returns_a_subprocess_of_output",
]


@pytest.fixture
def odd(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program in a process, in a folder that has the odd factories."""
    (tmp_path / "odd_factories.py").write_text(FACTORIES, encoding="utf-8")
    here = tmp_path / "here"
    here.mkdir()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "examples"), str(tmp_path)])

    def start(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                "bash",
                "-o",
                "pipefail",
                "-c",
                command.replace("PROGRAM", f"{sys.executable} -m trainsanity"),
            ],
            cwd=here,
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return start


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_odd_and_harmless_is_judged(
    name: str, odd: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ended = odd(f"PROGRAM run odd_factories:{name} --select TS5,TS6")
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 0, ended.stderr
    assert "sane as far as judged" in ended.stdout or name == "closes_stdout"


def test_a_trainer_that_has_trained_is_judged_and_named(
    odd: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ended = odd("PROGRAM run odd_factories:trained_already --json -")
    assert "Traceback" not in ended.stderr
    assert "this Trainer has trained 2 steps before" in ended.stdout


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("PROGRAM list >&-", 0),
        ("PROGRAM diagnose ../x.log >&-", 0),
        ("PROGRAM diagnose ../x.log --json - >&-", 2),
        ("PROGRAM list qwertz 2>&-", 2),
        ("PROGRAM explain --all | true", 1),
        ("PROGRAM diagnose - < ../x.log | head -1", 0),
        ("PROGRAM diagnose - <&-", 2),
        ("PROGRAM list > /dev/full", 3),
        ("PROGRAM diagnose ../x.log > /dev/full", 3),
        ("env -u HOME PROGRAM list", 0),
        ("COLUMNS=1 PROGRAM diagnose ../x.log", 0),
        ("COLUMNS=many TERM=none PROGRAM diagnose ../x.log", 0),
        ("LC_ALL=C PYTHONIOENCODING=ascii PROGRAM diagnose ../x.log", 0),
        ("PYTHONWARNINGS=error PROGRAM list", 0),
        ("PYTHONOPTIMIZE=2 PROGRAM list", 0),
        ("TMPDIR=/no/such/folder PROGRAM list", 0),
    ],
)
def test_odd_surroundings(
    command: str,
    code: int,
    odd: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    (tmp_path / "x.log").write_text(LOG)
    ended = odd(command)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert list((tmp_path / "here").iterdir()) == []
