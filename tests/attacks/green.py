"""Pipelines that are wrong, and something hides it."""

from __future__ import annotations

from .oracle import ROOT, attack, command, green_is_wrong, refused, short

HEAD = """
import os, sys, torch
from transformers import Trainer, TrainerCallback
from tests.attacks import base
"""


def module(body: str) -> dict[str, str]:
    """A file mod.py with a function build."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return {"mod.py": f"{HEAD}\ndef build():\n{lines}\n"}


def _red(number: int, body: str, *more: str, codes=(1, 3)) -> None:
    @attack(number)
    def judged() -> str:
        return green_is_wrong(command("run", "mod:build", *more, files=module(body)), codes=codes)


_red(
    74,
    """
class Own(Trainer):
    def compute_loss(self, model, inputs, **more):
        loss = super().compute_loss(model, inputs, **{**more, "return_outputs": False})
        return torch.nan_to_num(loss) + 0 * torch.nan_to_num(loss)
t = base.trainer(cls=Own)
t.model.score.weight.data.fill_(float("nan"))
return t
""",
)
_red(
    75,
    """
t = base.trainer()
t.training_step = lambda *a, **k: torch.zeros(())
return t
""",
)
_red(
    76,
    """
class Own(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **more):
        out = model(**inputs)
        loss = torch.nn.functional.cross_entropy(out.logits.detach(), inputs["labels"])
        loss = loss + 0 * out.logits.sum()
        return (loss, out) if return_outputs else loss
return base.trainer(cls=Own)
""",
)
_red(
    77,
    """
class Still(torch.optim.SGD):
    def step(self, closure=None): pass
net = base.model()
return base.trainer(net=net, optimizers=(Still(net.parameters(), 1e-3), None))
""",
)
_red(
    78,
    """
class Back(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **more):
        self.kept = [p.detach().clone() for p in model.parameters()]
    def on_step_end(self, args, state, control, model=None, **more):
        with torch.no_grad():
            for p, kept in zip(model.parameters(), self.kept): p.copy_(kept)
return base.trainer(callbacks=[Back()])
""",
)
_red(
    79,
    """
class Zero(TrainerCallback):
    def on_step_begin(self, args, state, control, optimizer=None, **more):
        for group in optimizer.param_groups: group["lr"] = 0.0
return base.trainer(callbacks=[Zero()])
""",
)


@attack(80)
def one_bias_trains() -> str:
    body = """
t = base.trainer()
t.model.score.bias = torch.nn.Parameter(torch.zeros(3))
for name, p in t.model.named_parameters(): p.requires_grad = name == "score.bias"
return t
"""
    ended = command("run", "mod:build", files=module(body))
    if ended.code == 0 and "warning" not in ended.text.lower():
        return f"green without a warning: {short(ended.text)}"
    return "" if ended.code in (0, 1, 3) else green_is_wrong(ended)


_red(81, "return base.trainer(base.Rows(0))", codes=(1, 2, 3))
_red(82, "return base.trainer()", "--select", "TS512", codes=(3,))


@attack(83)
def all_judges_ignored() -> str:
    ended = command(
        "run", "mod:build", "--ignore", "loss,gradient", files=module("return base.trainer()")
    )
    if ended.code == 3 or "not judged" in ended.out.lower():
        return ""
    return f"exit code {ended.code}: {short(ended.out)}"


TEST = """
import trainsanity
from trainsanity import Cost, Measured, check
from mod import build
SPEC = trainsanity.PipelineSpec("mine", build)
"""


@attack(84)
def check_that_exits() -> str:
    test = (
        TEST
        + """
@check("ACME001", "dataset.exits", cost=Cost.STATIC)
def exits(pipeline):
    \"\"\"Exit.\"\"\"
    raise SystemExit(0)

@trainsanity.parametrize_with_checks(SPEC, select=["ACME001"])
def test_sanity(pipeline, check):
    check(pipeline)
"""
    )
    files = {**module("return base.trainer()"), "test_it.py": test}
    ended = command("test_it.py", "-q", files=files, program=("-m", "pytest"))
    return "" if ended.code not in (0, 5) else f"exit code {ended.code}: {short(ended.out)}"


_red(85, "sys.exit(0)", codes=(2, 3))
_red(86, "os._exit(0)", codes=(1, 2, 3))
_red(87, "t = base.trainer()\nt.train = lambda *a, **k: None\nreturn t")
_FORWARD = """
t = base.trainer()
own = t.model.forward
def forward(*a, **k):
    import inspect
    if any(f.function == "training_step" for f in inspect.stack()): raise {what}
    return own(*a, **k)
t.model.forward = forward
return t
"""
_red(88, _FORWARD.format(what="SystemExit(0)"))
_red(89, _FORWARD.format(what="KeyboardInterrupt"), codes=(1, 2, 3, 130))
_red(
    90,
    """
class Bad(Exception):
    def __str__(self): raise RuntimeError("no words")
    __repr__ = __str__
class Own(Trainer):
    def compute_loss(self, *a, **k): raise Bad()
return base.trainer(cls=Own)
""",
)


@attack(91)
def raising_objects() -> str:
    body = """
class Raises:
    def no(self, *a): raise RuntimeError("no")
    __repr__ = __str__ = __len__ = __bool__ = __iter__ = __hash__ = no
class Collate(Raises):
    held = Raises()
    def __call__(self, items): return base.collate(items)
return base.trainer(None, Collate())
"""
    ended = command("run", "mod:build", files=module(body))
    if "Traceback" in ended.text or "unexpected" in ended.err:
        return f"traceback: {ended.words}"
    return "" if ended.code in (0, 2) else f"exit code {ended.code}: {short(ended.text)}"


__all__ = ["HEAD", "ROOT", "module", "refused"]
