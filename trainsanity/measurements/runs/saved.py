"""Save the model with the Trainer, and load it as a user would."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.fields import IDS
from trainsanity.isolation.collectives import all_gather, broadcast_from_zero, on_rank_zero
from trainsanity.isolation.fsdp import refuse_sharded
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.temp_folders import scratch
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.forward import as_trained, outputs_without, predicting
from trainsanity.measurements.model.origin import Origin
from trainsanity.measurements.runs.trace import no_bars
from trainsanity.pipeline import is_adapted, learns_prompt
from trainsanity.types import OUTCOMES, Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MOVED = 0.1
"""How far the trainable weights are moved before saving, in their own standard deviations:
enough to show in the logits whether the moved weights were saved."""

SCALE = 0.02
"""The same in absolute terms for a tensor of equal elements, such as a norm's or an adapter's
second factor: the standard deviation of weights that transformers draws (``initializer_range``)."""

SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces,\ttab\nand newline  ",
    "12345 + 678 = 13023",
    "Žluťoučký kůň — ½ naïve café",
    "数据 обучение 🤗",
)
"""Texts on which tokenizers differ: case, white space, digits, accents, other scripts."""


@dataclass
class Saved:
    """A model loaded from what was saved, compared with the model itself.

    Attributes:
        files: names in the folder that ``save_model`` filled.
        error: why the model could not be loaded from it, in one sentence; empty if it could.
        unknown: why it is not known whether it can be, which is nobody's fault; empty if it is.
        missing: names of parameters that loading did not find and initialised at random.
        difference: the largest difference between the logits of the two.
        noise: the same between two passes of the saved model.
        size: the largest logit.
        dtype: of the logits.
        rows: the number of rows in the batch.
        tokenizer: the tokenizer loaded from the folder, or None.
        tokenizer_error: why no tokenizer could be loaded.
        texts: sample texts, some of the pipeline's own rows among them.
    """

    files: list[str] = field(default_factory=list)
    error: str = ""
    unknown: str = ""
    missing: list[str] = field(default_factory=list)
    difference: float = float("nan")
    noise: float = 0.0
    size: float = 0.0
    dtype: Any = None
    rows: int = 0
    tokenizer: Any = None
    tokenizer_error: str = ""
    texts: list[str] = field(default_factory=list)


@measurement(Cost.RUN)
def saved(pipeline: Pipeline, batch: Batch, origin: Origin) -> Saved:
    """Move the trainable weights as training does, save, load, and compare the logits.

    Raises:
        Skip: there is no Trainer.
    """
    if pipeline.trainer is None:
        raise Skip("how a custom training loop saves is not known")
    refuse_sharded(pipeline)
    labelled = batch.micro_batches[0].model_inputs
    seen = Saved(rows=len(batch.micro_batches[0].rows), texts=_texts(pipeline, batch))
    with (
        _folder() as folder,
        preserved(pipeline, weights=True),
        as_trained(pipeline),
        no_bars(),
    ):
        fresh = _base(pipeline.model, origin)
        _move(pipeline.model)
        trainer = pipeline.trainer
        trainer.args.push_to_hub = False
        trainer.args.output_dir = folder
        error = ""
        try:
            trainer.save_model(folder)
        except Exception as raised:
            error = f"save_model raised {type(raised).__name__}: {first_line(raised)}"
        # The first process writes, and the others wait for it.
        seen.error = next((one for one in all_gather(error) if one), "")
        if not seen.error:
            seen = on_rank_zero(lambda: _loaded(pipeline, seen, folder, fresh, labelled))
    return seen


@contextmanager
def _folder() -> Iterator[str]:
    """Yield a temporary folder, the same for all processes of this machine."""
    with scratch() as own:
        yield broadcast_from_zero(own)
        all_gather(None)  # removed only when all processes are done


def _loaded(
    pipeline: Pipeline, seen: Saved, folder: str, fresh: Any, labelled: dict[str, Any]
) -> Saved:
    """Fill in the folder's files, its tokenizer, and how the model loaded from it compares."""
    seen.files = sorted(p.name for p in Path(folder).rglob("*") if p.is_file())
    _load_tokenizer(seen, folder)
    try:
        _compare(pipeline.model, seen, folder, fresh, labelled)
    except Skip as skip:  # of the tokenizer all is known
        seen.unknown = str(skip)
    return seen


