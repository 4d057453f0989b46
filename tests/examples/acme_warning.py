"""A check that warns."""

import trainsanity
from trainsanity import Finding, Measured, Severity


@trainsanity.check("ACME302", "collator.weight_is_round", rules_out="digits")
def weight_is_round(pipeline):
    weight = pipeline.model.weight.item()
    if weight == 1:
        yield Finding(
            f"the weight is {weight:g}, which has one digit",
            observed=weight,
            fix="draw another",
            severity=Severity.WARNING,
        )
    yield Measured(f"the weight is {weight:g}", weight)
