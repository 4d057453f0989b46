"""Turns, answers, columns and spans: each bound from both sides, and what is read in which form."""

from __future__ import annotations

import functools

import pytest

from trainsanity.checks.collator.padding_ignored import _outside
from trainsanity.checks.collator.results_are_ignored import results_are_ignored
from trainsanity.checks.dataset.answers_are_their_own import NEARLY, SEVERAL, answers_are_their_own
from trainsanity.checks.dataset.inputs_are_shown import inputs_are_shown
from trainsanity.checks.dataset.messages_hold_no_template import messages_hold_no_template
from trainsanity.checks.dataset.spans_are_answers import spans_are_answers
from trainsanity.checks.tokenizer.messages_keep_their_roles import messages_keep_their_roles
from trainsanity.checks.tokenizer.template_breaks_lines import template_breaks_lines
from trainsanity.measurements.batches.chat_template import ChatTemplate
from trainsanity.measurements.batches.tool_results import ROUND, ToolResults
from trainsanity.measurements.batches.turns import Stray, Turns, _said
from trainsanity.measurements.data.marked_spans import MarkedSpans, _plain, _texts
from trainsanity.measurements.data.own_answers import OwnAnswers
from trainsanity.measurements.data.shown_inputs import FORMS, ShownInputs
from trainsanity.measurements.step.reward_order import names_read
from trainsanity.types import Finding, Measured, Severity

ROWS = 20
STRAY = Stray(0, "a", "user", "assistant")


def severities(items):
    items = list(items)
    assert sum(isinstance(one, Measured) for one in items) == 1
    return [one.severity for one in items if isinstance(one, Finding)]


def spans(strange, inexact=0):
    return MarkedSpans(("answer",), ROWS, [*range(strange)], [*range(inexact)], "a", "b")


def answers(copies, begin=0, **more):
    texts = {str(k) for k in range(ROWS)}
    return OwnAnswers(ROWS, texts, texts, 4, [*range(copies)], [*range(begin)], **more)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (spans_are_answers(spans(0)), None),
        (spans_are_answers(spans(1)), Severity.WARNING),
        (spans_are_answers(spans(2)), Severity.FAILURE),
        (spans_are_answers(spans(0, 9)), None),
        (spans_are_answers(spans(0, 10)), Severity.FAILURE),
        (messages_hold_no_template(Turns(ROWS)), None),
        (messages_hold_no_template(Turns(ROWS, nested=[*range(9)])), Severity.WARNING),
        (messages_hold_no_template(Turns(ROWS, nested=[*range(10)])), Severity.FAILURE),
        (messages_keep_their_roles(Turns(messages=ROWS, strays=9 * [STRAY])), Severity.WARNING),
        (messages_keep_their_roles(Turns(messages=ROWS, strays=10 * [STRAY])), Severity.FAILURE),
        (messages_keep_their_roles(Turns(talks=ROWS, exchanged=[*range(19)])), None),
        (messages_keep_their_roles(Turns(talks=ROWS, exchanged=[*range(20)])), Severity.FAILURE),
        (results_are_ignored(ToolResults(ROWS, 9, 9, [*range(9)])), Severity.WARNING),
        (results_are_ignored(ToolResults(ROWS, 9, 9, [*range(10)])), Severity.FAILURE),
        (inputs_are_shown(ShownInputs(FORMS[0], ROWS, [*range(9)])), Severity.WARNING),
        (inputs_are_shown(ShownInputs(FORMS[0], ROWS, [*range(10)])), Severity.FAILURE),
        (inputs_are_shown(ShownInputs(FORMS[1], ROWS, [*range(20)])), Severity.WARNING),
        (answers_are_their_own(answers(int(NEARLY * ROWS) - 1)), None),
        (answers_are_their_own(answers(9, 9)), Severity.WARNING),
        (answers_are_their_own(answers(ROWS)), Severity.FAILURE),
        (answers_are_their_own(answers(ROWS - 1)), Severity.WARNING),
        (answers_are_their_own(answers(ROWS - 1, cut=1)), Severity.FAILURE),
        (answers_are_their_own(answers(0, ROWS - 1)), Severity.FAILURE),
    ],
)
def test_each_bound_from_both_sides(found, expected):
    assert severities(found) == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("prompts", "tokens", "expected"),
    [
        (SEVERAL - 1, 4, []),
        (SEVERAL, 4, [Severity.FAILURE]),
        (SEVERAL, 1, [Severity.WARNING]),
    ],
)
def test_one_answer_for_several_prompts(prompts, tokens, expected):
    found = OwnAnswers(ROWS, {str(k) for k in range(prompts)}, {"a"}, tokens)
    assert severities(answers_are_their_own(found)) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("<|im_start|>user\nqzfirst<|im_end|>\n", []),
        (r"<|im_start|>user\nqzfirst<|im_end|>", [Severity.FAILURE]),
        (r"<|im_start|>user qzfirst<|im_end|>\n<|im_start|>", [Severity.FAILURE]),
        (r"prove that a \neq b and \nabla f; \boxed{} qzfirst", []),
    ],
)
def test_line_breaks_and_words_of_latex(written, expected):
    assert severities(template_breaks_lines(ChatTemplate(written=written))) == expected


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("<search> a </search> <result> b </result>", " b "),
        ("<tool_call>{}</tool_call>\n<tool_response>\nb</tool_response>", "\nb"),
        ("Thought: x\nAction: f\nAction Input: a\nObservation: b\nThought: y", " b"),
        ("<think> a </think> <result> b </result>", None),
        ("<result> b </result>", None),
        ("<search> a </search> I know. <result> b </result>", None),
    ],
)
def test_a_result_stands_behind_what_was_asked(text, given):
    hit = ROUND.search(text)
    assert (hit and (hit["inside"] or hit["observed"])) == given