def _compare(model: Any, seen: Saved, folder: str, fresh: Any, labelled: dict[str, Any]) -> None:
    """Fill in how the logits of the model and of the one loaded from the folder differ.

    Raises:
        Skip: how it is loaded is not known, it returns no logits, or there is no room for two.
    """
    import torch

    inputs = predicting(model, labelled)
    before = _logits(outputs_without(model, inputs, labelled))
    seen.noise = float((_logits(model(**inputs)) - before).abs().max())
    seen.size, seen.dtype = float(before.abs().max()), before.dtype
    try:
        loaded, seen.missing = _load(model, fresh, folder)
    except OUTCOMES:
        raise
    except torch.OutOfMemoryError as error:
        raise Skip("the model does not fit a second time beside itself") from error
    except Exception as error:
        seen.error = f"loading raised {type(error).__name__}: {first_line(error)}"
        return
    loaded.eval()
    after = _logits(loaded(**inputs))
    if after.shape != before.shape:
        shapes = f"{tuple(after.shape)}, not {tuple(before.shape)}"
        seen.error = f"the loaded model makes logits of {shapes}"
    else:
        seen.difference = float((after.float() - before.float()).abs().max())


def _logits(output: Any) -> Any:
    logits = output.get("logits") if isinstance(output, dict) else output[0]
    if logits is None:
        raise Skip("the model returns no logits")
    return logits.detach()


def _move(model: Any) -> None:
    """Add noise to the trainable weights, the same each time, from a separate generator."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            spread = float(parameter.float().std()) if parameter.numel() > 1 else 0.0
            noise = torch.randn(parameter.shape, generator=generator) * (MOVED * spread or SCALE)
            parameter.add_(noise.to(parameter))


def _base(model: Any, origin: Origin) -> Any:
    """Return the base of a model with adapters as another process would load it; else None.

    Its weights are those from before training; those that the checkpoint lacks are drawn again.
    """
    if not is_adapted(model):
        return None
    if learns_prompt(model):
        return copy.deepcopy(model.get_base_model())
    fresh = copy.deepcopy(model)
    for module in fresh.modules():
        original = getattr(module, "original_module", None)
        kept = getattr(module, "modules_to_save", None)
        if original is not None and kept is not None:
            for part in kept.values():
                part.load_state_dict(original.state_dict())
    fresh = fresh.unload()
    new = {name.rpartition(".")[0].rpartition(".")[2] for name in origin.new}
    for name, parameter in fresh.named_parameters():
        if name.rpartition(".")[0] in new:
            parameter.data.normal_(0, SCALE)
    return fresh


def _load(model: Any, fresh: Any, folder: str) -> tuple[Any, list[str]]:
    from transformers import PreTrainedModel

    if fresh is not None:
        from peft import PeftModel

        return PeftModel.from_pretrained(fresh, folder), []
    if not isinstance(model, PreTrainedModel):
        raise Skip(f"{type(model).__name__} is no PreTrainedModel: how it is loaded is not known")
    attention = getattr(model.config, "_attn_implementation", None)
    factory: Any = type(model)
    loaded, info = factory.from_pretrained(
        folder,
        local_files_only=True,
        output_loading_info=True,
        # A checkpoint does not hold the attention implementation.
        **({"attn_implementation": attention} if attention else {}),
        **_dtype(model),
    )
    return loaded.to(next(model.parameters()).device), sorted(info["missing_keys"])


def _dtype(model: Any) -> dict[str, Any]:
    """Return the argument ``dtype=``, or ``torch_dtype=`` for an older transformers."""
    from transformers import PretrainedConfig

    name = "dtype" if hasattr(PretrainedConfig(), "dtype") else "torch_dtype"
    return {name: model.dtype}


def _load_tokenizer(seen: Saved, folder: str) -> None:
    from transformers import AutoTokenizer

    if not any(name.startswith(("tokenizer", "vocab", "spiece")) for name in seen.files):
        seen.tokenizer_error = "save_model wrote no tokenizer"
        return
    try:
        seen.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        seen.tokenizer_error = f"loading raised {type(error).__name__}: {first_line(error)}"


def _texts(pipeline: Pipeline, batch: Batch) -> list[str]:
    """Return the fixed samples and the pipeline's own rows with their special tokens."""
    tokenizer = pipeline.tokenizer
    if tokenizer is None:
        return []
    rows = [list(row[IDS]) for row in batch.micro_batches[0].rows if IDS in row]
    own = [tokenizer.decode(ids) for ids in rows]
    special = [str(token) for token in tokenizer.all_special_tokens]
    return [*SAMPLES, *own, *_added(tokenizer), "".join(special)]


def _added(tokenizer: Any) -> Iterator[str]:
    """Yield each token that was added to the vocabulary, in a sentence."""
    for token in list(getattr(tokenizer, "get_added_vocab", dict)())[:64]:
        yield f"a {token} b"
