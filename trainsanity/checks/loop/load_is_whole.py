"""TS918 loop.load_is_whole."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.reloaded import Reloaded
from trainsanity.types import Cost, Finding, Measured, Severity

WRAPPERS = {
    "_orig_mod.": "the state of torch.compile(model) is saved, which puts _orig_mod. before each "
    "name",
    "module.": "the state of the model in DistributedDataParallel or DataParallel is saved, which "
    "puts module. before each name",
}
"""What puts something before each name of a model's state."""


@check(
    "TS918",
    "loop.load_is_whole",
    cost=Cost.STEP,
    needs=("trainer",),
    rules_out="half-loaded checkpoints",
)
def load_is_whole(reloaded: Reloaded) -> Iterator[Measured | Finding]:
    """Every trained tensor of a checkpoint is saved, and loaded again by the Trainer.

    What it checks: ``save_model``, and after it what the Trainer loads a checkpoint by:
    ``_load_best_model`` under ``load_best_model_at_end``, else ``_load_from_checkpoint`` (resume).

    Why it matters: tensors that are saved under names that the model does not know are passed over
    with a warning at most (``load_state_dict(strict=False)``): the run ends with the last weights
    of most layers beside a head of the best checkpoint.  A checkpoint of ``named_parameters()``
    lacks the running statistics of batch norms, which then are those of a new model.  Weights that
    cannot be saved end the run at its first checkpoint.

    How it is measured: exact.  The model is saved to a temporary folder, 1 is added to every
    trainable weight and to the statistics that are kept beside such (to these before saving, too),
    and the Trainer loads the folder.  A tensor that does not come back was not
    loaded.  Only where the run saves checkpoints, and for models up to 256 MB; larger ones are
    judged at the cost of a run.  Where only a resumed run would load it, it is a warning.  Where
    nothing at all comes back, the folder is loaded by ``from_pretrained`` of the model's class,
    too: if that finds no parameter either, nobody can use what is saved: a failure.

    How to fix: load by the model's class, which knows the names that were changed::

        class Trainer(transformers.Trainer):
            # good
            def _load_best_model(self):
                best = type(self.model).from_pretrained(self.state.best_model_checkpoint)
                self.model.load_state_dict(best.state_dict())

    For names with something before them: save the model itself, not what torch.compile or
    DistributedDataParallel made of it::

        # bad: each name begins with "_orig_mod."
        save_file(torch.compile(model).state_dict(), path)
        # good
        accelerator.unwrap_model(model, keep_torch_compile=False).save_pretrained(folder)

    For tensors that share memory: a PreTrainedModel names them in ``_tied_weights_keys``::

        # bad: a plain torch module
        self.out.weight = self.embedding.weight
        # good
        class Tagger(PreTrainedModel):
            _tied_weights_keys = {"out.weight": "embedding.weight"}

    Known false alarms: none known.

    References: huggingface/transformers#43701, #48805, #40187, hiyouga/LlamaFactory#3400,
    karpathy/nanoGPT#325, torch/nn#1165; ``Trainer._load_best_model``.
    """
    seen = reloaded
    severity = Severity.FAILURE if seen.best else Severity.WARNING
    if seen.error:
        yield Finding(
            f"save_model raises {seen.error}: the run dies at its first checkpoint"
            + (f"; {' and '.join(seen.shared[:2])} share memory (tied)" if seen.shared else ""),
            observed=seen.error,
            expected="a checkpoint",
            where=", ".join(seen.shared[:3]) or "Trainer.save_model",
            cause="safetensors saves no tensors that share memory, and only a PreTrainedModel says "
            "which are tied"
            if seen.shared
            else None,
            fix="make the model a PreTrainedModel that names its tied weights"
            if seen.shared
            else "run trainer.save_model() once before training",
        )
    elif seen.loading_error:
        yield Finding(
            f"{seen.path} raises {seen.loading_error} for the checkpoint that was just saved",
            observed=seen.loading_error,
            expected="loaded weights",
            where=f"Trainer.{seen.path}",
            cause=None,
            fix="load the checkpoint by the model's from_pretrained",
            severity=severity,
        )
    elif seen.unread and seen.unread >= seen.parameters:
        named = f"the names of the saved tensors begin with {seen.prefix!r}" if seen.prefix else ""
        yield Finding(
            f"none of {seen.parameters} tensors is loaded from what save_model wrote, neither by "
            f"{seen.path} nor by from_pretrained, which draws new weights"
            + (f": {named}" if named else ""),
            observed=0,
            expected=seen.parameters,
            where=", ".join(seen.files[:3]),
            cause=WRAPPERS.get(seen.prefix, f"{named}, which the model's own names do not")
            if named
            else "the tensors are saved under other names than the model's",
            fix="save the model itself: accelerator.unwrap_model(model, keep_torch_compile=False)"
            + (f"; of files that are written, take {seen.prefix!r} off each name" if named else ""),
        )
    elif seen.left:
        yield Finding(
            f"{len(seen.left)} of {seen.parameters} tensors are not loaded from the checkpoint "
            f"that was just saved: they are missing there under the names that the model has, and "
            + (
                "load_best_model_at_end keeps the last weights in them beside the best ones"
                if seen.best
                else "a resumed run begins with other weights in them"
            ),
            observed=len(seen.left),
            expected=0,
            where=", ".join(seen.left[:3]),
            cause="statistics are buffers, and no parameters: what is written, or read, are "
            "parameters alone"
            if seen.statistics
            else "from_pretrained knows tensors by renamed keys, the Trainer loads by "
            "load_state_dict(strict=False)",
            fix="save model.state_dict(), which has both, and load it with strict=True"
            if seen.statistics
            else f"override Trainer.{seen.path} and load by type(model).from_pretrained(...)",
            severity=severity,
        )
    yield Measured(
        f"{len(seen.left)} of {seen.parameters} trainable tensors are not loaded by {seen.path} "
        f"from {len(seen.files)} saved files",
        len(seen.left),
        0,
    )
