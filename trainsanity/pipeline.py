"""The parts of a run that checks may look at, and how to build them late."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from trainsanity.declared import DECLARED, refuse_undeclarable
from trainsanity.errors import UsageError, first_line
from trainsanity.fields import is_indexable
from trainsanity.forwards import token_embedding

if TYPE_CHECKING:
    from trainsanity.isolation.library_warnings import LibraryWarning
    from trainsanity.isolation.rewind import Rewind
    from trainsanity.sources.captured import Captured

T = TypeVar("T")


@dataclass(frozen=True)
class LoopArguments:
    """The numbers of a custom training loop, by the names of ``TrainingArguments``."""

    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = float("nan")
    max_grad_norm: float = 0.0
    label_smoothing_factor: float = 0.0
    label_names: Sequence[str] | None = None
    world_size: int = 1

    @property
    def train_batch_size(self) -> int:
        """Rows of a micro-batch on this process."""
        return self.per_device_train_batch_size


@dataclass(eq=False, repr=False)
class Pipeline:
    """The parts of a fine-tuning run.

    A check reads these attributes and asks for measurements; it never changes them.  A part that
    a pipeline lacks is None, and the checks that need it are skipped.

    Attributes:
        model: the ``torch.nn.Module`` that is trained.
        tokenizer: the ``processing_class`` if it is a tokenizer, or else the collator's.
        data_collator: turns a list of rows into a batch.
        train_dataset, eval_dataset: as the Trainer holds them.
        args: the ``TrainingArguments``.
        trainer: the ``transformers.Trainer`` whose steps are judged.
        train_step: for a loop of one's own, what takes one optimizer step; see :meth:`from_loop`.
        captured: the first steps of a script's own training loop, which cannot be asked for more.
        optimizer, lr_scheduler: the loop's.
        optimizer_steps: how many optimizer steps are recorded.
        objective: what the user declares the loss to be: the name of a known objective, or
            ``custom`` for a loss of the user's own; None leaves it to be recognised.
        notes: sentences for the report's environment block, for example that the weights are
            random because the checkpoint could not be had.
        supervise: which tokens of a language model's rows the user says are targets:
            ``"assistant"``, ``"completion"`` or ``"all"``; None if nothing is said.
        id: what the reports call it.
        command: the words after ``trainsanity run`` that lead here again: the target, and then a
            script's own arguments.  Empty if only Python can.
        source: file and line of a script at which training begins; None where that is not known.
        rebuilt: whether these words build it again in a process of their own; not so where they
            start other processes that train.
        quick: take no training step twice.
        library_warnings: what torch, transformers, peft, trl and accelerate warned of while the
            pipeline was built, and while its first steps were recorded.
        unwritten: files to which the user's code would have written weights meanwhile.
        unrestored: what a measurement changed and could not put back, a sentence each.
        progress: called with what is done, out of how much, and of what, during long looks.
        session: where :class:`trainsanity.engine.session.Session` keeps itself.
        walks: where :mod:`trainsanity.isolation.snapshot` keeps which objects it came by.
    """

    model: Any
    tokenizer: Any = None
    data_collator: Any = None
    train_dataset: Any = None
    eval_dataset: Any = None
    args: Any = None
    trainer: Any = None
    train_step: Callable[[list[Any]], Any] | None = None
    captured: Captured | None = None
    optimizer: Any = None
    lr_scheduler: Any = None
    optimizer_steps: int = 2
    objective: str | None = None
    notes: Sequence[str] = ()
    supervise: str | None = None
    id: str = "pipeline"
    command: tuple[str, ...] = ()
    source: tuple[str, int] | None = None
    rebuilt: bool = True
    quick: bool = False
    library_warnings: list[LibraryWarning] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    unrestored: list[str] = field(default_factory=list)
    progress: Callable[[int, int, str], None] | None = None
    session: Any = field(default=None, init=False, repr=False)
    walks: list[Rewind] = field(default_factory=list, init=False, repr=False)

    def __repr__(self) -> str:
        """Return one line: a model's own repr takes a screen, a dataset's its first rows."""
        how = "a loop" if self.trainer is None else type(self.trainer).__name__
        return f"<Pipeline {self.id}: {class_name(self.model)}, {how}>"

    @property
    def own_loop(self) -> Any:
        """What takes the steps of a loop of one's own, or what was seen of it; None without one."""
        return self.train_step if self.train_step is not None else self.captured

    def __post_init__(self) -> None:
        for name in DECLARED:
            if (value := getattr(self, name)) is not None:
                refuse_undeclarable(name, value)

    @classmethod
    def from_trainer(cls, trainer: Any, notes: Sequence[str] = (), **declared: Any) -> Pipeline:
        """Take the parts from a ``transformers.Trainer`` (or subclass) that has not trained yet.

        Args:
            trainer: as in :class:`Pipeline`.
            notes: as in :class:`Pipeline`.
            declared: settings such as ``supervise``; see :mod:`trainsanity.declared`.

        Raises:
            UsageError: it has no training data, or data that no step can be made of.
        """
        from transformers import PreTrainedTokenizerBase

        done = getattr(trainer.state, "global_step", 0)
        if done:
            notes = [*notes, f"this Trainer has trained {done} steps before: weights, optimizer "
                     "and schedule are judged as those left them"]  # fmt: skip
        if getattr(trainer, "model_init", None) is not None:
            notes = [*notes, "train() makes the model anew by model_init: judged is the one that "
                     "it made when the Trainer was built"]  # fmt: skip
        candidates = (trainer.processing_class, getattr(trainer.data_collator, "tokenizer", None))
        pipeline = cls(
            model=trainer.model,
            tokenizer=next((t for t in candidates if isinstance(t, PreTrainedTokenizerBase)), None),
            data_collator=trainer.data_collator,
            train_dataset=trainer.train_dataset,
            eval_dataset=trainer.eval_dataset,
            args=trainer.args,
            trainer=trainer,
            notes=tuple(notes),
            **declared,
        )
        pipeline.refuse_unusable_model()
        pipeline._refuse_unusable_data()
        return pipeline

    @classmethod
    def from_loop(
        cls,
        model: Any,
        train_dataset: Any,
        data_collator: Callable[[list[Any]], Any],
        train_step: Callable[[list[Any]], Any],
        optimizer: Any,
        *,
        lr_scheduler: Any = None,
        tokenizer: Any = None,
        eval_dataset: Any = None,
        notes: Sequence[str] = (),
        **arguments: Any,
    ) -> Pipeline:
        """Take the parts of a custom training loop: bare torch, or accelerate.

        Args:
            model: as in :class:`Pipeline`.
            train_dataset: as there.
            data_collator: as there.
            train_step: is given the micro-batches of one optimizer step, a list of
                ``gradient_accumulation_steps`` collated batches on the model's device; takes that
                step, scheduler and clip included; returns the loss that the loop would log for it.
                What it keeps in objects of its own, such as an accelerator's count of
                micro-batches or a running mean, goes on: nobody else knows of it.
            optimizer: the ``torch.optim.Optimizer`` (or accelerate's wrapper) that it steps.
            lr_scheduler: as in :class:`Pipeline`.
            tokenizer: as there; the collator's by default.
            eval_dataset: as there.
            notes: as there.
            arguments: fields of :class:`LoopArguments`; ``learning_rate`` is read from the
                optimizer.  And settings such as ``supervise``; see :mod:`trainsanity.declared`.

        Raises:
            UsageError: ``train_step`` cannot be called, the optimizer is none, an argument is
                unknown, or there are too few rows.
        """
        import torch

        if not callable(train_step):
            raise UsageError(
                f"train_step is {type(train_step).__name__}: give a function that takes the "
                "micro-batches of one optimizer step and returns its loss"
            )
        if not isinstance(getattr(optimizer, "optimizer", optimizer), torch.optim.Optimizer):
            raise UsageError(
                f"optimizer is {type(optimizer).__name__}: give the torch.optim.Optimizer that "
                "train_step steps"
            )
        declared = {name: arguments.pop(name) for name in DECLARED if name in arguments}
        group = optimizer.param_groups[0]
        try:
            args = LoopArguments(learning_rate=group.get("initial_lr", group["lr"]), **arguments)
        except TypeError as error:
            raise UsageError(f"{error}; known are the fields of LoopArguments") from error
        pipeline = cls(
            model=model,
            tokenizer=tokenizer or getattr(data_collator, "tokenizer", None),
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            args=args,
            train_step=train_step,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            notes=tuple(notes),
            **declared,
        )
        pipeline.refuse_unusable_model()
        pipeline._refuse_unusable_data()
        return pipeline

    def refuse_unusable_model(self) -> None:
        """Say so where there is nothing to train.

        Raises:
            UsageError: the model is no torch module, or has no parameters.
        """
        import torch

        if not isinstance(self.model, torch.nn.Module):
            raise UsageError(
                f"the model is {type(self.model).__name__}: give the torch.nn.Module to be trained"
            )
        lazy = [name for name, p in self.model.named_parameters() if torch.nn.parameter.is_lazy(p)]
        if lazy:
            raise UsageError(
                f"{', '.join(lazy[:3])} of {type(self.model).__name__} have no shape yet: call the "
                "model with one batch before the Trainer is built, which gives lazy layers theirs"
            )
        if not any(p.is_floating_point() for p in self.model.parameters()):
            raise UsageError(f"{type(self.model).__name__} has no parameters that could be trained")

    def _refuse_unusable_data(self) -> None:
        if self.train_dataset is None:
            raise UsageError("there is no train_dataset: pass the one you would train on")
        if not is_indexable(self.train_dataset):
            _refuse_what_can_be_read_once(self.train_dataset)
        batch_size = self.args.per_device_train_batch_size
        accumulation = self.args.gradient_accumulation_steps
        for name, value in (
            ("per_device_train_batch_size", batch_size),
            ("gradient_accumulation_steps", accumulation),
        ):
            if not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} is {value!r}: give a whole number from 1 on")
        if isinstance(self.train_dataset, Mapping):
            splits = ", ".join(map(str, self.train_dataset)) or "none"
            raise UsageError(f"train_dataset has splits ({splits}): pass one of them")
        if isinstance(self.train_dataset, type) or not hasattr(self.train_dataset, "__len__"):
            return
        try:
            size = len(self.train_dataset)
        except Exception as error:
            raise UsageError(
                f"train_dataset raised {type(error).__name__} when it was asked for its length: "
                f"{first_line(error)}"
            ) from error
        if size == 0:
            raise UsageError("train_dataset is empty: pass at least one batch of rows")
        if size < batch_size:
            raise UsageError(
                f"per_device_train_batch_size is {batch_size} but train_dataset has {size} rows: "
                "pass more rows or a smaller batch"
            )

    def label_column(self, row: Mapping[str, Any]) -> str | None:
        """The key under which a row carries its label, as collators and Trainer know it."""
        names = ("label", "labels", "label_ids", *(getattr(self.args, "label_names", None) or ()))
        return next((name for name in names if name in row), None)

    @property
    def other_processes(self) -> int | None:
        """Return how many processes train the model besides this one; None if it is alone."""
        return (getattr(self.args, "world_size", None) or 1) - 1 or None

    @property
    def config(self) -> Any:
        """The model's text config, or None for a model without one."""
        config: Any = getattr(self.model, "config", None)
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    @property
    def device(self) -> Any:
        """Return where the model's first parameter lives (``torch.device``)."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> Any:
        """The dtype of the model's first floating-point parameter (``torch.dtype``)."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())


