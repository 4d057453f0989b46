"""The model checks on bad checkpoints, on weights that are elsewhere, and on other rotary kinds."""

from __future__ import annotations

import copy
import shutil
from types import SimpleNamespace

import pytest
import tokenizers
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
)

from fixtures.controls import all_controls
from fixtures.controls.models import EARLY, SHORT, last_attended, onto, other_family, pooling
from fixtures.faults import all_faults, healthy
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.pipeline import Pipeline
from trainsanity.testing import run_one
from trainsanity.types import Skip, Status

CONTROLS = {control.id: control for control in all_controls()}
WEIGHTS = "model.weights_are_the_checkpoints"


@pytest.fixture(scope="module")
def trainer():
    return healthy()


@pytest.fixture
def folder(trainer, tmp_path):
    """A checkpoint of the whole classifier."""
    trainer.model.save_pretrained(tmp_path)
    return tmp_path


def judged(name, trainer):
    return run_one(name, Pipeline.from_trainer(trainer))


def loaded(trainer, folder, auto=AutoModelForSequenceClassification, **more):
    return onto(trainer, auto.from_pretrained(folder, **more))


def said(result, status=Status.FAIL):
    assert result.status is status, result
    (finding,) = result.findings
    return finding.headline


def test_a_checkpoint_without_weights(trainer, folder):
    config = AutoConfig.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    broken = onto(trainer, AutoModelForSequenceClassification.from_config(config))
    assert said(judged(WEIGHTS, broken)) == (
        f"model.config names the checkpoint {folder}, which holds no weights"
    )


