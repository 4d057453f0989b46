"""What the collator checks say: the smallest case that shows the fault, and nothing of others."""

from __future__ import annotations

import copy
import random
import re

import pytest

from fixtures.controls import all_controls
from fixtures.faults import all_faults, healthy
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec
from trainsanity.testing import run_one
from trainsanity.types import Status

FAULTS = {fault.id: fault for fault in all_faults() if fault.stage == "collator"}
CONTROLS = {control.id: control for control in all_controls()}

OWN = "padding_side='right', pad_to_multiple_of=8"
A, B, END, PAD = "{A}", "{B}", 151_645, 151_643
"""The first two tokens of the longest row of the first batch, and the special ones."""

SMALLEST = {
    "mask_all_ones": f"(input_ids [[{A}]], {OWN}): row 0 has 1 token in 8 positions and a mask "
    "with 8 ones: [1, 1, 1, 1, 1, 1, 1, 1]",
    "mask_from_eos": f"(input_ids [[{A}]], {OWN}): row 0 has 1 token in 8 positions and a mask "
    "with 0 ones",
    "tail_truncated": f"(rows of 129 tokens, {OWN}): row 0 ",
    "labels_moved": f"(input_ids [[{A}], [",
    "padded_with_zero": f"(input_ids [[{A}]], {OWN}): row 0 is padded with [0], PAD is {PAD}",
    "multiple_forgotten": f"(input_ids [[{A}]], {OWN}): a batch is 1 wide; its longest row has 1 "
    "tokens, 8 is enough",
    "never_narrower": f"(input_ids [[{A}]], padding_side='right', pad_to_multiple_of=None): made "
    "again after another batch, attention_mask, input_ids came out differently",
    "rows_cut_in_place": f"(rows of 129 tokens, {OWN}): ",
    "multiple_not_kept": f"(input_ids [[{A}]], {OWN}): a batch is 3 wide; its longest row has 1 "
    "tokens, 8 is enough",
    "labels_shifted": f"(input_ids [[{A}, {B}]], {OWN}): row 0: the label of token 0 is {B}, it "
    f"should be {A}, one place too early",
    "prompts_supervised": f"(input_ids [[{A}, {B}]], {OWN}): row 0 excludes token 1 from the "
    f"loss, and its label is {B}",
    "padding_supervised": f"(input_ids [[{A}]], {OWN}): row 0 has 7 positions of padding, 7 of "
    "them with a label (0)",
    "padding_predicted": f"(input_ids [[{A}]], {OWN}): row 0 has 7 positions of padding, 7 of "
    f"them with a label ({PAD})",
    "ends_not_learnt": f"(input_ids [[{A}, {END}]], {OWN}): row 0 ends with EOS {END}, whose label "
    "is -100",
    "pad_is_eos_in_a_language_model": f"(input_ids [[{A}, {END}]], {OWN}): row 0 ends with EOS",
    "side_alternates": f"(input_ids [[{A}]], {OWN}): made again at once, attention_mask, input_ids "
    "came out differently",
    "rows_padded_in_place": f"(input_ids [[{A}], [{A}, {B}]], {OWN}): attention_mask of row 0 is "
    "[1, 0] afterwards",
}
"""The case that each fault shrinks to, as the failure's text shows it."""

WITHOUT_CASE = {
    "evaluation_counts_questions",
    "rows_sorted",
    "mask_of_another_vocabulary",
    "multiple_of_512",
    "fixed_width",
    "positions_lost",
    "labels_under_another_name",
    "stop_outside_the_mask",
    "response_key_not_found",
    "labels_by_prefix",
    "declared_and_not_masked",
    "first_answer_token_is_masked",
    "some_spans_begin_later",
    "bytes_for_pixels",
    "pictures_rescaled_twice",
    "pictures_are_targets",
    "channels_by_reshape",
    "later_questions_trained",
    "results_of_tools_learnt",
    "sounds_are_integers",
}
"""Faults of settings and columns, of labels that are judged by the training rows themselves, whole
conversations, and of pixels: no choice of rows makes them smaller."""


def test_every_fault_has_its_smallest_case():
    assert set(SMALLEST) | WITHOUT_CASE == set(FAULTS)


@pytest.mark.parametrize("name", SMALLEST)
def test_the_failure_shows_the_smallest_case(name):
    fault = FAULTS[name]
    pipeline = PipelineSpec(name, fault.build).make()
    rows = [row for micro in Session.of(pipeline).measurements.get("batch") for row in micro.rows]
    first, second, *_ = max((row["input_ids"] for row in rows), key=len)
    checks = [check for check in sorted(fault.caught_by) if check.startswith("collator.")]
    results = [run_one(check, pipeline) for check in checks]
    assert {result.status for result in results} == {Status.FAIL}
    case = SMALLEST[name].replace(A, str(first)).replace(B, str(second))
    # What the training batch itself shows needs no case.
    assert any(
        f"the smallest batch that shows it {case}" in result.findings[0].headline
        for result in results
    )


