"""Measurements of collator and model, moved to a share of their bound."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch

from tests.checks.bounds import case, expected
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, STANDARD_ERRORS, logits_difference
from trainsanity.measurements.batches.padding import PaddingTimes
from trainsanity.measurements.model.companions import Companions
from trainsanity.measurements.model.merging import Merged
from trainsanity.measurements.model.packed import Packed
from trainsanity.measurements.model.positions import Positions
from trainsanity.measurements.model.raised import Precision

# Collator


@case("collator.padding_overhead")
def stretch(get, share):
    bound = expected(get, "collator.padding_overhead")["stretch_below"]
    return {
        "padding": replace(get("padding"), stretch=bound * share),
        "padding_times": PaddingTimes(),
    }


# Model


@case("model.head_init")
def loss_of_a_wide_head(get, share):
    """A head three standard errors and more too wide, whose loss is four above a healthy one's."""
    forward, pipeline = get("forward"), get("pipeline")
    losses = forward.losses
    planned = pipeline.config.initializer_range / 2  # to this one the head is twice too wide
    size, width = pipeline.config.num_labels, forward.vectors.norm(dim=-1).mean()
    healthy_loss = math.log(size) + float(planned * width) ** 2 / 2
    error = float(losses.std() / len(losses) ** 0.5)
    target = healthy_loss + share * STANDARD_ERRORS * error
    return {"pipeline": planning(pipeline, planned), "forward": with_losses(forward, target)}


@case("model.head_init")
def width_of_a_loud_head(get, share):
    """A loss far above a healthy head's, and a width that is just not, or just, another's."""
    forward, pipeline = get("forward"), get("pipeline")
    weight = pipeline.model.score.weight
    near = share * 6 / math.sqrt(2 * weight.numel())
    planned = float(weight.detach().double().std()) / (1 + near)
    return {"pipeline": planning(pipeline, planned), "forward": with_losses(forward, 50.0)}


@case("model.logits_spread")
def scaled_logits(get, share):
    forward, weight = get("forward"), get("pipeline").model.score.weight.detach().double()
    ratio = forward.logits.std(dim=-1) / (weight.std() * forward.vectors.norm(dim=-1))
    wanted = 1 + share * STANDARD_ERRORS / math.sqrt(2 * (len(weight) - 1))
    return {"forward": replace(forward, logits=forward.logits * (wanted / float(ratio.mean())))}


def one_off(rows, by):
    """The same tensors, with one number of the first changed."""
    first = rows[0].clone()
    first.view(-1)[0] += by
    return [first, *rows[1:]]


@case("model.batch_equals_single")
def one_row_among_its_copies(get, share):
    # What is expected is the bound beside other rows; that of the noise counts it as arithmetic.
    singles = get("singles")
    return {"singles": replace(singles, noise=share * singles.allowed_noise)}


@case("model.batch_equals_single")
def one_logit_beside_others(get, share):
    singles = get("singles")
    allowed = expected(get, "model.batch_equals_single")
    batched = torch.stack(one_off(list(singles.alone), share * allowed))
    return {"singles": replace(singles, batched=batched)}


@case("model.eval_is_repeatable")
def one_logit_again(get, share):
    probes = get("probes")
    size = max(float(one.abs().max()) for one in probes.own.logits)
    by = share * logits_difference(probes.dtype, 0.0, size)
    return {"probes": replace(probes, again=moved_logits(probes.own, by))}


@case("model.padding_invariance")
def one_logit_of_the_wider(get, share):
    probes = get("probes")
    by = share * probes.allowed_logits
    return {"probes": replace(probes, wider=moved_logits(probes.own, by))}


@case("model.padding_invariance")
def one_state_on_the_other_side(get, share):
    probes = get("probes")
    look = moved_state(probes.own, share * probes.allowed_states)
    return {"probes": replace(probes, elsewhere=dict.fromkeys(probes.elsewhere, look))}


@case("model.mask_is_obeyed")
def one_state_of_the_refilled(get, share):
    probes = get("probes")
    look = moved_state(probes.own, share * probes.allowed_states)
    # Where more padding changes nothing it is told by its id, and no mask is needed.
    wider = moved_logits(probes.own, 2 * probes.allowed_logits)
    return {"probes": replace(probes, refilled=look, wider=wider)}


