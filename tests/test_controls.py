"""Nothing fails on a healthy pipeline, and what skips or warns there is what did before."""

from __future__ import annotations

import os

import pytest

from fixtures.controls import OF_SEVERAL_PROCESSES, all_controls
from fixtures.controls.factories import CHEAP
from tests.check_snapshots import assert_statuses
from tests.untouched import untouched
from trainsanity.engine.proof import proved
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import Cost, Status

CONTROLS = {control.id: control for control in all_controls()}


ONE_OF_A_KIND = {
    *("plain", "left_padding", "dropout", "multi_label", "regression", "token_labels"),
    *("language_model", "lora", "streaming", "gpt2", "bert", "answers_alone"),
    *("several_evals", "optimizer_of_the_user", "labels_by_the_collator"),
}
"""A control for each task and each kind of data; the others are of the corpus."""


@pytest.mark.parametrize(
    "control",
    [
        pytest.param(one, id=name, marks=() if name in ONE_OF_A_KIND else pytest.mark.corpus)
        for name, one in CONTROLS.items()
    ],
)
def test_control_lives(control):
    pipeline = PipelineSpec(control.id, control.build).make()
    revealed = control.reveals(pipeline.trainer)
    with untouched(pipeline):
        report = run(pipeline, registry().select(), expected_failures=control.accepted)
    not_passed = {
        r.check.name: (str(r.status), r.reason, [f.headline for f in r.findings])
        for r in report.results
        if r.status is not Status.PASS and not (revealed and r.status is Status.BLOCKED)
    }
    by_status = {
        status: {n for n, (s, *_) in not_passed.items() if s == status} for status in Status
    }
    assert bool(revealed) == bool(by_status[Status.FAIL])
    assert by_status[Status.FAIL] <= revealed, not_passed
    assert by_status[Status.XFAIL] == set(control.accepted), not_passed
    assert not by_status[Status.ERROR] | by_status[Status.XPASS], not_passed
    if not revealed:
        # Nothing fails, so that no cause is claimed, and no repair is tried.
        assert proved(pipeline, report) is report
        assert not by_status[Status.BLOCKED], not_passed
        assert_statuses(control.id, report.results)


PROCESSES = {"loop.resume_equals_straight", "loop.survives_killed_save"}
"""Checks that build the pipeline again in processes of their own."""

NOT_EVALUATED = {"loop.eval_leaves_training_alone"}
"""What skips without evaluation data."""

RUNS = {
    # What each of the runs does on the plain pipeline.
    "plain": (CHEAP, set(), set()),
    # Noise: a learning rate has to be found where small updates are lost.
    "bf16_weights": (CHEAP, set(), PROCESSES),
    # Random numbers in every step, which a resumed run has to take up again.
    "dropout": (CHEAP, set(), {"loop.survives_killed_save"}),
    # Adapters are saved and loaded without what they are built on.
    "lora": (CHEAP, set(), {"loop.survives_killed_save"}),
    # Rows without places: what is skipped when it is resumed is read and thrown away.
    "streaming": (CHEAP, {"loop.epoch_covers_data"}, {"loop.survives_killed_save"}),
    # Worker processes, and random numbers in them.
    "masking_workers": (CHEAP, set(), PROCESSES),
    # Another sampler, which looks at the rows' lengths.
    "grouped_by_length": (CHEAP, set(), PROCESSES | {"loop.overfits_one_batch"}),
    # Optimizer and scheduler belong to the user and are put back.
    "optimizer_of_the_user": (CHEAP, set(), PROCESSES),
    # Other losses, each with a best constant answer of its own.
    "multi_label": (CHEAP, {"loop.eval_leaves_training_alone"}, PROCESSES),
    "regression": (CHEAP, {"loop.eval_leaves_training_alone"}, PROCESSES),
    "language_model": (CHEAP, {"loop.eval_leaves_training_alone"}, PROCESSES),
    # Every row is a batch, and a batch of one has no constant answer to beat.
    "one_row_a_step": ({}, {"loop.overfits_one_batch"}, PROCESSES),
    # Batches that are drawn anew each time that their rows are read.
    "masked_language_model": (CHEAP, NOT_EVALUATED, {"loop.overfits_one_batch"}),
    # A folder of its own in each process that builds it.
    "from_checkpoint": (CHEAP, set(), {"loop.survives_killed_save"}),
    # Weights that are others in evaluation than in training. Without momentum 60 steps do not leave
    # the plateau of the best constant answer.
    "weights_between_two_points": (
        {},
        set(),
        {"loop.survives_killed_save", "loop.overfits_one_batch"},
    ),
    # The choices of a row, which the model takes together.
    "endings_of_a_question": ({}, set(), PROCESSES),
    # A decoder that is given the targets before each.
    "answers_by_a_decoder": (CHEAP, NOT_EVALUATED, PROCESSES),
    # A model that only the Trainer can load.
    "table_of_a_later_year": (
        {},
        {"loop.overfits_one_batch", "loop.save_load_equal", "loop.saved_tokenizer_is_the_one"},
        PROCESSES,
    ),
}
"""The controls on which the runs are tried, with smaller settings where a run takes long, the
checks that skip, and those that others stand for: each takes a good part of a minute."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=getattr(pytest.mark, "long" if name in ("plain", "streaming") else "matrix"),
        )
        for name in RUNS
    ],
)
def test_control_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    settings, skips, left_out = RUNS[name]
    control = CONTROLS[name]
    spec = PipelineSpec(
        name,
        lambda: control.build(**settings),
        command=(f"fixtures.controls.factories:{name}__cheap",),
    )
    # The others of the stage take no run of their own: test_control_lives asks them.
    checks = [
        check
        for check in registry().select(["loop"], left_out | OF_SEVERAL_PROCESSES)
        if check.cost is Cost.RUN
    ]
    pipeline = spec.make()
    with untouched(pipeline):
        report = run(pipeline, checks)
    by_status = {
        r.check.name: (str(r.status), r.reason, [f.headline for f in r.findings])
        for r in report.results
        if r.status is not Status.PASS
    }
    assert set(by_status) == skips, by_status
    assert all(status == "skip" for status, *_ in by_status.values())
    assert all(check.cost is Cost.RUN for check in checks)
    output = pipeline.args.output_dir
    if os.path.isdir(output):  # one that a control has made for itself goes with its first Trainer
        assert os.listdir(output) == []
        assert os.listdir(tmp_path) == [os.path.basename(output)]
