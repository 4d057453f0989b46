"""The report as text and as JSON, of reports built by hand."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from tests.reports import (
    CLIP,
    ERROR,
    FAIL,
    HEAD,
    HEALTHY,
    INCIDENT,
    LOSS,
    NOT_JUDGED,
    PAD,
    POOLED,
    REPORTS,
    ROWS,
    SKIP,
    TARGET,
    UNINFORMED,
    UNKNOWN,
    WARNED,
    XFAIL,
    XPASS,
    assert_snapshot,
    ended,
    failed,
    passed,
    report,
    says_nothing,
    under,
    warned,
)
from trainsanity import Finding, Result, Severity, Status, __version__
from trainsanity.engine.report import Report
from trainsanity.report.json import as_dict, dumps
from trainsanity.report.text import render
from trainsanity.report.words import codes_of, rerun, value_text, verdict, without_verdict
from trainsanity.types import Check, Cost


@pytest.mark.parametrize("name", REPORTS)
def test_snapshot(name: str) -> None:
    assert_snapshot(f"{name}.txt", render(REPORTS[name], width=100))
    document = json.loads(dumps([REPORTS[name]]))
    assert document.pop("trainsanity") == __version__
    assert_snapshot(f"{name}.json", json.dumps(document, indent=1) + "\n")


RUN = Check("TS901", "loop.learns", says_nothing, cost=Cost.RUN)
OTHER_RUN = Check("TS902", "loop.resumes", says_nothing, cost=Cost.RUN)


def test_runs_that_nobody_asked_for_are_left_out_by_cost() -> None:
    by_cost = "left out by cost: select them by name, or set max-cost to RUN."
    gate = report(passed(PAD), unasked=(LOSS, RUN, OTHER_RUN))
    told = f"Without a verdict: TS502 not selected; TS901 and TS902 {by_cost}"
    assert without_verdict(gate) == told
    assert verdict(gate) == "sane as far as judged: 1 of 4 checks ran and passed"
    chosen = report(passed(PAD), passed(RUN), unasked=(OTHER_RUN,))
    assert without_verdict(chosen) == "Without a verdict: TS902 not selected."


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ("TS101", "TS101"),
        ("TS101 TS102", "TS101 and TS102"),
        ("TS101 TS102 TS103", "TS101 to TS103"),
        ("TS109 TS110 TS111 TS201 TS203 ACME001", "TS109 to TS111, TS201, TS203 and ACME001"),
        ("TS110 TS201 TS202 TS203", "TS110 and TS201 to TS203"),
    ],
)
def test_codes_in_a_row_are_told_by_their_ends(codes: str, told: str) -> None:
    every = [Check(code, "loop.learns", says_nothing) for code in codes.split()]
    assert codes_of(every) == told


@pytest.mark.parametrize(
    ("told", "strict", "words"),
    [
        (HEALTHY, True, "sane: 3 of 3 checks ran and passed"),
        (report(passed(PAD), SKIP), False, "sane as far as judged: 1 of 2 checks ran and passed"),
        (report(passed(PAD), SKIP), True, "incomplete: 1 of 2 checks ran and passed"),
        (
            report(passed(PAD), unasked=(LOSS, CLIP)),
            True,
            "sane as far as judged: 1 of 3 checks ran and passed",
        ),
        (report(passed(PAD), ERROR), False, "incomplete: 1 of 2 checks ran and passed"),
        (report(SKIP), False, "incomplete: 0 of 1 checks ran"),
        (
            report(passed(PAD), XFAIL),
            False,
            "sane but for what is accepted: 2 of 2 checks ran and 1 passed, 1 failed as accepted",
        ),
        (
            report(XPASS),
            False,
            "not as expected: what was accepted as a failure passes now",
        ),
        (report(FAIL, failed(CLIP)), False, "not sane. First broken stage: loss"),
        # An accepted failure in an earlier stage is not where to look.
        (
            report(failed(PAD, status=Status.XFAIL), FAIL),
            False,
            "not sane. First broken stage: loss",
        ),
    ],
)
def test_verdict(told: Report, strict: bool, words: str) -> None:
    told = under(told, strict=strict)
    assert verdict(told) == words
    assert render(told, width=120).startswith(f"{TARGET}: {words}\n")


COUNTED = "4 checks ran and 2 passed"


@pytest.mark.parametrize(
    ("told", "policy", "words", "code"),
    [
        (WARNED, {}, f"sane as far as judged, 1 warning: 3 of {COUNTED}", 0),
        (
            report(warned(PAD), warned(ROWS), XFAIL, passed(CLIP)),
            {},
            "sane but for what is accepted, 2 warnings: 4 of 4 checks ran and 1 passed, "
            "1 failed as accepted",
            0,
        ),
        (
            WARNED,
            {"warnings_as_errors": True},
            f"not sane: 1 warning, and warnings count as failures: 3 of {COUNTED}",
            1,
        ),
        (
            WARNED,
            {"strict": True},
            f"not sane: 1 warning, and warnings count as failures: 3 of {COUNTED}",
            1,
        ),
        (HEALTHY, {"warnings_as_errors": True}, "sane: 3 of 3 checks ran and passed", 0),
        (
            report(warned(PAD), ERROR),
            {},
            "incomplete, 1 warning: 1 of 2 checks ran and 0 passed",
            3,
        ),
        (report(warned(PAD), FAIL), {}, "not sane. First broken stage: loss", 1),
        # A warning is no failure, so its stage is not broken.
        (
            report(warned(PAD), FAIL),
            {"warnings_as_errors": True},
            "not sane. First broken stage: loss",
            1,
        ),
    ],
)
def test_warnings_in_the_headline(
    told: Report, policy: dict[str, bool], words: str, code: int
) -> None:
    told = under(told, **policy)
    assert verdict(told) == words
    assert told.exit_code() == code
    assert as_dict(told)["summary"]["exit_code"] == code


def test_warnings_follow_the_failures_and_are_complete() -> None:
    text = render(report(warned(PAD), failed(LOSS)))
    places = [
        text.index(words)
        for words in (
            "1 failed, 1 warning.",
            "TS502 loss.matches_reference  fail",
            "\nWarnings\n",
            "TS102 tokenizer.pad_is_not_eos  warning",
            "PAD is EOS 151645; no row of 600 has EOS, so no target is lost",
            "cause     pad_token was set to eos_token",
            "fix       give PAD a token of its own",
            f"trainsanity run {TARGET} --select TS102",
            "All selected checks",
        )
    ]
    assert places == sorted(places)
    assert "Warnings, which count as failures" in render(under(WARNED, strict=True))


def test_a_warning_accuses_nobody_and_rules_nobody_out() -> None:
    assert "Acquitted" not in render(WARNED)
    assert "PAD / EOS" not in as_dict(report(warned(PAD), passed(POOLED)))["summary"]["ruled_out"]


def test_a_warning_beside_a_failure_is_named_as_one() -> None:
    both = (Finding("it is wrong"), Finding("it is odd", severity=Severity.WARNING))
    text = render(report(Result(CLIP, TARGET, Status.FAIL, both)))
    assert "\n  it is wrong\n" in text
    assert "\n  warning: it is odd\n" in text


def test_what_was_not_judged_is_the_headline() -> None:
    sentence = (
        "incomplete: neither loss nor gradient was compared with a computed value: "
        f"{UNKNOWN}; 1 other reason"
    )
    assert verdict(NOT_JUDGED) == sentence
    text = render(NOT_JUDGED, width=120)
    assert text.startswith(f"{TARGET}: {sentence}\n2 of 5 checks ran: 2 passed. Without a verdict:")
    summary = as_dict(NOT_JUDGED)["summary"]
    assert (summary["not_judged"], summary["exit_code"]) == (["loss", "gradient"], 3)


def test_one_number_that_was_judged_is_enough_and_a_log_has_none() -> None:
    skipped = ended(LOSS, Status.SKIP, UNKNOWN)
    alone = report(passed(PAD), skipped)
    assert (
        verdict(alone) == f"incomplete: the loss was not compared with a computed value: {UNKNOWN}"
    )
    assert report(skipped, passed(HEAD)).exit_code() == 0
    # No check that takes a step was selected: --max-cost FORWARD.
    assert report(passed(PAD), ended(UNINFORMED, Status.SKIP, "not here")).exit_code() == 0
    assert report(passed(PAD), skipped, of_a_log=True).exit_code() == 0


def test_a_long_reason_is_cut_in_the_headline() -> None:
    told = report(passed(PAD), ended(LOSS, Status.SKIP, "two\nlines " + "x" * 300))
    assert "value: two lines xxx" in verdict(told)
    assert verdict(told).endswith("xxx...")
    assert len(verdict(told)) < 230


def test_every_failure_is_told_in_full_and_an_earlier_stage_first() -> None:
    late = Finding("it is clipped", where="step 1", cause="a late cause", fix="a late fix")
    text = render(report(failed(CLIP, late), failed(LOSS)))
    places = [
        text.index(word)
        for word in (
            "First broken stage: loss",
            "model.accepts_loss_kwargs = False",
            f"trainsanity run {TARGET} --select TS502",
            "Also failing",
            "a late cause",
            "a late fix",
            f"trainsanity run {TARGET} --select TS603",
        )
    ]
    assert places == sorted(places)


def test_all_findings_of_one_check_are_told() -> None:
    two = Result(
        CLIP, TARGET, Status.FAIL, (Finding("first one"), Finding("second one", fix="mend it"))
    )
    before_table = render(report(two)).partition("All selected")[0]
    assert "first one" in before_table
    assert "second one" in before_table
    assert "mend it" in before_table


def test_what_has_no_verdict_is_named_with_the_reason_of_it() -> None:
    text = _unwrapped(render(INCIDENT))
    assert "5 of 9 checks ran: 3 passed, 2 failed." in text
    assert (
        "Without a verdict: TS303 and TS601 blocked; TS302 ended in an error; TS801 not selected."
        in text
    )
    assert "TS302 collator.rows_recovered comes first: error" in text


def test_explained_are_listed_with_what_they_found_apart_from_merely_blocked() -> None:
    section = render(INCIDENT).partition("Explained by")[2].partition("Acquitted")[0]
    assert "the head's gradient is 12.0000 times its closed form" in section
    # The neutral sentence says nothing of what is wrong.
    assert "slope 12.0000, cosine 1.000000" not in section
    assert "TS303" not in section


def test_acquitted_with_numbers_but_not_on_half_the_evidence() -> None:
    section = render(INCIDENT).partition("Acquitted")[2].partition("All selected")[0]
    assert "PAD 151643 is not EOS 151645" in section
    assert "48 of 48 rows" in section
    half = report(passed(PAD), unasked=(POOLED,))
    assert "Acquitted" not in render(half)
    assert as_dict(half)["summary"]["acquitted"] == {}


def test_a_suspect_with_a_long_name_leaves_the_sentences_their_room() -> None:
    long = "a scheduler of another optimizer, and rates that are set where nothing reads them"
    rates = Check("TS806", "schedule.rates_are_read", says_nothing, rules_out=long)
    sentence = "the scheduler's optimizer is the Trainer's, and all of 2 groups are read " * 2
    told = report(passed(PAD, sentence.strip()), passed(rates, sentence.strip()), FAIL)
    section = render(told).partition("Acquitted")[2].partition("All selected")[0]
    # Three lines for a sentence beside a short name, four for a name beside a sentence.
    assert len(section.strip().splitlines()) <= 7
    assert " ".join(long.split()[:4]) in section


def test_where_nothing_is_wrong_nobody_is_acquitted() -> None:
    text = render(report(passed(PAD, "PAD 151643 is not EOS 151645"), SKIP))
    assert "Acquitted" not in text
    assert "pass  PAD 151643 is not EOS 151645" in text


def test_accepted_failure_says_why_and_is_no_failure() -> None:
    text = render(report(passed(PAD), XFAIL))
    accepted = text.partition("Accepted failures")[2].partition("All selected")[0]
    assert "TS502 loss.matches_reference  xfail" in accepted
    assert "67.4546" in accepted
    assert "known, see #7" in accepted


def test_expected_failure_that_passed_says_delete_the_entry() -> None:
    text = render(report(XPASS))
    assert "Expected to fail, but passed: delete the entry in expected_failures" in text
    assert "known, see #7" in text


def test_error_shows_its_traceback_only_when_asked() -> None:
    assert "Traceback" not in render(INCIDENT)
    assert "--select TS302 --debug" in render(INCIDENT)
    assert "Traceback: ..." in render(INCIDENT, debug=True)


def test_notes_are_seen() -> None:
    assert "the weights are random: Qwen/Qwen3-4B could not be had" in _unwrapped(render(INCIDENT))


def test_data_is_neither_markup_nor_escape_sequence() -> None:
    nasty = "[bold]not bold[/bold] :smile: \x1b[31mred\rback \N{HANGUL SYLLABLE GA}"
    text = render(report(failed(LOSS, Finding(nasty, where=nasty)), passed(PAD, nasty)), width=200)
    assert text.count("[bold]not bold[/bold] :smile: \\x1b[31mred\\rback 가") == 3
    assert "\x1b" not in text


def test_colour_says_nothing_that_words_do_not() -> None:
    coloured = render(INCIDENT, color=True)
    assert "\x1b[" in coloured
    bare = "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines())
    assert bare + "\n" == render(INCIDENT)


@pytest.mark.parametrize("width", [50, 80, 120])
def test_only_the_headline_and_commands_run_over_the_width(width: int) -> None:
    lines = render(INCIDENT, width=width).splitlines()
    assert lines[0] == "shop.train:trainer: not sane. First broken stage: loss"
    over = [line for line in lines[1:] if len(line) > width and "rerun" not in line]
    over = [line for line in over if "  page  " not in line]
    assert over == []
    assert all(line == line.rstrip() for line in lines)
    assert f"  rerun     trainsanity run {TARGET} --select TS502" in lines


@pytest.mark.parametrize(
    ("command", "call"),
    [
        (["a.b:c"], "trainsanity run a.b:c --select TS502 --debug"),
        (["a.b:c d"], "trainsanity run 'a.b:c d' --select TS502 --debug"),
        (["x.py", "--n", "a b"], "trainsanity run x.py --select TS502 --debug -- --n 'a b'"),
        ([], None),
    ],
)
def test_rerun(command: list[str], call: str | None) -> None:
    assert rerun(command, "TS502", "--debug") == call


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (67.45459747314453, "67.4546"),
        (1.28e-08, "1.28e-08"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (151643, "151643"),
        (True, "True"),
        ("<|endoftext|>", "<|endoftext|>"),
        ({"slope": 12.0, "cosine": 0.999999999}, "slope 12, cosine 1"),
        ([1, 2, None], "[1, 2, null]"),
        ("x" * 300, "x" * 197 + "..."),
    ],
)
def test_values_for_people(value: Any, text: str) -> None:
    assert value_text(value) == text


def _unwrapped(text: str) -> str:
    return " ".join(text.split())
