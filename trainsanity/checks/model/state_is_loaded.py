"""TS438 model.state_is_loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.isolation.library_warnings import UNLOADED
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

TOOK = re.compile(
    re.escape(UNLOADED)
    + r" (?P<model>\S+) took (?P<taken>\d+) of (?P<all>\d+) parameters; (?P<unknown>\d+) names of "
    r"the state are unknown to it, (?P<given>\S+) among them; missing is (?P<missing>\S+)"
)


@check("TS438", "model.state_is_loaded", rules_out="weights that were not loaded")
def state_is_loaded(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """A state that is loaded with strict=False has names that the model knows.

    What it checks: each call of ``load_state_dict`` while the pipeline was built that left
    parameters without a value and values without a parameter.

    Why it matters: a checkpoint whose names begin with ``module.``, ``model.`` or ``net.`` fits no
    name. With ``strict=False`` nothing is loaded and nothing raises: the fine-tuning begins from
    random weights.

    How it is measured: exact, from what ``load_state_dict`` returns. It is a failure where no
    parameter was given a value, and where an unknown name is a missing one behind or without a
    prefix. A head that is new, or one that is left over, has neither.

    How to fix: rename the state's keys before it is loaded::

        # bad
        model.load_state_dict(state, strict=False)
        # good
        state = {name.removeprefix("module."): p for name, p in state.items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected

    Known false alarms: none known.

    References: pytorch/examples#1029.
    """
    calls = [match for one in pipeline.library_warnings if (match := TOOK.search(one.text))]
    for match in calls:
        taken, given, missing = int(match["taken"]), match["given"], match["missing"]
        prefixed = given.endswith(f".{missing}") or missing.endswith(f".{given}")
        if taken and not prefixed:
            continue
        yield Finding(
            f"load_state_dict(strict=False) gave {taken} of {match['all']} parameters of "
            f"{match['model']} a value; {match['unknown']} names of the state fit nothing",
            observed=taken,
            expected=int(match["all"]),
            where=f"{given}, where {missing} is missing",
            cause="the state's names have another prefix than the model's"
            if prefixed
            else "the state is that of another model",
            fix="rename the keys before they are loaded, and look at what load_state_dict returns",
        )
    yield Measured(
        f"{len(calls)} calls of load_state_dict left names of both sides over", len(calls), None
    )
