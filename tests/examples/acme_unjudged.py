"""Checks that judge a training step, of pipelines that they have no reference for."""

import trainsanity
from trainsanity import Cost, Measured


@trainsanity.check("ACME512", "loss.equals_reference", cost=Cost.STEP, judges="loss")
def equals_reference(pipeline):
    raise trainsanity.Skip("there is no reference")
    yield


@trainsanity.check("ACME612", "gradient.equals_reference", cost=Cost.STEP, judges="gradient")
def gradient_equals_reference(pipeline):
    weight = pipeline.model.weight.item()
    if weight == 1:
        raise trainsanity.Skip("there is no reference")
    yield Measured(f"the weight is {weight:g}", weight)
