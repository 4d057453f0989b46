"""What the source of a loop tells: the mode that it leaves its model in, and its epochs."""

from __future__ import annotations

import copy
import itertools
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from trainsanity.sources.loop_modes import epochs_of, left_in_eval

COUNT = itertools.count()

LEFT = {
    "at the end of an epoch": """
        model.train()
        for epoch in range(3):
            for batch in range(2):
                step(model)
            model.eval()
    """,
    "by a function": """
        def evaluate(net):
            net.eval()
            with torch.no_grad():
                return 1

        for epoch in range(epochs):
            step(model)
            print(f"{evaluate(model)}")
    """,
    "by a function of a global model": """
        def score():
            model.eval()
            return 1

        while True:
            step(model)
            if epoch % 2 == 1:
                score()
    """,
    "in a function that has called train() before": """
        def evaluate(loader, net):
            net.eval()

        def main(net):
            net.train()
            for epoch in range(3):
                for batch in range(2):
                    step(net)
                evaluate([], net=net)

        main(model)
    """,
    "where the step is in another function": """
        def one(net):
            for batch in range(2):
                step(net)

        for epoch in range(3):
            one(model)
            model.eval()
    """,
    "of what is around it": """
        wrapper = torch.nn.Sequential(model)
        for epoch in range(3):
            step(model)
            wrapper.eval()
            model.train(False)
    """,
}

GREEN = {
    "in the loop": """
        for epoch in range(3):
            model.train()
            step(model)
            model.eval()
    """,
    "in a function that trains": """
        def one(net):
            net.train()
            step(net)

        for epoch in range(3):
            one(model)
            model.eval()
    """,
    "by the evaluation itself": """
        def evaluate(net):
            mode = net.training
            net.eval()
            net.train(mode)

        for epoch in range(3):
            step(model)
            evaluate(model)
    """,
    "by hand": """
        for epoch in range(3):
            step(model)
            model.eval()
            model.training = True
    """,
    "in a method": """
        class Switch:
            def __exit__(self, *_):
                model.train()

        for epoch in range(3):
            step(model)
            model.eval()
    """,
    "another model": """
        average, teacher = copy.deepcopy(model), torch.nn.Linear(2, 2)
        for epoch in range(3):
            step(model)
            average.eval()
            teacher.eval()
            copy.deepcopy(model).eval()
    """,
    "another model in a function": """
        def evaluate(net):
            net.eval()

        average = copy.deepcopy(model)
        for epoch in range(3):
            step(model)
            evaluate(average)
    """,
    "a model of each fold": """
        for fold in range(3):
            net = torch.nn.Dropout()
            for epoch in range(3):
                step(net)
            net.eval()
    """,
    "an attribute of each fold": """
        class Holder:
            pass

        holder = Holder()
        for fold in range(3):
            holder.net = torch.nn.Dropout()
            for epoch in range(3):
                step(holder.net)
            holder.net.eval()
    """,
    "at the end of all": """
        for epoch in range(3):
            step(model)
            if epoch == 2:
                model.eval()
    """,
    "before the loop is left": """
        for epoch in itertools.count():
            step(model)
            if epoch % 3 == 2:
                model.eval()
                break
    """,
    "behind the loop": """
        for epoch in range(3):
            step(model)
        model.eval()
    """,
    "one epoch": """
        for epoch in range(once):
            step(model)
            model.eval()
    """,
    "the text of a rule": """
        for epoch in range(3):
            step(model)
            table.eval("a + b")
    """,
}


class Seen(Exception):
    """Ends a script at its step."""


EPOCHS = {
    "a range over batches": (5, """
        for epoch in range(epochs):
            for number, batch in enumerate([1, 2]):
                step(model)
    """),
    "from another epoch on, in a function": (3, """
        def main(last):
            for epoch in range(epoch_before, last):
                for batch in batches:
                    step(model)

        epoch_before, batches = 2, [1]
        main(5)
    """),
    "it may be left earlier": (None, """
        for epoch in range(epochs):
            for batch in [1, 2]:
                step(model)
                if batch == epoch:
                    break
    """),
    "no end": (None, """
        while True:
            for batch in [1, 2]:
                step(model)
    """),
    "both are ranges": (None, """
        for epoch in range(epochs):
            for number in range(8):
                step(model)
    """),
    "one loop": (None, """
        for batch in [1, 2]:
            step(model)
    """),
}  # fmt: skip


def told(folder: Path, source: str, ask=left_in_eval) -> str:
    script = folder / f"loop_{next(COUNT)}.py"
    script.write_text(textwrap.dedent(source))

    def step(net):
        frame = sys._getframe(1)
        raise Seen(ask(frame) if ask is epochs_of else ask(frame, net))

    names = {"__name__": "__main__", "step": step, "model": torch.nn.Dropout(), "torch": torch,
             "copy": copy, "itertools": itertools, "epoch": 1, "once": 1,
             "epochs": 5}  # fmt: skip
    with pytest.raises(Seen) as seen:
        exec(compile(script.read_text(), str(script), "exec"), names)
    return str(seen.value)


@pytest.mark.parametrize("name", LEFT)
def test_a_loop_that_leaves_its_model_in_eval_mode(name, tmp_path):
    line = told(tmp_path, LEFT[name]).partition(":")[2]
    source = textwrap.dedent(LEFT[name]).splitlines()[int(line) - 1]
    assert any(word in source for word in ("eval()", "evaluate(", "score()"))


@pytest.mark.parametrize("name", GREEN)
def test_a_loop_that_goes_back_or_leaves_another_model_there(name, tmp_path):
    assert told(tmp_path, GREEN[name]) == ""


@pytest.mark.parametrize("name", EPOCHS)
def test_the_epochs_of_a_loop(name, tmp_path):
    expected, source = EPOCHS[name]
    assert told(tmp_path, source, epochs_of) == str(expected)


def test_code_without_a_file_tells_nothing():
    def step(net):
        raise Seen(left_in_eval(sys._getframe(1), net))

    names = {"step": step, "model": torch.nn.Dropout()}
    with pytest.raises(Seen, match=r"^$"):
        exec("for epoch in range(3):\n    step(model)\n    model.eval()", names)
