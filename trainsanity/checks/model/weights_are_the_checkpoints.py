"""TS412 model.weights_are_the_checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.weights_files import WeightsFiles
from trainsanity.types import Cost, Finding, Measured, Severity

CAUSES = {
    "differ from the file": "they were drawn anew after loading, never loaded, or changed since",
    "are not in the file": "the checkpoint is another architecture's, or names were changed",
    "are in the file and not in the model": "the checkpoint is another architecture's, or deeper",
    "have another shape than in the file": "the config was changed, and what did not match was "
    "drawn anew",
}


@check(
    "TS412",
    "model.weights_are_the_checkpoints",
    cost=Cost.FORWARD,
    requires=("model.logits_finite",),
    rules_out="pretrained weights",
)
def weights_are_the_checkpoints(weights_files: WeightsFiles) -> Iterator[Measured | Finding]:
    """The base model's weights are those of its checkpoint.

    What it checks: each parameter of the model against its tensor in the safetensors files of the
    checkpoint that ``config._name_or_path`` names: missing in the files, left over in them, of
    another shape, of other values.

    Why it matters: fine-tuning from random weights runs without any error and ends where training
    from scratch on little data ends.  A model that is built from a checkpoint's config alone, a
    renamed layer, and weights that are drawn anew after they were loaded all look like that.

    How it is measured: exact, from this machine's files.  Which tensor belongs to which parameter
    is asked of the library's own conversion, that of ``from_pretrained``; in a module of your own
    around a backbone the backbone is judged.  The first 4,096 elements of each tensor or so are
    compared, rounded to the dtype that the model has or was loaded in; where an adapter took over a
    part of the weight (PiSSA), both together.  Rows that an embedding has beyond the file's are
    added tokens; where the tokenizer has another vocabulary than the checkpoint's, all of them may
    be new.  A layer inside a module of your own, as a LoRA layer written by hand, is looked up
    under its old name, and what the module adds is new.  Outside the base model everything may be
    new, and inside it a whole part without blocks, as a pooler is.  Layers that are left out, that
    stand twice, or that are the file's at another number are looked for as a whole; they are a
    warning, and so are weights that are the file's but for zeros and embeddings with some of its
    rows alone: people prune models.

    How to fix: ``from_pretrained``, and not ``from_config``; read its report of missing keys; look
    for an ``_init_weights`` that writes into weights without asking whether they were loaded.

    Known false alarms: weights changed on purpose after loading (adapters merged, an average over
    checkpoints).  Skipped without files, for files that are no safetensors, for quantised and for
    offloaded weights.  Tensors that are merged or split on loading are not compared; before
    transformers 5 missing and left-over names are not judged where it converts names.

    References: huggingface/transformers#46620, huggingface/transformers#45591,
    fishaudio/fish-speech#1163.
    """
    files = weights_files
    if files.empty:
        yield Finding(
            f"model.config names the checkpoint {files.folder}, which holds no weights",
            observed="no weights",
            expected="safetensors files",
            where=files.folder,
            cause="the model was built from the checkpoint's config: unless its weights come from "
            "elsewhere, they are random",
            fix="complete the folder, and load it with from_pretrained",
        )
    wrong = {
        "differ from the file": list(files.differ),
        "are not in the file": files.missing,
        "are in the file and not in the model": files.unexpected,
        "have another shape than in the file": list(files.shapes),
    }
    for what, names in wrong.items():
        if names:
            share = f" (in {files.differ[names[0]]:.0%} of it)" if names[0] in files.differ else ""
            yield Finding(
                f"{len(names)} tensors of the base model {what}: {names[0]}{share}",
                observed=len(names),
                expected=0,
                where=names[0],
                cause=CAUSES[what],
                fix="load with from_pretrained and change nothing before the Trainer is built",
            )
    yield from _cut(files)
    resized = "".join(
        f"; {name} is {tuple(here)}, in the file {tuple(there)}"
        for name, (here, there) in list(files.resized.items())[:1]
    )
    new = f"; new: {', '.join(files.new[:3])}" if files.new else ""
    yield Measured(
        f"{files.compared - len(files.differ)} of {files.compared} tensors are those of "
        f"{files.folder}; in the base model {len(files.missing)} are not in the file, "
        f"{len(files.unexpected)} are left over there, {len(files.shapes)} have another shape"
        f"{new}{resized}",
        {"compared": files.compared, "new": files.new, "resized": sorted(files.resized)},
    )


def _cut(files: WeightsFiles) -> Iterator[Finding]:
    """What was cut out on purpose, as far as one can see: all that is left is the checkpoint's."""
    layers = files.layers
    if layers.moved or layers.cut:
        told = [
            f"layers that are the file's at another number: {len(layers.moved)} ({here} is its "
            f"{there.rpartition('.')[2]})"
            for here, there in list(layers.moved.items())[:1]
        ]
        if layers.cut:
            told.append(
                f"layers of the file that are left out: {len(layers.cut)} ({layers.cut[0]})"
            )
        yield Finding(
            "; ".join(told),
            observed={"moved": len(layers.moved), "cut": len(layers.cut)},
            expected=0,
            where=next(iter([*layers.moved, *layers.cut])),
            cause="all layers are there, in another order: names were sorted as text, or converted"
            if layers.exchanged
            else "layers were cut out, repeated, or not loaded (config.num_hidden_layers)",
            fix="load with from_pretrained"
            if layers.exchanged
            else "nothing, if that is meant; otherwise load with the checkpoint's own config",
            severity=Severity.FAILURE if layers.exchanged else Severity.WARNING,
        )
    if files.thinned:
        yield Finding(
            f"{len(files.thinned)} tensors are the file's but for zeros or for rows that are left "
            f"out: {files.thinned[0]}",
            observed=len(files.thinned),
            expected=0,
            where=files.thinned[0],
            cause="weights were pruned, or the vocabulary was cut",
            fix="nothing, if that is meant",
            severity=Severity.WARNING,
        )
