"""TS439 model.config_is_the_checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.config_file import ConfigFile
from trainsanity.types import Finding, Measured, Severity


@check("TS439", "model.config_is_the_checkpoints", rules_out="model config")
def config_is_the_checkpoints(config_file: ConfigFile) -> Iterator[Measured | Finding]:
    """The model computes as the config of its checkpoint says.

    What it checks: the settings that the weights were trained under, and that no weight shows: the
    base and scaling of rotary positions, the epsilon of norms, the activation, how heads are
    divided, scales and caps of logits and attention, windows. The model's config is held against
    the config.json of the checkpoint that ``config._name_or_path`` names.

    Why it matters: every weight fits and is loaded, and the forward is another one. With a base of
    10,000 where the checkpoint has 500,000 positions turn fifty times faster; training repairs what
    a right setting would not have broken, and who loads the checkpoint again gets a third model.

    How it is measured: exact, from this machine's files, after the library's own config class has
    read both. Settings of parts (``text_config``) are compared, too.

    How to fix: load the config from the checkpoint, and change what you mean to change there.

    Bad::

        LlamaConfig(hidden_size=4096, num_hidden_layers=32, ...)

    Good::

        AutoConfig.from_pretrained(name)

    Known false alarms: settings that are changed on purpose. Positions that are scaled, or whose
    base is raised together with max_position_embeddings, windows, and experts per token are a
    warning.

    References: sgl-project/SpecForge#265.
    """
    seen = config_file
    for meant, severity in ((False, Severity.FAILURE), (True, Severity.WARNING)):
        some = [one for one in seen.other if one.meant is meant]
        if not some:
            continue
        first = some[0]
        yield Finding(
            f"{first.name} is {first.here} in the model's config and {first.there} in the "
            "checkpoint's" + (f", and {len(some) - 1} more differ" if len(some) > 1 else ""),
            observed={one.name: one.here for one in some},
            expected={one.name: one.there for one in some},
            where=f"model.config.{first.name}",
            cause="people change it on purpose; the weights were trained otherwise"
            if meant
            else "the config was written by hand, or changed after loading; the weights were "
            "trained with the checkpoint's",
            fix=f"AutoConfig.from_pretrained({seen.source!r}), and no config of its own",
            severity=severity,
        )
    yield Measured(
        f"{seen.compared - len(seen.other)} of {seen.compared} settings of the forward are those "
        f"of {seen.source}",
        len(seen.other),
        0,
    )
