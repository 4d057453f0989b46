"""What a patch says in a user's own file: patch and git apply it, whatever the file looks like."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainsanity import patches
from trainsanity.engine.registry import registry
from trainsanity.patches.lines import WRITERS, write_repair
from trainsanity.patches.places import Draft, is_users
from trainsanity.patches.text import NoLine, SourceFile
from trainsanity.proofs import Proof, Proved
from trainsanity.repairs import KINDS, loss_divided, repair, setting
from trainsanity.types import Finding, Result, Status

SCRIPT = """\
def build():
    args = TrainingArguments("out", warmup_steps=500)
    trainer = Trainer(model, args, optimizers=(None, None))
    return trainer
"""


class TrainingArguments:
    """Stands for the library's class."""


class Trainer:
    """Stands for the library's class, and is no override of its methods."""

    def __init__(self) -> None:
        self.args = TrainingArguments()


def draft_of(path: Path, call: str = "Trainer") -> Draft:
    import ast

    file = SourceFile(str(path))
    trainer = Trainer()
    config = SimpleNamespace()
    model = SimpleNamespace(config=config)
    pipeline: Any = SimpleNamespace(trainer=trainer, args=trainer.args, model=model, config=config)
    (node,) = (
        one
        for one in ast.walk(file.tree)
        if isinstance(one, ast.Call) and getattr(one.func, "id", "") == call
    )
    return Draft.where_built(pipeline, file, node)


def applied(path: Path, draft: Draft, tool: str) -> str:
    """Write the diff, have a tool apply it, and return the file as it is then."""
    before = path.read_bytes()
    diff, files = draft.diff(str(path.parent))
    assert files == (str(path),)
    assert path.read_bytes() == before
    (path.parent / "fix.patch").write_bytes(f"# words before it\n{diff}".encode())
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool}")
    command = {"git": ["git", "apply", "fix.patch"], "patch": ["patch", "-p1", "-i", "fix.patch"]}
    subprocess.run(command[tool], cwd=path.parent, check=True, capture_output=True)
    compile(path.read_bytes(), path.name, "exec")
    return path.read_bytes().decode()


@pytest.mark.parametrize("tool", ["git", "patch"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.py", SCRIPT),
        ("train.py", SCRIPT.replace("\n", "\r\n")),
        ("train.py", SCRIPT.rstrip("\n")),
        ("train.py", f"\ufeff{SCRIPT}"),
        ("my train.py", SCRIPT),
        ("train.py", f"def earlier():\n    return 'ä' + 'ö', '\x0c'\n\n\n{SCRIPT}"),
        ("train.py", SCRIPT.replace("    ", "\t")),
    ],
    ids=["plain", "crlf", "no_last_newline", "mark", "space", "umlauts", "tabs"],
)
def test_it_applies(tmp_path: Path, name: str, text: str, tool: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    draft = draft_of(path)
    write_repair(draft, setting("args", "warmup_steps", 0))
    write_repair(draft, setting("config", "pad_token_id", 7))
    new = applied(path, draft, tool)
    assert "warmup_steps=0)" in new
    assert "trainer.model.config.pad_token_id = 7" in new
    assert new.index("pad_token_id") < new.index("return trainer")
    kept = new.replace("warmup_steps=0", "warmup_steps=500").splitlines(keepends=True)
    assert "".join(one for one in kept if "pad_token_id" not in one) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "def build():\n    return Trainer(\n        model,\n    )\n",
            "def build():\n    trainer = Trainer(\n        model,\n    )\n"
            "    trainer.model.config.x = 1\n    return trainer\n",
        ),
        (
            "trainer = 1\nbuilt = wrap(Trainer(model))\n",
            "trainer = 1\ntrainer_ = Trainer(model)\n"
            "trainer_.model.config.x = 1\nbuilt = wrap(trainer_)\n",
        ),
        (
            "if True:\n    built = Trainer(model)",
            "if True:\n    built = Trainer(model)\n    built.model.config.x = 1\n",
        ),
    ],
)
def test_a_trainer_without_a_name_gets_one(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "train.py"
    path.write_text(text)
    draft = draft_of(path)
    write_repair(draft, setting("config", "x", 1))
    assert applied(path, draft, "git") == expected


@pytest.mark.parametrize(
    "call",
    [
        "Trainer(model, optimizers=(a, b))",
        "Trainer(model, optimizers=(a, b), seed=1)",
        "Trainer(\n    model,\n    optimizers=(\n        a,\n        b,\n    ),\n)",
        "Trainer(\n    optimizers=(a, b),\n    model=model,\n)",
        "Trainer(optimizers=(a, b))",
    ],
)
def test_an_argument_goes_with_its_line(tmp_path: Path, call: str) -> None:
    path = tmp_path / "train.py"
    path.write_text(f"trainer = {call}\n")
    draft = draft_of(path)
    write_repair(draft, repair("x", "trainers_own_optimizer"))
    new = applied(path, draft, "git")
    assert "optimizers" not in new
    assert new.count("\n") in (1, call.count("\n"), call.count("\n") - 3)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ('TrainingArguments("out")', 'TrainingArguments("out", warmup_steps=0)'),
        ("TrainingArguments()", "TrainingArguments(warmup_steps=0)"),
        (
            'TrainingArguments(\n    "out",\n    seed=1,\n)',
            'TrainingArguments(\n    "out",\n    seed=1,\n    warmup_steps=0,\n)',
        ),
    ],
)
def test_a_keyword_is_added_as_the_others_are(tmp_path: Path, call: str, expected: str) -> None:
    path = tmp_path / "train.py"
    path.write_text(f"args = {call}\ntrainer = Trainer(model, args)\n")
    draft = draft_of(path)
    write_repair(draft, setting("args", "warmup_steps", 0))
    assert applied(path, draft, "git") == f"args = {expected}\ntrainer = Trainer(model, args)\n"


