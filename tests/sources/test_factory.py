"""Where a pipeline comes from."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from trainsanity import UsageError
from trainsanity.sources.building import PipelineSpec
from trainsanity.sources.config import checks_in, configuration
from trainsanity.sources.factory import sources_of, spec_of
from trainsanity.sources.script import Script
from trainsanity.types import Cost

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory.  Each test's module has a name of its own: modules stay."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nothing", "'nothing' names no pipeline: give pkg.module:factory"),
        (":factory", "names no pipeline"),
        ("module:", "names no pipeline"),
        ("", "names no pipeline"),
        ("train.py", "'train.py' is a script"),
        ("jobs/train.py:factory", "is a script"),
    ],
)
def test_target_of_another_form(target: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        spec_of(target)


def test_spec_builds_late_and_carries_the_expected_failures(here: Path) -> None:
    (here / "late_pipeline.py").write_text("raise RuntimeError('imported too early')")
    spec = spec_of("late_pipeline:factory", {"loss.matches_reference": "known"})
    assert spec.id == "late_pipeline:factory"
    assert spec.expected_failures == {"loss.matches_reference": "known"}
    with pytest.raises(
        UsageError, match=r"failed: RuntimeError: imported too early \(late_pipeline\.py line 1\)"
    ):
        spec.make()


def test_an_error_is_told_with_its_line(here: Path) -> None:
    (here / "m_helper.py").write_text("def load():\n    return weights\n")
    (here / "m_raises.py").write_text(
        "import json\nfrom m_helper import load\n\ndef own():\n    return load()\n\n"
        "def librarys():\n    return json.loads('{')\n\ndef wants(model):\n    return model\n"
    )
    for name, said in (
        (
            "own",
            "m_raises:own raised NameError: name 'weights' is not defined (m_helper.py line 2)",
        ),
        # A library's line tells nobody what to change.
        ("librarys", "(char 1) (m_raises.py line 8)"),
        ("wants", "argument: 'model'; it has to run without arguments and return a Trainer"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            spec_of(f"m_raises:{name}").make()


def test_a_script_with_a_functions_name_is_answered_with_the_call(here: Path) -> None:
    (here / "jobs").mkdir()
    (here / "jobs" / "train.py").write_text("")
    (here / "jobs" / "my-train.py").write_text("")
    said = "`trainsanity run jobs.train:build` calls its function"
    with pytest.raises(UsageError, match=re.escape(said)):
        spec_of("./jobs/train.py:build")
    with pytest.raises(UsageError, match="or put what builds the Trainer into a function"):
        spec_of("jobs/my-train.py:build")


def test_module_in_the_current_directory_is_found(here: Path) -> None:
    (here / "local_pipeline.py").write_text("def factory():\n    return 7\n")
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(here))]
    with pytest.raises(UsageError, match=r"returned int, not a transformers\.Trainer"):
        spec_of("local_pipeline:factory").make()


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("", "no_such_module:f", "there is no module 'no_such_module' below"),
        ("", "no_such_package.deep.module:f", "there is no module 'no_such_package.deep.module'"),
        (
            "import no_such_dependency",
            "m_dependency:f",
            "failed: No module named 'no_such_dependency' (m_dependency.py line 1)",
        ),
        ("def f(:", "m_syntax:f", "importing 'm_syntax' failed: SyntaxError"),
        ("import sys; sys.exit(0)", "m_exit:f", "failed: SystemExit: 0 (m_exit.py line 1)"),
        (
            "from os import getcwd\ndef one(): pass\ndef two(): pass",
            "m_names:f",
            "module 'm_names' has no 'f'; it has one, two",
        ),
        ("", "m_empty:f", "module 'm_empty' has no 'f'; it has no functions"),
        ("f = 3", "m_number:f", "m_number:f is no function but of type int"),
        ("def f(): return g()\ndef g(): pass", "m_none:f", "m_none:f returned NoneType, not a tr"),
        ("def f(x): return x", "m_args:f", "m_args:f raised TypeError"),
        ("def f(): exit(0); return 3", "m_quits:f", "m_quits:f raised SystemExit: 0"),
    ],
)
def test_what_cannot_be_built(here: Path, source: str, target: str, said: str) -> None:
    module = target.partition(":")[0]
    if not module.startswith("no_such"):
        (here / f"{module}.py").write_text(source)
    with pytest.raises(UsageError, match=re.escape(said)):
        spec_of(target).make()


@pytest.mark.parametrize(
    "body",
    [
        "train()",
        "if train():\n        return\n    train()",
        "with open(__file__):\n        train()\n        return None",
        "try:\n        train()\n    finally:\n        train()",
    ],
)
def test_a_function_that_cannot_return_a_trainer_is_not_run(here: Path, body: str) -> None:
    """The main() of a script trains for hours, saves, and returns nothing to be judged."""
    name = f"m_main_{abs(hash(body))}"
    file = here / f"{name}.py"
    file.write_text(
        f"def train():\n    raise RuntimeError('it trains')\n\ndef main():\n    {body}\n\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    said = (
        f"{name}:main returns nothing, so that it is not called: return the Trainer that you would "
        f"call train() on; or `trainsanity run {name}.py -- --lr 1` judges the script as it is"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        spec_of(f"{name}:main", arguments=("--lr", "1")).make()


def test_a_function_that_a_test_hands_over_is_not_run_either() -> None:
    def main() -> None:
        raise RuntimeError("it trains")

    def trains() -> None:
        main()

    said = (
        r"^mine returns nothing, so that it is not called: return the Trainer that you would call"
    )
    with pytest.raises(UsageError, match=said):
        PipelineSpec("mine", trains).make()
    # One that ends by an exception says nothing of what it would return.
    with pytest.raises(UsageError, match="mine raised RuntimeError: it trains"):
        PipelineSpec("mine", main).make()


def test_usage_error_of_a_factory_is_passed_on(here: Path) -> None:
    (here / "m_usage.py").write_text(
        "from trainsanity import UsageError\ndef f(): raise UsageError('give me a GPU')"
    )
    with pytest.raises(UsageError, match=r"^give me a GPU$"):
        spec_of("m_usage:f").make()


def test_factory_that_returns_a_trainer() -> None:
    pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        pipeline = spec_of("cli_factories:healthy").make()
    assert pipeline.id == "cli_factories:healthy"
    assert pipeline.trainer.model is pipeline.model
    assert len(pipeline.train_dataset) == 12


def test_no_configuration(here: Path) -> None:
    (here / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert configuration() == {}


def test_configuration_of_the_nearest_pyproject_above(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        """
        [tool.trainsanity]
        pipelines = ["a:b"]
        [tool.trainsanity.expected_failures]
        "loss.matches_reference" = "known"
        """
    )
    below = tmp_path / "deep" / "down"
    below.mkdir(parents=True)
    table = {"pipelines": ["a:b"], "expected_failures": {"loss.matches_reference": "known"}}
    assert configuration(below) == table
    (below / "pyproject.toml").write_text("")
    assert configuration(below) == {}, "a nearer file is the project's own"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.trainsanity", "cannot be read"),
        ("tool.trainsanity = 3", "tool.trainsanity must be a table"),
        ("tool.trainsanity.pipelines = 'a:b'", "pipelines must be a list"),
        ("tool.trainsanity.pipelines = [1]", "pipelines must be a list"),
        ("tool.trainsanity.expected_failures = ['x']", "must map each check name to a reason"),
        ("tool.trainsanity.expected_failures = {x = ' '}", "must map each check name to a reason"),
        ("tool.trainsanity.expected_failures = {x = 1}", "must map each check name to a reason"),
        ("tool.trainsanity.expected_failures.x = {'a.b' = 'c'}", "to a table of these"),
        ("tool.trainsanity.expected_failures.'a:b' = {'a.b' = ''}", "'a.b' has ''"),
        ("tool.trainsanity.select = []", "select must name checks"),
        ("tool.trainsanity.select = [3]", "select must name checks"),
        ("tool.trainsanity.max_cost = 'dear'", "max_cost must be one of STATIC"),
        ("tool.trainsanity.timeout = 'long'", "timeout must be a number of seconds"),
        ("tool.trainsanity.timeout = 0", "timeout is 0: give a number of seconds above 0"),
    ],
)
def test_configuration_that_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        configuration(tmp_path)


READS = """
import argparse, sys
seen = sys.argv
def f():
    seen[:] = [*sys.argv]
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--name")
    return vars(parser.parse_args())
