"""What the loss supervises: the table, its JSON, and what a wrong call says."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from fixtures.controls import all_controls
from fixtures.faults import all_faults, healthy
from trainsanity.cli.main import program
from trainsanity.engine.session import Session
from trainsanity.measurements.batches.supervision import Row, Supervision, Token
from trainsanity.report.show import render
from trainsanity.sources.building import PipelineSpec

CONTROLS = {control.id: control for control in all_controls()}
FAULTS = {fault.id: fault for fault in all_faults()}
END = 151_645


def supervision(build):
    pipeline = PipelineSpec("shown", build).make()
    return pipeline, Session.of(pipeline).measurements.get("supervision")


def lines(seen, **more):
    return render("shown", seen, rows=1, width=200, **more).splitlines()


def test_a_classifier_has_one_label_a_row():
    pipeline, seen = supervision(healthy)
    micro = Session.of(pipeline).measurements.get("batch").micro_batches[0]
    assert (seen.task, seen.items, seen.counts) == ("single_label_classification", 4, "rows")
    label = int(micro.inputs["labels"][0])
    text = lines(seen)
    assert text[2] == f"row 0 of 4: 258 tokens attended, 272 positions; label {label} LABEL_{label}"
    assert text[3].split() == ["position", "id", "token", "attended"]
    assert text[-3].split() == ["258-271", "151643", "'<|endoftext|>'", "no"]
    assert text[-1] == "3 more: --rows 4"
    ids = [token.id for token in seen.rows[0].tokens]
    assert ids == micro.inputs["input_ids"][0].tolist()
    tokenizer = pipeline.tokenizer
    assert "".join(t.text for t in seen.rows[1].tokens if t.text.isascii()) in tokenizer.decode(
        [t.id for t in seen.rows[1].tokens if t.text.isascii()]
    )


def test_a_language_model_is_not_supervised_at_its_first_token():
    _, seen = supervision(CONTROLS["language_model_with_ends"].build)
    row = seen.rows[0].tokens
    assert (seen.task, seen.counts) == ("causal_lm", "tokens")
    assert row[0].label == row[0].id
    assert not row[0].counted
    assert all(token.counted for token in row[1:] if token.attended)
    end = next(token for token in row if token.id == END)
    assert end.counted
    attended = sum(token.attended for row in seen.rows for token in row.tokens)
    assert seen.items == attended - len(seen.rows)
    assert "(the label of a position is predicted from the one before)" in " ".join(lines(seen))


def test_the_ends_that_are_never_learnt_are_seen():
    _, seen = supervision(FAULTS["ends_not_learnt"].build)
    shown = next(line for line in lines(seen) if "<|im_end|>" in line)
    # The first row has 32 tokens before it, at places 0 to 31.
    assert shown.split() == ["32", str(END), "'<|im_end|>'", "yes", "-100", "no"]


def test_instructions_are_supervised_in_their_second_half():
    _, seen = supervision(CONTROLS["instructions"].build)
    counted = [token.counted for token in seen.rows[0].tokens if token.attended]
    half = len(counted) // 2
    assert counted == [False] * half + [True] * (len(counted) - half)


def test_labels_of_tokens_have_their_names():
    _, seen = supervision(CONTROLS["token_labels"].build)
    first, second = seen.rows[0].tokens[:2]
    assert (first.label, first.label_text, first.counted) == (-100, "", False)
    assert (second.label, second.label_text) == (second.id % 5, f"LABEL_{second.id % 5}")
    assert f"{second.label} 'LABEL_{second.label}'" in lines(seen)[5]


@pytest.mark.parametrize(("name", "says"), [("multi_label", ", "), ("regression", r"\d\.\d+$")])
def test_several_labels_and_numbers(name, says):
    _, seen = supervision(CONTROLS[name].build)
    assert re.search(says, seen.rows[0].label)
    assert seen.items == 4


def test_packed_texts_are_one_row():
    pipeline, seen = supervision(CONTROLS["flattening"].build)
    (row,) = seen.rows
    assert all(token.attended for token in row.tokens)
    starts = [token for token in row.tokens if not token.counted]
    assert [token.label for token in starts] == [-100] * pipeline.args.per_device_train_batch_size


def test_a_row_that_is_not_counted_says_so():
    _, seen = supervision(FAULTS["labels_ignored"].build)
    ignored = next(row for row in seen.rows if not row.counted)
    one = Supervision(seen.task, [ignored], 0, "rows")
    assert lines(one)[2].endswith("label -100, not in the loss")


def made(*tokens):
    row = Row([Token(k, *token) for k, token in enumerate(tokens)], "", True)
    return Supervision("causal_lm", [row], sum(t.counted for t in row.tokens), "tokens")


def test_line_breaks_and_markup_stay_in_their_cells():
    seen = made((5, "\n", True, 5, "\n", False), (6, "[bold]\x1b[31m", True, 6, "x", True))
    first, second = lines(seen)[-2:]
    assert r"'\n'" in first
    assert r"'[bold]\x1b[31m'" in second
    assert "6 'x'" in second


def test_a_run_of_equals_is_one_line():
    seen = made((1, "a", True, 1, "a", False), *[(0, "", False, -100, "", False)] * 5)
    assert lines(seen)[-1].split() == ["1-5", "0", "no", "-100", "no"]


def test_colour_only_when_asked_for():
    seen = made((1, "a", True, 1, "a", True))
    assert "\x1b" not in render("shown", seen, rows=1)
    assert "\x1b[32m" in render("shown", seen, rows=1, color=True)


@pytest.fixture
def show(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(program, ["show", *words], prog_name="trainsanity")


TINY = "fixtures.pipelines.tiny_qwen3:repaired"


def test_the_command_shows_text_and_json(show, tmp_path):
    result = show(TINY, "--rows", "2", "--json", "shown.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{TINY}: single_label_classification; the loss counts 4 rows")
    assert result.stdout.count("position ") == 2
    document = json.loads((tmp_path / "shown.json").read_text())
    assert document["schema"] == 1
    assert document["pipeline"] == TINY
    assert len(document["rows"]) == 2
    token = document["rows"][0]["tokens"][0]
    assert token.keys() == set(Token.__dataclass_fields__)
    assert document["items"] == 4


def test_a_wrong_number_of_rows(show):
    result = show(TINY, "--rows", "0")
    assert result.exit_code == 2
    assert "0 is not in the range x>=1" in result.stderr


def test_a_script_that_takes_arguments_is_told_where_they_go(show):
    result = show("train.py", "--epochs", "3")
    assert result.exit_code == 2
    assert "trainsanity show train.py -- --epochs ..." in result.stderr


def test_no_target(show):
    result = show()
    assert result.exit_code == 2
    assert "no pipeline" in result.stderr


def test_a_pipeline_without_a_batch(show, tmp_path):
    (tmp_path / "bare_models.py").write_text(
        "import torch, trainsanity\n"
        "def bare():\n"
        "    return trainsanity.Pipeline(model=torch.nn.Linear(2, 2))\n"
    )
    result = show("bare_models:bare")
    assert result.exit_code == 2
    assert "bare_models:bare has nothing to show: this pipeline has no " in result.stderr


def test_what_data_holds_cannot_steer_the_terminal() -> None:
    """Names of classes are data, as tokens are: escapes, titles of windows, bidirectional marks."""
    evil = "\x1b[2J\x1b]0;owned\x07sales\u202e\ud800"
    row = Row([Token(0, 5, "a", True, None, "", False)], f"0 {evil}", True)
    text = render(
        f"shown{evil}", Supervision("single_label_classification", [row], 1, "rows"), rows=1
    )
    assert not any(sign in text for sign in "\x1b\x07\u202e\ud800")
    assert "sales" in text
