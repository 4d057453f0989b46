"""Reports built by hand, for tests of the reporters, and what their snapshots are compared with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainsanity import Check, Cost, Finding, Measured, Result, Severity, Status
from trainsanity.engine.report import Policy, Report
from trainsanity.isolation.pass_counter import Passes
from trainsanity.pytest_plugin.results import failure_text
from trainsanity.types import Judges

SNAPSHOTS = Path(__file__).parent / "snapshots"
TARGET = "shop.train:trainer"


def assert_snapshot(name: str, text: str) -> None:
    """Compare, or with UPDATE_SNAPSHOTS write."""
    path = SNAPSHOTS / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def says_nothing() -> Iterator[Measured]:
    """A check that is never called."""
    yield Measured("")


PAD = Check("TS102", "tokenizer.pad_is_not_eos", says_nothing, rules_out="PAD / EOS")
MASK = Check("TS301", "collator.mask_is_exact", says_nothing, rules_out="attention mask")
ROWS = Check("TS302", "collator.rows_recovered", says_nothing)
WIDTH = Check("TS303", "collator.pad_to_multiple_of", says_nothing)
POOLED = Check("TS404", "model.right_token_pooled", says_nothing, rules_out="PAD / EOS")
UNINFORMED = Check(
    "TS501", "loss.initial_is_uninformed", says_nothing, cost=Cost.FORWARD, judges=Judges.LOSS
)
LOSS = Check("TS502", "loss.matches_reference", says_nothing, cost=Cost.STEP, judges=Judges.LOSS)
HEAD = Check(
    "TS601", "gradient.head_closed_form", says_nothing, cost=Cost.STEP, judges=Judges.GRADIENT
)
CLIP = Check("TS603", "gradient.clipping", says_nothing, rules_out="clipping")
RATE = Check("TS801", "schedule.peak_is_reached", says_nothing)

TWELVE = Finding(
    "the Trainer logs a loss of 67.4546 for step 1; the mean over its 48 examples is 5.6212",
    observed=67.45459747314453,
    expected=5.621216,
    where="step 1",
    factor=12.0000001,
    cause="12.00 is gradient_accumulation_steps = 12, which is not divided out: "
    "the Trainer passes num_items_in_batch and the model's loss ignores it",
    fix="model.accepts_loss_kwargs = False, before the Trainer is built",
    candidates=("gradient_accumulation_steps = 12",),
)
SLOPE = Finding(
    "the head's gradient is 12.0000 times its closed form",
    observed={"slope": 12.0, "cosine": 1.0},
    factor=12.0,
)
SAME_TOKEN = Finding(
    "PAD is EOS 151645; no row of 600 has EOS, so no target is lost",
    observed=151645,
    where="tokenizer",
    cause="pad_token was set to eos_token",
    fix="give PAD a token of its own before rows get an EOS",
    severity=Severity.WARNING,
)


def passed(check: Check, message: str = "all is well") -> Result:
    return Result(check, TARGET, Status.PASS, message=message, observed=1.0, expected=1)


def failed(check: Check, finding: Finding = TWELVE, status: Status = Status.FAIL) -> Result:
    return Result(
        check,
        TARGET,
        status,
        (finding,),
        observed=finding.observed,
        expected=finding.expected,
        message="measured, whatever that means",
        reason="known, see #7" if status is Status.XFAIL else "",
    )


def warned(check: Check, finding: Finding = SAME_TOKEN) -> Result:
    return failed(check, finding, Status.WARNING)


def ended(check: Check, status: Status, reason: str, **more: Any) -> Result:
    return Result(check, TARGET, status, reason=reason, **more)


def report(*results: Result, unasked: tuple[Check, ...] = (), **more: Any) -> Report:
    fields: dict[str, Any] = {
        "environment": {"python": "3.11.7", "torch": "2.13.0", "device": "cpu", "notes": []},
        "facts": {"parameters": 9815936, "learning_rate": 1e-05, "world_size": 1},
        "seconds": 12.34,
        "measured": {"batch": 0.01, "forward": 1.5, "trainer_step": 8.14},
        "passes": {"forward": Passes(12), "trainer_step": Passes(24, 24, 4, 2**30)},
        "command": (TARGET,),
    }
    return Report(
        TARGET, results, len(results) + len(unasked), **{**fields, **more}, unasked=unasked
    )


INCIDENT = report(
    passed(PAD, "PAD 151643 is not EOS 151645"),
    passed(MASK, "10281 of 11776 positions are attended, the rows have 10281 tokens"),
    ended(ROWS, Status.ERROR, "the check raised KeyError: 'input_ids'", debug="Traceback: ...\n"),
    ended(
        WIDTH,
        Status.BLOCKED,
        "TS302 collator.rows_recovered comes first: error",
        blocked_by=ROWS.name,
    ),
    passed(POOLED, "48 of 48 rows are read at their last token"),
    failed(LOSS),
    Result(
        HEAD,
        TARGET,
        Status.BLOCKED,
        (SLOPE,),
        message="slope 12.0000, cosine 1.000000 against the closed form",
        reason="explained by TS502 loss.matches_reference: the same factor 12.00",
        blocked_by=LOSS.name,
    ),
    failed(CLIP, Finding("kept 0.5%", observed=0.005, expected={"at_least": 0.01, "of": [1, 2]})),
    unasked=(RATE,),
    environment={
        "python": "3.11.7",
        "torch": "2.13.0",
        "device": "NVIDIA H100",
        "notes": ["the weights are random: Qwen/Qwen3-4B could not be had"],
    },
)
HEALTHY = report(passed(PAD, "PAD 151643 is not EOS 151645"), passed(LOSS), passed(CLIP))
WARNED = report(
    warned(PAD), passed(LOSS), passed(CLIP, "max_grad_norm 1 keeps 4.7%"), unasked=(RATE,)
)
UNKNOWN = "the task is 'dpo', which has no reference for its loss"
NOT_JUDGED = report(
    passed(MASK),
    ended(UNINFORMED, Status.SKIP, "a head of 2 classes is wanted"),
    ended(LOSS, Status.SKIP, UNKNOWN),
    ended(HEAD, Status.SKIP, UNKNOWN),
    passed(CLIP),
)

FAIL, ERROR, SKIP = failed(LOSS), ended(ROWS, Status.ERROR, "broke"), ended(ROWS, Status.SKIP, "-")
XFAIL = failed(LOSS, status=Status.XFAIL)
XPASS = Result(LOSS, TARGET, Status.XPASS, message="5.6 is 5.6", reason="known, see #7")
NASTY = "[bold]not bold[/bold] <script>alert(1)</script> :smile: | `a` *b*\n\x1b[31mred\rback % $x$"
"""What data may hold: markup of every reporter, control characters, commands."""

ACCEPTED = report(
    passed(PAD),
    failed(LOSS, status=Status.XFAIL),
    Result(CLIP, TARGET, Status.XPASS, message="max_grad_norm 1 keeps all", reason="known, #8"),
)
FOLDERS = re.compile(r"(?<!\S)/\S*/")
"""The folders of an absolute path, which differ from home to home."""
REPORTS = {
    "incident": INCIDENT,
    "healthy": HEALTHY,
    "accepted": ACCEPTED,
    "warned": WARNED,
    "not_judged": NOT_JUDGED,
}


def under(told: Report, **policy: bool) -> Report:
    """The report as --strict or --warnings-as-errors makes it."""
    return replace(told, policy=Policy(**policy))


def assert_examples_are_current(fault: str, results: Iterable[Result]) -> None:
    """Compare what ``explain`` shows of a fault with what its checks say, numbers aside."""
    path = resources.files("trainsanity.report") / "examples.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["transformers"].partition(".")[0] != version("transformers").partition(".")[0]:
        return  # another major version may choose other words
    for result in results:
        example = document["examples"].get(result.check.code)
        if result.findings and example and example["fault"] == fault:
            said, shown = _words(failure_text(result)), _words(example["text"])
            assert said == shown, f"run .ci/examples.py {result.check.code}"


def _words(text: str) -> str:
    text = FOLDERS.sub("…/", text)
    return re.sub(r"-?\d[\d.,]*(e[-+]?\d+)?|\b(nan|inf)\b", "#", text)