"""


def test_a_factory_that_parses_arguments_sees_its_own(here: Path) -> None:
    (here / "m_argparse.py").write_text(READS)
    before = sys.argv
    spec = spec_of("m_argparse:f -- --lr 1e-5 --name 'two words'", arguments=("--lr", "3"))
    assert spec.id == "m_argparse:f -- --lr 1e-5 --name 'two words'"
    words = ("m_argparse:f", "--lr", "1e-5", "--name", "two words", "--lr", "3")
    assert spec.command == words
    with (
        pytest.raises(UsageError, match=r"returned dict, not a transformers\.Trainer"),
        spec.built(),
    ):
        pass
    assert sys.modules["m_argparse"].seen == [*words]
    assert sys.argv is before


def test_a_factory_that_misses_its_arguments_is_told_where_they_go(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "m_misses.py").write_text(READS)
    # The caller's own are not the factory's: pytest's, or those of trainsanity run.
    monkeypatch.setattr(sys, "argv", ["pytest", "--lr", "7"])
    told = pytest.raises(UsageError, match="after --: trainsanity run m_misses:f -- ARG")
    with told, spec_of("m_misses:f").built():
        pass


@pytest.mark.parametrize(
    ("targets", "own"),
    [(["train.py"], ("--lr", "3")), (["train.py -- --seed 1"], ("--seed", "1", "--lr", "3"))],
)
def test_a_script_has_its_own_arguments_before_those_of_the_call(
    here: Path, targets: list[str], own: tuple[str, ...]
) -> None:
    (here / "train.py").write_text("")
    (script,) = sources_of(targets, ["--lr", "3"], {"a.b": "c", targets[0]: {"a.d": "e"}})
    assert isinstance(script, Script)
    assert (script.id, script.path, script.arguments) == (targets[0], "train.py", own)
    assert script.expected_failures == {"a.b": "c", "a.d": "e"}


def test_arguments_that_no_shell_would_take() -> None:
    with pytest.raises(UsageError, match="No closing quotation; quote the arguments"):
        spec_of("a:b -- --name 'x")


def test_failures_are_accepted_of_one_pipeline_alone(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        """
        [tool.trainsanity]
        select = "ts5, collator"
        max_cost = "run"
        timeout = 60
        [tool.trainsanity.expected_failures]
        "loss.matches_reference" = "known"
        [tool.trainsanity.expected_failures."a:b"]
        "loss.dtype" = "bf16 on purpose"
        """
    )
    table = configuration(tmp_path)
    expected = table["expected_failures"]
    assert [*checks_in(expected)] == ["loss.matches_reference", "loss.dtype"]
    both = {"loss.matches_reference": "known", "loss.dtype": "bf16 on purpose"}
    assert spec_of("a:b", expected).expected_failures == both
    assert spec_of("a:b -- --lr 1", expected).expected_failures == both
    assert spec_of("a:c", expected).expected_failures == {"loss.matches_reference": "known"}
    settings = (table["select"], table["max_cost"], table["timeout"])
    assert settings == (["ts5", "collator"], Cost.RUN, 60)


def test_what_is_declared_nearest_to_the_pipeline_counts():
    from fixtures.faults import healthy
    from trainsanity.pipeline import Pipeline
    from trainsanity.sources.building import PipelineSpec

    made = healthy()
    declared = {"supervise": "all"}

    def of_the_file():
        return made

    def of_the_function():
        return made

    of_the_function.supervise = "completion"

    def of_the_pipeline():
        return Pipeline.from_trainer(made, supervise="assistant")

    of_the_pipeline.supervise = "completion"
    assert PipelineSpec("p", of_the_file).make().supervise is None
    assert PipelineSpec("p", of_the_file, declared=declared).make().supervise == "all"
    assert PipelineSpec("p", of_the_function, declared=declared).make().supervise == "completion"
    assert PipelineSpec("p", of_the_pipeline, declared=declared).make().supervise == "assistant"
    of_the_function.supervise = "answers"
    with pytest.raises(UsageError, match="supervise is 'answers'"):
        PipelineSpec("p", of_the_function).make()
