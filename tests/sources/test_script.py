"""Scripts run as they are, up to `train()`, and nothing of them stays."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trainsanity import Pipeline, PipelineSpec, UsageError
from trainsanity.cli.main import program
from trainsanity.sources.script import judge_script

ROOT = Path(__file__).parents[2]
EXAMPLES = Path(__file__).parents[1] / "examples" / "scripts"
LOSS = "loss.matches_reference"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the example scripts; the current directory is an empty one beside it."""
    project = tmp_path / "project"
    shutil.copytree(EXAMPLES, project, ignore=shutil.ignore_patterns("__pycache__"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    # A script's helpers must not be another test's.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield project
    for name in set(sys.modules) - before:
        if str(project) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def write(project: Path) -> Callable[[str], str]:
    """Writes a script and returns its path."""

    def write(source: str) -> str:
        path = project / "train.py"
        path.write_text(textwrap.dedent(source))
        return str(path)

    return write


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(program, ["run", *arguments])


def surroundings() -> dict[str, Any]:
    from transformers import PreTrainedModel, Trainer

    return {
        "argv": sys.argv,
        "path": (sys.path, list(sys.path)),
        "main": sys.modules["__main__"],
        "finders": list(sys.meta_path),
        "warnings": list(warnings.filters),
        "trace": sys.gettrace(),
        "directory": os.getcwd(),
        "files": sorted(os.listdir()),
        "Trainer": dict(vars(Trainer)),
        "PreTrainedModel": dict(vars(PreTrainedModel)),
    }


@pytest.fixture
def undone() -> Iterator[None]:
    """What a script changes in this process is as it was."""
    before = surroundings()
    yield
    after = surroundings()
    assert [name for name in before if before[name] != after[name]] == []


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- as python runs it ---------------------------------------------------------------------------


def test_judged_in_place_of_training(project: Path, undone: None) -> None:
    path = os.path.relpath(project / "classify.py")

    def judge(pipeline: Pipeline) -> str:
        main: Any = sys.modules["__main__"]
        assert sys.argv == [path, "--epochs", "3"]
        assert sys.path[0] == str(project)
        assert main.__file__ == str(project / "classify.py")
        assert main.__spec__ is None
        assert type(pipeline.trainer) is main.ScaledTrainer
        assert pipeline.args.num_train_epochs == 3
        assert pipeline.trainer.state.global_step == 0
        assert os.listdir("runs") == ["tickets"]
        assert (pipeline.id, pipeline.command) == (path, (path, "--epochs", "3"))
        return "verdict"

    assert judge_script(path, ["--epochs", "3"], judge) == "verdict"


def test_the_second_trainer_inside_its_block_in_a_package(project: Path, undone: None) -> None:
    before = files(project)

    def judge(pipeline: Pipeline) -> list[int]:
        assert os.getcwd() == str(project / "shop" / "jobs")
        assert pipeline.args.output_dir == "out/student"
        main = sys.modules["__main__"]
        assert (main.__package__, main.__name__) == ("shop.jobs", "__main__")
        ids: list[int] = pipeline.train_dataset[3]["input_ids"]
        return ids

    # Its rows are read from a folder that exists for the length of a block.
    assert judge_script(str(project / "shop" / "jobs" / "distill.py"), [], judge) == [3, 7, 8]
    assert files(project) == before


def test_a_script_that_catches_everything_ends_and_saves_nothing(
    project: Path, undone: None
) -> None:
    judged: list[Pipeline] = []
    judge_script(str(project / "stubborn.py"), [], judged.append)
    assert len(judged) == 1


@pytest.mark.parametrize(
    "after",
    [
        "except: model.save_pretrained('model')",
        "except: pass\nmine.save_model('model')",
        "finally: mine.save_state(); mine.save_model('model')",
        "except BaseException: raise RuntimeError('training failed')",
        "except: raise SystemExit(7)",
        "except: pass\nfor n in range(9):\n    try: trainer(f'out{n}').train()\n    except: pass",
        "except: pass\nmine.evaluate(); open('evaluated', 'w')",
    ],
)
def test_what_a_script_does_after_the_verdict(
    write: Callable[[str], str], undone: None, after: str
) -> None:
    path = write(
        "from shop.models import trainer\nmine = trainer('out')\nmodel = mine.model\n"
        f"try: mine.train()\n{after}"
    )
    assert judge_script(path, [], lambda pipeline: 7) == 7


@pytest.mark.parametrize("error", [UsageError("no rows"), KeyboardInterrupt(), OSError("full")])
@pytest.mark.parametrize("caught", ["Exception", "KeyboardInterrupt", "BaseException"])
def test_an_error_of_the_judge_is_not_the_scripts_to_catch(
    write: Callable[[str], str], undone: None, error: BaseException, caught: str
) -> None:
    def judge(pipeline: Pipeline) -> None:
        raise error

    path = write(
        "from shop.models import trainer\n"
        f"try: trainer('out').train()\nexcept {caught}: print('interrupted; saving')\n"
    )
    with pytest.raises(type(error)) as info:
        judge_script(path, [], judge)
    assert info.value is error


def test_a_subclass_with_a_train_of_its_own_is_judged_by_running_it(
    write: Callable[[str], str], undone: None
) -> None:
    path = write(
        """
        from transformers import Trainer
        from shop.models import trainer

        calls = []

        class Mine(Trainer):
            def train(self, *args, **kwargs):
                calls.append(kwargs)
                return super().train(*args, **kwargs)

        trainer("out", kind=Mine).train(resume_from_checkpoint="checkpoint-7")
        """
    )

    def judge(pipeline: Pipeline) -> float:
        assert pipeline.notes == (
            "the script resumes from a checkpoint; judged are the weights before that",
        )
        pipeline.args.max_steps, pipeline.args.save_strategy = 1, "no"
        loss: float = pipeline.trainer.train().training_loss
        assert len(sys.modules["__main__"].calls) == 2
        return loss

    assert judge_script(path, [], judge) == pytest.approx(0.69, abs=0.1)


def test_a_trainer_beside_the_judged_one_is_told(write: Callable[[str], str], undone: None) -> None:
    path = write(
        """
        from shop.models import trainer

        def train(these):
            for one in these:
                yield one.train()

        first, second, third = (trainer(f"out{number}") for number in range(3))
        first.held = second
        next(train([first, third]))
        """
    )
    (note,) = judge_script(path, [], lambda pipeline: pipeline.notes)
    assert note.startswith("line 6 trains in a loop")
    path = write(Path(path).read_text().replace("for one in these:", "if one := these[0]:"))
    (note,) = judge_script(path, [], lambda pipeline: pipeline.notes)
    assert note.startswith("the script has built another Trainer, and ends in this call of train()")


def test_output_folders_that_were_there_or_are_used_stay(
    project: Path, write: Callable[[str], str]
) -> None:
    Path("here/before").mkdir(parents=True)
    path = write(
        """
        import pathlib
        from shop.models import trainer

        for folder in ("here/before", "here/new", "a/b/c", "a/used", "deep/er"):
            mine = trainer(folder)
        pathlib.Path("a/used/config.json").touch()
        pathlib.Path("own").mkdir()
        mine.train()
        """
    )
    judge_script(path, [], lambda pipeline: None)
    work = project.parent / "work"
    assert files(work) == {"here", "here/before", "a", "a/used", "a/used/config.json", "own"}


def test_factories_leave_no_folders_either(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project)
    models = importlib.import_module("shop.models")
    spec = PipelineSpec("mine", lambda: models.trainer("a/b/c"))
    assert spec.visit(lambda pipeline: os.listdir("a/b")) == ["c"]
    with spec.built():
        assert os.listdir("a") == ["b"]
    assert os.listdir() == []


# --- what cannot be judged -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\nif x\n", "is no Python: line 2: expected ':'"),
        ("x = '\0'", "is no Python: "),
        (
            "def f():\n    raise ValueError('no\\ndata')\n\nf()",
            "raised ValueError in line 2 before it called Trainer.train(): no",
        ),
        ("import json\njson.loads('')", "raised JSONDecodeError in line 2 before"),
        ("import no_such_module", "raised ModuleNotFoundError in line 1 before"),
        ("class Odd(BaseException): pass\nraise Odd", "raised Odd in line 2 before it called Tr"),
        ("exit()", "exited with code 0 before it called Trainer.train()"),
        ("import sys; sys.exit('no data')", "exited before it called Trainer.train(): no data"),
        ("print('hello')", "ended without calling train() on a transformers.Trainer"),
        ("from shop.models import trainer; trainer('out')", "ended without calling train()"),
        (
            "from shop.models import ROWS, trainer\ntrainer('out', rows=ROWS[:2]).train()",
            "per_device_train_batch_size is 4 but train_dataset has 2 rows",
        ),
    ],
)
def test_one_sentence(write: Callable[[str], str], undone: None, source: str, said: str) -> None:
    path = write(source)
    with pytest.raises(UsageError) as info:
        judge_script(path, [], lambda pipeline: pytest.fail("judged"))
    assert said in str(info.value)
    assert "\n" not in str(info.value)


