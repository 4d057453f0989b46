"""Checks that come to no verdict."""

import trainsanity


@trainsanity.check("ACME401", "model.skips")
def skips(pipeline):
    raise trainsanity.Skip("nothing to see")


@trainsanity.check("ACME402", "model.abstains")
def abstains(pipeline):
    raise trainsanity.Abstain("too noisy")


@trainsanity.check("ACME502", "loss.crashes")
def crashes(pipeline):
    raise ZeroDivisionError("by design")
