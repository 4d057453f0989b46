"""TS1: the tokenizer's ids in the rows that will be trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..measurements.batch import Batch, quiet
from ..measurements.drawn import listed
from ..measurements.retokenized import Retokenized
from ..measurements.scan import Scan
from ..measurements.state import preserved
from ..registry import check
from ..types import Finding, Seen, Skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@check(
    "TS105",
    "tokenizer.ids_in_embedding",
    needs=("train_dataset",),
    acquits="config / tokenizer",
    stops=True,
)
def ids_in_embedding(pipeline: Pipeline, scan: Scan) -> Iterator[Seen | Finding]:
    """Every id in the rows has a row in the embedding.

    What it checks: the lowest and highest id of all rows, for training and evaluation, against the
    number of rows of the model's input embedding.

    Why it matters: one id outside stops the run when its batch comes, hours in, with an index
    error or a device-side assert that names neither the row nor the id.

    How it is measured: exact, over all rows, or over the stated sample of a dataset that has no
    columns to read.

    How to fix: tokenize again with the tokenizer of this model; after adding tokens call
    ``model.resize_token_embeddings(len(tokenizer))``.

    Known false alarms: none known.

    References: read: torch.nn.Embedding.
    """
    size = _embedding_rows(pipeline)
    for split in scan.splits:
        for extreme in (split.lowest, split.highest):
            if extreme is not None and not 0 <= extreme[0] < size:
                yield Finding(
                    f"{split.row(extreme[1])} has the id {extreme[0]}, "
                    f"the embedding has rows 0 to {size - 1}",
                    observed=extreme[0],
                    expected=f"0 to {size - 1}",
                    where=split.row(extreme[1]),
                    cause="the rows were tokenized for another model, or tokens were added since",
                    fix="tokenize again with this model's tokenizer, "
                    "or model.resize_token_embeddings(len(tokenizer))",
                )
    train = scan.train
    low, high = (extreme[0] if extreme else None for extreme in (train.lowest, train.highest))
    yield Seen(
        f"ids of {train.counted} lie between {low} and {high}, the embedding has {size} rows",
        {"lowest": low, "highest": high},
        f"0 to {size - 1}",
    )


def _embedding_rows(pipeline: Pipeline) -> int:
    try:
        layer = pipeline.model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        layer = None
    size = getattr(layer, "num_embeddings", None)
    if size is None:
        raise Skip("the model has no get_input_embeddings() that would tell its size")
    return int(size)


@check(
    "TS106",
    "tokenizer.pad_not_in_text",
    needs=("tokenizer", "train_dataset"),
    requires=("tokenizer.pad_is_not_eos",),
    acquits="PAD / EOS",
)
def pad_not_in_text(pipeline: Pipeline, scan: Scan) -> Iterator[Seen | Finding]:
    """No text contains PAD.

    What it checks: PAD at attended places of the rows, for training and evaluation.

    Why it matters: a head that reads a text at its last token that is not PAD reads another token
    where the text ends with PAD, and language-model collators take the label away from every PAD,
    inside a text too.

    How it is measured: exact.  Attended is what the row's own mask says; without a mask, all but a
    run of PAD at an end of the row.

    How to fix: keep the token out of the texts (``tokenizer(..., split_special_tokens=True)`` for
    texts that spell it out), or make another, unused token PAD.

    Known false alarms: a checkpoint whose separator between documents is its PAD, trained on packed
    rows.

    References: huggingface/transformers#23530, huggingface/trl#976.
    """
    pad = pipeline.tokenizer.pad_token_id
    if pad is None:
        raise Skip("the tokenizer has no PAD")
    for split in scan.splits:
        found = split.special[pad]
        if found.first_row is not None:
            yield Finding(
                f"{found.rows:,} of {split.counted} in {split.name} contain PAD "
                f"({pipeline.tokenizer.pad_token!r}, id {pad}) in their text, "
                f"{found.trailing:,} of them at the end; the first is {split.row(found.first_row)}",
                observed=found.total,
                expected=0,
                where=split.row(found.first_row),
                cause="the texts spell the token out, or it was added to them as a separator",
                fix="keep it out of the texts, or give PAD to a token that no text contains",
            )
    yield Seen(f"PAD {pad} is in none of {scan.train.counted}", 0, 0)


@check(
    "TS107",
    "tokenizer.bos_once",
    needs=("tokenizer", "train_dataset"),
    acquits="special tokens",
)
def bos_once(pipeline: Pipeline, scan: Scan) -> Iterator[Seen | Finding]:
    """No text begins with its first special token twice.

    What it checks: whether rows begin with BOS, or CLS, twice.

    Why it matters: a chat template writes BOS and the tokenizer adds another when it is given the
    rendered text.  The model has never seen a text begin so; generation with one BOS then is
    another distribution than training with two.

    How it is measured: exact, on the first two attended ids of each row.

    How to fix: ``apply_chat_template(..., tokenize=True)``, or tokenize the rendered text with
    ``add_special_tokens=False``.

    Known false alarms: none known.

    References: OpenRLHF/OpenRLHF#393.
    """
    tokenizer = pipeline.tokenizer
    ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "cls")}
    starts = {name: int(start) for name, start in ids.items() if start is not None}
    for split in scan.splits:
        for name, start in starts.items():
            found = split.special[start]
            if found.first_doubled is not None:
                yield Finding(
                    f"{found.doubled:,} of {split.counted} in {split.name} begin with "
                    f"{tokenizer.convert_ids_to_tokens(start)!r} (id {start}) twice",
                    observed=found.doubled,
                    expected=0,
                    where=split.row(found.first_doubled),
                    cause=f"the template wrote {name.upper()} and the tokenizer added another",
                    fix="tokenize the rendered text with add_special_tokens=False",
                )
    counts = {name: scan.train.special[start].leading for name, start in starts.items()}
    told = ", ".join(f"{n:,} begin with {name.upper()}" for name, n in counts.items())
    yield Seen(
        f"of {scan.train.counted} none begins with a special token twice"
        f" ({told or 'the tokenizer has no BOS'})",
        0,
        0,
    )


@check(
    "TS108",
    "tokenizer.truncation_spares_ends",
    needs=("tokenizer", "train_dataset"),
    acquits="truncation",
)
def truncation_spares_ends(pipeline: Pipeline, scan: Scan) -> Iterator[Seen | Finding]:
    """Rows of the greatest length begin and end as the shorter ones do.

    What it checks: if all shorter rows begin, or end, with one and the same special token, whether
    the rows of the greatest length do, too.

    Why it matters: truncation after the special tokens were added cuts a template's tail off, or
    with ``truncation_side="left"`` its head.  A model that never sees long texts end does not
    learn to end them, and a head that reads the last token reads a word instead of the token that
    closes the text.

    How it is measured: exact, on the first and last attended id of each row of the training data.
    What all shorter rows share is the expectation; an ordinary token that they share by chance is
    none.

    How to fix: let the tokenizer truncate (it keeps room for its own special tokens), or truncate
    the content before the template is applied.

    Known false alarms: packed rows, cut where they are full, if their last row ends with a special
    token.

    References: modelscope/ms-swift#6961.
    """
    train = scan.train
    capped = train.lengths == train.longest
    shorter = (train.lengths > 0) & ~capped
    share = f"{capped.mean():.2%} of {train.counted} have the greatest length, {train.longest}"
    told, closing = [], _closing(pipeline)
    for side, ids in (("begin", train.first), ("end", train.last)):
        if ids is None or not shorter.any():
            continue
        shared = int(ids[shorter][0])
        if shared not in closing or not (ids[shorter] == shared).all():
            continue
        token = pipeline.tokenizer.convert_ids_to_tokens(shared)
        lost = capped & (ids != shared)
        told.append(f"all others {side} with {token!r}")
        if lost.any():
            at = int(lost.argmax())
            lost_side = "left" if side == "begin" else "right"
            yield Finding(
                f"{int(lost.sum()):,} of {int(capped.sum()):,} rows of the greatest length "
                f"{train.longest} do not {side} with {token!r}, and all {int(shorter.sum()):,} "
                f"shorter ones do: truncation on the {lost_side} cut it off ({share})",
                observed=int(lost.sum()),
                expected=0,
                where=train.row(at),
                cause="rows were cut after the template, or the special tokens, were added",
                fix="truncate the text before the template is applied, "
                "or let the tokenizer do it: tokenizer(text, truncation=True, max_length=...)",
            )
    yield Seen("; ".join([share, *told]), round(float(capped.mean()), 6))


def _closing(pipeline: Pipeline) -> set[int]:
    """Ids that stand at an end of a text because a tokenizer or a template puts them there."""
    tokenizer = pipeline.tokenizer
    known = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    if getattr(tokenizer, "chat_template", None):
        from jinja2 import TemplateError

        turns = [{"role": role, "content": "a"} for role in ("user", "assistant")]
        with preserved(pipeline), quiet(pipeline), contextlib.suppress(TemplateError):
            rendered = tokenizer.apply_chat_template(turns, tokenize=False)
            known.update(tokenizer(rendered, add_special_tokens=False)["input_ids"][-1:])
    return known


@check(
    "TS109",
    "tokenizer.rows_match_text",
    needs=("tokenizer", "train_dataset"),
    acquits="tokenization cache",
)
def rows_match_text(retokenized: Retokenized) -> Iterator[Seen | Finding]:
    """The stored ids are those that the text gives today.

    What it checks: a few rows of the training data that still carry their text (``text``, the
    ``dataset_text_field`` of the arguments, ``messages``, or another column that is the whole of a
    row), tokenized again with the pipeline's tokenizer.

    Why it matters: ``Dataset.map`` finds its cache by the function's hash, which does not see an
    edit in an imported module or a file that the function reads.  The run then trains on the ids
    of the day before yesterday.

    How it is measured: exact.  A row fits if its ids hold those of the text as a whole, or are one
    end of them (a cut row), special tokens aside, or if the decoded row holds the text.  32 rows
    below the greatest length, evenly spaced.

    How to fix: ``dataset.map(..., load_from_cache_file=False)`` once, or ``cleanup_cache_files()``.

    Known false alarms: a function that changes the text before it tokenizes it, beside a column
    with the unchanged one.  Drop the column, or name the check in expected_failures.

    References: huggingface/datasets#3297, huggingface/datasets#8614.
    """
    found = retokenized
    if found.wrong:
        yield Finding(
            f"the ids of {len(found.wrong)} of {found.rows} rows are not those of their column "
            f"{found.column!r}: row {found.wrong[0]} begins with {list(found.stored)}, "
            f"its text gives {list(found.expected)}",
            observed=len(found.wrong),
            expected=0,
            where=f"row {found.wrong[0]} of train_dataset",
            cause="a stale cache of Dataset.map, or the rows were tokenized with another tokenizer",
            fix="dataset.map(..., load_from_cache_file=False), with this pipeline's tokenizer",
        )
    yield Seen(f"{found.rows} of {found.rows} rows hold the tokens of their column "
               f"{found.column!r}", 0, 0)  # fmt: skip


@check(
    "TS110",
    "tokenizer.padding_side",
    needs=("tokenizer", "data_collator"),
    acquits="padding side",
)
def padding_side(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """Batches are padded on the side that the tokenizer names.

    What it checks: the side of the padding in the first optimizer step's batches, stored padding
    included, against ``tokenizer.padding_side``.

    Why it matters: generation during evaluation, and whoever serves the model, pad where the
    tokenizer says.  A model that reads its first token, or counts positions from the left, sees
    something else then than it was trained on.  Which token the model reads is
    model.right_token_pooled's to say, and whether padding moves it model.batch_equals_single's.

    How it is measured: exact, by where the rows lie in the batch.

    How to fix: set ``tokenizer.padding_side`` before the collator is built, and let
    ``tokenizer.pad`` do the padding.

    Known false alarms: none known.  A batch without padding has no side, and passes.

    References: jy-yuan/KIVI#46; huggingface/transformers#24265.
    """
    side = pipeline.tokenizer.padding_side
    sides = {"left": 0, "right": 0}
    for micro in batch:
        for row, where in zip(micro.rows, micro.placements, strict=True):
            if where is not None:
                mask = listed(row).get("attention_mask") or [1] * where.length
                before = where.start + (mask.index(1) if 1 in mask else 0)
                after = where.width - where.start - where.length
                after += mask[::-1].index(1) if 1 in mask else 0
                sides["left"] += before > 0
                sides["right"] += after > 0
    other = "right" if side == "left" else "left"
    rows = sum(len(micro.rows) for micro in batch)
    if sides[other]:
        yield Finding(
            f"{sides[other]} of {rows} rows of the first step are padded on the {other}; "
            f"tokenizer.padding_side is {side!r}",
            observed=other,
            expected=side,
            where="the first step's batches",
            cause="the collator pads by itself, or the rows were padded before the side was set",
            fix=f"tokenizer.padding_side = {other!r}, or let tokenizer.pad do the padding",
        )
    yield Seen(f"{sides[side]} of {rows} rows of the first step are padded, on the {side}",
               sides, side)  # fmt: skip