def test_pickled_weights_are_not_opened(trainer, folder):
    model = loaded(trainer, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    result = judged(WEIGHTS, model)
    assert result.status is Status.SKIP
    assert result.reason == (
        f"the weights in {folder} are no safetensors: other formats are not opened"
    )


def test_a_checkpoint_that_is_gone(trainer, folder):
    model = loaded(trainer, folder)
    shutil.rmtree(folder)
    result = judged(WEIGHTS, model)
    assert (result.status, result.reason) == (
        Status.SKIP,
        f"the weights of {folder} are not on this machine",
    )


def test_a_head_for_other_labels_is_told(trainer, folder):
    model = loaded(trainer, folder, num_labels=300, ignore_mismatched_sizes=True)
    result = judged(WEIGHTS, model)
    assert result.status is Status.PASS
    assert result.message.endswith("; score.weight is (300, 64), in the file (280, 64)")


def test_a_narrower_model_than_the_checkpoint(trainer, folder):
    config = AutoConfig.from_pretrained(folder)
    config.intermediate_size = 96
    model = loaded(trainer, folder, config=config, ignore_mismatched_sizes=True)
    assert said(judged(WEIGHTS, model)) == (
        "6 tensors of the base model have another shape than in the file: "
        "model.layers.0.mlp.gate_proj.weight"
    )


def test_a_shallower_model_leaves_tensors_over(trainer, folder):
    result = judged(WEIGHTS, loaded(trainer, folder, num_hidden_layers=1))
    assert said(result, Status.WARNING) == (
        "layers of the file that are left out: 1 (model.layers.1)"
    )


def with_layers(trainer, folder, *which):
    model = loaded(trainer, folder).model
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([copy.deepcopy(layers[k]) for k in which])
    return onto(trainer, model)


ELSEWHERE = "layers that are the file's at another number"


@pytest.mark.parametrize(
    ("which", "status", "told"),
    [
        ((1,), Status.WARNING, f"{ELSEWHERE}: 1 (model.layers.0 is its 1); layers of the file that "
                               "are left out: 1 (model.layers.0)"),
        ((0, 1, 1), Status.WARNING, f"{ELSEWHERE}: 1 (model.layers.2 is its 1)"),
        ((1, 0), Status.FAIL, f"{ELSEWHERE}: 2 (model.layers.0 is its 1)"),
    ],
)  # fmt: skip
def test_layers_that_are_the_files_elsewhere(trainer, folder, which, status, told):
    assert said(judged(WEIGHTS, with_layers(trainer, folder, *which)), status) == told


def test_a_cut_layer_beside_one_that_is_drawn_anew(trainer, folder):
    broken = with_layers(trainer, folder, 1)
    broken.model.model.layers[0].mlp.up_proj.weight.data.normal_(0, 0.02)
    result = judged(WEIGHTS, broken)
    assert result.status is Status.FAIL
    assert "differ from the file: " in result.findings[0].headline


@pytest.mark.parametrize("whole", [False, True])
def test_weights_that_were_set_to_zero(trainer, folder, whole):
    pruned = loaded(trainer, folder)
    weight = pruned.model.model.layers[0].mlp.up_proj.weight.data
    weight[:, :: 1 if whole else 2] = 0
    assert judged(WEIGHTS, pruned).status is (Status.FAIL if whole else Status.WARNING)


def test_weights_under_a_mask_keep_their_names(trainer, folder):
    from torch.nn.utils import prune

    masked = loaded(trainer, folder)
    prune.l1_unstructured(masked.model.model.layers[0].mlp.up_proj, "weight", 0.5)
    assert judged(WEIGHTS, masked).status is Status.PASS


def test_an_embedding_with_some_of_the_files_rows(trainer, folder):
    small = loaded(trainer, folder)
    rows = small.model.get_input_embeddings().weight.data.clone()
    small.model.resize_token_embeddings(len(rows) - 3)
    small.model.get_input_embeddings().weight.data.copy_(rows[3:])
    assert said(judged(WEIGHTS, small), Status.WARNING).endswith(
        "for rows that are left out: model.embed_tokens.weight"
    )


def test_a_deeper_model_misses_tensors(trainer, folder):
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers, config.layer_types = 3, None
    fresh = AutoModelForSequenceClassification.from_config(type(config)(**config.to_dict()))
    fresh.load_state_dict(trainer.model.state_dict(), strict=False)
    fresh.config._name_or_path = str(folder)
    message = said(judged(WEIGHTS, onto(trainer, fresh)))
    assert message.startswith("11 tensors of the base model are not in the file: model.layers.2.")


def test_shards_other_dtypes_and_added_tokens(trainer, tmp_path):
    trainer.model.save_pretrained(tmp_path, max_shard_size="10MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = loaded(trainer, tmp_path).model.bfloat16().float()
    model.resize_token_embeddings(model.config.vocab_size + 8)
    result = judged(WEIGHTS, onto(trainer, model))
    assert result.status is Status.PASS, result
    assert result.observed["compared"] == 25


def test_a_tied_head_is_the_embedding(trainer, tmp_path):
    AutoModelForCausalLM.from_config(trainer.model.config).save_pretrained(tmp_path)
    result = judged(WEIGHTS, loaded(trainer, tmp_path, AutoModelForCausalLM))
    assert (result.status, result.observed["new"]) == (Status.PASS, [])


def test_adapters_stand_beside_the_checkpoints_weights(trainer, folder):
    result = judged(WEIGHTS, CONTROLS["lora"].change(loaded(trainer, folder)))
    assert result.status is Status.PASS, result
    assert result.observed == {"compared": 25, "new": [], "resized": []}


def test_offloaded_weights_are_not_compared(trainer, folder):
    from accelerate import cpu_offload

    model = loaded(trainer, folder)
    cpu_offload(model.model, execution_device=torch.device("cpu"))
    report = run(Pipeline.from_trainer(model), registry().select(["model"]))
    by_status = {}
    for result in report.results:
        by_status.setdefault(result.status, {})[result.check.name] = result.reason
    assert set(by_status) == {Status.PASS, Status.SKIP}, by_status
    away = "weights are offloaded: their values are not in memory"
    no_documents = "documents are looked for where a causal language model is trained"
    assert by_status[Status.SKIP].pop("model.documents_are_apart") == no_documents
    assert "the probes ask about its padding" in by_status[Status.SKIP].pop(
        "model.padding_is_not_pooled"
    )
    assert by_status[Status.SKIP].pop("model.rows_stay_apart") == ("this pipeline has no own loop")
    assert by_status[Status.SKIP].pop("model.running_statistics_last") == (
        "no normalisation of the model keeps running statistics"
    )
    assert by_status[Status.SKIP].pop("model.new_tokens_are_trained") == (
        "the tokenizer has no token that the checkpoint's does not have"
    )
    for name, why in (
        ("model.targets_unseen", "the targets are no tokens of the vocabulary"),
        ("model.decoder_starts_alike", "the model is no encoder-decoder"),
        ("model.reward_is_one_number", "the rows hold no chosen and rejected sides"),
        ("model.adapter_begins_as_base", "the model has no LoRA"),
        ("model.positions_are_the_models", "the batch has no position_ids beside its tokens"),
        (
            "model.targets_can_be_generated",
            "the model is no encoder-decoder with a generation config",
        ),
        ("model.tied_weights_stay_tied", "the model has no output embedding"),
    ):
        assert by_status[Status.SKIP].pop(name) == why
    adapters = [name for name, why in by_status[Status.SKIP].items() if "no adapter" in why]
    assert len(adapters) == 5
    for name in adapters:
        del by_status[Status.SKIP][name]
    assert by_status[Status.SKIP] == dict.fromkeys(
        (
            "model.head_init",
            "model.logits_spread",
            WEIGHTS,
            "model.embeddings_learn",
            "model.padding_is_hidden",
        ),
        away,
    )


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"hf_device_map": {"": "cpu"}}, None),
        ({"hf_device_map": {"": 0}}, None),
        ({"hf_device_map": {"model": 0, "score": "cpu"}}, "offloaded to cpu"),
        ({"hf_device_map": {"model": "disk", "score": "cpu"}}, "offloaded to cpu and disk"),
        ({"hf_quantizer": object()}, "the weights are quantised"),
        ({"config": SimpleNamespace(quantization_config={"bits": 4})}, "the weights are quantised"),
    ],
)
def test_weights_that_are_elsewhere(facts, reason):
    said = not_in_memory(SimpleNamespace(parameters=list, **facts))
    assert said is None if reason is None else reason in said


