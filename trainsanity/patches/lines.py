"""What a user writes for each kind of repair: the same change, in their own script."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from trainsanity.patches.calls import set_keyword, without_keyword, without_method
from trainsanity.patches.places import Draft, last_name, vars_of
from trainsanity.patches.text import NoLine
from trainsanity.pipeline import active_adapters, is_adapted
from trainsanity.proofs import Repair
from trainsanity.repairs import BUILDING

Writer = Callable[..., str]
"""Is given a draft and the repair's arguments, adds to the draft, returns the place."""


def write_repair(draft: Draft, repair: Repair) -> str:
    """Add one repair to a draft; return the file and line at which it is.

    Raises:
        NoLine: no line is known for it.
    """
    writer = WRITERS.get(repair.kind)
    if writer is None:
        raise NoLine("nothing is known that a script could say for it")
    return writer(draft, **dict(repair.arguments))


def _attribute(draft: Draft, where: str, name: str, value: Any) -> str:
    said = _literal(value)
    if where == "args":
        call = draft.call_of(draft.pipeline.args)
        if call is not None:
            try:
                return set_keyword(draft, call, name, said)
            except NoLine:
                pass  # a line of its own says the same
    owner = {
        "model": _model,
        "config": _config,
        "generation_config": lambda draft: f"{_model(draft)}.generation_config",
        "args": lambda draft: f"{draft.trainer}.args",
        "lr_scheduler": lambda draft: f"{draft.trainer}.lr_scheduler",
        "tokenizer": _tokenizer,
    }[where](draft)
    draft.add(f"{owner}.{name} = {said}")
    return draft.place


def _literal(value: Any) -> str:
    plain = (bool, int, float, str, type(None))
    inside = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, plain) for one in inside):
        raise NoLine(f"a {type(value).__name__} cannot be written in one line")
    return repr(value)


def _model(draft: Draft) -> str:
    adapted = is_adapted(draft.pipeline.model)
    return f"{draft.trainer}.model{'.get_base_model()' if adapted else ''}"


def _config(draft: Draft) -> str:
    model = draft.pipeline.model
    own = f"{draft.trainer}.model.config"
    return own if draft.pipeline.config is model.config else f"{own}.get_text_config()"


def _tokenizer(draft: Draft) -> str:
    trainer, tokenizer = draft.pipeline.trainer, draft.pipeline.tokenizer
    if getattr(trainer, "processing_class", None) is tokenizer:
        return f"{draft.trainer}.processing_class"
    return f"{draft.trainer}.data_collator.tokenizer"


def _counts_not_taken(draft: Draft) -> str:
    """Write it where it counts, before the Trainer is built, if the model has a name there."""
    call = draft.call_of(draft.pipeline.trainer)
    given = {} if call is None else {one.arg: one.value for one in call.keywords}
    model = given.get("model", call.args[0] if call is not None and call.args else None)
    named = last_name(model) if model is not None else ""
    if call is not None and named and draft.seen.get(named) is draft.pipeline.model:
        adapted = ".get_base_model()" if is_adapted(draft.pipeline.model) else ""
        at = draft.statement_of(call)
        start = draft.file.line_start(at.lineno)
        line = f"{draft.file.indent(at)}{named}{adapted}.accepts_loss_kwargs = False"
        draft.edit(draft.file, start, start, f"{line}{draft.file.newline}")
        return f"{draft.file.name}:{at.lineno}"
    draft.add(f"{draft.trainer}.model_accepts_loss_kwargs = False")
    return draft.place


def _label_names(draft: Draft, names: tuple[str, ...]) -> str:
    """Write the tables that differ: one of the two may have the names already."""
    by_id = dict(enumerate(names))
    tables = {"id2label": by_id, "label2id": {name: k for k, name in by_id.items()}}
    own, config = draft.pipeline.config, _config(draft)
    for name, table in tables.items():
        if getattr(own, name) != table:
            draft.add(f"{config}.{name} = {table!r}")
    return draft.place


def _collator(draft: Draft, name: str, *body: str) -> str:
    """Put a function around the collator that changes its batch."""
    function, collate = draft.file.fresh(name), draft.file.fresh("collate_rows")
    draft.add(
        f"{collate} = {draft.trainer}.data_collator",
        "",
        f"def {function}(rows):",
        f"    batch = {collate}(rows)",
        *(f"    {line}" for line in body),
        "    return batch",
        "",
        f"{draft.trainer}.data_collator = {function}",
    )
    return draft.place


def _padding_unlabelled(draft: Draft) -> str:
    return _collator(
        draft,
        "with_padding_ignored",
        'padding = batch["attention_mask"] == 0',
        'for name in ("labels", "completion_mask", "assistant_masks", "loss_mask"):',
        "    if name in batch and batch[name].shape == padding.shape:",
        '        nothing = -100 if name == "labels" else 0',
        "        batch[name] = batch[name].masked_fill(padding, nothing)",
    )


