"""TS4: the weights are the checkpoint's, and those that should learn can."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..measurements.embedding import EmbeddingGradient
from ..measurements.probes import Probes
from ..measurements.weights_files import WeightsFiles
from ..registry import check
from ..types import Cost, Finding, Seen, Skip


@check(
    "TS412",
    "model.weights_are_the_checkpoints",
    cost=Cost.FORWARD,
    requires=("model.logits_finite",),
    acquits="pretrained weights",
)
def weights_are_the_checkpoints(weights_files: WeightsFiles) -> Iterator[Seen | Finding]:
    """The model holds what its checkpoint holds; only the head is new.

    What it checks: each parameter of the model against the tensor of that name in the safetensors
    files of the checkpoint that ``config._name_or_path`` names: missing in the files, left over in
    them, of another shape, of other values.

    Why it matters: fine-tuning from random weights runs without any error and ends where training
    from scratch on little data ends.  A model that is built from a checkpoint's config alone, a
    renamed layer, and weights that are drawn anew after they were loaded all look like that.

    How it is measured: exact, from this machine's files.  The first 4,096 elements of each tensor
    or so are compared, rounded to the dtype that the model has or was loaded in.  Rows that an
    embedding has beyond the file's are added tokens.  Outside the base model everything may be new.

    How to fix: ``from_pretrained``, and not ``from_config``; read its report of missing keys; look
    for an ``_init_weights`` that writes into weights without asking whether they were loaded.

    Known false alarms: weights changed on purpose after loading (adapters merged, an average over
    checkpoints, PiSSA).  Skipped without files, for files that are no safetensors, for quantised
    and for offloaded weights; missing and left-over names are not judged where transformers
    converts names on loading.

    References: huggingface/transformers#46620, huggingface/transformers#45591.
    """
    files = weights_files
    if files.empty:
        yield Finding(
            f"model.config names the checkpoint {files.folder}, which holds no weights",
            observed="no weights",
            expected="safetensors files",
            where=files.folder,
            cause="the model was built from the checkpoint's config: its weights are random",
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
    said = "".join(
        f"; {name} is {tuple(here)}, in the file {tuple(there)}"
        for name, (here, there) in list(files.resized.items())[:1]
    )
    new = f"; new: {', '.join(files.new[:3])}" if files.new else ""
    yield Seen(
        f"{files.compared} tensors are those of {files.folder}{new}{said}",
        {"compared": files.compared, "new": files.new, "resized": sorted(files.resized)},
    )


CAUSES = {
    "differ from the file": "they were drawn anew after loading, or never loaded",
    "are not in the file": "the checkpoint is another architecture's, or names were changed",
    "are in the file and not in the model": "the checkpoint is another architecture's, or deeper",
    "have another shape than in the file": "the config was changed, and what did not match was "
    "drawn anew",
}


@check(
    "TS414",
    "model.embeddings_learn",
    cost=Cost.BACKWARD,
    requires=("model.eval_is_repeatable",),
    acquits="special tokens",
)
def embeddings_learn(embedding_gradient: EmbeddingGradient) -> Iterator[Seen | Finding]:
    """The special tokens of a text get a gradient in the embedding.

    What it checks: the gradient of the input embedding at the row of each special or added token
    that occurs in a few rows of the first step; and that some token's row gets one at all.

    Why it matters: a token that was added starts from a random vector.  If a hook or an index that
    is off by one keeps its gradient at nought, it stays noise in every text that has it.

    How it is measured: a random projection of the last hidden states is differentiated, whose
    gradient at an attended token is nought only if something holds it there.  Exactly nought is
    red.

    How to fix: take the hook off, or let it keep the rows that are to be trained; add tokens
    before the optimizer is built.

    Known false alarms: special tokens kept as they were on purpose.  PAD is left out, ordinary
    tokens may be held fixed, and a frozen embedding is skipped.

    References: huggingface/transformers#29897, huggingface/transformers#35022.
    """
    norms = {
        token: norm
        for token, norm in embedding_gradient.norms.items()
        if token != embedding_gradient.pad
    }
    if not norms:
        raise Skip("the rows have no token but PAD")
    special = {t: text for t, text in embedding_gradient.special.items() if t in norms}
    broken = [token for token, norm in norms.items() if not math.isfinite(norm)]
    if broken:
        yield Finding(
            f"the gradients of {len(broken)} of {len(norms)} attended tokens in the input "
            f"embedding are not finite, the first is id {broken[0]}",
            observed=len(broken),
            expected=0,
            where=f"id {broken[0]}",
            cause="an operation whose derivative is infinite where its value is not",
            fix="find it with torch.autograd.detect_anomaly",
        )
        return
    moving = [token for token, norm in norms.items() if norm > 0]
    still = [token for token in special or norms if token not in moving]
    if still and (special or not moving):
        name = f"{special[still[0]]} ({still[0]})" if special else f"id {still[0]}"
        what = "special tokens" if special else "tokens"
        yield Finding(
            f"{len(still)} of {len(special or norms)} attended {what} get no gradient in the input "
            f"embedding, the first is {name}",
            observed=len(still),
            expected=0,
            where=name,
            cause="a hook on the embedding, or its padding_idx, holds these rows"
            if moving
            else "the graph is cut between the embedding and the last layer",
            fix="remove the hook, or let it pass the rows that are to be trained"
            if moving
            else "find the detach() or no_grad() below the head",
        )
    named = ", ".join(special.values()) or "no special token"
    yield Seen(
        f"{len(moving)} of {len(norms)} attended tokens get a gradient ({named} among them)",
        len(moving),
        len(norms),
    )


@check(
    "TS415",
    "model.head_fits_config",
    cost=Cost.FORWARD,
    requires=("model.eval_is_repeatable",),
    acquits="head size",
    stops=True,
)
def head_fits_config(probes: Probes) -> Iterator[Seen | Finding]:
    """The head has as many outputs as the config says.

    What it checks: the last dimension of the logits against ``config.num_labels``, or
    ``config.vocab_size`` for a language model.

    Why it matters: what is saved is loaded by its config.  A head that was swapped without telling
    the config is drawn anew then, in silence or with an error, and generic losses that reshape
    logits by ``num_labels`` pair them with the wrong rows.

    How it is measured: exact comparison of two numbers.

    How to fix: ``from_pretrained(..., num_labels=N)``, or ``model.config.num_labels = N`` beside
    the new head.

    Known false alarms: vocabularies padded beyond ``vocab_size`` for alignment, where the config
    is not told.

    References: huggingface/peft#577.
    """
    if probes.head_width is None:
        raise Skip("the config names no number of outputs")
    if probes.own.width != probes.head_width:
        yield Finding(
            f"the model returns {probes.own.width} logits, its config says {probes.head_width}",
            observed=probes.own.width,
            expected=probes.head_width,
            where="model.config",
            factor=None,
            cause="the head was replaced after loading, and the config was not told",
            fix=f"model.config.num_labels = {probes.own.width}, or a head of {probes.head_width}",
        )
    yield Seen(f"{probes.own.width} logits, as the config says", probes.own.width,
               probes.head_width)  # fmt: skip
