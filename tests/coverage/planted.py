"""Faults planted in pipelines of the kinds whose checks ask by role, one for each such check.

They show that a verdict in the table is one: the check is red where the fault is that it is for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout

from fixtures.faults import subclassed

from . import kinds
from .kinds import KINDS, Pooled

Plant = Callable[[], Any]


@dataclass(frozen=True)
class Planted:
    """A fault in a pipeline of a kind.

    Attributes:
        kind: of the pipeline.
        check: that it is for.
        make: builds the pipeline with the fault.
        status: of the check there.
    """

    kind: str
    check: str
    make: Plant
    status: str = "fail"

    @property
    def id(self) -> str:
        """Return kind and check."""
        return f"{self.kind}-{self.check}"


PLANTED: list[Planted] = []


def planted(kind: str, check: str, status: str = "fail") -> Callable[[Any], Any]:
    """Register a function that takes the kind's Trainer and returns it broken."""

    def register(fault: Callable[[Any], Any]) -> Any:
        PLANTED.append(Planted(kind, check, lambda: fault(KINDS[kind]()), status))
        return fault

    return register


# A module on tokens


def _as(trainer: Any, cls: type[nn.Module], words: int = 0, classes: int = 0) -> Any:
    """Return the Trainer of a module on tokens, with another module."""
    old = trainer.model
    model = cls(words or old.embedding.num_embeddings, classes or old.head.out_features)  # type: ignore[call-arg]
    return type(trainer)(
        model=model,
        args=trainer.args,
        train_dataset=trainer.train_dataset,
        eval_dataset=trainer.eval_dataset,
        data_collator=trainer.data_collator,
    )


@planted("module_on_tokens", "tokenizer.ids_in_embedding")
def fewer_words(trainer: Any) -> Any:
    """The rows were tokenized for a larger vocabulary."""
    return _as(trainer, Pooled, words=trainer.model.embedding.num_embeddings - 20)


@planted("module_on_tokens", "dataset.labels_in_range")
def fewer_classes(trainer: Any) -> Any:
    """The head has a class less than the labels."""
    return _as(trainer, Pooled, classes=kinds._encoders.CLASSES - 1)


@planted("module_on_tokens", "model.batch_equals_single")
def centred_over_the_batch(trainer: Any) -> Any:
    """What the head reads is centred over the rows of the batch."""

    class Centred(Pooled):
        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> Any:
            mask = attention_mask[..., None].to(torch.float32)
            pooled = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
            logits = self.head(pooled - pooled.mean(0) / 2)
            found = {"logits": logits}
            return found if labels is None else {"loss": cross_entropy(logits, labels), **found}

    return _as(trainer, Centred)


@planted("module_on_tokens", "model.eval_is_repeatable")
def dropout_in_evaluation(trainer: Any) -> Any:
    """Dropout that eval() does not switch off."""
    trainer.model.embedding.register_forward_hook(lambda _m, _i, out: dropout(out, 0.3))
    return trainer


@planted("module_on_tokens", "model.mask_is_obeyed", "warning")
def mean_over_padding(trainer: Any) -> Any:
    """The mean is taken over all columns. No row is padded, so that it does no harm here."""

    class Unmasked(Pooled):
        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> Any:
            del attention_mask
            logits = self.head(self.embedding(input_ids).mean(1))
            found = {"logits": logits}
            return found if labels is None else {"loss": cross_entropy(logits, labels), **found}

    return _as(trainer, Unmasked)


@planted("module_on_tokens", "model.padding_invariance", "warning")
def divided_by_the_width(trainer: Any) -> Any:
    """The sum of what the mask shows is divided by the batch's width."""

    class ByWidth(Pooled):
        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> Any:
            mask = attention_mask[..., None].to(torch.float32)
            pooled = (self.embedding(input_ids) * mask).sum(1) / input_ids.shape[1]
            logits = self.head(pooled)
            found = {"logits": logits}
            return found if labels is None else {"loss": cross_entropy(logits, labels), **found}

    return _as(trainer, ByWidth)


@planted("module_on_tokens", "model.embeddings_learn")
def cut_above_the_embedding(trainer: Any) -> Any:
    """The graph is cut above the embedding."""
    trainer.model.embedding.register_forward_hook(lambda _m, _i, out: out.detach())
    return trainer