def _refuse_what_can_be_read_once(stream: Any) -> None:
    if not hasattr(stream, "__iter__"):
        return
    # Nothing is read by this.  Two looks at one iterator would each see what the other left.
    if iter(stream) is iter(stream):
        raise UsageError(
            f"train_dataset ({type(stream).__name__}) can be read only once: let its __iter__ "
            "return a new iterator each time, or a second epoch has no rows"
        )


def input_embedding(model: Any) -> Any:
    """Return the embedding of the token ids; None if the model does not show one.

    A model that is made of others, as sentence-transformers' are, has that of the first that does;
    of a plain module it is the one that its forward gives the ids.
    """
    inner = unwrapped(model)
    if not hasattr(inner, "get_input_embeddings"):
        parts = inner.modules() if hasattr(inner, "modules") else ()
        inner = next((one for one in parts if hasattr(one, "get_input_embeddings")), inner)
    try:
        return inner.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return token_embedding(inner)


def embedding_rows(model: Any) -> int | None:
    """Return how many ids the input embedding has rows for; None if the model does not show one.

    PEFT's layers stand around the embedding and do not tell its size.
    """
    layer = input_embedding(model)
    seen: set[int] = set()
    while layer is not None and id(layer) not in seen:
        seen.add(id(layer))
        size = getattr(layer, "num_embeddings", None)
        if isinstance(size, int):
            return size
        layer = getattr(layer, "base_layer", None) or getattr(layer, "original_module", None)
    return None


