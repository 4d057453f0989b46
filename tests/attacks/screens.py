"""What reaches a terminal, and what of the rows reaches a report."""

from __future__ import annotations

import json

from .green import HEAD, module
from .oracle import CONTROL, attack, command

OSC = "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07\rSANE"


def _clean(text: str) -> str:
    return f"control character: {text[:300]!a}" if CONTROL.search(text) else ""


@attack(139)
def labels() -> str:
    body = f"""
t = base.trainer()
t.model.config.id2label = {{i: {OSC!a} + str(i) + "\\u2028\\u0085" for i in range(3)}}
t.model.config.label2id = {{v: k for k, v in t.model.config.id2label.items()}}
return t
"""
    ended = command("show", "mod:build", files=module(body))
    lines = [x for x in ended.text if x in "\u2028\x85"]
    if ended.code != 0:
        return f"exit code {ended.code}: {ended.words}"
    return _clean(ended.text) or ("a line separator" if lines else "")


@attack(140)
def exception_words() -> str:
    body = """
class Own(Trainer):
    def compute_loss(self, *a, **k): raise RuntimeError("a\\u202eb\\u2066c\\x9b31m\\x1b[2J\\ud800")
return base.trainer(cls=Own)
"""
    ended = command("run", "mod:build", "-v", files=module(body))
    if ended.code not in (1, 3):
        return f"exit code {ended.code}: {ended.words}"
    return _clean(ended.text)


@attack(141)
def file_name() -> str:
    name = "tr\x1b[2Jain\u202e.py"
    text = HEAD + "t = base.trainer()\nt.train()\n"
    bad = command("run", name, files={name: text.replace("t.train()", "raise ValueError(1)")})
    good = command("run", name, "-v", files={name: text})
    if good.code not in (0, 2):
        return f"exit code {good.code}: {good.words}"
    return _clean(good.text) or _clean(bad.text)


@attack(142)
def ascii_only() -> str:
    body = 'raise RuntimeError("größe ✓")'
    broken = []
    for more in ({}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        good = command("run", "mod:build", "-v", files=module("return base.trainer()"), env=more)
        bad = command("run", "mod:build", "-v", files=module(body), env=more)
        if good.code != 0 or "UnicodeEncodeError" in good.text + bad.text:
            broken.append(f"{more}: exit code {good.code}: {good.words}")
        if bad.code not in (2, 3):
            broken.append(f"{more}: exit code {bad.code}: {bad.words}")
    return "; ".join(broken)


@attack(143)
def closed_early() -> str:
    broken = []
    for line in (
        ("run", "mod:build", "-v"),
        ("list",),
        ("explain", "--all"),
        ("show", "mod:build"),
    ):
        ended = command(
            *line,
            files=module("return base.trainer()"),
            shell='"$@" | head -1; exit ${PIPESTATUS[0]}',
        )
        if "Traceback" in ended.text or "unexpected" in ended.err or "Exception" in ended.err:
            broken.append(f"{line[0]}: {ended.words}")
    return "; ".join(broken)


SECRET = "hunter2pass"


@attack(144)
def rows_in_exception() -> str:
    body = f"""
made = base.Rows()
for row in made.rows: row["text"] = {SECRET!r}
def bad(items):
    items = [dict(i) for i in items]
    raise ValueError("cannot take " + str(items[0]))
return base.trainer(made, bad)
"""
    outputs = ("--json", "r.json", "--sarif", "r.sarif", "--github-summary", "r.md", "-v")
    ended = command(
        "run",
        "mod:build",
        "--no-rows",
        *outputs,
        files=module(body),
        env={"GITHUB_ACTIONS": "true"},
    )
    if ended.code not in (1, 3) or "r.json" not in ended.files:
        return f"exit code {ended.code}: {ended.words}"
    where = [name for name, content in ended.files.items() if SECRET.encode() in content]
    where += ["the screen"] if SECRET in ended.text else []
    return f"in {where}" if where else ""


@attack(145)
def show_without_rows() -> str:
    body = f"""
made = base.Rows()
for row in made.rows: row["text"] = {SECRET!r}; row["meta"] = {{"who": {SECRET!r}}}
t = base.trainer(made)
t.model.config.id2label = {{i: "class" + str(i) for i in range(3)}}
return t
"""
    ended = command("show", "mod:build", "--no-rows", "--json", "r.json", files=module(body))
    if ended.code != 0:
        return f"exit code {ended.code}: {ended.words}"
    said = ended.text + "".join(c.decode() for c in ended.files.values())
    if SECRET in said:
        return "the word is there"
    ids = json.loads(ended.files["r.json"])
    return "ids of tokens are there" if "[4, " in json.dumps(ids) else ""