@planted("module_on_tokens", "loss.initial_is_uninformed")
def head_of_other_labels(trainer: Any) -> Any:
    """The head was trained on other labels: each class's own word speaks against it."""
    tok = kinds._encoders.words_tokenizer()
    with torch.no_grad():
        for k in range(kinds._encoders.CLASSES):
            row = trainer.model.embedding.weight[tok.convert_tokens_to_ids(f"c{k}")]
            row.zero_()
            row[k] = 30.0
            trainer.model.head.weight[:, k] = 0.0
            trainer.model.head.weight[k, k] = -3.0
    return trainer


@planted("module_on_tokens", "loss.matches_reference")
def count_is_not_used(trainer: Any) -> Any:
    """forward takes **kwargs, so that the Trainer leaves the division by GA to the model."""

    class Open(Pooled):
        def forward(
            self, input_ids: Any, attention_mask: Any, labels: Any = None, **kwargs: Any
        ) -> Any:
            del kwargs
            mask = attention_mask[..., None].to(torch.float32)
            logits = self.head((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))
            found = {"logits": logits}
            return found if labels is None else {"loss": cross_entropy(logits, labels), **found}

    trainer.args.gradient_accumulation_steps = 4
    return _as(trainer, Open)


@planted("module_on_tokens", "loss.formula_is_known")
def softmax_twice(trainer: Any) -> Any:
    """The loss takes the softmax of probabilities."""

    def again(_module: Any, _args: Any, named: Any, out: Any) -> Any:
        if named.get("labels") is None:
            return out
        return {**out, "loss": cross_entropy(out["logits"].softmax(-1), named["labels"])}

    with torch.no_grad():
        trainer.model.head.weight *= 20  # near zero, both formulas have nearly the same value
    trainer.model.register_forward_hook(again, with_kwargs=True)
    return trainer


@planted("module_on_tokens", "loss.train_equals_eval")
def evaluation_is_doubled(trainer: Any) -> Any:
    """prediction_step returns twice the loss."""
    return _doubled_evaluation(trainer)


def _doubled_evaluation(trainer: Any) -> Any:
    def prediction_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss, *rest = super(type(self), self).prediction_step(*args, **kwargs)
        return (2 * loss, *rest)

    return subclassed(trainer, prediction_step=prediction_step)


@planted("module_on_tokens", "loss.dtype", "warning")
def logits_of_sixteen_bits(trainer: Any) -> Any:
    """The loss is computed in bfloat16."""

    class Coarse(Pooled):
        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> Any:
            mask = attention_mask[..., None].to(torch.float32)
            states = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
            logits = self.head(states).bfloat16()
            found = {"logits": logits}
            return found if labels is None else {"loss": cross_entropy(logits, labels), **found}

    made = _as(trainer, Coarse)
    with torch.no_grad():  # all losses are log 6 by little, and their mean is known as well
        made.model.head.weight *= 0.06
        made.model.head.bias *= 0.06
    return made


@planted("module_on_tokens", "gradient.head_closed_form")
def head_gradient_doubled(trainer: Any) -> Any:
    """A hook doubles the head's gradient."""
    trainer.model.head.weight.register_hook(lambda gradient: 2 * gradient)
    return trainer


@planted("module_on_tokens", "gradient.matches_autograd")
def wiped_before_each_micro_batch(trainer: Any) -> Any:
    """zero_grad() in every micro-batch leaves the last one alone."""

    def training_step(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        model.zero_grad()
        return super(type(self), self).training_step(model, *args, **kwargs)

    trainer.args.gradient_accumulation_steps = 4
    return subclassed(trainer, training_step=training_step)


@planted("module_on_tokens", "gradient.norm_within_bounds")
def clipped_norm_logged(trainer: Any) -> Any:
    """What is logged as grad_norm is the norm after clipping."""
    clip = trainer.accelerator.clip_grad_norm_

    def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: int = 2) -> Any:
        return clip(list(parameters), max_norm, norm_type).clamp(max=max_norm)

    trainer.args.max_grad_norm = 0.1
    trainer.accelerator.clip_grad_norm_ = clip_grad_norm_
    return trainer