ROPE = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 512},
    "longrope": {
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 512,
        "factor": 4.0,
    },
}


@pytest.mark.parametrize("kind", ROPE)
def test_scaled_rotary_kinds(trainer, kind):
    settings = {"rope_type": kind, **ROPE[kind]}
    new = hasattr(trainer.model.config, "rope_parameters")
    name = "rope_parameters" if new else "rope_scaling"
    theta = {} if not new else {"rope_theta": 10_000.0}
    llama = other_family(trainer, "llama", **SHORT, **EARLY, **{name: {**settings, **theta}})
    result = judged("model.rope_frequencies", llama)
    assert result.status is Status.PASS, result


def test_two_kinds_of_layers_have_two_kinds_of_positions(trainer):
    config = AutoConfig.for_model("gemma3_text", sliding_window=32, **SHORT, **EARLY)
    config.layer_types = ["sliding_attention", "full_attention"]
    gemma = onto(trainer, AutoModelForCausalLM.from_config(type(config)(**config.to_dict())))
    result = judged("model.rope_frequencies", gemma)
    assert result.status is Status.PASS, result
    assert len(result.observed) == 2


def test_rotary_frequencies_that_are_no_numbers(trainer):
    llama = other_family(trainer, "llama", **SHORT, **EARLY)
    llama.model.model.rotary_emb.inv_freq.fill_(float("nan"))
    assert "differs from its formula: greatest difference nan of its value" in said(
        judged("model.rope_frequencies", llama)
    )


