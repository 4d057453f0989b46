"""A tiny healthy pipeline of each kind that people train.

Each is the stock way: the classes and collators of the libraries, rows as their documentation has
them.  The floor is how many of the checks of the first catalogue (``first_catalogue`` in the table)
have to reach a verdict at the default cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorWithPadding,
    LlamaForSequenceClassification,
    Trainer,
    ViTForImageClassification,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    default_data_collator,
    set_seed,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from fixtures.field import _encoders, _lm, _pictures, _preference, _seq2seq
from fixtures.field.healthy_optimizers_vision import Tabular

ROWS, HELD_OUT = 96, 24


@dataclass(frozen=True)
class Kind:
    """A kind of pipeline.

    Attributes:
        id: name of the function that builds one.
        make: the function.
        floor: checks of the first catalogue that have to reach a verdict.
        needs: a package beside those of the test extra, or empty.
    """

    id: str
    make: Callable[[], Any]
    floor: int
    needs: str = ""

    def __call__(self) -> Any:
        """Build it."""
        return self.make()


KINDS: dict[str, Kind] = {}


def kind(floor: int, needs: str = "") -> Callable[[Callable[[], Any]], Kind]:
    """Register the decorated function as a kind of pipeline."""

    def register(fn: Callable[[], Any]) -> Kind:
        KINDS[fn.__name__] = Kind(fn.__name__, fn, floor, needs)
        return KINDS[fn.__name__]

    return register


def _loaded(model: Any, tok: Any) -> tuple[Any, Any]:
    """Write a model and its tokenizer to a folder and load them, as people begin."""
    path = _lm.folder()
    model.save_pretrained(path)
    tok.save_pretrained(path)
    set_seed(0)
    return type(model).from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(
        path
    )


def _with_texts(tok: Any, pairs: list[tuple[str, Any]], label: str | None = "labels") -> Dataset:
    """Return tokenized rows beside their texts, as ``map`` leaves them."""
    rows = [
        {"text": text, "input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}
        | ({} if label is None else {label: y})
        for text, y in pairs
        for found in [tok(text)]
    ]
    return Dataset.from_list(rows)


@kind(floor=64)
def classification() -> Trainer:
    """A decoder with a new head that classifies texts."""
    from fixtures.pipelines.tiny_qwen3 import repaired

    return repaired()


@kind(floor=58)
def causal_lm() -> Trainer:
    """A Llama on texts, ends included, padded by the collator."""
    tok = _lm.tokenizer(None, eos="</s>")

    model, tok = _loaded(_lm.pretrained(tok), tok)

    def rows(count: int, seed: int) -> Dataset:
        return _with_texts(tok, [(f"{text} </s>", 0) for text in _lm.texts(count, seed)], None)

    return Trainer(
        model,
        args=_lm.arguments(),
        train_dataset=rows(ROWS, 0),
        eval_dataset=rows(HELD_OUT, 9),
        processing_class=tok,
        data_collator=DataCollatorForLanguageModeling(tok, mlm=False),
    )


@kind(floor=55)
def sft_packed() -> SFTTrainer:
    """Conversations, packed by TRL into rows of position ids that restart."""
    tok = _lm.tokenizer()
    model, tok = _loaded(_lm.pretrained(tok), tok)
    return SFTTrainer(
        model,
        args=_lm.arguments(SFTConfig, packing=True, max_length=128),
        train_dataset=_lm.conversations(240),
        eval_dataset=_lm.conversations(40, 9),
        processing_class=tok,
    )


@kind(floor=50)
def masked_lm() -> Trainer:
    """A BERT that fills in masked words, masked anew by the collator."""
    tok = _encoders.words_tokenizer()
    set_seed(0)
    model, tok = _loaded(BertForMaskedLM(_encoders.bert_config(tok)), tok)

    def rows(count: int, seed: int) -> Dataset:
        return _with_texts(tok, _encoders.texts(count, seed), None)

    return Trainer(
        model,
        args=_encoders.arguments(),
        train_dataset=rows(ROWS, 0),
        eval_dataset=rows(HELD_OUT, 9),
        processing_class=tok,
        data_collator=DataCollatorForLanguageModeling(tok, mlm_probability=0.3),
    )


@kind(floor=50)
def seq2seq() -> Trainer:
    """A T5 that translates."""
    tok = _seq2seq.tokenizer()
    model, tok = _loaded(_seq2seq.t5(tok), tok)

    def rows(tok: Any, count: int, seed: int) -> Dataset:
        made = [
            {"text": source, **tok(source), "labels": tok(text_target=target)["input_ids"]}
            for source, target in _seq2seq.sentences(count, seed)
        ]
        columns = ["text", "input_ids", "attention_mask", "labels"]
        return Dataset.from_list(made).select_columns(columns)

    return _seq2seq.trainer(model, tok, rows=rows)


@kind(floor=45)
def question_answering() -> Trainer:
    """A BERT that marks the span of an answer in a context, as run_qa.py tokenizes it."""
    tok = _encoders.words_tokenizer()
    set_seed(0)
    model, tok = _loaded(BertForQuestionAnswering(_encoders.bert_config(tok, num_labels=2)), tok)

    def rows(count: int, seed: int) -> Dataset:
        made = []
        for text, label in _encoders.texts(count, seed, low=8):
            row = dict(tok(f"c{label}", text))
            at = row["input_ids"].index(tok.convert_tokens_to_ids(f"c{label}"), 3)
            end = min(at + 1, len(row["input_ids"]) - 2)
            made.append({**row, "start_positions": at, "end_positions": end})
        return Dataset.from_list(made)

    return Trainer(
        model,
        args=_encoders.arguments(),
        train_dataset=rows(ROWS, 0),
        eval_dataset=rows(HELD_OUT, 9),
        processing_class=tok,
        data_collator=DataCollatorWithPadding(tok),
    )


@kind(floor=45)
def multiple_choice() -> Trainer:
    """A BERT that chooses among four endings, as run_swag.py tokenizes them."""
    tok = _encoders.words_tokenizer()
    set_seed(0)
    model, tok = _loaded(BertForMultipleChoice(_encoders.bert_config(tok)), tok)

    def rows(count: int, seed: int) -> Dataset:
        made = []
        for k, (text, label) in enumerate(_encoders.texts(count, seed)):
            endings = [f"c{(label + i - k % 4) % _encoders.CLASSES}" for i in range(4)]
            made.append({**tok([text] * 4, endings), "labels": k % 4})
        return Dataset.from_list(made)

    return Trainer(
        model,
        args=_encoders.arguments(per_device_train_batch_size=4),
        train_dataset=rows(ROWS, 0),
        eval_dataset=rows(HELD_OUT, 9),
        processing_class=tok,
        data_collator=DataCollatorForMultipleChoice(tok),
    )


@kind(floor=35)
def image_classification() -> Trainer:
    """A ViT on normalised pictures."""
    set_seed(0)
    path = _lm.folder()
    _pictures.vit().save_pretrained(path)
    return Trainer(
        model=ViTForImageClassification.from_pretrained(path),
        args=_encoders.arguments(),
        train_dataset=_pictures.image_rows(_pictures.pictures(ROWS)),
        eval_dataset=_pictures.image_rows(_pictures.pictures(HELD_OUT, 9)),
    )


@kind(floor=30)
def audio_classification() -> Trainer:
    """A wav2vec 2.0 that classifies sounds of unequal lengths, padded with a mask."""
    set_seed(0)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=16_000, return_attention_mask=True)

    def rows(count: int, seed: int) -> Dataset:
        draw = np.random.default_rng(seed)
        made = []
        for k in range(count):
            label = k % _pictures.KINDS
            wave = _pictures.tone(draw, 0.2 + 0.2 * label, int(draw.integers(300, 600)))
            wave = extractor(wave, sampling_rate=16_000)["input_values"][0]
            made.append({"input_values": wave.tolist(), "labels": label})
        return Dataset.from_list(made)

    return Trainer(
        model=Wav2Vec2ForSequenceClassification(_pictures.wav2vec2_config()),
        args=_encoders.arguments(),
        train_dataset=rows(ROWS, 0),
        eval_dataset=rows(HELD_OUT, 9),
        processing_class=extractor,
        data_collator=DataCollatorWithPadding(extractor),
    )


def _preferring(cls: Any, config: Any, answers: Callable[..., Dataset], held_out: int) -> Any:
    tok = _preference.tokenizer()
    return cls(
        _preference.load(_preference.checkpoint(tok)),
        args=_preference.arguments(config),
        train_dataset=answers(),
        eval_dataset=answers(held_out, 9),
        processing_class=tok,
    )


@kind(floor=40)
def dpo() -> DPOTrainer:
    """Preferences by DPO."""
    return _preferring(DPOTrainer, DPOConfig, _preference.pairs, 16)


@kind(floor=38)
def kto() -> KTOTrainer:
    """Answers that were liked or not, by KTO."""
    return _preferring(KTOTrainer, KTOConfig, _preference.judged, 20)


@kind(floor=42)
def reward() -> RewardTrainer:
    """A reward model of pairs."""
    tok = _preference.tokenizer()
    cls = LlamaForSequenceClassification
    place = _preference.checkpoint(tok, _preference.tiny(tok, num_labels=1), cls)
    return RewardTrainer(
        _preference.load(place, cls),
        args=_preference.arguments(RewardConfig),
        train_dataset=_preference.pairs(),
        eval_dataset=_preference.pairs(16, 9),
        processing_class=tok,
    )


def _low_words(completions: Any, **_: Any) -> list[float]:
    """Reward the share of words with a low number."""
    texts = [one[0]["content"].split() for one in completions]
    return [
        sum(word[0] == "w" and int(word[1:]) < 12 for word in text) / (len(text) + 1)
        for text in texts
    ]


def _policy(cls: Any, config: Any) -> Any:
    tok = _preference.tokenizer(24, side="left")
    return cls(
        _preference.load(_preference.checkpoint(tok)),
        reward_funcs=_low_words,
        args=_preference.arguments(
            config,
            num_generations=4,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=8,
            max_completion_length=16,
        ),
        train_dataset=_preference.prompts(64, words=24),
        eval_dataset=_preference.prompts(8, 9, words=24),
        processing_class=tok,
    )


@kind(floor=28)
def grpo() -> GRPOTrainer:
    """A rewarded policy, by GRPO."""
    return _policy(GRPOTrainer, GRPOConfig)


@kind(floor=28)
def rloo() -> RLOOTrainer:
    """A rewarded policy, by RLOO."""
    return _policy(RLOOTrainer, RLOOConfig)


def _bert_folder(cls: str, **config: Any) -> str:
    import transformers

    tok = _encoders.words_tokenizer()
    set_seed(0)
    path = _lm.folder()
    getattr(transformers, cls)(_encoders.bert_config(tok, **config)).save_pretrained(path)
    tok.save_pretrained(path)
    return path


def _sentence_arguments(cls: Any) -> Any:
    return cls(
        output_dir=_lm.folder(),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        max_steps=40,
        learning_rate=1e-3,
        warmup_steps=2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )


def _sentence_pairs(count: int, seed: int) -> tuple[list[str], list[str], list[int]]:
    texts = _encoders.texts(2 * count, seed)
    first, second = texts[::2], texts[1::2]
    likes = [int(k % 2 == 0) for k in range(count)]
    sentences = [
        f"c{a[1]} {b[0]}" if like else b[0] for a, b, like in zip(first, second, likes, strict=True)
    ]
    return [text for text, _ in first], sentences, likes


@kind(floor=28, needs="sentence_transformers")
def sentence_transformers() -> Any:
    """An encoder of sentences by in-batch negatives, sentence-transformers' Trainer."""
    import sentence_transformers as st
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    # Of a plain encoder it makes one that takes the mean of its tokens.
    model = st.SentenceTransformer(_bert_folder("BertModel"), device="cpu")

    def rows(count: int, seed: int) -> Dataset:
        anchors, positives, _ = _sentence_pairs(count, seed)
        return Dataset.from_dict({"anchor": anchors, "positive": positives})

    return st.SentenceTransformerTrainer(
        model=model,
        args=_sentence_arguments(st.SentenceTransformerTrainingArguments),
        train_dataset=rows(ROWS, 0),
        eval_dataset=rows(HELD_OUT, 9),
        loss=MultipleNegativesRankingLoss(model),
    )


