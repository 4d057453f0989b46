"""The report on one screen: of pipelines as they were judged, and of reports built by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.reports import (
    CLIP,
    FAIL,
    HEALTHY,
    INCIDENT,
    LOSS,
    PAD,
    REPORTS,
    TARGET,
    WARNED,
    XFAIL,
    assert_snapshot,
    ended,
    failed,
    passed,
    report,
    says_nothing,
    warned,
)
from tests.stored import stored
from trainsanity import Finding, Result, Status
from trainsanity.isolation.library_warnings import LibraryWarning
from trainsanity.report.screen import LINES, line, render, total
from trainsanity.report.words import UNWRITTEN, verdict
from trainsanity.types import Check, Cost, Judges

SCREENS = ("healthy", "one_failure", "five_failures", "string_labels")


@pytest.mark.parametrize("name", SCREENS)
def test_what_pipelines_say_fits(name: str) -> None:
    told = stored(name)
    text = render(told, width=100)
    assert_snapshot(f"screens/{name}.txt", text)
    lines = text.splitlines()
    assert len(lines) <= LINES
    # First and last, so that it is read whichever end of the log is on the screen.
    assert lines[0] == lines[-1] == f"{told.pipeline_id}: {verdict(told)}"
    # A command is there to be copied, and is not wrapped.
    assert all(len(text) <= 100 for text in lines if "rerun: " not in text)


@pytest.mark.parametrize("name", REPORTS)
def test_reports_by_hand(name: str) -> None:
    assert_snapshot(f"screens/hand_{name}.txt", render(REPORTS[name], width=100))


def test_a_failure_has_its_cause_and_fix_and_the_rest_is_behind_an_option() -> None:
    text = render(INCIDENT)
    for words in (
        "the Trainer logs a loss of 67.4546",
        "cause     12.00 is gradient_accumulation_steps",
        "fix       model.accepts_loss_kwargs = False",
        "TS601 shows the same factor as TS502, which explains it",
        "TS303 can be judged after TS302 is mended",
        f"all numbers: -v; rerun: trainsanity run {TARGET} --select TS502",
        "NOTE: the weights are random",
    ):
        assert words in text
    for words in ("Acquitted", "All selected", "environment", "seconds", "observed"):
        assert words not in text


def test_stages_and_what_was_not_judged() -> None:
    run = Check("TS901", "loop.learns", says_nothing, cost=Cost.RUN)
    skipped = ended(LOSS, Status.SKIP, "no")
    told = report(passed(PAD), skipped, ended(CLIP, Status.ABSTAIN, "?"), unasked=(run,))
    text = render(told)
    assert "\n  tokenizer  ✓ 1\n" in text
    assert (
        "Not judged: 1 does not apply to this pipeline, 1 could not tell right from wrong here, "
        "1 long one not run: --max-cost run.\n"
    ) in " ".join(text.split("\n")).replace("run. ", "run.\n", 1)


@pytest.mark.parametrize("count", [5, 12, 40])
def test_many_failures_are_counted_and_named(count: int) -> None:
    long = Finding("it is wrong, " * 20, cause="because " * 30, fix="mend it, " * 20)
    results = [
        failed(Check(f"TS{501 + k}", f"loss.number_{k}", says_nothing), long) for k in range(count)
    ]
    text = render(report(*results, FAIL, *(warned(PAD),) * 3))
    assert text.count("\n") <= LINES
    assert text.count("mend it, " * 3) >= 1
    named = " ".join(text.split())
    assert "more failures: TS5" in named or all(f"TS{501 + k} " in named for k in range(count))


def test_data_cannot_steer_the_terminal() -> None:
    nasty = Finding("\x1b[2J\u202eevil", cause="\x07", fix="\x9b1m")
    text = render(report(failed(LOSS, nasty)))
    assert not any(sign in text for sign in ("\x1b", "\u202e", "\x07", "\x9b"))
    assert r"\x1b[2J\u202eevil" in text


def test_warnings_of_libraries_are_quoted_where_they_are_few() -> None:
    table = (
        "Bert LOAD REPORT from: base/bert Key | Status | -----+------+- head.bias | MISSING | "
        "cls.{0, 1}.weight | UNEXPECTED | head.weight | MISSING | Notes: - MISSING: those params"
    )
    loaded = LibraryWarning("transformers", table, "log")
    odd = LibraryWarning("torch", "two shapes were broadcast", "UserWarning")
    text = render(replace(HEALTHY, library_warnings=(loaded, odd)))
    assert (
        "transformers loaded base/bert: missing head.bias, head.weight; unexpected cls.{0, "
        "1}.weight\n"
        "torch warned: two shapes were broadcast\n"
    ) in text
    cut = replace(loaded, text=f"{table.partition('Notes')[0]}head.sc...")
    text = render(replace(HEALTHY, library_warnings=(cut,)))
    assert "missing head.bias, head.weight; unexpected cls.{0, 1}.weight; and\nmore\n" in text
    text = render(replace(HEALTHY, library_warnings=(loaded, odd, replace(odd, text="more"))))
    assert "The libraries gave 3 warnings: see -v." in text


def test_what_a_check_judges_is_not_quoted_of_a_library() -> None:
    aligned = (
        "The tokenizer has new PAD/BOS/EOS tokens that differ from the model config and generation "
        "config. The model config and generation config were aligned accordingly, being updated "
        "with the tokenizer's values. Updated tokens: {'eos_token_id': 1}."
    )
    heard = LibraryWarning("transformers", aligned, "log")
    text = render(replace(HEALTHY, library_warnings=(heard,)))
    assert "PAD/BOS/EOS" not in text
    assert "The libraries gave" not in text


def test_a_reason_that_nobody_has_written_is_not_the_headline_again() -> None:
    reason = f"{UNWRITTEN}: {XFAIL.findings[0].headline}"
    text = " ".join(render(report(replace(XFAIL, reason=reason))).split())
    assert text.count(XFAIL.findings[0].headline) == 1
    assert "(accepted; its reason is to be written)" in text
    assert f"(accepted: {XFAIL.reason})" in " ".join(render(report(XFAIL)).split())


def test_a_check_that_was_asked_for_by_name_says_why_it_has_no_verdict() -> None:
    told = report(ended(LOSS, Status.SKIP, "no row of the first batch holds two documents"))
    assert f"{LOSS.code} {LOSS.name}: no row of the first batch holds two documents" in render(told)
    many = [Check(f"TS{501 + k}", f"loss.number_{k}", says_nothing) for k in range(9)]
    text = render(report(*(ended(one, Status.SKIP, "not here") for one in many)))
    assert "not here" not in text
    assert "9 do not apply" in text


def test_what_the_step_waits_for_is_named_by_the_verdict() -> None:
    step = Check("TS709", "update.one_step", says_nothing, cost=Cost.STEP)
    between = Check("TS503", "loss.finite", says_nothing, cost=Cost.STEP)
    last = Check("TS502", "loss.matches", says_nothing, cost=Cost.STEP, judges=Judges.LOSS)
    told = report(
        warned(step),
        replace(ended(between, Status.BLOCKED, "waits"), blocked_by=step.name),
        replace(ended(last, Status.BLOCKED, "TS503 comes first"), blocked_by=between.name),
    )
    said = "the loss was not compared with a computed value: TS709 update.one_step comes first"
    assert said in verdict(told)


def test_several_pipelines_end_with_their_number() -> None:
    other = replace(HEALTHY, pipeline_id="shop.train:other")
    assert total([INCIDENT, other]) == f"1 of 2 not sane: {TARGET}"
    assert total([other, REPORTS["not_judged"]]) == f"1 of 2 incomplete: {TARGET}"
    assert total([HEALTHY, WARNED]) == "2 of 2 sane as far as judged"


def test_an_error_is_told_with_its_traceback_where_that_is_asked_for() -> None:
    assert "Traceback: ..." not in render(INCIDENT)
    assert "Traceback: ..." in render(INCIDENT, debug=True)


def test_colour_repeats_what_the_words_say() -> None:
    assert "\x1b[" not in render(INCIDENT)
    assert "\x1b[" in render(INCIDENT, color=True)


def test_one_line() -> None:
    accepted = Result(LOSS, TARGET, Status.XFAIL, (Finding("known"),), reason="see #7")
    assert line(report(accepted)) == f"{TARGET}: {verdict(report(accepted))}"
    assert "known (accepted: see #7)" in render(report(accepted))
