"""The incident in small: red for its own reason, green when repaired, each suspect made guilty."""

from __future__ import annotations

import inspect

import pytest
from transformers import Qwen3ForSequenceClassification

import trainsanity
from fixtures.pipelines import tiny_qwen3
from trainsanity import PipelineSpec, Status
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.testing import assert_kills

REPAIRED = PipelineSpec("tiny_qwen3:repaired", tiny_qwen3.repaired)
INCIDENT = PipelineSpec("tiny_qwen3:incident", tiny_qwen3.incident)

# The head that takes **kwargs is handed num_items_in_batch and ignores it; transformers 4.51 still
# divides by the accumulation steps itself.
DEFECT = any(
    parameter.kind is inspect.Parameter.VAR_KEYWORD
    for parameter in inspect.signature(Qwen3ForSequenceClassification.forward).parameters.values()
)

GUILTY = {
    "pad_overwritten": "tokenizer.pad_is_the_checkpoints",
    "mask_all_ones": "collator.mask_is_exact",
    "big_head": "model.head_init",
}

SUSPECTS = {
    "PAD / EOS",
    "config / tokenizer",
    "labels",
    "attention mask",
    "pad_to_multiple_of",
    "head initialisation",
    "learning rate",
}
"""Whom the incident's team blamed."""


@trainsanity.parametrize_with_checks(REPAIRED)
def test_sanity(pipeline, check):
    check(pipeline)


@pytest.mark.parametrize("pipeline", [INCIDENT], indirect=True, ids=["incident"])
def test_incident(pipeline):
    if not DEFECT:
        assert_kills(pipeline, set())
        return
    report = assert_kills(pipeline, {"loss.matches_reference"})
    diagnosis = report.diagnosis
    assert diagnosis.first_broken_stage == "loss"
    assert diagnosis.finding is not None
    assert diagnosis.finding.factor == pytest.approx(12, abs=1e-3)
    assert "gradient_accumulation_steps = 12" in diagnosis.finding.cause
    assert "accepts_loss_kwargs = False" in diagnosis.finding.fix
    explained = {result.check.name: result for result in diagnosis.explained}
    assert set(explained) == {
        "gradient.head_closed_form",
        "gradient.matches_autograd",
        "gradient.norm_within_bounds",
        "gradient.step_is_the_weighted_sum",
        "loss.logged_is_a_mean",
    }
    for result in explained.values():
        assert result.blocked_by == "loss.matches_reference"
        assert result.factor == pytest.approx(12, rel=1e-3)
    assert set(diagnosis.ruled_out) >= SUSPECTS
    assert all(any(map(str.isdigit, " ".join(said))) for said in diagnosis.ruled_out.values())


@pytest.mark.parametrize(("guilty", "check"), GUILTY.items(), ids=GUILTY)
def test_each_suspect_made_guilty_is_caught(guilty, check):
    spec = PipelineSpec(f"tiny_qwen3:{guilty}", getattr(tiny_qwen3, guilty))
    # A head that is a hundred times too large makes a gradient of which the clip keeps next to
    # nothing.
    warns = {"gradient.clipping"} if guilty == "big_head" else ()
    assert_kills(spec.make(), {check}, warns=warns)


def test_padding_to_512_costs_time_alone():
    report = assert_kills(
        PipelineSpec("tiny_qwen3:pad_to_512", tiny_qwen3.pad_to_512).make(),
        (),
        warns={"collator.padding_overhead"},
    )
    assert report.exit_code() == 0


def test_pad_is_eos_is_harmless_here():
    """The incident's first suspect: no row holds EOS, so nothing is lost by sharing its id."""
    report = assert_kills(
        PipelineSpec("tiny_qwen3:pad_is_eos", tiny_qwen3.pad_is_eos).make(),
        (),
        warns={"tokenizer.pad_is_not_eos"},
    )
    assert report.exit_code() == 0


def test_without_accumulation_nothing_shows():
    """Without accumulation on one process nothing is left undivided, in any version."""
    spec = PipelineSpec(
        "no accumulation", lambda: tiny_qwen3.incident(gradient_accumulation_steps=1)
    )
    report = run(spec.make(), registry().select(["TS5", "TS6"]))
    assert {result.status for result in report.results} <= {Status.PASS, Status.SKIP}