@case("model.read_at_the_end")
def one_logit_with_cache(get, share):
    probes = get("probes")
    look = moved_logits(probes.own, share * probes.allowed_logits)
    return {"probes": replace(probes, cached=[look, probes.own])}


@case("model.read_at_the_end")
def one_logit_alone_with_padding(get, share):
    probes = get("probes")
    look = moved_logits(probes.alone[0], share * probes.allowed_logits)
    return {"probes": replace(probes, alone_padded=[look, *probes.alone[1:]])}


@case("model.causal")
def one_state_before_the_last(get, share):
    probes = get("probes")
    look = moved_state(probes.own, share * probes.allowed_states)
    return {"probes": replace(probes, changed=look)}


@case("model.causal")
def one_state_in_a_row_alone(get, share):
    probes = get("probes")
    look = moved_state(probes.alone[0], share * probes.allowed_states)
    return {"probes": replace(probes, alone_changed=look)}


@case("model.attention_agrees")
def one_logit_by_another_attention(get, share):
    probes, attention = get("probes"), get("attention")
    look = moved_logits(probes.own, share * probes.allowed_logits)
    return {"attention": replace(attention, outputs=dict.fromkeys(attention.outputs, look))}


@case("model.rope_frequencies")
def one_frequency(get, share):
    rope = get("rope")
    off = [replace(one, error=share * one.allowed) for one in rope.buffers]
    return {"rope": replace(rope, buffers=off)}


SINGLE = Precision("blocks", torch.float32)


@case("model.documents_are_apart")
def one_document_behind_the_first(get, share):
    allowed = 1e-6
    return {"packed": Packed(3, "position_ids", [0.0, share * allowed], allowed, 5, SINGLE)}


ROUNDED = MARGIN * 2.0**-23 + REDUCTIONS
"""What is rounded in an output in float32, relative to the largest."""


@case("model.rows_are_independent")
def one_row_beside_others(get, share):
    return {"companions": Companions(4.0, [0.0, share * ROUNDED * 4.0], precision=SINGLE)}


@case("model.rows_stay_apart")
def one_row_of_a_loop_beside_others(get, share):
    compared = Companions(4.0, [0.0, share * ROUNDED * 4.0], precision=SINGLE)
    return {"called_companions": compared}


def without_padding(shapes, by):
    return {"companions": Companions(4.0, [0.0], {0: 0.0, 1: by}, shapes=shapes, precision=SINGLE)}


@case("model.padding_is_not_pooled")
def one_row_where_shapes_agree(get, share):
    return without_padding(0.0, share * ROUNDED * 4.0)


@case("model.padding_is_not_pooled")
def one_row_where_shapes_differ(get, share):
    shapes = 1e-4
    return without_padding(shapes, share * (MARGIN * shapes + REDUCTIONS * 4.0))


@case("model.padding_is_not_pooled")
def one_row_where_shapes_differ_by_a_fault(get, share):
    return without_padding(1.0, share * 32 * ROUNDED * 4.0)


@case("model.merged_equals_unmerged")
def one_logit_of_the_merged(get, share):
    noise = 1e-4
    return {"merged": Merged(share * MARGIN * noise, noise, 1e6 * noise, 4.0)}


def moved_logits(look, by):
    return replace(look, logits=one_off(look.logits, by))


def moved_state(look, by):
    """The first token's state of the first row, longer by this share of itself."""
    first = look.states[0].clone()
    first[0] *= 1 + by
    return replace(look, states=[first, *look.states[1:]])


def planning(pipeline, initializer_range):
    """The same pipeline beside a config that has another ``initializer_range``."""
    other = copy.copy(pipeline)
    config = copy.deepcopy(pipeline.config)
    config.initializer_range = initializer_range
    model = copy.copy(pipeline.model)
    model.config = config
    other.model = model
    return other


def with_losses(forward, mean):
    """Another reference loss for the same rows, its spread kept."""

    changed = replace(forward)
    vars(changed)["losses"] = forward.losses + (mean - forward.losses.mean())  # it is cached there
    return changed


@case("model.positions_are_the_models")
def other_positions(get, share):
    same = Positions(1, 9, 0.0, 4.0, Precision("whole", torch.float32))
    return {"positions": replace(same, difference=share * same.allowed)}