# A cross-encoder


def _inner(trainer: Any) -> Any:
    """Return transformers' model inside a cross-encoder."""
    return next(one for one in trainer.model.modules() if type(one).__name__.startswith("Bert"))


def _changing_tokens(trainer: Any, change: Callable[[Any], None]) -> Any:
    """Change what the cross-encoder's own preprocess() makes of texts."""
    own = trainer.model.preprocess

    def preprocess(*args: Any, **kwargs: Any) -> Any:
        made = own(*args, **kwargs)
        change(made)
        return made

    trainer.model.preprocess = preprocess
    return trainer


def _with_texts(trainer: Any, change: Callable[[str], str]) -> Any:
    trainer.train_dataset = trainer.train_dataset.map(
        lambda row: {**row, "query": change(row["query"])}
    )
    return trainer


@planted("cross_encoder", "tokenizer.ids_in_embedding")
def smaller_embedding(trainer: Any) -> Any:
    """The tokenizer is another model's."""
    bert = _inner(trainer).bert
    bert.embeddings.word_embeddings = nn.Embedding(60, bert.config.hidden_size)
    return trainer


@planted("cross_encoder", "tokenizer.pad_not_in_text")
def pad_in_texts(trainer: Any) -> Any:
    """Texts spell PAD out."""
    return _with_texts(trainer, lambda text: f"{text} [PAD] w1")


@planted("cross_encoder", "tokenizer.bos_once")
def begun_twice(trainer: Any) -> Any:
    """Texts bring CLS, and the tokenizer adds it."""
    return _with_texts(trainer, lambda text: f"[CLS] {text}")


@planted("cross_encoder", "tokenizer.padding_side")
def padded_on_the_left(trainer: Any) -> Any:
    """Rows are padded on the other side than the tokenizer names."""

    def turn(made: Any) -> None:
        for row in range(len(made["input_ids"])):
            hidden = int((made["attention_mask"][row] == 0).sum())
            for name in ("input_ids", "attention_mask"):
                made[name][row] = made[name][row].roll(hidden)

    return _changing_tokens(trainer, turn)


@planted("cross_encoder", "collator.mask_is_exact")
def mask_of_ones(trainer: Any) -> Any:
    """The mask is 1 on padding."""

    def show(made: Any) -> None:
        made["attention_mask"][:] = 1

    return _changing_tokens(trainer, show)


@planted("cross_encoder", "collator.padding_value")
def padded_with_a_word(trainer: Any) -> Any:
    """Rows are padded with a word's id."""

    def fill(made: Any) -> None:
        made["input_ids"][made["attention_mask"] == 0] = 17

    return _changing_tokens(trainer, fill)


@planted("cross_encoder", "collator.padding_overhead", "warning")
def padded_to_the_greatest_length(trainer: Any) -> Any:
    """All rows are padded to the model's greatest length."""

    def widen(made: Any) -> None:
        for name in ("input_ids", "attention_mask"):
            missing = 128 - made[name].shape[1]
            made[name] = nn.functional.pad(made[name], (0, missing), value=0)

    return _changing_tokens(trainer, widen)


@planted("cross_encoder", "model.logits_finite")
def head_is_no_number(trainer: Any) -> Any:
    """The head was never initialised."""
    with torch.no_grad():
        _inner(trainer).classifier.weight[0, 3] = float("nan")
    return trainer


@planted("cross_encoder", "model.eval_is_repeatable")
def noise_in_evaluation(trainer: Any) -> Any:
    """Dropout that eval() does not switch off."""
    _inner(trainer).bert.embeddings.register_forward_hook(lambda _m, _i, out: dropout(out, 0.3))
    return trainer


@planted("cross_encoder", "model.mask_is_obeyed")
def mask_is_dropped(trainer: Any) -> Any:
    """The mask does not reach the layers."""

    def drop(_module: Any, args: Any, named: Any) -> Any:
        return args, {**named, "attention_mask": None}

    _inner(trainer).bert.register_forward_pre_hook(drop, with_kwargs=True)
    return trainer


