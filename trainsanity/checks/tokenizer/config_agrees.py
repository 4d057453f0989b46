"""TS103 tokenizer.config_agrees."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.special_tokens import SpecialTokens
from trainsanity.repairs import setting
from trainsanity.types import Finding, Measured


@check(
    "TS103",
    "tokenizer.config_agrees",
    needs=("tokenizer",),
    rules_out="config / tokenizer",
    stops=True,
)
def config_agrees(special_tokens: SpecialTokens) -> Iterator[Measured | Finding]:
    """Tokenizer, model config and embedding agree about token ids during training.

    What it checks: ``pad_token_id`` and ``eos_token_id`` of the tokenizer against the model's
    config as it is inside ``train()``, and the tokenizer's highest id against the embedding's rows.

    Why it matters: a pooling head finds the end of a text with the config's ``pad_token_id``, the
    collator pads with the tokenizer's.  If they differ, the head reads a padding position while
    the loss looks normal.  An id beyond the embedding stops the run, or reads foreign memory.

    How it is measured: exact comparison, before ``train()`` and after the alignment that the
    Trainer makes at its start (which it makes only when given ``processing_class``).  Ids that
    differ before and agree inside pass.

    How to fix: ``model.config.pad_token_id = tokenizer.pad_token_id`` right after loading, and
    ``processing_class=tokenizer`` for the Trainer; ``model.resize_token_embeddings`` after adding
    tokens.

    Known false alarms: none known.  An id that either side leaves undefined is not compared, except
    a PAD that the tokenizer has and the config lacks.

    References: huggingface/transformers#40610, huggingface/trl#422, QwenLM/Qwen3#927.
    """
    ids = special_tokens.ids
    for name in ("pad_token_id", "eos_token_id"):
        own = ids[name]["tokenizer"]
        used = ids[name].get("training", own)  # a model without a config pools by no id of it
        known = used if isinstance(used, list) else [used]
        if own is not None and own not in known and (used is not None or name == "pad_token_id"):
            yield Finding(
                f"{name} is {own} in the tokenizer and {used} in the model's config while training",
                observed=used,
                expected=own,
                where=f"model.config.{name}",
                cause="the config was not updated, and this Trainer does not align it",
                fix=f"model.config.{name} = tokenizer.{name}, before the Trainer is built",
                repairs=(setting("config", name, own),),
            )
    rows = special_tokens.embedding_rows
    if rows is not None and special_tokens.highest_id >= rows:
        yield Finding(
            f"the tokenizer has ids up to {special_tokens.highest_id}, "
            f"the embedding {special_tokens.embedding_rows} rows",
            observed=special_tokens.highest_id,
            expected=f"below {special_tokens.embedding_rows}",
            cause="tokens were added, or the tokenizer belongs to another model",
            fix="model.resize_token_embeddings(len(tokenizer)), or load the model's own tokenizer",
        )
    pad, eos = (
        {"training": one["before"], **one} for one in (ids["pad_token_id"], ids["eos_token_id"])
    )
    aligned = "" if pad["before"] == pad["training"] else f" ({pad['before']} before train())"
    yield Measured(
        f"PAD is {pad['tokenizer']} in the tokenizer and {pad['training']} in the config{aligned}, "
        f"EOS {eos['tokenizer']} and {eos['training']}; the tokenizer has ids up to "
        f"{special_tokens.highest_id}, the embedding {special_tokens.embedding_rows} rows",
        ids,
    )