def test_who_says_what_in_either_form():
    ours = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    theirs = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert _said({"text": "x", "messages": ours}) == [("user", "a")]
    assert _said({"conversations": theirs}) == [("user", "a"), ("assistant", "b")]
    assert _said({"tools": [{"name": "f"}], "ids": [1, 2]}) == []


def test_answers_as_squad_and_others_store_them():
    assert _texts({"text": ["a", ""], "answer_start": [3, 4]}) == ["a"]
    assert _texts("a") == _texts(["a"]) == ["a"]
    assert _texts(3) == _texts(None) == _texts({"answer_start": 3}) == []
    assert _plain("Zoë's café, 3\u00bd") == "zoescafe312"


def test_labels_beside_a_rows_own():
    assert _outside([1, 2], [1, 2, 0, 0]) == [0, 0]
    assert _outside([1, 2], [0, 1, 2]) == [0]
    assert _outside([1, 2], [1, 2]) == _outside([1, 2], [3, 4, 0]) == _outside([], [0]) == []


def test_names_that_a_reward_function_reads():
    def plain(completions, answer=None, **columns):
        """Score nothing."""
        return columns.get("answers")

    class Scores:
        def __call__(self, completions, **columns):
            return columns["gold"]

    assert {"completions", "answer", "answers"} <= set(names_read(plain))
    assert "Score nothing." not in names_read(plain)
    assert "answers" in names_read(functools.partial(plain, answer=1))
    assert "gold" in names_read(Scores())
    assert names_read(len) == []


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("Question: {question}\nAnswer:", "{}", Severity.FAILURE),
        ("<|user|>{{ question }}<|end|>", "{}", Severity.FAILURE),
        ("Question: %(question)s", "{}", Severity.FAILURE),
        # What is to be written has the same braces.
        ("Write a letter to {{ name }}.", "Dear{{{{name}}}},{}", Severity.WARNING),
        ("Write a function that prints f'hello {name}'.", "print(f'hello{{name}}'){}",
         Severity.WARNING),
        (r"Simplify \frac{a}{b} and x_{n} as \boxed{answer}.", "{}", Severity.WARNING),
        ('Write JSON: {"name": str}', "{}", Severity.WARNING),
    ],
)  # fmt: skip
def test_braces_that_answers_hold_too_are_no_forgotten_names(prompt, answer, expected):
    texts = {answer.format(k) for k in range(ROWS)}
    found = OwnAnswers(ROWS, {prompt}, texts, 4, prompt=prompt)
    assert severities(answers_are_their_own(found)) == [expected]
