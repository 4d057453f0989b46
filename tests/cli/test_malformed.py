"""Bad input, tried in numbers: a sentence and exit code 2, or a report that is not green."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).parents[1] / "examples"

Call = Callable[..., Result]

LONGEST = 1_000
"""Characters of a sentence: what is longer is not read."""

sys.path.insert(0, str(EXAMPLES))
PIPELINES = sorted(importlib.import_module("malformed_pipelines").CASES)
sys.path.remove(str(EXAMPLES))


@contextlib.contextmanager
def in_time(seconds: int = 120) -> Iterator[None]:
    """Fails where something hangs."""

    def over(number: int, frame: Any) -> None:
        raise TimeoutError(f"no answer in {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(call: Call, folder: Path, *arguments: str) -> str:
    """What the program says: one sentence and 2, or a report with 1 or 3; nothing is written."""
    before = sorted(path.name for path in folder.iterdir())
    with in_time():
        result = call(*arguments)
    said = result.stdout + result.stderr
    assert result.exit_code in (1, 2, 3), f"{result.exit_code}: {said}"
    assert "Traceback" not in said
    assert sorted(path.name for path in folder.iterdir()) == before
    lines = result.stderr.strip().splitlines()
    if result.exit_code == 2 or not result.stdout:
        assert result.stdout == ""
        assert lines[-1].startswith("trainsanity: error: ")
        assert 0 < len(lines[-1].removeprefix("trainsanity: error: ").strip()) <= LONGEST
        return lines[-1]
    # A report: of what failed, or why there is no verdict.
    assert ("not sane" in said) or ("incomplete" in said) or ("judged" in said) or "trouble" in said
    return result.stdout


# --- factories, rows, collators, models, arguments ------------------------------------------------

STAGES = "dataset,collator,TS401,loss,TS601,TS603,schedule"


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_that_nobody_can_train(name: str, call: Call, tmp_path: Path) -> None:
    refused(call, tmp_path, "run", f"malformed_pipelines:{name}", "--select", STAGES)


# --- the command line -----------------------------------------------------------------------------

CALLS = [
    [],
    ["ruin"],
    ["run", "--select"],
    ["run", "--select", "="],
    ["run", "--select", "TS"],
    ["run", "--select", "ts502"],
    ["run", "--select", "TS502;TS503"],
    ["run", "--select", "*"],
    ["run", "--select", "[", "cli_factories:healthy"],
    ["run", "--select", "loss.*.*", "cli_factories:healthy"],
    ["run", "--select", "ünïcödé", "cli_factories:healthy"],
    ["run", "--select", "x" * 10_000, "cli_factories:healthy"],
    ["run", "--select", "\x00", "cli_factories:healthy"],
    ["run", "--ignore", "*", "cli_factories:healthy"],
    ["run", "--ignore", ",", "cli_factories:healthy"],
    ["run", "--max-cost", "", "cli_factories:healthy"],
    ["run", "--max-cost", "5", "cli_factories:healthy"],
    ["run", "--max-cost", "STEP,RUN", "cli_factories:healthy"],
    ["run", "--max-cost", "static", "--select", "TS502", "cli_factories:healthy"],
    ["run", "--json", "", "cli_factories:healthy"],
    ["run", "--json", "a/b/c.json", "cli_factories:healthy"],
    ["run", "--json", "/", "cli_factories:healthy"],
    ["run", "--json", "x" * 300, "cli_factories:healthy"],
    ["run", "--json", "a\x00b", "cli_factories:healthy"],
    ["run", "--html", "a\x00b", "cli_factories:healthy"],
    ["run", "--github-summary", "a\x00b", "cli_factories:healthy"],
    ["run", "--json", "/proc/version", "cli_factories:healthy"],
    ["run", "--strict=yes", "cli_factories:healthy"],
    ["run", "-x", "cli_factories:healthy"],
    ["run", ":"],
    ["run", "::"],
    ["run", "a:"],
    ["run", ":b"],
    ["run", "a b:c"],
    ["run", "a-b:c"],
    ["run", "../x:f"],
    ["run", "/etc/passwd:f"],
    ["run", ".:f"],
    ["run", "..:f"],
    ["run", ".cli_factories:healthy"],
    ["run", "cli_factories.:healthy"],
    ["run", "cli_factories..x:healthy"],
    ["run", "cli_factories.healthy"],
    ["run", "cli_factories:healthy()"],
    ["run", "cli_factories:healthy:again"],
    ["run", "cli_factories:healthy.build"],
    ["run", "cli_factories:"],
    ["run", "cli_factories: healthy"],
    ["run", "cli_factories:_trainer.__wrapped__"],
    ["run", "cli_factories:built"],
    ["run", "cli_factories:os"],
    ["run", "sys:exit"],
    ["run", "os:getcwd"],
    ["run", "builtins:list"],
    ["run", "no_such\x00module:f"],
    ["run", "nö_such_mödule:f"],
    ["run", "x" * 5_000 + ":f"],
    ["run", ""],
    ["run", " "],
    ["run", "train.py"],
    ["run", "train.py", "other.py"],
    ["run", "train\x00.py"],
    ["run", "--", "cli_factories:healthy"],
    ["show", ":"],
    ["show", "cli_factories:healthy", "--rows", "0"],
    ["show", "cli_factories:healthy", "--rows", "many"],
    ["show", "cli_factories:healthy", "--rows", "-1"],
    ["show", "cli_factories:empty"],
    ["show", "malformed_pipelines:collator_raises"],
    ["show", "malformed_pipelines:rows_are_none"],
    ["show", "malformed_pipelines:collator_returns_text"],
    ["explain"],
    ["explain", ""],
    ["explain", ","],
    ["explain", "TS9999"],
    ["explain", "\x00"],
    ["explain", "--all", "TS502"],
    ["list", "TS502,qwertz"],
    ["list", "--json"],
    ["list", "--json", "a/b.json"],
    ["diagnose"],
    ["diagnose", ""],
    ["diagnose", "."],
    ["diagnose", "\x00"],
    ["diagnose", "no.log"],
    ["diagnose", "x" * 5_000],
    ["diagnose", "no.log", "--num-labels", "-3"],
    ["diagnose", "no.log", "--num-labels", "1e9"],
    ["diagnose", "no.log", "--learning-rate", "fast"],
    ["diagnose", "no.log", "--world-size", "0"],
]


@pytest.mark.parametrize("arguments", CALLS, ids=lambda words: " ".join(words)[:40].encode(
    "unicode_escape").decode())  # fmt: skip
def test_a_call_that_is_none(arguments: list[str], call: Call, tmp_path: Path) -> None:
    result = call(*arguments)
    if not arguments:  # the help
        assert (result.exit_code, result.stdout) == (2, "")
        return
    assert result.exit_code == 2
    refused(call, tmp_path, *arguments)


# --- logs -----------------------------------------------------------------------------------------

STATE = json.dumps(
    {
        "best_model_checkpoint": None,
        "global_step": 2,
        "log_history": [
            {"loss": 5.7, "grad_norm": 2.0, "learning_rate": 1e-05, "step": 1},
            {"loss": 5.6, "grad_norm": 2.1, "learning_rate": 2e-05, "step": 2},
        ],
    }
)

LOGS: list[str | bytes] = [
    "",
    " \n\n\t\n",
    "\ufeff",
    "null",
    "3",
    '"loss"',
    "true",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    '["loss", 3]',
    '{"log_history": null}',
    '{"log_history": 3}',
    '{"log_history": {}}',
    '{"log_history": []}',
    '{"log_history": [3, null, "x"]}',
    '{"log_history": [{}]}',
    '{"log_history": [{"loss": null}]}',
    '{"log_history": [{"loss": "low"}]}',
    '{"log_history": [{"loss": [1]}]}',
    '{"log_history": [{"loss": {"a": 1}}]}',
    '{"log_history": [{"loss": true}]}',
    '{"log_history": [{"loss": NaN, "step": 1}]}',
    '{"log_history": [{"loss": Infinity, "step": 1}]}',
    '{"log_history": [{"loss": -Infinity, "step": 1}]}',
    '{"log_history": [{"loss": 1e999, "step": 1}]}',
    '{"log_history": [{"step": 1}]}',
    '{"log_history": [{"epoch": 1, "step": 1}]}',
    '{"log_history": [{"loss": 5',
    '{"log_history": [',
    '{"log_history"',
    "{",
    "[",
    "}",
    STATE.replace('"loss"', '"perplexity"').replace("grad_norm", "x").replace("learning_rate", "y"),
    "[" * 100_000,
    '{"a":' * 50_000,
    "{'loss': }",
    "{'loss': nan}",
    "{'loss': __import__('os').system('touch pwned')}",
    "loss",
    "step,loss",
    "step,loss\n",
    "step,loss\n1,low\n2,lower",
    "step,loss\n1,nan\n2,nan",
    "step\tloss\n",
    "| step | loss |\n|---|---|\n",
    "| step | loss |\n|---|---|\n| 1 | inf |",
    "loss,loss\n",
    "Epoch 1/3\n - loss: 0.5\n",
    "loss: 0.5\nloss: 0.4\n",
    "the loss went down",
    "<html><body>404</body></html>",
    "%PDF-1.7\n",
    "PK\x03\x04",
    b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00c__builtin__\nprint\n.",
    b"\x89HDF\r\n\x1a\n",
    b"\xff\xfe\x00",
    b"\x00" * 100,
    b"\xff" * 100,
    "x" * 1_000_000,
    "\x1b[31mred\x1b[0m",
]


def wrong(log: str | bytes, call: Call, folder: Path) -> str:
    (folder / "x.log").write_bytes(log if isinstance(log, bytes) else log.encode())
    return refused(call, folder, "diagnose", "x.log", "--num-labels", "280")


@pytest.mark.parametrize("log", LOGS, ids=range(len(LOGS)))
def test_a_log_that_is_none(log: str | bytes, call: Call, tmp_path: Path) -> None:
    wrong(log, call, tmp_path)


CUTS = 40
"""Of the file of a run, cut at any place before its end."""


@settings(max_examples=CUTS, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, len(STATE) - 1))
def test_a_state_that_is_cut_anywhere(call: Call, tmp_path: Path, at: int) -> None:
    (tmp_path / "x.log").write_text(STATE[:at])
    result = call("diagnose", "x.log", "--num-labels", "280")
    # What comes before the cut may be judged, if it is said that there is one.
    if result.exit_code == 0:
        assert "the log ends in the middle of an entry" in " ".join(result.stdout.split())
    else:
        refused(call, tmp_path, "diagnose", "x.log", "--num-labels", "280")


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 16, b"\xff" * 64, b"not a record", STATE.encode()], ids=range(5)
)
def test_event_files_that_are_none(content: bytes, call: Call, tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.host").write_bytes(content)
    refused(call, tmp_path, "diagnose", ".")
    refused(call, tmp_path, "diagnose", "events.out.tfevents.1.host")


# --- pyproject.toml -------------------------------------------------------------------------------

CONFIGURATIONS = [
    "[tool.trainsanity",
    "tool.trainsanity = 3",
    "tool.trainsanity = 'a:b'",
    "tool.trainsanity = []",
    "[[tool.trainsanity]]",
    "tool = 3",
    "tool = []",
    "tool.trainsanity.pipelines = 'a:b'",
    "tool.trainsanity.pipelines = 3",
    "tool.trainsanity.pipelines = {}",
    "tool.trainsanity.pipelines = [1]",
    "tool.trainsanity.pipelines = ['']",
    "tool.trainsanity.pipelines = [' ']",
    "tool.trainsanity.pipelines = [[]]",
    "tool.trainsanity.pipelines = [{}]",
    "tool.trainsanity.pipelines = []",
    "tool.trainsanity.pipelines = ['nothing']",
    "tool.trainsanity.pipelines = ['no_such_module_here:f']",
    "tool.trainsanity.pipelines = ['train.py', 'other.py']",
    "tool.trainsanity.pipelines = ['a:b', 3]",
    "tool.trainsanity.pipeline = ['cli_factories:healthy']",
    "tool.trainsanity.expected_failures = ['x']",
    "tool.trainsanity.expected_failures = 3",
    "tool.trainsanity.expected_failures = {x = ''}",
    "tool.trainsanity.expected_failures = {x = ' '}",
    "tool.trainsanity.expected_failures = {x = 1}",
    "tool.trainsanity.expected_failures = {x = ['y']}",
    "tool.trainsanity.expected_failures = {'loss.renamed' = 'known'}",
    "tool.trainsanity.expected_failures = {'TS502' = 'known'}",
    "tool.trainsanity.expected_failures = {loss = {matches_reference = 'known'}}",
    "tool.trainsanity.expected_failures = {'' = 'known'}",
    "tool.trainsanity.expected_failure = {'loss.matches_reference' = 'known'}",
    "tool.trainsanity.pipelines = ['cli_factories:healthy']\ntool.trainsanity.strict = 'yes'",
    "tool.trainsanity.max_cost = 'cheap'",
    "tool.trainsanity.warnings_as_errors = 'yes'",
    "tool.trainsanity.warnings_as_errors = 1",
    "\x00",
    "= 3",
    "tool.trainsanity.pipelines = ['a:b']\ntool.trainsanity.pipelines = ['c:d']",
]


@pytest.mark.parametrize("text", CONFIGURATIONS, ids=range(len(CONFIGURATIONS)))
def test_a_configuration_that_is_none(text: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert call("run").exit_code == 2
    refused(call, tmp_path, "run")


def test_a_configuration_in_no_encoding(call: Call, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"[tool.trainsanity]\npipelines = ['\xff:f']")
    assert call("run").exit_code == 2
    refused(call, tmp_path, "run")


# --- words that nobody thought of -----------------------------------------------------------------

WORDS = st.text(max_size=20).filter(lambda word: not word.startswith("-") and word != ".")
NUMBERS = st.one_of(st.floats(), st.integers(), st.text(max_size=5), st.none(), st.booleans())
RANDOM = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RANDOM
@given(WORDS)
def test_any_word_as_a_target(call: Call, tmp_path: Path, word: str) -> None:
    refused(call, tmp_path, "run", word)


@RANDOM
@given(WORDS)
def test_any_word_as_a_check(call: Call, tmp_path: Path, word: str) -> None:
    refused(call, tmp_path, "explain", f"{word}?")


@RANDOM
@given(st.dictionaries(WORDS, st.one_of(NUMBERS, st.lists(NUMBERS, max_size=2)), max_size=3))
def test_any_object_as_a_log(call: Call, tmp_path: Path, made: dict[str, Any]) -> None:
    made = {key: value for key, value in made.items() if key not in ("loss", "grad_norm")}
    wrong(json.dumps({"log_history": [made]}), call, tmp_path)


@RANDOM
@given(st.binary(max_size=200))
def test_any_bytes_as_a_log(call: Call, tmp_path: Path, made: bytes) -> None:
    wrong(made, call, tmp_path)


def test_they_are_many() -> None:
    lists = (PIPELINES, map(tuple, CALLS), map(repr, LOGS), CONFIGURATIONS)
    distinct = sum(len(set(some)) for some in lists)
    assert distinct == len(PIPELINES) + len(CALLS) + len(LOGS) + len(CONFIGURATIONS)
    assert distinct >= 350
