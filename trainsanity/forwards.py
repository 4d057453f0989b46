"""Roles of a module's parts, read in the code of its own ``forward``.

A module without a config says nowhere how many classes it has or which of its parts is given the
token ids. Its forward does, where that is written out; whatever is not is left unsaid.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

IDS, LABELS, LOGITS, LOSS = "input_ids", "labels", "logits", "loss"

DEPTH = 8
"""Modules within modules that are read before ids are given up for lost."""


@dataclass(frozen=True)
class Code:
    """A forward, as written.

    Attributes:
        body: its definition.
        names: what its module calls by which name.
    """

    body: ast.FunctionDef
    names: dict[str, Any]

    @property
    def parameters(self) -> list[str]:
        """Return the names of its parameters without ``self``."""
        given = self.body.args
        return [one.arg for one in (*given.posonlyargs, *given.args)][1:] + [
            one.arg for one in given.kwonlyargs
        ]

    def calls(self) -> Iterator[ast.Call]:
        """Yield every call."""
        return (node for node in ast.walk(self.body) if isinstance(node, ast.Call))

    def written(self, name: str) -> list[ast.Name]:
        """Return the places where a name is given a value."""
        return [
            node
            for node in ast.walk(self.body)
            if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load)
        ]

    def values(self, name: str) -> list[ast.expr]:
        """Return what a name is set to, by plain assignments alone."""
        return [
            node.value
            for node in ast.walk(self.body)
            if isinstance(node, ast.Assign)
            and any(isinstance(one, ast.Name) and one.id == name for one in node.targets)
        ]

    def entries(self, key: str) -> list[ast.expr]:
        """Return what stands under a key of a dict, or is handed over by that keyword."""
        found: list[ast.expr] = []
        for node in ast.walk(self.body):
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                found += [v for k, v in pairs if isinstance(k, ast.Constant) and k.value == key]
            elif isinstance(node, ast.Call):
                found += [word.value for word in node.keywords if word.arg == key]
        return found


@dataclass(frozen=True)
class Classifier:
    """A module that returns ``cross_entropy(logits, labels)`` as its loss, and the logits beside.

    Attributes:
        head: name of the linear layer whose output the logits are; empty where the code shows none.
    """

    head: str = ""


def classifier(model: Any) -> Classifier | None:
    """Return what a module's forward says of its classes; None unless it is a plain classifier.

    One call of cross entropy without settings, of the forward's own labels as they came, whose
    value is the loss, and of the logits that are returned.
    """
    code = _code(type(model).forward)
    if code is None or LABELS not in code.parameters or code.written(LABELS):
        return None
    losses = [call for call in code.calls() if _is_cross_entropy(model, code, call.func)]
    if len(losses) != 1:
        return None
    [loss] = losses
    words = [word.value for word in loss.keywords if word.arg in ("input", "target")]
    given = [one.id for one in (*loss.args, *words) if isinstance(one, ast.Name)]
    if len(given) != len(loss.args) + len(loss.keywords) or len(given) != len((LOGITS, LABELS)):
        return None
    logits, labels = given
    returned = code.entries(LOGITS)
    told = [one for one in returned if isinstance(one, ast.Name) and one.id == logits]
    first = min((one.lineno for one in (*told, loss)), default=0)
    settled = all(one.lineno < first for one in code.written(logits))
    if labels != LABELS or not told or len(told) != len(returned) or not settled:
        return None
    if not code.entries(LOSS) or not all(_is(code, one, loss) for one in code.entries(LOSS)):
        return None
    return Classifier(_layer(model, code.values(logits)))


def token_embedding(model: Any, name: str = IDS, depth: int = DEPTH) -> Any:
    """Return the embedding that a module's forward gives the token ids as they came; or None."""
    import torch

    if isinstance(model, torch.nn.Embedding):
        return model
    if isinstance(model, torch.nn.Sequential):
        return token_embedding(model[0], depth=depth - 1) if len(model) and depth else None
    code = _code(type(model).forward)
    if not depth or code is None or name not in code.parameters or code.written(name):
        return None
    for call in code.calls():
        part = _resolved(model, code, call.func)
        if not isinstance(part, torch.nn.Module):
            continue
        inner = _code(type(part).forward)
        names = [] if inner is None else inner.parameters
        words = [(names[k] if k < len(names) else IDS, one) for k, one in enumerate(call.args)]
        words += [(str(word.arg), word.value) for word in call.keywords]
        for word, value in words:
            if isinstance(value, ast.Name) and value.id == name:
                found = token_embedding(part, word, depth - 1)
                if found is not None:
                    return found
    return None


