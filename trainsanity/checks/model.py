"""TS4: the model's outputs, before any step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..measurements.batch import Batch, attended
from ..measurements.forward import Forward
from ..measurements.placement import not_in_memory
from ..measurements.singles import Singles
from ..registry import check
from ..tolerances import MARGIN, STANDARD_ERRORS, logits_difference, within
from ..types import Abstain, Cost, Finding, Seen, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipeline import Pipeline

HEAD_STANDARD_ERRORS = 6.0
"""How far the standard deviation of a freshly drawn head may lie from initializer_range, in its own
standard errors 1/sqrt(2n).  Normal and truncated-normal draws (cut at two or three deviations)
differ by less than that for heads of the usual size only if the cut is at three or more."""


@check("TS401", "model.logits_finite", cost=Cost.FORWARD, acquits="head initialisation")
def logits_finite(pipeline: Pipeline, forward: Forward) -> Iterator[Seen | Finding]:
    """Head and logits are numbers, and the logits no probabilities.

    What it checks: every weight of the head and every logit of the first optimizer step's rows.

    Why it matters: one NaN makes the loss NaN, and the Trainer's ``logging_nan_inf_filter`` logs a
    plausible number in its place.  Cross entropy takes a softmax of what it is given: of C
    probabilities it cannot fall below log(1 + (C - 1) / e), and learning crawls.

    How it is measured: ``isfinite``, exactly, on an evaluation forward; and whether the C numbers
    of every row are not negative and add up to 1, but for four roundings of their dtype.

    How to fix: initialise what the checkpoint did not bring; a model built on the meta device and
    a head added after loading are where it is forgotten.  Return the logits from before the
    softmax.

    Known false alarms: a mask of -inf on logits that cannot occur; a model whose own loss takes
    probabilities.

    References: huggingface/transformers#46002, huggingface/transformers#28244;
    torch.nn.CrossEntropyLoss, which takes logits.
    """
    weight = pipeline.model.get_submodule(forward.head_name).weight.detach()
    if weight.is_meta:  # offloaded: the logits tell
        weight = weight.new_zeros(0, device="cpu")
    bad_weights, bad_logits = (
        int((~weight.isfinite()).sum()),
        int((~forward.logits.isfinite()).sum()),
    )
    seen = {"head_weights": bad_weights, "logits": bad_logits}
    if bad_weights or bad_logits:
        yield Finding(
            f"{bad_weights} of {weight.numel()} head weights and {bad_logits} of "
            f"{forward.logits.numel()} logits are not finite",
            observed=seen,
            expected={"head_weights": 0, "logits": 0},
            where=f"{forward.head_name}.weight" if bad_weights else "the model's output",
            cause="the head was never initialised, or was loaded into memory that was not"
            if bad_weights
            else "an overflow or an uninitialised tensor below the head",
            fix="initialise it: model.score.weight.data.normal_(0, config.initializer_range)"
            if bad_weights
            else "run the forward with torch.autograd.detect_anomaly, or in float32",
        )
    elif _are_probabilities(forward):
        yield Finding(
            "the logits of every row are not negative and add up to 1: they are probabilities, and "
            "the loss takes a softmax of them once more",
            observed="probabilities",
            expected="logits",
            where="the model's output",
            cause="a softmax between the head and the loss",
            fix="return what the head makes; take the softmax where probabilities are wanted",
        )
    yield Seen(f"all {weight.numel()} head weights and {forward.logits.numel()} logits are finite",
               seen, {"head_weights": 0, "logits": 0})  # fmt: skip


def _are_probabilities(forward: Forward) -> bool:
    """Each row has been through a softmax."""
    import torch

    rounding = MARGIN * torch.finfo(forward.passes[0].logits.dtype).eps
    sums = forward.logits.sum(-1)
    return bool((forward.logits >= 0).all()) and bool(((sums - 1).abs() <= rounding).all())


@check(
    "TS402",
    "model.head_init",
    cost=Cost.FORWARD,
    requires=("dataset.labels_in_range", "model.logits_finite"),
    acquits="head initialisation",
)
def head_init(pipeline: Pipeline, forward: Forward) -> Iterator[Seen | Finding]:
    """The head does not start by shouting.

    What it checks: that the head's scale does not make the first predictions worse than knowing
    nothing.

    Why it matters: logits with standard deviation s cost about s^2 / 2 nats above log C before
    anything is learnt, and the first thousand steps go into taking that back.

    How it is measured: the head's standard deviation against ``initializer_range`` (within
    6 / sqrt(2n) relative for n weights it counts as freshly drawn).  A wider head fails only if
    the reference loss of the first step's rows also lies above log C + s0^2 / 2, the loss of a
    head drawn as configured (s0 = initializer_range x the mean norm of what the head reads), by
    more than four standard errors of that mean.

    How to fix: draw it anew, ``model.score.weight.data.normal_(0, config.initializer_range)``, or
    find the line that rescales it.

    Known false alarms: a head taken over from a run on other labels looks like one that shouts;
    that is worth knowing, too.

    References: huggingface/transformers#46002, huggingface/transformers#28244.
    """
    weight = _weight(pipeline, forward).double()
    where = f"{forward.head_name}.weight"
    std, planned = float(weight.std()), getattr(pipeline.config, "initializer_range", None)
    if planned is None:
        raise Skip("the config has no initializer_range to hold the head against")
    if forward.vectors is None:
        raise Skip("what the head reads was not found, so its scale cannot be judged")
    narrow = std <= planned * (1 + HEAD_STANDARD_ERRORS / math.sqrt(2 * weight.numel()))
    loss, healthy, error = (0.0, 0.0, 0.0) if narrow else _first_loss(forward, planned)
    if not within(loss, healthy + STANDARD_ERRORS * error):
        yield Finding(
            f"the head's standard deviation is {std:.4g}, initializer_range {planned:g}: "
            f"the first loss is {loss:.3f} where a head drawn as configured gives {healthy:.3f}",
            observed=std,
            expected=planned,
            where=where,
            factor=std / planned,
            cause="the head was scaled, or drawn with another initialiser than the model's",
            fix="draw it anew: model.score.weight.data.normal_(0, config.initializer_range)",
        )
    yield Seen(f"head std {std:.6f}, initializer_range {planned:g}", std, planned)


@check(
    "TS403",
    "model.logits_spread",
    cost=Cost.FORWARD,
    requires=("model.head_init",),
    acquits="head initialisation",
)
def logits_spread(pipeline: Pipeline, forward: Forward) -> Iterator[Seen | Finding]:
    """The logits are as wide as head and hidden state make them.

    What it checks: the standard deviation of each row's logits against head std x norm of the
    vector that the head read, for a freshly drawn head.

    Why it matters: something between the head and the loss that rescales logits (a temperature, a
    cap, a second scaling) changes the loss, its gradient and every later probability.

    How it is measured: for a head drawn at random the C logits of a row are independent with
    standard deviation std(W) |h|; the ratio of the two, averaged over rows, has a relative
    standard error of at most 1 / sqrt(2 (C - 1)).  Four of those are allowed.

    How to fix: find what rescales the logits after the head; if it is meant, name the check in
    expected_failures.

    Known false alarms: a head that is no longer random is skipped.

    References: field measurement: SmolLM2-135M, predicted 6.106 nats, seen 6.02.
    """
    weight = _weight(pipeline, forward)
    if forward.vectors is None:
        raise Skip("no position of the head's output has the direction of the logits")
    std, planned = float(weight.double().std()), pipeline.config.initializer_range
    if abs(std / planned - 1) > HEAD_STANDARD_ERRORS / math.sqrt(2 * weight.numel()):
        raise Skip(f"the head is not freshly drawn (std {std:.4g}, initializer_range {planned:g})")
    predicted = std * forward.vectors.norm(dim=-1)
    ratio = float((forward.logits.std(dim=-1) / predicted).mean())
    allowed = STANDARD_ERRORS / math.sqrt(2 * (len(weight) - 1))
    observed, expected = float(forward.logits.std(dim=-1).mean()), float(predicted.mean())
    if not abs(ratio - 1) <= allowed:
        scale = statistics.mean(one.scale for one in forward.passes)
        yield Finding(
            f"the logits have a standard deviation of {observed:.3f}; "
            f"head and hidden states make {expected:.3f}",
            observed=observed,
            expected=expected,
            # The regression on the head's own output is exact where it saw a scaling.
            factor=scale if scale != 1 else ratio,
            where=forward.head_name,
            cause="something rescales the logits after the head",
            fix="remove the scaling, or apply it where the loss is defined",
        )
    yield Seen(f"logits std {observed:.3f}, predicted {expected:.3f}", observed, expected)


@check(
    "TS404",
    "model.right_token_pooled",
    cost=Cost.FORWARD,
    requires=(
        "collator.rows_recovered",
        "collator.padding_value",
        "tokenizer.config_agrees",
        "model.eval_is_repeatable",
    ),
    acquits="PAD / EOS",
)
def right_token_pooled(forward: Forward, batch: Batch) -> Iterator[Seen | Finding]:
    """Each row's logits are read at its last token.

    What it checks: the position whose head output equals the row's logits, against the row's last
    token in the batch.

    Why it matters: generic heads look for the last id that is not ``config.pad_token_id`` and never
    at the attention mask.  A text that ends with that id is read one token early, another PAD in
    the collator makes the head read padding, and the loss looks normal in both cases.

    How it is measured: exact.  The head's outputs at all positions are recorded during an
    evaluation forward and compared with the logits that the model returned.

    How to fix: ``model.config.pad_token_id = tokenizer.pad_token_id``; keep that id out of the
    texts, at their end above all.

    Known false alarms: models that pool otherwise by design (a first token, a mean) are skipped
    when their head is given one vector per row.

    References: huggingface/transformers#35352, #24265, #46782; huggingface/peft#3620.
    """
    wrong, total = [], 0
    for one, micro in zip(forward.passes, batch, strict=True):
        if one.index is None:
            raise Skip("the head is given one vector per row: where it was read is not visible")
        if one.ambiguous:
            raise Skip("several positions have the same logits: which was read is not visible")
        places = zip(one.index, micro.placements, micro.rows, strict=True)
        for column, where, row in places:
            if column is None:
                raise Skip("no position of the head's output has the direction of the logits")
            last = None if where is None else where.start + attended(row)[0]
            if last is not None and column != last:
                wrong.append((total, column, last))
            total += 1
    if wrong:
        first, column, last = wrong[0]
        yield Finding(
            f"{len(wrong)} of {total} rows are read at another token than their last: "
            f"row {first} at position {column}, its last token is at {last}",
            observed=column,
            expected=last,
            where=f"row {first} of the first step",
            cause="the text ends with config.pad_token_id"
            if column < last
            else "config.pad_token_id is not what the collator pads with",
            fix="model.config.pad_token_id = tokenizer.pad_token_id, and keep that id out of texts",
        )
    yield Seen(f"{total - len(wrong)} of {total} rows are read at their last token",
               total - len(wrong), total)  # fmt: skip


@check(
    "TS405",
    "model.batch_equals_single",
    cost=Cost.FORWARD,
    requires=("collator.mask_is_exact", "model.right_token_pooled", "model.padding_invariance"),
    acquits="attention mask",
)
def batch_equals_single(pipeline: Pipeline, singles: Singles) -> Iterator[Seen | Finding]:
    """A row's logits do not depend on the rows beside it.

    What it checks: logits of a few rows (the shortest, the longest, some between) inside the
    training batch against the same rows alone.

    Why it matters: a mask that is ignored, positions counted from the padding, or batch statistics
    make what is learnt depend on who sits next to whom, and a model that is served one text at a
    time sees something else than it was trained on.

    How it is measured: largest absolute difference.  The noise is measured on the spot: each row
    alone against itself in a batch of its own copies, where nothing is padded and a correct model
    differs by arithmetic only.  Four times that, or torch.testing's relative tolerance for the
    dtype, is allowed.  If that is as large as the differences between rows, it abstains.

    How to fix: find the layer that mixes rows; batch normalisation needs running statistics.  What
    padding does by itself is told by model.mask_is_obeyed and model.padding_invariance.

    Known false alarms: batch normalisation in train mode does this by design.

    References: jy-yuan/KIVI#46, huggingface/transformers#35352.
    """
    difference = float((singles.alone - singles.batched).abs().max())
    size = float(singles.alone.abs().max())
    allowed = logits_difference(pipeline.dtype, singles.noise, size)
    several = len(singles.rows) > 1
    between = float(singles.alone.std(dim=0).mean()) if several else math.inf
    if allowed >= between:
        raise Abstain(
            f"rows differ from each other by {between:.2g}, "
            f"which arithmetic noise of {allowed:.2g} would hide"
        )
    if not within(difference, allowed):
        yield Finding(
            f"logits of the same row differ by {difference:.3g} between the batch and the row "
            f"alone; arithmetic explains {allowed:.2g}",
            observed=difference,
            expected=f"at most {allowed:.3g}",
            where=f"rows {singles.rows} of the first step",
            cause="a layer mixes rows: statistics over the batch in eval mode, or a wrong axis",
            fix="compute statistics per row, or keep running ones (track_running_stats=True)",
        )
    yield Seen(
        f"largest difference batched / alone {difference:.2g} (noise {singles.noise:.2g}, "
        f"allowed {allowed:.2g})",
        difference,
        allowed,
    )


def _weight(pipeline: Pipeline, forward: Forward) -> Tensor:
    """The head's weight.

    Raises:
        Skip: its values are not to be had: quantised, or offloaded.
    """
    weight: Tensor = pipeline.model.get_submodule(forward.head_name).weight.detach()
    if weight.is_meta or not weight.is_floating_point():
        raise Skip(not_in_memory(pipeline.model) or "the head's weight is quantised")
    return weight


def _first_loss(forward: Forward, planned: float) -> tuple[float, float, float]:
    """The first loss, that of a head drawn as configured, and the standard error of the first."""
    assert forward.vectors is not None
    healthy = (planned * float(forward.vectors.norm(dim=-1).mean())) ** 2 / 2
    classes = forward.logits.shape[1]
    loss = float(forward.losses.mean())
    return loss, math.log(classes) + healthy, _standard_error(forward.losses)


def _standard_error(values: object) -> float:
    import torch

    assert isinstance(values, torch.Tensor)
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0