def test_arguments_of_a_parser_get_a_line(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    text = "trainer = Trainer(model, TrainingArguments(**given))\n"
    path.write_text(text)
    draft = draft_of(path)
    write_repair(draft, setting("args", "warmup_steps", 0))
    assert applied(path, draft, "git") == f"{text}trainer.args.warmup_steps = 0\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = 1; trainer = Trainer(model)\n", "more than one statement"),
        ("build = lambda: Trainer(model)\n", "a lambda"),
        ("with Trainer(model) as t:\n    pass\n", "the head of a block"),
        ("trainer = Trainer(model)\rx = 1\r", "carriage returns"),
    ],
)
def test_no_line_is_known(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "train.py"
    path.write_bytes(text.encode())
    with pytest.raises(NoLine, match=words):
        draft_of(path)


def test_what_cannot_be_written_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    draft = draft_of(path)
    with pytest.raises(NoLine, match="not which line"), draft.whole():
        write_repair(draft, loss_divided(3))
    with pytest.raises(NoLine, match="cannot be written"), draft.whole():
        write_repair(draft, setting("config", "x", object()))
    write_repair(draft, setting("config", "x", 1))
    with pytest.raises(NoLine, match="lies outside"):
        draft.diff(str(tmp_path / "elsewhere"))


def test_libraries_are_not_the_users(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("")
    assert is_users(str(path))
    assert not is_users(pytest.__file__)
    assert not is_users(shutil.__file__)
    assert not is_users("<string>")


def patched(monkeypatch: pytest.MonkeyPatch, path: Path, *proofs: tuple[str, ...]) -> str:
    """Return what stands above the diff where each check fails and its own repair turns some green.

    Args:
        monkeypatch: which finds the draft.
        path: of the script.
        proofs: of each check the codes that turn green with its repair.
    """
    path.write_text(SCRIPT)
    monkeypatch.setattr(patches, "draft_of", lambda _: draft_of(path))
    results = []
    for check, green in zip(registry().all(), proofs, strict=False):
        change = setting("config", check.code, 1)
        proof = Proof(Proved.PROVED, "with it.", change.words, green=green)
        finding = Finding("wrong", repairs=(change,), proof=proof)
        results.append(Result(check, "p", Status.FAIL, (finding,)))
    report: Any = SimpleNamespace(results=results)
    made = patches.patch_of(SimpleNamespace(), report, str(path.parent))  # type: ignore[arg-type]
    number = sum(line.startswith("+    trainer") for line in made.text.splitlines())
    head = [line for line in made.text.splitlines() if line.startswith("# TS")]
    assert number == len(head)
    assert made.sentence.startswith(f"{number} proved repair")
    return "\n".join(head)


def test_one_place_is_enough_where_one_repair_mends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (check.code for check in registry().all()[:3])
    path = tmp_path / "train.py"
    assert patched(monkeypatch, path, (one,), (one, two)) == (
        f"# {two} at train.py:4: proved: with it."
    )
    assert patched(monkeypatch, path, (one, two), (two,), (three,)) == (
        f"# {one} at train.py:4: proved: with it.\n# {three} at train.py:4: proved: with it."
    )
    # A finding of a check that another one still fails turns nothing green.
    assert patched(monkeypatch, path, (), (two,)).count("proved") == 2


def test_a_table_that_has_the_names_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    names = ("x", "y")
    for right in ("id2label", "label2id"):
        draft = draft_of(path)
        config: Any = draft.pipeline.config
        config.id2label, config.label2id = {0: "y", 1: "x"}, {"y": 0, "x": 1}
        setattr(config, right, {"id2label": {0: "x", 1: "y"}, "label2id": {"x": 0, "y": 1}}[right])
        write_repair(draft, repair("x", "label_names", names=names))
        assert [one.partition(" = ")[0].rpartition(".")[2] for one in draft._blocks[0]] == [
            "label2id" if right == "id2label" else "id2label"
        ]


UNWRITTEN = {"groups_completed", "schedule_by_the_step"}
"""Repairs of a loop's course: a loop has no ``train()``, and a call too many stands anywhere."""


def test_every_repair_of_a_trainer_can_be_written() -> None:
    assert set(WRITERS) == set(KINDS) - UNWRITTEN
