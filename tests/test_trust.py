"""What the program never does: run code out of data, talk to the network, follow a log's paths."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]

FORBIDDEN = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
"""Modules that run code when they read data."""

NETWORK = {"socket", "ssl", "http", "urllib", "requests", "httpx", "aiohttp", "ftplib", "smtplib"}

HOOK = """
import os, sys

def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        if isinstance(address, (str, bytes)) and event == "socket.connect":
            return  # a socket in the file system
        print("CONNECTS", event, arguments[1:], file=sys.__stderr__, flush=True)
        raise ConnectionError("there is no network here")
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        print("OPENS", os.fsdecode(arguments[0]), file=sys.__stderr__, flush=True)

sys.addaudithook(note)
from trainsanity.cli.main import main
main()
"""
"""The program under an audit hook, which sees also what a library does."""


def sources() -> Iterator[tuple[Path, ast.AST]]:
    for path in sorted((ROOT / "trainsanity").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path.relative_to(ROOT), node


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [name.name.partition(".")[0] for name in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [(node.module or "").partition(".")[0]]
    return []


def test_no_module_that_runs_code_out_of_data_and_none_that_connects() -> None:
    found = [(path, name) for path, node in sources() for name in imported(node)]
    assert [pair for pair in found if pair[1] in FORBIDDEN | NETWORK] == []
    assert ("json" in {name for _, name in found}) is True, "the imports are seen"


def test_nothing_is_unpickled_and_no_remote_code_is_trusted() -> None:
    for path, node in sources():
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
        where = f"{path}:{node.lineno} {name}"
        assert "trust_remote_code" not in keywords, where
        assert keywords.get("allow_pickle", "False") == "False", where
        if name.endswith("torch.load"):
            assert keywords.get("weights_only") == "True", where
        if name in ("exec", "eval"):
            # The user's own training script, which is what was asked for.
            assert path == Path("trainsanity/sources/script.py"), where


IMPATIENT = "import time\ntime.sleep = lambda seconds: None\n"
"""Who asks the hub again and again, a minute in all, does it at once."""


def run(
    folder: Path, *arguments: str, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "examples"), str(folder)])
    unset = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-c", before + HOOK, *arguments],
        cwd=folder,
        env={**inherited, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


NAMED = """
from cli_factories import _trainer

def build():
    trainer = _trainer()
    trainer.model.config._name_or_path = "acme/no-such-checkpoint"
    return trainer
"""


@pytest.mark.parametrize("target", ["cli_factories:healthy", "named_pipeline:build"])
def test_a_run_connects_to_nobody(tmp_path: Path, target: str) -> None:
    (tmp_path / "named_pipeline.py").write_text(NAMED)
    result = run(tmp_path, "run", target)
    assert "OPENS" in result.stderr, "the hook sees nothing"
    assert "CONNECTS" not in result.stderr
    assert result.returncode == 0, result.stdout


ASKS_THE_HUB = """
from transformers import AutoModelForSequenceClassification

def build():
    return AutoModelForSequenceClassification.from_pretrained("acme/no-such-model")
"""


def test_who_names_a_hub_id_asks_the_hub_and_offline_is_honoured(tmp_path: Path) -> None:
    (tmp_path / "hub_pipeline.py").write_text(ASKS_THE_HUB)
    cache = str(tmp_path / "cache")
    result = run(tmp_path, "run", "hub_pipeline:build", HF_HOME=cache, HF_HUB_OFFLINE="1")
    assert result.returncode == 2
    assert "CONNECTS" not in result.stderr
    sentence = result.stderr.splitlines()[-1]
    assert sentence.startswith("trainsanity: error: hub_pipeline:build raised OSError: ")
    result = run(tmp_path, "run", "hub_pipeline:build", before=IMPATIENT, HF_HOME=cache)
    assert result.returncode == 2
    assert "CONNECTS" in result.stderr, "the hook sees no connection"


def test_paths_in_a_log_are_never_opened(tmp_path: Path) -> None:
    decoy = tmp_path / "decoy"
    decoy.mkdir()
    for name in ("pytorch_model.bin", "trainer_state.json", "config.json", "x.log"):
        (decoy / name).write_text("{}")
    entry = {"loss": 5.7, "grad_norm": 2.0, "learning_rate": 1e-5, "step": 1, "run": str(decoy)}
    state = {
        "best_model_checkpoint": str(decoy),
        "best_metric": str(decoy / "x.log"),
        "output_dir": str(decoy),
        "trial_name": f"file://{decoy}/config.json",
        "log_history": [entry, {**entry, "step": 2, "best_model_checkpoint": str(decoy)}],
    }
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "train.log").write_text(
        f"Saving model checkpoint to {decoy}\nloading file {decoy}/x.log\n{entry}\n"
    )
    for log in ("trainer_state.json", "train.log", "."):
        result = run(tmp_path, "diagnose", log, "--num-labels", "280")
        assert result.returncode == 0, result.stderr
        opened = re.findall(r"^OPENS (.*)$", result.stderr, re.MULTILINE)
        assert any("trainer_state.json" in path or "train.log" in path for path in opened)
        assert [path for path in opened if "decoy" in path] == []


def test_what_comes_from_data_is_text_in_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs trainsanity[html]")
    (tmp_path / "evil.py").write_text(
        "from cli_factories import _trainer\n"
        "BAD = '<script>alert(1)</script><img src=x onerror=alert(2)>\"\\''\n"
        "def build():\n"
        "    trainer = _trainer()\n"
        "    trainer.model.config.id2label = {k: f'{BAD}{k}' for k in range(3)}\n"
        "    trainer.model.config._name_or_path = BAD\n"
        "    trainer.train_dataset = [{**row, BAD: BAD, 'labels': 7} for row in"
        " trainer.train_dataset]\n"
        "    from trainsanity import Pipeline\n"
        "    return Pipeline.from_trainer(trainer, notes=[BAD])\n"
    )
    result = run(tmp_path, "run", "evil:build", "--select", "dataset,collator", "--html", "r.html")
    assert result.returncode == 1, result.stderr
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
