"""What a script trains besides the training that is judged."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from trainsanity.sources.later_trainings import later_trainings


@pytest.fixture
def told(tmp_path: Path):
    def told(source: str, *lines: int) -> list[str]:
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(source).lstrip())
        return later_trainings(str(path), list(lines))

    return told


FOLDS = """
for fold in range(5):
    trainer = Trainer(model_of(fold))
    trainer.train()
"""

FOLDS_IN_A_FUNCTION = """
def train(fold):
    trainer = Trainer(model_of(fold))
    trainer.train()

for fold in range(5):
    train(fold)
"""

TEACHER_AND_STUDENT = """
teacher = SFTTrainer(big)
teacher.train()
model.train()
student = trl.DPOTrainer(small)
student.train()
"""

ONE = """
for row in rows:
    prepare(row)

def main():
    model.train()
    trainer = Trainer(model)
    trainer.train()

while waiting:
    pass
main()
"""

A_LOOP_AROUND_A_FUNCTION_THAT_IS_NOT_RUNNING = """
for kind in kinds:
    def build():
        return Trainer(kind).train()
build()
"""


def test_folds_of_a_loop(told):
    assert told(FOLDS, 3) == [
        "line 3 trains in a loop: judged is its first turn, before the others have changed anything"
    ]
    (sentence,) = told(FOLDS_IN_A_FUNCTION, 3, 6)
    assert sentence.startswith("line 6 trains in a loop")


def test_a_second_trainer(told):
    assert told(TEACHER_AND_STUDENT, 2) == [
        "train() is also called in line 5: judged is line 2, which came first"
    ]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (ONE, (7, 11)),
        (A_LOOP_AROUND_A_FUNCTION_THAT_IS_NOT_RUNNING, (3, 4)),
        ("no Python (", (1,)),
        (TEACHER_AND_STUDENT, ()),
    ],
)
def test_nothing_is_told_of_others(told, source, lines):
    assert told(source, *lines) == []


def test_a_file_that_is_gone(tmp_path):
    assert later_trainings(str(tmp_path / "train.py"), [1]) == []