def active_adapters(model: Any) -> list[str]:
    """Return the names of PEFT's adapters that take part in a forward."""
    active = getattr(model, "active_adapters", None) or getattr(model, "active_adapter", None)
    try:
        active = active() if callable(active) else active
    except (ValueError, ImportError):  # every model of transformers has the method
        return []
    return [active] if isinstance(active, str) else list(active or ())


def micro_batches_of(pipeline: Pipeline) -> int:
    """Return how many micro-batches an optimizer step has, as the arguments say."""
    return int(getattr(pipeline.args, "gradient_accumulation_steps", 1))


def is_adapted(model: Any) -> bool:
    """Return whether PEFT wraps the model."""
    return hasattr(model, "get_base_model")


def learns_prompt(model: Any) -> bool:
    """Return whether the active adapter of PEFT trains virtual tokens in front of a row."""
    config = getattr(model, "active_peft_config", None) if is_adapted(model) else None
    return bool(getattr(config, "is_prompt_learning", False))


def of_transformers(model: Any) -> bool:
    """Return whether a model, without what PEFT puts around it, is one of transformers' own."""
    return type(unwrapped(model)).__module__.startswith("transformers.")


def class_name(model: Any) -> str:
    """Return the name of a model's class as its author knows it: FSDP2 makes one of its own."""
    own = (one for one in type(model).__mro__ if not one.__module__.startswith("torch.distributed"))
    return next(own).__name__


def unwrapped(model: Any) -> Any:
    """Return the model that PEFT wraps, however often, or the model itself."""
    while is_adapted(model):
        model = model.get_base_model()
    return model