def test_rows_that_were_sorted_are_found_in_their_places():
    pipeline = PipelineSpec("sorted", FAULTS["rows_sorted"].build).make()
    assert all(micro.turned for micro in Session.of(pipeline).measurements.get("batch"))
    assert run_one("TS302", pipeline).status is Status.WARNING
    assert run_one("TS305", pipeline).status is Status.PASS


def test_labels_that_moved_are_shown_with_two_rows():
    result = run_one("TS305", PipelineSpec("moved", FAULTS["labels_moved"].build).make())
    smallest = result.findings[0].headline.partition("the smallest batch that shows it")[2]
    assert re.search(r"labels \[(\d+), (\d+)\] came out as \[\2, \1\]$", smallest)


def collating(make, **settings):
    """A pipeline of the healthy Trainer with the collator that ``make`` makes of its own."""
    trainer = healthy(**settings)
    trainer.data_collator = make(trainer.data_collator)
    return Pipeline.from_trainer(trainer)


def test_what_fails_on_the_other_side_only_is_told_and_passes():
    def make(collator):
        class RightHanded(type(collator)):
            def __call__(self, rows):
                made = super().__call__(rows)
                if self.tokenizer.padding_side == "left":
                    made["attention_mask"].fill_(1)
                return made

        return RightHanded(collator.tokenizer, pad_to_multiple_of=collator.pad_to_multiple_of)

    pipeline = collating(make)
    result = run_one("collator.mask_is_exact", pipeline)
    assert result.status is Status.PASS
    assert re.search(
        r"; not with settings that are not in use: input_ids \[\[\d+\]\], padding_side='left'",
        result.message,
    )
    assert pipeline.tokenizer.padding_side == "right"
    assert pipeline.data_collator.pad_to_multiple_of == 8


def test_a_collator_that_refuses_short_rows_is_judged_by_the_training_batch():
    def make(collator):
        def collate(rows):
            if min(len(row["input_ids"]) for row in rows) < 100:
                raise ValueError("texts below 100 tokens are for the other model")
            return collator(rows)

        return collate

    result = run_one("collator.rows_recovered", collating(make))
    assert result.status is Status.PASS
    assert result.message == "16 of 16 rows of the first step come out whole"


def test_a_collator_that_refuses_everything_else_says_so():
    trainer = healthy()
    known = {tuple(ids) for ids in trainer.train_dataset["input_ids"]}
    collator = trainer.data_collator

    def collate(rows):
        if not known.issuperset(tuple(row["input_ids"]) for row in rows):
            raise ValueError("who wrote this?")
        return collator(rows)

    trainer.data_collator = collate
    result = run_one("collator.rows_recovered", Pipeline.from_trainer(trainer))
    assert result.status is Status.PASS
    assert result.message.endswith(
        "(the training batch alone: the collator raised ValueError: who wrote this?)"
    )


def test_random_numbers_without_a_seed_are_not_repeatable():
    def make(collator):
        def collate(rows):
            made = collator(rows)
            made["position_ids"] = made["input_ids"] * 0 + random.SystemRandom().randrange(10**9)
            return made

        return collate

    result = run_one("collator.repeatable", collating(make))
    assert result.status is Status.FAIL
    assert "position_ids came out differently" in result.findings[0].headline


def test_random_numbers_with_a_seed_are():
    def make(collator):
        def collate(rows):
            made = collator(rows)
            made["position_ids"] = made["input_ids"] * 0 + random.randrange(10**9)
            return made

        return collate

    assert run_one("collator.repeatable", collating(make)).status is Status.PASS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda made: made.update(attention_masks=made["attention_mask"]),
            "the model does not know attention_masks of the batch",
        ),
        (
            lambda made: made.update(labels=made["labels"].float()),
            "single_label_classification wants integers, they are float32",
        ),
        (
            lambda made: made.update(labels=made["labels"][:, None].repeat(1, 2)),
            "single_label_classification wants 4 for 4 rows, their shape is (4, 2)",
        ),
    ],
)
def test_keys_and_labels_that_the_model_does_not_take(change, says):
    def make(collator):
        def collate(rows):
            made = collator(rows)
            change(made)
            return made

        return collate

    pipeline = collating(make)
    if "know" in says and not any(
        p.kind is p.VAR_KEYWORD for p in _parameters(pipeline.model.forward)
    ):
        pytest.skip("this transformers stops at a key that it does not know")
    result = run_one("collator.model_takes_batch", pipeline)
    assert says in " ".join(finding.headline for finding in result.findings)


