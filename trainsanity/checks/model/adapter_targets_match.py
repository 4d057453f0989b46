"""TS433 model.adapter_targets_match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.adapters import Adapters
from trainsanity.types import Finding, Measured, Severity


@check("TS433", "model.adapter_targets_match", rules_out="adapter targets")
def adapter_targets_match(adapters: Adapters) -> Iterator[Measured | Finding]:
    """Every entry of ``target_modules`` matches a module.

    What it checks: the names in an adapter's ``target_modules`` against those of the model's
    modules and parameters.

    Why it matters: PEFT passes over a name without a match if another one has. Experts whose
    projections are parameters and no modules, or a list that was written for another architecture,
    leave most of the model without an adapter, and the run looks as usual.

    How it is measured: exact, by names. An entry that is the name of a parameter is a failure: what
    was meant is there and not adapted. One that nothing is called is a warning: lists that serve
    several architectures have such entries.

    How to fix: name parameters in ``target_parameters``; take ``target_modules="all-linear"``.

    Bad::

        LoraConfig(target_modules=["q_proj", "v_proj", "gate_up_proj", "down_proj"])  # experts

    Good::

        LoraConfig(target_modules=["q_proj", "v_proj"],
                   target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])

    Known false alarms: none known.

    References: huggingface/peft#3009.
    """
    bare = _listed(adapters.bare)
    without = f"; linear layers without an adapter: {bare}" if bare else ""
    wrong = [one for one in adapters.unmatched if not one.adapted]
    parameters = [one for one in wrong if one.parameter]
    absent = [one for one in wrong if not one.parameter]
    if parameters:
        names = ", ".join(one.entry for one in parameters)
        yield Finding(
            f"target_modules names {names}, which match no module: they are parameters, such as "
            f"{parameters[0].parameter}, and have no adapter{without}",
            observed=len(parameters),
            expected=0,
            where=f"target_modules of the adapter {parameters[0].adapter!r}",
            cause="the projections of experts are one tensor each here, and PEFT passes over names "
            "without a module if another name has one",
            fix=f"name them in target_parameters: [{parameters[0].parameter.split('.', 1)[-1]!r}]",
        )
    if absent:
        names = ", ".join(one.entry for one in absent)
        yield Finding(
            f"target_modules names {names}, and nothing in the model is called so{without}",
            observed=len(absent),
            expected=0,
            where=f"target_modules of the adapter {absent[0].adapter!r}",
            cause="the list was written for another architecture",
            fix='name the layers that this model has, or take target_modules="all-linear"',
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{len(wrong)} entries of target_modules name no module; adapters stand on "
        f"{_listed(adapters.kinds) or 'no layer'}{without}",
        len(wrong),
        0,
    )


def _listed(kinds: Counter[str]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