def test_a_mean_over_the_text_reads_it_to_its_end(trainer):
    model = onto(trainer, AutoModelForSequenceClassification.from_config(trainer.model.config))

    def forward(self, input_ids, attention_mask=None, labels=None):
        from transformers.modeling_outputs import SequenceClassifierOutput

        states = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None]
        logits = self.score((states * mask).sum(1) / mask.sum(1))
        loss = torch.nn.functional.cross_entropy(logits, labels) if labels is not None else None
        return SequenceClassifierOutput(loss=loss, logits=logits)

    model.model.__class__ = type("Mean", (type(model.model),), {"forward": forward})
    assert judged("model.read_at_the_end", model).status is Status.PASS


def test_a_cache_that_changes_what_is_read(trainer):
    model = pooling(healthy(), last_attended)
    pooled = type(model.model).forward

    def forward(self, input_ids, attention_mask=None, labels=None, use_cache=True):
        made = pooled(self, input_ids, attention_mask, None, labels)
        made.logits = made.logits if use_cache else made.logits + 1
        return made

    model.model.__class__ = type("Cached", (type(model.model),), {"forward": forward})
    assert said(judged("model.read_at_the_end", model)).startswith("use_cache changes the logits")


def test_an_attention_that_cannot_be_switched(trainer):
    model = onto(trainer, AutoModelForSequenceClassification.from_config(trainer.model.config))
    model.model._supports_attention_backend = False
    result = judged("model.attention_agrees", model)
    assert result.status is Status.SKIP
    assert "cannot be switched once it is built" in result.reason


def test_the_attention_is_what_it_was(trainer):
    before = trainer.model.config._attn_implementation
    result = judged("model.attention_agrees", trainer)
    assert trainer.model.config._attn_implementation == before == "sdpa"
    assert result.status is Status.PASS
    assert set(result.observed) == {"eager"}


def test_an_encoder_padded_on_the_left_is_not_what_it_was_made_for(trainer):
    bert = other_family(healthy(), "bert", intermediate_size=128, **SHORT)
    bert.processing_class.padding_side = "left"
    assert "64 more columns of padding on the left" in said(
        judged("model.padding_invariance", bert)
    )


def test_rows_that_are_masked_in_the_middle(trainer):
    model = healthy()
    collate = model.data_collator

    def holes(rows):
        made = collate(rows)
        made["attention_mask"][:, 3] = 0
        return made

    model.data_collator = holes
    with pytest.raises(Skip, match="has holes"):
        Session.of(Pipeline.from_trainer(model)).measurements.get("probes")


def test_a_decoder_made_an_encoder_is_not_held_to_be_causal(trainer):
    model = healthy()
    model.model.config.is_causal = False
    result = judged("model.causal", model)
    assert result.status is Status.SKIP
    assert result.reason == "nothing says that the model is causal: it may look ahead"


def test_what_noise_would_hide_is_told_and_not_judged():
    result = judged("model.batch_equals_single", CONTROLS["zero_head"].build())
    assert result.status is Status.ABSTAIN
    assert result.reason.startswith("rows differ from each other by 0, which arithmetic noise of")


# --- causes are claimed as far as they were tested ------------------------------------------------


def biased_head(trainer, bias):
    """The head with a bias of that size on its first label."""
    old = trainer.model.score
    head = torch.nn.Linear(old.in_features, old.out_features)
    head.weight.data.copy_(old.weight)
    head.bias.data.zero_()[0] = bias
    trainer.model.score = head
    return trainer


def test_a_bias_is_no_scaling_after_the_head():
    (finding,) = judged("model.logits_spread", biased_head(healthy(), 20.0)).findings
    assert finding.cause.startswith("the head's bias: its largest element is 20")
    assert judged("model.logits_spread", biased_head(healthy(), 0.0)).status is Status.PASS


def test_a_scaling_after_the_head_is_named_with_its_size():
    fault = next(fault for fault in all_faults() if fault.id == "logits_scaled")
    (finding,) = judged("model.logits_spread", fault.build()).findings
    assert finding.cause.startswith("something rescales the logits after the head, by ")