def test_an_interrupted_script(write: Callable[[str], str], undone: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        judge_script(write("raise KeyboardInterrupt"), [], lambda pipeline: None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.py"], "there is no file 'nowhere.py' below /"),
        (["foldr.py"], "; did you mean 'folder.py'?"),
        (["folder.py"], "folder.py cannot be read: Is a directory"),
        (["x.py", "--epochs", "3"], "own arguments go after --: trainsanity run x.py -- --epochs"),
        (["x.py", "lr=3", "n=1"], "without lr=3 n=1; its own arguments go after --: trainsanity"),
        (["x.py", "x.py"], "a script is judged alone, without a second run of it"),
        (["x.py", "mod:factory"], "a script is judged alone, without mod:factory"),
        (["x.py:main"], "'x.py:main' is a script: `trainsanity run x.py` judges it as it is"),
        (["mod:factory", "--lr", "3"], "function's own arguments go after --: trainsanity run mod"),
        (["-m", "pkg.train", "--", "--lr", "3"], "trainsanity run -- python -m pkg.train --lr 3"),
        (["--", "x.py"], "no pipeline to judge: give pkg.module:factory or a script"),
    ],
)
def test_the_call_was_wrong(
    project: Path, run: Callable[..., Result], arguments: list[str], said: str
) -> None:
    Path("folder.py").mkdir()
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


