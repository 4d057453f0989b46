"""What the callback writes, and where it ends a run, on a Trainer of a few thousand weights."""

from __future__ import annotations

import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import trainsanity
from trainsanity.live import callback

pytest.importorskip("transformers")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a Trainer whose loss is 3 x too high, or is right."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import cli_factories

    def make(name: str, **settings: Any) -> Any:
        made = getattr(cli_factories, name)()
        for key, value in settings.items():
            setattr(made.args, key, value)
        return made

    return make


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The lines on stderr of a program that did not set logging up."""
    monkeypatch.setattr(callback.logger, "hasHandlers", lambda: False)

    def lines() -> list[str]:
        return [x for x in capsys.readouterr().err.splitlines() if x.startswith("trainsanity: ")]

    return lines


def test_a_run_without_findings_ends_with_what_was_watched(trainer: Any, written: Any) -> None:
    made = trainer("healthy")
    made.add_callback(trainsanity.SanityCallback("stop"))
    made.train()
    assert written() == ["trainsanity: 10 steps watched, nothing found"]


def test_lines_are_whole_and_say_that_training_ends(trainer: Any, written: Any) -> None:
    made = trainer("loud", disable_tqdm=False)
    made.add_callback(trainsanity.SanityCallback("stop"))
    made.train()
    first, second, last = written()
    assert first.startswith("trainsanity: step 1: TS502 loss.matches_reference: the Trainer logs")
    assert second == "trainsanity: step 1: training ends here (action='stop')"
    assert last == "trainsanity: 1 step watched, found: TS502 loss.matches_reference"
    assert made.state.global_step == 1


def test_in_a_log_a_line_begins_behind_the_bar_s(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(callback.logger, "hasHandlers", lambda: False)
    from transformers import ProgressCallback

    made = trainer("loud")
    made.add_callback(ProgressCallback)
    made.add_callback(trainsanity.SanityCallback())
    made.train()
    text = capsys.readouterr().err
    assert "it/s]" in text  # bars are there, which go back to the start of a line by \r
    told = [at for at in range(len(text)) if text.startswith("trainsanity: ", at)]
    assert len(told) == 2
    assert all(at == 0 or text[at - 1] == "\n" for at in told)


def test_raise_leaves_the_script_no_way_on(trainer: Any, written: Any) -> None:
    made = trainer("loud")
    made.add_callback(trainsanity.SanityCallback("raise"))
    with pytest.raises(trainsanity.CheckFailure, match=r"^TS502 loss\.matches_reference: "):
        made.train()
    assert made.state.global_step == 1
    assert written()[-1] == "trainsanity: step 1: training ends here (action='raise')"


def test_logging_that_is_set_up_gets_the_lines(
    trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="trainsanity")
    made = trainer("healthy", max_steps=3)
    made.add_callback(trainsanity.SanityCallback())
    made.train()
    told = [r for r in caplog.records if r.name == "trainsanity"]
    assert [(r.levelname, r.getMessage()) for r in told] == [
        ("INFO", "3 steps watched, nothing found")
    ]


def test_a_run_that_diverges_is_seen(
    trainer: Any, written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "train me.py"
    script.touch()
    main = types.SimpleNamespace(__spec__=None, __file__=str(script))
    monkeypatch.setitem(sys.modules, "__main__", main)
    # What was given to the script may be secret, and logs are read by others.
    monkeypatch.setattr(sys, "argv", [str(script), "--hub-token", "s3cret"])
    made = trainer("healthy", max_steps=64, learning_rate=300.0, lr_scheduler_type="constant")
    made.add_callback(trainsanity.SanityCallback("stop"))
    made.train()
    told = written()
    (said,) = [line for line in told if "TS703 update.moves_the_right_ones: the loss" in line]
    assert "the loss diverges: " in said
    assert f"; trainsanity run '{script}' --select TS502,TS6,TS8 -- ARGS judges step 1" in said
    assert "s3cret" not in said
    assert made.state.global_step < 64
