"""TS104 tokenizer.special_ids_agree."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.special_tokens import SpecialTokens
from trainsanity.repairs import setting
from trainsanity.types import Finding, Measured, Severity


@check("TS104", "tokenizer.special_ids_agree", needs=("tokenizer",), rules_out="config / tokenizer")
def special_ids_agree(special_tokens: SpecialTokens) -> Iterator[Measured | Finding]:
    """Special ids of configs and checkpoint files are special tokens of the tokenizer.

    What it checks: PAD, EOS and BOS as ``model.config``, ``model.generation_config`` and the
    checkpoint's config.json and generation_config.json name them, against the tokenizer's special
    and added tokens; and that generation stops at the tokenizer's EOS.

    Why it matters: the Trainer copies the tokenizer's ids over the config's without asking whether
    the two belong together.  An EOS that is an ordinary word to the tokenizer is the mark of
    another model's tokenizer; if generation does not stop at the tokenizer's EOS, an end is
    trained and never obeyed.  An id of the config is a warning where the tokenizer has none and
    the model does not generate: then no row and no code of this run uses the id.

    How it is measured: exact comparison of ids, of the live configs as they are inside ``train()``
    and of the files of the model's checkpoint where they are on this machine.

    How to fix: load tokenizer and model from the same checkpoint; set the ids of
    ``model.generation_config`` with the tokenizer's.

    Known false alarms: a config with left-over default ids of an architecture whose tokenizer was
    replaced, where the Trainer is given no tokenizer to align it.

    References: QwenLM/Qwen3#927, QwenLM/Qwen3#1422.
    """
    known, eos = special_tokens.known, special_tokens.ids["eos_token_id"]["tokenizer"]
    compared = found = 0
    for place, named in special_tokens.named.items():
        for name, value in named.items():
            ids = value if isinstance(value, list) else [value]
            compared += len(ids)
            strange = [i for i in ids if i not in known]
            found += len(ids) - len(strange)
            if strange:
                own = special_tokens.ids[name]["tokenizer"]
                unused = own is None and not special_tokens.generates
                yield Finding(
                    f"{name} is {strange[0]} in {place}; "
                    "to this tokenizer that is no special token",
                    observed=strange[0],
                    expected="a special or added token",
                    where=f"{name} of {place}",
                    cause="tokenizer and model may come from different checkpoints, or the id is "
                    "left over from a default of the architecture",
                    fix="load both from the same checkpoint, or set the id from the tokenizer",
                    severity=Severity.WARNING if unused else Severity.FAILURE,
                    repairs=()
                    if own is None
                    else (setting(place.removeprefix("model."), name, own),)
                    if place in ("model.config", "model.generation_config")
                    else (),
                )
    stops = special_tokens.named.get("model.generation_config", {}).get("eos_token_id", eos)
    if eos is not None and eos not in (stops if isinstance(stops, list) else [stops]):
        yield Finding(
            f"generation stops at {stops}, not at the tokenizer's EOS {eos}",
            observed=stops,
            expected=eos,
            where="model.generation_config.eos_token_id",
            cause="the tokenizer's EOS was changed, and generation_config was not",
            fix="model.generation_config.eos_token_id = tokenizer.eos_token_id",
            repairs=(setting("generation_config", "eos_token_id", eos),),
        )
    places = ", ".join(special_tokens.named) or "no config"
    yield Measured(
        f"{found} of {compared} ids of {places} are special tokens of this tokenizer; "
        f"generation stops at {stops}, the tokenizer's EOS is {eos}",
        special_tokens.named,
    )