START = (
    'length, own = len(row["input_ids"]), list(row["input_ids"])',
    "start = 0 if ids[:length].tolist() == own else len(ids) - length",
)
"""Lines that tell where a row lies among its padding."""


def _ends_labelled(draft: Draft) -> str:
    end = draft.pipeline.tokenizer.eos_token_id
    return _collator(
        draft,
        "with_ends_labelled",
        'for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"]):',
        *(f"    {line}" for line in START),
        f"    if ids[start + length - 1] == {end}:",
        f"        labels[start + length - 1] = {end}",
    )


def _mask_rebuilt(draft: Draft) -> str:
    return _collator(
        draft,
        "with_mask_of_rows",
        'mask = batch["input_ids"] * 0',
        'for row, ids, attended in zip(rows, batch["input_ids"], mask):',
        *(f"    {line}" for line in START),
        '    given = row.get("attention_mask")',
        "    ones = [1] * length if given is None else list(given)",
        "    attended[start : start + length] = attended.new_tensor(ones)",
        'batch["attention_mask"] = mask',
    )


def _padding_filled(draft: Draft, value: int) -> str:
    return _collator(
        draft,
        "with_padding_filled",
        'padding = batch["attention_mask"] == 0',
        f'batch["input_ids"] = batch["input_ids"].masked_fill(padding, {value})',
    )


def _labels_as_ids(draft: Draft) -> str:
    single = "single_label_classification"
    # Where nothing is said of it, the model takes it from the labels.
    if draft.pipeline.config.problem_type not in (None, single):
        draft.add(f"{_config(draft)}.problem_type = {single!r}")
    return _collator(draft, "with_label_ids", 'batch["labels"] = batch["labels"].argmax(-1)')


def _trainers_own_optimizer(draft: Draft, *more: str) -> str:
    """Take out what builds another optimizer: the argument, and overrides of the methods."""
    trainer = draft.pipeline.trainer
    if own := [name for name in (*BUILDING, *more) if name in vars(trainer)]:
        raise NoLine(f"{own[0]} was set on the Trainer itself")
    places = [without_method(draft, type(trainer), name) for name in (*BUILDING, *more)]
    call = draft.call_of(trainer)
    given = call.keywords if call is not None else ()
    places += [without_keyword(draft, one) for one in given if one.arg == "optimizers"]
    if found := [one for one in places if one is not None]:
        return ", ".join(found)
    draft.add(f"{draft.trainer}.optimizer = {draft.trainer}.lr_scheduler = None")
    return draft.place


def _norms_not_decayed(draft: Draft) -> str:
    return _trainers_own_optimizer(draft, "get_decay_parameter_names")


def _own_clip_left_out(draft: Draft) -> str:
    """Take the only clip of the user's own out."""
    found = [
        draft.statement_of(call) for call in draft.calls(lambda name, _: name == "clip_grad_norm_")
    ]
    if len(found) != 1 or not isinstance(found[0], ast.Expr):
        raise NoLine(f"{len(found) or 'no'} calls of clip_grad_norm_ are in {draft.file.name}")
    draft.edit(draft.file, *draft.file.span(found[0]), "pass")
    return f"{draft.file.name}:{found[0].lineno}"


def _callbacks_left_out(draft: Draft, names: tuple[str, ...]) -> str:
    draft.add(
        f"for callback in list({draft.trainer}.callback_handler.callbacks):",
        f"    if type(callback).__name__ in {tuple(names)!r}:",
        f"        {draft.trainer}.remove_callback(callback)",
    )
    return draft.place


def _schedule_stretched(draft: Draft, factor: float) -> str:
    schedule = f"{draft.trainer}.lr_scheduler"
    draft.add(
        f"{schedule}.lr_lambdas = [",
        f"    lambda step, own=own: own(round(step * {factor!r})) for own in {schedule}.lr_lambdas",
        "]",
    )
    return draft.place


def _loss_scaled(draft: Draft, **_: Any) -> str:
    raise NoLine("dividing the loss shows that its scale is wrong, not which line makes it so")


def _neftune_off(draft: Draft) -> str:
    call = draft.call_of(draft.pipeline.args)
    if call is not None and any(one.arg == "neftune_noise_alpha" for one in call.keywords):
        return set_keyword(draft, call, "neftune_noise_alpha", "None")
    draft.add(f"{draft.trainer}.neftune_noise_alpha = None")
    return draft.place