@kind(floor=40, needs="sentence_transformers")
def cross_encoder() -> Any:
    """A reranker of pairs, sentence-transformers' Trainer."""
    from sentence_transformers import cross_encoder as ce
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    folder = _bert_folder("BertForSequenceClassification", num_labels=1)
    model = ce.CrossEncoder(folder, num_labels=1, device="cpu")

    def rows(count: int, seed: int) -> Dataset:
        queries, answers, likes = _sentence_pairs(count, seed)
        labels = [float(like) for like in likes]
        return Dataset.from_dict({"query": queries, "answer": answers, "label": labels})

    return ce.CrossEncoderTrainer(
        model=model,
        args=_sentence_arguments(ce.CrossEncoderTrainingArguments),
        train_dataset=rows(ROWS, 0),
        eval_dataset=rows(HELD_OUT, 9),
        loss=BinaryCrossEntropyLoss(model),
    )


@kind(floor=25)
def tabular_module() -> Trainer:
    """A module of numbers without config, tokenizer or collator."""
    set_seed(0)

    def rows(count: int, seed: int) -> Dataset:
        draw = np.random.default_rng(seed)
        labels = draw.integers(3, size=count)
        x = draw.normal(0, 1, (count, 10)) + labels[:, None]
        made = [{"x": row, "labels": int(y)} for row, y in zip(x.tolist(), labels, strict=True)]
        return Dataset.from_list(made).with_format("torch")

    return Trainer(
        model=Tabular(),
        args=_encoders.arguments(),
        train_dataset=rows(ROWS, 0),
        eval_dataset=rows(HELD_OUT, 9),
    )


class Pooled(nn.Module):
    """Classify the mean of token embeddings; a plain module that returns a dict."""

    def __init__(self, words: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
        mask = attention_mask[..., None].to(torch.float32)
        logits = self.head((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))
        found = {"logits": logits}
        return found if labels is None else {"loss": cross_entropy(logits, labels), **found}


@kind(floor=40)
def module_on_tokens() -> Trainer:
    """A module of tokens without config or tokenizer; all rows have one length."""
    set_seed(0)
    tok = _encoders.words_tokenizer()

    def rows(count: int, seed: int) -> Dataset:
        return _encoders.tokenized(tok, _encoders.texts(count, seed, low=12, high=12))

    return Trainer(
        model=Pooled(len(tok), _encoders.CLASSES),
        args=_encoders.arguments(),
        train_dataset=rows(ROWS, 0),
        eval_dataset=rows(HELD_OUT, 9),
        data_collator=default_data_collator,
    )