def token_model(model: Any) -> Any:
    """Return what is given the token ids by name: the model, or the only one inside it.

    A cross-encoder's forward is given a dict, with which it calls the one of transformers' inside.
    """
    parameters = [*inspect.signature(model.forward).parameters.values()]
    dict_first = parameters and parameters[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    if (
        not dict_first
        or parameters[0].default is not inspect.Parameter.empty
        or any(one.name == IDS for one in parameters)
    ):
        return model
    inside = [part for name, part in model.named_modules() if name and _takes_ids(part)]
    parts = {id(one) for part in inside for one in part.modules() if one is not part}
    outer = [part for part in inside if id(part) not in parts]
    return outer[0] if len(outer) == 1 else model


def _takes_ids(part: Any) -> bool:
    """Return whether a module is a model of transformers' that is given token ids."""
    of_it = hasattr(part, "config") and getattr(part, "main_input_name", "") == IDS
    return of_it and IDS in inspect.signature(part.forward).parameters


@functools.lru_cache(maxsize=256)
def _code(forward: Any) -> Code | None:
    forward = inspect.unwrap(forward)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError, ValueError):  # written nowhere, or not to be read
        return None
    body = tree.body[0] if tree.body else None
    names = getattr(forward, "__globals__", {})
    return Code(body, names) if isinstance(body, ast.FunctionDef) else None


def _resolved(model: Any, code: Code, node: ast.expr) -> Any:
    """Return the module or function that an expression names; no attribute runs code of a user."""
    if isinstance(node, ast.Name):
        return model if node.id == "self" else code.names.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    owner = _resolved(model, code, node.value)
    if isinstance(owner, ModuleType):
        return vars(owner).get(node.attr)
    return getattr(owner, "_modules", {}).get(node.attr) if owner is not None else None


def _is_cross_entropy(model: Any, code: Code, func: ast.expr) -> bool:
    import torch

    if isinstance(func, ast.Call):  # CrossEntropyLoss()(logits, labels)
        made = _resolved(model, code, func.func)
        return made is torch.nn.CrossEntropyLoss and not func.args and not func.keywords
    found = _resolved(model, code, func)
    if type(found) is torch.nn.CrossEntropyLoss:
        settings = (found.weight, found.label_smoothing, found.reduction, found.ignore_index)
        return settings == (None, 0.0, "mean", -100)
    return found is torch.nn.functional.cross_entropy


def _is(code: Code, node: ast.expr, call: ast.Call) -> bool:
    """Return whether an expression is this call, or a name for it and nothing else but None."""
    if not isinstance(node, ast.Name):
        return node is call
    values = code.values(node.id)
    nothing = [one for one in values if isinstance(one, ast.Constant) and one.value is None]
    return len(code.written(node.id)) == len(values) == len(nothing) + 1 and call in values


def _layer(model: Any, values: list[ast.expr]) -> str:
    """Return the name of the linear layer that is called for the last of the values; or empty."""
    import torch

    last = values[-1] if values else None
    path: list[str] = []
    node = last.func if isinstance(last, ast.Call) else None
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    if not path or not isinstance(node, ast.Name) or node.id != "self":
        return ""
    modules = dict(model.named_modules())
    part = modules.get(".".join(path))
    while isinstance(part, torch.nn.Sequential) and len(part):
        path.append(str(len(part) - 1))
        part = part[-1]
    return ".".join(path) if isinstance(part, torch.nn.Linear) else ""
