"""What a script trains besides the training that is judged."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from trainsanity.sources.later_trainings import later_trainings


@pytest.fixture
def told(tmp_path: Path):
    def told(source: str, *lines: int, beside: int = 0) -> list[str]:
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(source).lstrip())
        return later_trainings(str(path), list(lines), beside)

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


TWO_AT_ONCE = """
a, b = make_trainer(), make_trainer()
a.train(); b.train()
"""

RESUMED_OR_NOT = """
trainer = Trainer(model)
if resume:
    trainer.train(resume_from_checkpoint=True)
elif warm:
    trainer.train(warm)
else:
    trainer.train()
trainer.train(last) if last else trainer.train()
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


def test_two_in_one_line(told):
    assert told(TWO_AT_ONCE, 2) == [
        "line 2 calls train() 2 times: judged is the first, and no other"
    ]


def test_branches_of_one_condition_are_one_training(told):
    for line in (3, 5, 7):
        assert told(RESUMED_OR_NOT, line) == [
            f"train() is also called in line 8: judged is line {line}, which came first"
        ]
    assert told(RESUMED_OR_NOT, 8) == [
        "train() is also called in line 3, 5, 7: judged is line 8, which came first"
    ]


@pytest.mark.parametrize(("beside", "others"), [(1, "another Trainer"), (3, "3 other Trainers")])
def test_trainers_that_the_text_does_not_tell_of(told, beside, others):
    (sentence,) = told("train_them()", 1, beside=beside)
    assert sentence == (
        f"the script has built {others}, and ends in this call of train(): "
        "what it would train after that is not judged"
    )
    assert len(told(TEACHER_AND_STUDENT, 2, beside=beside)) == 1


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