@planted("cross_encoder", "model.padding_invariance")
def positions_from_the_end(trainer: Any) -> Any:
    """Positions are counted from the batch's last column."""

    def count(_module: Any, args: Any, named: Any) -> Any:
        ids = args[0] if args else named["input_ids"]
        backwards = torch.arange(ids.shape[1] - 1, -1, -1, device=ids.device)
        return args, {**named, "position_ids": backwards.expand_as(ids)}

    _inner(trainer).bert.register_forward_pre_hook(count, with_kwargs=True)
    return trainer


@planted("cross_encoder", "model.attention_agrees")
def attention_without_its_scale(trainer: Any) -> Any:
    """An attention function of the user's own that is not told the scale."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    def attend(
        _module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **_: Any
    ) -> Any:
        made = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=1.0
        )
        return made.transpose(1, 2).contiguous(), None

    AttentionInterface.register("planted_unscaled", attend)
    AttentionMaskInterface.register("planted_unscaled", sdpa_mask)
    _inner(trainer).set_attn_implementation("planted_unscaled")
    with torch.no_grad():  # at their first weights, all positions are attended alike
        for layer in _inner(trainer).bert.encoder.layer:
            layer.attention.self.query.weight *= 30
    return trainer


@planted("cross_encoder", "model.embeddings_learn")
def words_are_detached(trainer: Any) -> Any:
    """The graph is cut above the embedding of the words."""
    words = _inner(trainer).bert.embeddings.word_embeddings
    words.register_forward_hook(lambda _m, _i, out: out.detach())
    return trainer


@planted("cross_encoder", "model.head_fits_config")
def head_of_two(trainer: Any) -> Any:
    """The head was swapped, and the config was not."""
    model = _inner(trainer)
    model.classifier = nn.Linear(model.config.hidden_size, 2)
    return trainer


# Packed conversations


@planted("sft_packed", "collator.pad_to_multiple_of")
def wider_than_asked(trainer: Any) -> Any:
    """The joined row is padded to 64, which nobody set."""
    own = type(trainer.data_collator)

    class Wider(own):  # type: ignore[misc, valid-type]
        def torch_call(self, examples: Any) -> Any:
            self.pad_to_multiple_of = 64
            made = super().torch_call(examples)
            self.pad_to_multiple_of = None
            return made

    trainer.data_collator.__class__ = Wider
    return trainer


@planted("sft_packed", "model.logits_finite")
def a_word_is_no_number(trainer: Any) -> Any:
    """One row of the head is not finite."""
    with torch.no_grad():
        trainer.model.lm_head.weight[7] = float("nan")
    return trainer


@planted("sft_packed", "loss.train_equals_eval")
def packed_evaluation_is_doubled(trainer: Any) -> Any:
    """prediction_step returns twice the loss."""
    return _doubled_evaluation(trainer)


OPENED = {
    *(
        ("module_on_tokens", name)
        for name in (
            "tokenizer.ids_in_embedding",
            "dataset.labels_in_range",
            "model.batch_equals_single",
            "model.eval_is_repeatable",
            "model.mask_is_obeyed",
            "model.padding_invariance",
            "model.embeddings_learn",
            "loss.initial_is_uninformed",
            "loss.matches_reference",
            "loss.train_equals_eval",
            "loss.dtype",
            "loss.formula_is_known",
            "gradient.head_closed_form",
            "gradient.matches_autograd",
            "gradient.norm_within_bounds",
        )
    ),
    *(
        ("cross_encoder", name)
        for name in (
            "tokenizer.ids_in_embedding",
            "tokenizer.pad_not_in_text",
            "tokenizer.bos_once",
            "tokenizer.padding_side",
            "collator.mask_is_exact",
            "collator.padding_value",
            "collator.padding_overhead",
            "model.logits_finite",
            "model.eval_is_repeatable",
            "model.mask_is_obeyed",
            "model.padding_invariance",
            "model.attention_agrees",
            "model.embeddings_learn",
            "model.head_fits_config",
        )
    ),
    *(
        ("sft_packed", name)
        for name in (
            "collator.pad_to_multiple_of",
            "model.logits_finite",
            "loss.train_equals_eval",
        )
    ),
}
"""By kind, the checks that reach a verdict there because they ask by role."""