# --- the command ---------------------------------------------------------------------------------


def test_healthy(
    project: Path, run: Callable[..., Result], undone: None, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(project / "classify.py")
    result = run(path, "--select", "dataset,loss", "--", "--epochs", "2")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{path}: sane as far as judged: ")
    said = capfd.readouterr().err  # the script runs in a process of its own
    assert "training for 2 epochs" in said
    assert "done" not in said


def test_failure_and_the_command_that_runs_just_it(
    project: Path, run: Callable[..., Result], undone: None
) -> None:
    path = str(project / "classify.py")
    own = ["--epochs", "2", "--scale", "3", "--output_dir", "a folder/of mine"]
    result = run(path, "--select", "loss,gradient", "--", *own)
    assert result.exit_code == 1, result.stderr
    command = (
        f"trainsanity run {path} --select TS502 -- "
        "--epochs 2 --scale 3 --output_dir 'a folder/of mine'"
    )
    assert command in " ".join(result.stdout.split())
    again = run(path, "--select", "TS502", "--json", "-", "--", *own)
    assert again.exit_code == 1
    document = json.loads(again.stdout)
    assert document["pipeline"] == path
    assert [row["factor"] for row in document["results"]] == [pytest.approx(3, rel=1e-3)]


def test_accepted_failures_and_a_configured_script(
    project: Path, run: Callable[..., Result]
) -> None:
    Path("pyproject.toml").write_text(
        f'[tool.trainsanity]\npipelines = ["{project / "classify.py"}"]\n'
        f'[tool.trainsanity.expected_failures]\n"{LOSS}" = "known, see #7"\n'
    )
    result = run("--select", LOSS, "--", "--epochs", "2", "--scale", "3")
    assert result.exit_code == 0, result.stderr
    assert "known, see #7" in result.stdout


def launched(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainsanity", "run", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_a_script_sets_before_it_imports_transformers_counts(
    project: Path, write: Callable[[str], str]
) -> None:
    path = write(
        """
        import os, sys
        assert not {"torch", "transformers", "huggingface_hub"} & set(sys.modules)
        os.environ["HF_HOME"] = "/nowhere/at/all"
        from huggingface_hub import constants
        assert constants.HF_HOME == "/nowhere/at/all"
        from shop.models import trainer
        print("to stdout")
        trainer("out/put").train()
        """
    )
    process = launched(path, "--select", "dataset", "--json", "-", folder=project.parent / "work")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["summary"]["ran"] >= 1
    assert "to stdout" in err
    assert files(project.parent / "work") == set()


def test_interrupt_from_the_keyboard(project: Path, write: Callable[[str], str]) -> None:
    path = write("import sys, time\nprint('ready', file=sys.stderr, flush=True)\ntime.sleep(300)")
    # A shell's background job ignores SIGINT, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = launched(path, "--json", "report.json", folder=project.parent / "work")
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "trainsanity: interrupted; no JSON was written"
    assert files(project.parent / "work") == set()


POOL = """
import multiprocessing, sys, time

def work(k):
    time.sleep(100 if k else 0)

with multiprocessing.get_context("fork").Pool(2) as pool:
    next(pool.imap(work, range(3)))  # the others are terminated
print("ended", file=sys.stderr)
"""


def test_workers_that_the_script_terminates_end_without_a_word(
    project: Path, write: Callable[[str], str]
) -> None:
    process = launched(write(POOL), folder=project.parent / "work")
    _, err = process.communicate(timeout=60)
    ended, why = err.splitlines()
    assert ended == "ended"
    assert "ended without calling train()" in why
