"""Checks as a user would write them in a conftest.py."""

import trainsanity
from trainsanity import Finding, Measured


@trainsanity.check("ACME301", "collator.weight_is_finite", rules_out="weights")
def weight_is_finite(pipeline):
    yield Measured("the weight is finite", 1.0, 1.0)


@trainsanity.check("ACME501", "loss.weight_is_one")
def weight_is_one(pipeline):
    weight = pipeline.model.weight.item()
    if weight != 1:
        yield Finding(
            f"the weight is {weight:g}, not 1",
            observed=weight,
            expected=1.0,
            factor=weight,
            cause="somebody drew it",
            fix="set it to 1",
            where="weight",
        )
    yield Measured(f"the weight is {weight:g}", weight, 1.0)


@trainsanity.check("ACME601", "gradient.follows", requires=("loss.weight_is_one",))
def follows(pipeline):
    yield Measured("follows")