def _teachers_quiet(draft: Draft) -> str:
    import torch

    own = set(draft.pipeline.model.modules())
    held = {f"{draft.trainer}.{k}": one for k, one in vars_of(draft.pipeline.trainer).items()}
    found = [
        name
        for name, one in {**held, **draft.seen}.items()
        if isinstance(one, torch.nn.Module) and one not in own and one.training
    ]
    if not found:
        raise NoLine("the script has no name for the other model")
    draft.add(*(f"{name}.eval()" for name in dict.fromkeys(found)))
    return draft.place


def _torch(draft: Draft) -> tuple[str, ...]:
    return () if "torch" in draft.names_at_top else ("import torch",)


def _dropout_off(draft: Draft) -> str:
    draft.add(
        *_torch(draft),
        f"for layer in {draft.trainer}.model.modules():",
        "    if isinstance(layer, torch.nn.modules.dropout._DropoutNd):",
        "        layer.p = 0.0",
    )
    return draft.place


def _adapter_trainable(draft: Draft) -> str:
    loads = draft.calls(lambda name, _: name == "from_pretrained")
    of_peft = [
        call
        for call in loads
        if "Peft" in last_name(getattr(call.func, "value", call.func))
    ]  # fmt: skip
    if len(of_peft) == 1:
        try:
            return set_keyword(draft, of_peft[0], "is_trainable", "True")
        except NoLine:
            pass  # its parameters can be named instead
    parts = tuple(f".{name}" for name in active_adapters(draft.pipeline.model))
    draft.add(
        f"for name, parameter in {draft.trainer}.model.named_parameters():",
        f"    if any(part in name for part in {parts!r}):",
        "        parameter.requires_grad_(True)",
    )
    return draft.place


def _parameters_trainable(draft: Draft, names: tuple[str, ...]) -> str:
    if len(names) == 1:
        draft.add(f"{draft.trainer}.model.get_parameter({names[0]!r}).requires_grad_(True)")
    else:
        draft.add(
            f"for name in {tuple(names)!r}:",
            f"    {draft.trainer}.model.get_parameter(name).requires_grad_(True)",
        )
    return draft.place


def _frozen_in_eval(draft: Draft) -> str:
    model = f"{draft.trainer}.model"
    draft.add(
        f"for module in {model}.modules():",
        "    held = [*module.buffers(), *module.parameters()]",
        "    frozen = not any(one.requires_grad for one in module.parameters())",
        f"    if held and frozen and module is not {model}:",
        "        module.eval()",
        "        module.train = lambda mode=True, module=module: module",
    )
    return draft.place


def _softmax_removed(draft: Draft) -> str:
    import torch

    kinds = (torch.nn.Softmax, torch.nn.LogSoftmax, torch.nn.Sigmoid)
    model = draft.pipeline.model
    name = [path for path, one in model.named_modules() if path and isinstance(one, kinds)][-1]
    parts = (f"[{one}]" if one.isdecimal() else f".{one}" for one in name.split("."))
    draft.add(*_torch(draft), f"{draft.trainer}.model{''.join(parts)} = torch.nn.Identity()")
    return draft.place


def _drawn_anew(draft: Draft, names: tuple[str, ...]) -> str:
    width = float(getattr(draft.pipeline.config, "initializer_range", None) or 0.02)
    named = dict(draft.pipeline.model.named_parameters())
    for name in names:
        one = f"{draft.trainer}.model.get_parameter({name!r})"
        if named[name].ndim > 1:
            call = f"normal_({one}, std={width!r})"
        else:
            call = f"{'zeros_' if name.endswith('bias') else 'ones_'}({one})"
        draft.add(*_torch(draft), f"torch.nn.init.{call}")
    return draft.place


WRITERS: dict[str, Writer] = {
    "attribute": _attribute,
    "counts_not_taken": _counts_not_taken,
    "label_names": _label_names,
    "padding_unlabelled": _padding_unlabelled,
    "ends_labelled": _ends_labelled,
    "labels_as_ids": _labels_as_ids,
    "mask_rebuilt": _mask_rebuilt,
    "padding_filled": _padding_filled,
    "trainers_own_optimizer": _trainers_own_optimizer,
    "norms_not_decayed": _norms_not_decayed,
    "loss_scaled": _loss_scaled,
    "schedule_stretched": _schedule_stretched,
    "callbacks_left_out": _callbacks_left_out,
    "own_clip_left_out": _own_clip_left_out,
    "neftune_off": _neftune_off,
    "teachers_quiet": _teachers_quiet,
    "dropout_off": _dropout_off,
    "adapter_trainable": _adapter_trainable,
    "parameters_trainable": _parameters_trainable,
    "frozen_in_eval": _frozen_in_eval,
    "softmax_removed": _softmax_removed,
    "drawn_anew": _drawn_anew,
}
"""By kind of :data:`trainsanity.repairs.KINDS`."""