def test_a_parametrised_head_has_no_closed_form():
    """Its gradient is that of the parameters that it is computed from."""
    trainer = healthy(rows=40, gradient_accumulation_steps=2)
    torch.nn.utils.parametrizations.spectral_norm(trainer.model.score)
    result = judged("gradient.head_closed_form", trainer)
    assert result.status is Status.SKIP, result
    assert result.reason.startswith("the head's weight is computed from other parameters")


def test_positions_by_another_pad_id_are_a_warning_on_the_side_that_is_not_used():
    """RoBERTa counts positions by its own pad id; it does not drop the mask."""
    trainer = healthy()
    config = AutoConfig.for_model(
        "roberta", num_labels=280, pad_token_id=1, intermediate_size=128, **SHORT
    )
    model = AutoModelForSequenceClassification.from_config(config)
    model.config.pad_token_id = trainer.processing_class.pad_token_id
    trainer = onto(trainer, model)
    result = judged("model.padding_invariance", trainer)
    assert result.status is Status.WARNING, result
    (finding,) = result.findings
    assert finding.cause.startswith("the mask is obeyed on the right: the model counts positions")


def test_an_adapter_for_inference_is_to_be_made_trainable():
    trainer = CONTROLS["lora"].build(rows=40)
    trainer.model.requires_grad_(False)
    (finding,) = judged("update.new_parameters_are_kept", trainer).findings
    assert finding.fix == "PeftModel.from_pretrained(..., is_trainable=True)"


def test_a_group_that_is_left_out_is_no_model_that_was_changed():
    trainer = healthy(rows=40, gradient_accumulation_steps=2)
    kept = [p for name, p in trainer.model.named_parameters() if name != "model.norm.weight"]
    trainer.optimizer = torch.optim.AdamW(kept, lr=1e-4)
    (finding,) = judged("update.optimizer_holds_trainable", trainer).findings
    assert finding.where == "model.norm.weight"
    assert finding.cause.startswith("its groups leave them out")


# --- parts that do not belong together -----------------------------------------------------------


def test_a_head_of_the_wrong_size(trainer):
    broken = healthy()
    broken.model.score = torch.nn.Linear(broken.model.config.hidden_size, 300, bias=False)
    report = run(
        Pipeline.from_trainer(broken), registry().select(["model.head_fits_config", "TS5"])
    )
    first, *rest = report.results
    assert said(first) == "the model returns 300 logits, its config says 280"
    # The loss reshapes by the config's number and raises, which is no error of its own.
    by_status = {result.check.name: result.status for result in rest}
    assert by_status.pop("loss.initial_is_uninformed") is Status.PASS
    assert by_status.pop("loss.reference_is_apart") is Status.SKIP  # there is no reference
    assert by_status.pop("loss.experts_are_balanced") is Status.SKIP  # nor experts
    assert set(by_status.values()) == {Status.BLOCKED}
    assert report.diagnosis.result is first


def test_a_model_with_a_smaller_vocabulary_than_the_tokenizer(trainer):
    other = other_family(trainer, "gpt2", n_embd=64, n_layer=1, n_head=4, vocab_size=50_257)
    assert said(judged("tokenizer.config_agrees", other)).startswith(
        "the tokenizer has ids up to 151668, the embedding 50257 rows"
    )


def test_a_tokenizer_of_another_model(trainer):
    words = sorted({word for row in trainer.train_dataset for word in row["text"].split()})
    ids = {word: k for k, word in enumerate(["[PAD]", "[UNK]", *words])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    other = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")
    rows = trainer.train_dataset.map(lambda row: other(row["text"]), new_fingerprint="words")
    broken = type(trainer)(
        model=trainer.model,
        args=trainer.args,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(other),
        processing_class=other,
    )
    result = judged("tokenizer.special_ids_agree", broken)
    assert result.findings[0].headline == (
        "eos_token_id is 151645 in model.config; to this tokenizer that is no special token"
    )
    assert "different checkpoints" in result.findings[0].cause