def _parameters(function):
    import inspect

    return inspect.signature(function).parameters.values()


def test_the_dataset_is_left_alone_by_a_collator_that_changes_its_rows():
    trainer = FAULTS["rows_padded_in_place"].build()
    before = copy.deepcopy(trainer.train_dataset)
    pipeline = Pipeline.from_trainer(trainer)
    Session.of(pipeline).measurements.get("batch")
    run_one("collator.rows_unchanged", pipeline)
    assert trainer.train_dataset == before


def test_rows_that_are_made_anew_are_not_harmed():
    pipeline = PipelineSpec("pops", CONTROLS["collator_pops"].build).make()
    result = run_one("collator.rows_unchanged", pipeline)
    assert result.status is Status.PASS
    assert result.message == (
        "pieces of 16 rows, collated: 1 changes in place found; "
        "the dataset makes its rows anew at each read"
    )


def test_several_labels_a_row_may_be_tensors():
    trainer = CONTROLS["multi_label"].build(rows=40, gradient_accumulation_steps=1)
    trainer.train_dataset = trainer.train_dataset.with_format("torch")
    report = run(Pipeline.from_trainer(trainer), registry().select(["TS305", "TS307"]))
    assert [result.status for result in report.results] == [Status.PASS, Status.PASS]


def test_packed_rows_are_found_one_behind_the_other_and_have_no_mask_to_judge():
    pipeline = PipelineSpec("flat", CONTROLS["flattening"].build).make()
    report = run(pipeline, registry().select(["TS302", "TS301"]))
    mask, recovered = sorted(report.results, key=lambda result: result.check.code)
    size = pipeline.args.per_device_train_batch_size
    rows = size * pipeline.args.gradient_accumulation_steps
    assert recovered.status is Status.PASS
    assert recovered.message.startswith(f"{rows} of {rows} rows of the first step come out whole")
    assert mask.status is Status.SKIP
    assert mask.reason == f"the collator packs {size} rows into 1: none stands alone"


def masked_language_model(**settings):
    from transformers import AutoModelForMaskedLM, BertConfig, DataCollatorForLanguageModeling

    trainer = healthy()
    tokenizer = trainer.processing_class
    tokenizer.add_special_tokens({"mask_token": "<|fim_middle|>"})
    config = BertConfig(
        vocab_size=151_936,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return type(trainer)(
        model=AutoModelForMaskedLM.from_config(config),
        args=trainer.args,
        train_dataset=trainer.train_dataset.remove_columns("label"),
        data_collator=DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=8, **settings),
        processing_class=tokenizer,
    )


OF_CONVERSATIONS = dict.fromkeys(
    (
        "collator.rows_have_targets",
        "collator.targets_fit_messages",
        "collator.stop_is_taught",
        "collator.spans_are_alike",
        "collator.evaluation_is_masked_alike",
        "collator.supervision_is_declared",
        "collator.results_are_ignored",
    ),
    "documents are looked for where a causal language model is trained",
)
OF_PICTURES = {
    "collator.pixels_are_normalised": "the pipeline has no image processor that tells the range of "
    "pixels",
    "collator.channels_are_planes": "the batch has fewer than 4 pictures of three channels",
    "collator.placeholders_are_ignored": "the model's config names no token that stands for "
    "pictures or sounds",
    "collator.sounds_are_in_range": "the pipeline has no feature extractor of sounds",
}
"""Checks of the targets of causal language models, and of pixels, with why they skip elsewhere."""


@pytest.mark.parametrize("seed", [None, 7])
def test_tokens_masked_at_random_are_recovered_and_repeated(seed):
    """From torch's generator, or from one of the collator's own that its first call makes."""
    pipeline = Pipeline.from_trainer(masked_language_model(seed=seed))
    report = run(pipeline, registry().select(["collator"]))
    skipped = {r.check.name: r.reason for r in report.results if r.status is Status.SKIP}
    assert skipped == OF_CONVERSATIONS | OF_PICTURES
    rest = [result for result in report.results if result.check.name not in skipped]
    assert {result.status for result in rest} == {Status.PASS}
    assert pipeline.data_collator.generator is None


def test_a_masked_language_model_has_no_number_of_labels():
    result = run_one("TS415", Pipeline.from_trainer(masked_language_model()))
    assert (result.status, result.reason) == (
        Status.SKIP,
        "the config names no number of outputs",
    )


def test_blocks_that_no_tokenizer_pads_are_judged():
    from fixtures.field.language_models_healthy import blocks_of_run_clm

    pipeline = PipelineSpec("blocks", blocks_of_run_clm).make()
    assert pipeline.tokenizer is None or pipeline.tokenizer.pad_token_id is None
    for check in ("TS301", "TS302"):
        assert run_one(check, pipeline).status is Status.PASS
