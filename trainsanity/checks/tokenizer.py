"""TS1: the tokenizer and the ids that model, config and checkpoint agree on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..measurements.special_tokens import SpecialTokens
from ..registry import check
from ..types import Finding, Seen, Skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@check("TS101", "tokenizer.pad_is_the_checkpoints", needs=("tokenizer",), acquits="PAD / EOS")
def pad_is_the_checkpoints(special_tokens: SpecialTokens) -> Iterator[Seen | Finding]:
    """PAD is still the token that the checkpoint was published with.

    What it checks: the tokenizer's ``pad_token`` against ``pad_token`` in the
    ``tokenizer_config.json`` that it was loaded from.

    Why it matters: ``tokenizer.pad_token = tokenizer.eos_token`` is copied from scripts for models
    without a PAD.  Where the checkpoint has one, the line throws it away, and from then on every
    end-of-text token looks like padding to collators and to pooling heads.

    How it is measured: an exact comparison of two strings.  No tolerance.

    How to fix: delete the assignment.

    Known false alarms: a PAD chosen on purpose, for example one that was added with its own
    embedding.  Name the check in expected_failures with that reason.  Skipped when the checkpoint's
    files are not on this machine or declare no PAD.

    References: the incident in which Qwen3-4B's ``<|endoftext|>`` was replaced by ``<|im_end|>``;
    huggingface/transformers#23530 for what it does to language-model collators.
    """
    declared = special_tokens.checkpoint_pad
    if declared is None:
        raise Skip(f"no pad_token is declared at {special_tokens.checkpoint or 'the checkpoint'}")
    if special_tokens.pad_token != declared:
        yield Finding(
            f"pad_token is {special_tokens.pad_token!r}, "
            f"but the checkpoint's own is {declared!r}: it was overwritten after loading",
            observed=special_tokens.pad_token,
            expected=declared,
            where=special_tokens.checkpoint,
            cause="a line such as tokenizer.pad_token = tokenizer.eos_token",
            fix="delete that line: this checkpoint has a PAD of its own",
        )
    yield Seen(f"PAD is the checkpoint's own {declared!r}", special_tokens.pad_token, declared)


@check(
    "TS102",
    "tokenizer.pad_is_not_eos",
    needs=("tokenizer",),
    requires=("tokenizer.pad_is_the_checkpoints",),
    acquits="PAD / EOS",
)
def pad_is_not_eos(pipeline: Pipeline) -> Iterator[Seen | Finding]:
    """PAD and EOS are two tokens.

    What it checks: ``tokenizer.pad_token_id`` against ``tokenizer.eos_token_id``.

    Why it matters: collators for language models mask labels wherever the id is PAD, so a shared
    id means that the end of a text is never learnt; heads that pool at the last token that is not
    PAD read one token too early in every text that ends with EOS.

    How it is measured: an exact comparison of two ids.  No tolerance.

    How to fix: give PAD a token that occurs in no text, one that the vocabulary has spare (a
    reserved or fill-in-the-middle token) before adding a new one, and set
    ``model.config.pad_token_id`` to it.

    Known false alarms: a checkpoint that ships with PAD == EOS, trained on rows without EOS for a
    task that supervises no EOS.  Name the check in expected_failures with that reason.

    References: huggingface/transformers#23530, huggingface/trl#976.
    """
    tokenizer = pipeline.tokenizer
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is None:
        raise Skip("the tokenizer has no PAD")
    if pad == eos:
        yield Finding(
            f"PAD and EOS are the same token {tokenizer.eos_token!r} (id {eos}): "
            "an end of text cannot be told from padding",
            observed=pad,
            expected=f"an id other than {eos}",
            cause="the checkpoint has no PAD of its own, and EOS was taken for it",
            fix="set tokenizer.pad_token to a token that no text contains, "
            "and model.config.pad_token_id to its id",
        )
    yield Seen(f"PAD {pad} is not EOS {eos}", {"pad_token_id": pad, "eos_token_id": eos})


@check(
    "TS103",
    "tokenizer.config_agrees",
    needs=("tokenizer",),
    acquits="config / tokenizer",
    stops=True,
)
def config_agrees(special_tokens: SpecialTokens) -> Iterator[Seen | Finding]:
    """Tokenizer, model config and embedding speak of the same ids while training.

    What it checks: ``pad_token_id`` and ``eos_token_id`` of the tokenizer against the model's
    config as it is inside ``train()``, and the tokenizer's highest id against the embedding's rows.

    Why it matters: a pooling head finds the end of a text with the config's ``pad_token_id``, the
    collator pads with the tokenizer's.  If they differ, the head reads a padding position while
    the loss looks normal.  An id beyond the embedding stops the run, or reads foreign memory.

    How it is measured: exact comparison, before ``train()`` and after the alignment that the
    Trainer makes at its start (which it makes only when given ``processing_class``).  What differs
    before and agrees inside is told, and passes.

    How to fix: ``model.config.pad_token_id = tokenizer.pad_token_id`` right after loading, and
    ``processing_class=tokenizer`` for the Trainer; ``model.resize_token_embeddings`` after adding
    tokens.

    Known false alarms: none known.  An id that either side leaves undefined is not compared, but
    for a PAD that the tokenizer has and the config lacks.

    References: huggingface/transformers#40610, huggingface/trl#422, QwenLM/Qwen3#927.
    """
    ids = special_tokens.ids
    for name in ("pad_token_id", "eos_token_id"):
        own, used = ids[name]["tokenizer"], ids[name]["training"]
        known = used if isinstance(used, list) else [used]
        if own is not None and own not in known and (used is not None or name == "pad_token_id"):
            yield Finding(
                f"{name} is {own} in the tokenizer and {used} in the model's config while training",
                observed=used,
                expected=own,
                where=f"model.config.{name}",
                cause="the config was never told, and this Trainer does not align it",
                fix=f"model.config.{name} = tokenizer.{name}, before the Trainer is built",
            )
    if special_tokens.highest_id >= special_tokens.embedding_rows:
        yield Finding(
            f"the tokenizer has ids up to {special_tokens.highest_id}, "
            f"the embedding {special_tokens.embedding_rows} rows",
            observed=special_tokens.highest_id,
            expected=f"below {special_tokens.embedding_rows}",
            cause="tokens were added, or the tokenizer belongs to another model",
            fix="model.resize_token_embeddings(len(tokenizer)), or load the model's own tokenizer",
        )
    pad = ids["pad_token_id"]
    aligned = "" if pad["before"] == pad["training"] else f" ({pad['before']} before train())"
    yield Seen(
        f"PAD is {pad['training']} in tokenizer and config{aligned}, "
        f"ids up to {special_tokens.highest_id} in {special_tokens.embedding_rows} rows",
        ids,
    )


@check("TS104", "tokenizer.special_ids_agree", needs=("tokenizer",), acquits="config / tokenizer")
def special_ids_agree(special_tokens: SpecialTokens) -> Iterator[Seen | Finding]:
    """The special ids of the configs and the checkpoint's files are special in this tokenizer.

    What it checks: PAD, EOS and BOS as ``model.config``, ``model.generation_config`` and the
    checkpoint's config.json and generation_config.json name them, against the tokenizer's special
    and added tokens; and that generation stops at the tokenizer's EOS.

    Why it matters: the Trainer copies the tokenizer's ids over the config's without asking whether
    the two belong together.  An EOS that is an ordinary word to the tokenizer is the mark of
    another model's tokenizer; one that generation does not know is an end that is trained and
    never obeyed.

    How it is measured: exact comparison of ids, of the live configs as they are inside ``train()``
    and of the files of the model's checkpoint where they are on this machine.

    How to fix: load tokenizer and model from the same checkpoint; set the ids of
    ``model.generation_config`` with the tokenizer's.

    Known false alarms: a config with left-over default ids of an architecture whose tokenizer was
    replaced, where the Trainer is given no tokenizer to align it.

    References: QwenLM/Qwen3#927, QwenLM/Qwen3#1422.
    """
    known, eos = special_tokens.known, special_tokens.ids["eos_token_id"]["tokenizer"]
    compared = 0
    for place, named in special_tokens.named.items():
        for name, value in named.items():
            ids = value if isinstance(value, list) else [value]
            compared += len(ids)
            strange = [i for i in ids if i not in known]
            if strange:
                yield Finding(
                    f"{name} is {strange[0]} in {place}; "
                    "to this tokenizer that is no special token",
                    observed=strange[0],
                    expected="a special or added token",
                    where=f"{name} of {place}",
                    cause="tokenizer and model come from different checkpoints",
                    fix="load both from the same checkpoint, or set the id from the tokenizer",
                )
    stops = special_tokens.named.get("model.generation_config", {}).get("eos_token_id", eos)
    if eos is not None and eos not in (stops if isinstance(stops, list) else [stops]):
        yield Finding(
            f"generation stops at {stops}, not at the tokenizer's EOS {eos}",
            observed=stops,
            expected=eos,
            where="model.generation_config.eos_token_id",
            cause="the tokenizer's EOS was changed, and generation was not told",
            fix="model.generation_config.eos_token_id = tokenizer.eos_token_id",
        )
    places = ", ".join(special_tokens.named) or "no config"
    yield Seen(f"{compared} ids of {places} are special tokens of this tokenizer",
               special_tokens.named)  # fmt: skip
