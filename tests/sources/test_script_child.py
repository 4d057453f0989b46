"""`trainsanity run` in processes of its own: a verdict, an exit code, and nothing after it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from trainsanity.sources import travelling

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SHOP = Path(__file__).parents[1] / "examples" / "scripts" / "shop"
FINITE, CODE = "model.logits_finite", "TS401"

BEGIN = """
from shop.models import trainer
mine = trainer("out")
model = mine.model
model.classifier.weight.data.fill_(float("nan"))
"""


@dataclass
class Ended:
    """What a call left: its exit code and output, and what it wrote."""

    code: int
    out: str
    err: str
    written: list[str]
    temporary: list[str]
    report: Any

    @property
    def sentence(self) -> str:
        (line,) = [s for s in self.err.splitlines() if s.startswith("trainsanity: error: ")]
        return line.removeprefix("trainsanity: error: ")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Project:
    """A folder with a user's scripts, whose files are compared before and after a call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        shutil.copytree(SHOP, self.folder / "shop", ignore=shutil.ignore_patterns("__pycache__"))
        self.write("final.pt", "WEIGHTS OF LAST WEEK")
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.folder)]),
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.temporary),
        }

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "trainsanity", "run", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, select: str = FINITE) -> Ended:
        before, folders = contents(self.folder), set(self.folder.rglob("*/"))
        report = self.folder.parent / "report.json"
        report.unlink(missing_ok=True)
        process = self.start("--select", select, "--json", str(report), *arguments)
        out, err = process.communicate(timeout=280)
        after = contents(self.folder)
        written = [name for name, data in after.items() if before.get(name) != data]
        written += [str(path) for path in set(self.folder.rglob("*/")) - folders]
        return Ended(
            process.returncode,
            out,
            err,
            written,
            sorted(os.listdir(self.temporary)),
            json.loads(report.read_text()) if report.exists() else None,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def judged_red(ended: Ended) -> None:
    """The verdict is there once, the exit code is its own, and nothing was written after it."""
    assert ended.code == 1, ended.err
    assert "not sane" in ended.out.splitlines()[0]
    assert [row["status"] for row in ended.report["results"]] == ["fail"]
    assert ended.written == []
    assert ended.temporary == []
    assert "AFTER" not in ended.err + ended.out


# --- scripts that resist -------------------------------------------------------------------------

EVERYTHING = """
import atexit, os, sys, tempfile, threading, time
import torch
kept = tempfile.mkdtemp()
threading.Thread(target=time.sleep, args=(10_000,)).start()

def save(*_):
    print("AFTER")
    torch.save(model.state_dict(), "final.pt")
    model.save_pretrained("saved")

atexit.register(save)
sys.exit = save

class Holder:
    def __del__(self):
        save()

holder = Holder()
while True:
    try:
        mine.train()
    except:
        save()
    finally:
        save()
        os._exit(0)
"""

RESISTING = {
    "exits": "import os\ntry: mine.train()\nfinally: os._exit(0)",
    "bare except in a loop": """
        import torch
        for attempt in range(3):
            try:
                mine.train()
            except:
                print("AFTER")
        torch.save(model.state_dict(), "final.pt")
        """,
    "in a thread": """
        import threading
        thread = threading.Thread(target=mine.train)
        thread.start()
        thread.join()
        open("AFTER", "w").write("AFTER")
        """,
    "in a thread that outlives the script": """
        import threading
        threading.Thread(target=mine.train).start()
        """,
    "in two threads": """
        import threading
        threads = [threading.Thread(target=mine.train) for n in range(2)]
        for one in threads: one.start()
        mine.train()
        for one in threads: one.join()
        open("AFTER", "w").write("AFTER")
        """,
    "asyncio": """
        import asyncio

        async def main():
            try:
                await asyncio.gather(asyncio.to_thread(mine.train), asyncio.sleep(0))
            except BaseException:
                print("AFTER")
            finally:
                model.save_pretrained("saved")

        asyncio.run(main())
        """,
    "in __del__": """
        class Session:
            def __del__(self):
                try:
                    mine.train()
                finally:
                    model.save_pretrained("saved")

        session = Session()
        del session
        open("AFTER", "w").write("AFTER")
        """,
    "in a fork": """
        import os
        pid = os.fork()
        if not pid:
            mine.train()
            model.save_pretrained("saved")
        os.waitpid(pid, 0)
        open("AFTER", "w").write("AFTER")
        """,
}


def test_a_script_that_resists_in_every_way(project: Project) -> None:
    project.write("train.py", BEGIN + EVERYTHING)
    judged_red(project.run("train.py"))


@pytest.mark.matrix
@pytest.mark.parametrize("how", RESISTING)
def test_a_script_that_resists(project: Project, how: str) -> None:
    project.write("train.py", BEGIN + textwrap.dedent(RESISTING[how]))
    judged_red(project.run("train.py"))


# --- scripts that never train --------------------------------------------------------------------

ENDINGS = {
    "os._exit": ("import os; os._exit(0)", "exited with code 0 before it called train()"),
    "patched": (
        "import sys, os; sys.exit = os._exit; sys.exit(5)",
        "exited with code 5 before it called train()",
    ),
    "killed": (
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "was ended by SIGKILL before it called train()",
    ),
    "crashed": (
        "import ctypes, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "ctypes.string_at(0)",
        "was ended by SIGSEGV before it called train()",
    ),
    "ended": ("print('hello')", "ended without calling train() on a transformers.Trainer"),
    "raised": ("x = 1\n1 / 0", "raised ZeroDivisionError in line 2 before it called Trainer.tr"),
    "exited": ("exit('no data')", "exited before it called Trainer.train(): no data"),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_a_script_that_ends_before_it_trains(project: Project, how: str) -> None:
    source, said = ENDINGS[how]
    project.write("train.py", source)
    ended = project.run("train.py")
    assert ended.code == 2, ended.err
    assert f"train.py {said}" in ended.sentence
    assert ended.err.splitlines()[-1].endswith(ended.sentence)
    assert (ended.out, ended.report, ended.written, ended.temporary) == ("", None, [], [])


@pytest.mark.matrix
def test_a_process_that_is_killed_while_it_is_judged(project: Project) -> None:
    project.write(
        "train.py",
        BEGIN + "import os, signal\n"
        "def forward(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)\n"
        "model.forward = forward\nmine.train()",
    )
    ended = project.run("train.py")
    assert ended.code == 3
    assert ended.sentence == (
        "train.py was ended by SIGKILL while it was judged, and there is no report"
    )
    assert (ended.out, ended.report, ended.written, ended.temporary) == ("", None, [], [])


def test_the_process_that_waits_imports_no_torch(project: Project) -> None:
    project.write("train.py", "import os; os._exit(0)")
    code = (
        "import sys\nfrom trainsanity.cli.main import program\n"
        "try: program(['run', 'train.py'], prog_name='trainsanity')\n"
        "except SystemExit as error: assert error.code == 2, error\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.folder,
        env=project.environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("path", ["/a:/b", ":/a", "/a:", None])
def test_the_environment_is_as_it_was(path: str | None) -> None:
    before = {"HOME": "/me"} if path is None else {"HOME": "/me", "PYTHONPATH": path}
    environ = dict(before)
    for _ in range(2):
        travelling.arm(environ, "/tmp/handover", "/hooks")
        assert environ["PYTHONPATH"] == ("/hooks" if path is None else f"/hooks:{path}")
    travelling.disarm(environ)
    assert environ == before


# --- children ------------------------------------------------------------------------------------

TRAIN = f"{BEGIN}\nmine.train()\nmodel.save_pretrained('saved')\nopen('AFTER', 'w').write('x')\n"

GLOO = """
import os
import torch.multiprocessing as mp

def work(rank):
    import torch.distributed
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29641")
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    exec(open("train.py").read())

if __name__ == "__main__":
    try:
        mp.spawn(work, nprocs=2)
    except:
        pass
    finally:
        open("AFTER", "w").write("AFTER")
"""

LAUNCHERS = {
    "with an environment of its own": """
        import subprocess, sys
        path = {"PYTHONPATH": "PATHS", "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([sys.executable, "train.py"], env=path)
        open("AFTER", "w").write("AFTER")
        """,
    "by multiprocessing": """
        import multiprocessing, os

        def work():
            exec(open("train.py").read())

        if __name__ == "__main__":
            os.environ["PYTHONPATH"] = "PATHS"
            one = multiprocessing.get_context("spawn").Process(target=work)
            one.start()
            one.join()
            open("AFTER", "w").write("AFTER")
        """,
    "by the shell, in the background": """
        import os
        os.system("python train.py &")
        """,
    "by another program in its place": """
        import os, sys
        os.execv(sys.executable, [sys.executable, "train.py"])
        """,
}


def test_a_script_that_starts_another_and_saves_after_it(project: Project) -> None:
    project.write("train.py", TRAIN)
    project.write("site/sitecustomize.py", "import sys\nprint('OF THE SITE', file=sys.stderr)")
    project.environment["PYTHONPATH"] += f"{os.pathsep}{project.folder / 'site'}"
    project.write(
        "launch.py",
        """
        import os, subprocess, sys
        try:
            ended = subprocess.run([sys.executable, os.path.abspath("train.py")], check=True)
        except:
            print("AFTER")
        finally:
            open("AFTER", "w").write("AFTER")
        """,
    )
    ended = project.run("launch.py", "--", "--lr", "3")
    judged_red(ended)
    assert ended.report["pipeline"] == "launch.py"
    note = "what is judged is trained in a process that launch.py starts"
    assert ended.report["environment"]["notes"] == [note]
    assert f"trainsanity run launch.py --select {CODE} -- --lr 3" in ended.out
    # Its own, the script's and its child's: what is hidden is executed all the same.
    assert ended.err.count("OF THE SITE") == 3


@pytest.mark.matrix
@pytest.mark.parametrize("how", LAUNCHERS)
def test_a_script_that_starts_another(project: Project, how: str) -> None:
    project.write("train.py", TRAIN)
    paths = os.pathsep.join([str(ROOT), str(project.folder)])
    project.write("launch.py", textwrap.dedent(LAUNCHERS[how]).replace("PATHS", paths))
    judged_red(project.run("launch.py"))


@pytest.mark.matrix
def test_two_ranks_that_accelerate_starts_are_judged(project: Project) -> None:
    project.write("train.py", TRAIN)
    project.write(
        "launch.py",
        """
        from accelerate import notebook_launcher

        def work():
            exec(open("train.py").read())

        notebook_launcher(work, num_processes=2, use_port="29642")
        open("AFTER", "w").write("AFTER")
        """,
    )
    judged_red(project.run("launch.py"))


@pytest.mark.matrix
def test_two_gloo_ranks_without_a_name_are_refused(project: Project) -> None:
    project.write("train.py", TRAIN)
    project.write("launch.py", GLOO)
    ended = project.run("launch.py")
    assert ended.code == 2, ended.err
    assert "starts 2 processes itself and gives them no RANK and WORLD_SIZE" in ended.sentence
    assert (ended.out, ended.report, ended.written, ended.temporary) == ("", None, [], [])


MISSING = {
    "a package that it needs": ("rich.py", "raise ImportError('no rich here')"),
    "all of it": ("sitecustomize.py", "import sys\nsys.modules['trainsanity.cli.child'] = None"),
}


@pytest.mark.matrix
@pytest.mark.parametrize("what", MISSING)
def test_a_python_that_lacks_trainsanity_is_refused(project: Project, what: str) -> None:
    """Another environment, as one whose modules cannot be imported."""
    project.write("train.py", TRAIN)
    name, source = MISSING[what]
    project.write(f"other/{name}", source)
    project.write(
        "launch.py",
        """
        import os, subprocess, sys
        os.environ["PYTHONPATH"] = f"other:{os.environ['PYTHONPATH']}"
        subprocess.run([sys.executable, "train.py"])
        open("AFTER", "w").write("AFTER")
        """,
    )
    ended = project.run("launch.py")
    assert ended.code == 2, ended.err
    assert f"with {sys.executable}, in which trainsanity cannot be imported" in ended.sentence
    assert (ended.out, ended.report, ended.written, ended.temporary) == ("", None, [], [])


# --- command lines -------------------------------------------------------------------------------

COMMANDS = {
    "accelerate": ("accelerate", "launch", "--num_processes", "1", "train.py", "--x"),
    "module": (sys.executable, "-m", "shop.job"),
    "torchrun": ("torchrun", "--nproc_per_node", "2", "--master_port", "29643", "train.py"),
}


@pytest.mark.matrix
@pytest.mark.parametrize("which", COMMANDS)
def test_a_command(project: Project, which: str) -> None:
    project.write("train.py", TRAIN)
    project.write("shop/job.py", TRAIN)
    words = COMMANDS[which]
    ended = project.run("--", *words)
    judged_red(ended)
    assert ended.report["pipeline"] == " ".join(words)
    assert f"trainsanity run --select {CODE} -- {' '.join(words)}" in ended.out


CONFIG = """
model_name_or_path: tiny
dataset_name: data
output_dir: out
report_to: none
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
max_length: 32
use_cpu: true
bf16: false
"""


@pytest.mark.matrix
def test_trl_sft(project: Project) -> None:
    if importlib.util.find_spec("trl") is None:
        pytest.skip("needs TRL: pip install trl")
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "big", "small", "red", "blue"]
    vocabulary = {word: n for n, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    folder = project.folder / "tiny"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    rows = [{"text": " ".join(words[(n * k) % 12] for k in range(1, 9))} for n in range(1, 65)]
    project.write("data/train.jsonl", "\n".join(map(json.dumps, rows)))
    project.write("sft.yaml", CONFIG)
    project.environment["HF_HOME"] = str(project.folder.parent / "cache")
    ended = project.run("--", "trl", "sft", "--config", "sft.yaml", select="loss,gradient,schedule")
    assert ended.code == 0, ended.out + ended.err
    assert ended.out.startswith("trl sft --config sft.yaml: sane as far as judged: ")
    status = {row["name"]: row["status"] for row in ended.report["results"]}
    assert status["loss.matches_reference"] == status["gradient.matches_autograd"] == "pass"
    assert (ended.written, ended.temporary) == ([], [])


def test_a_command_that_is_none(project: Project) -> None:
    ended = project.run("--", "no-such-command", "--x")
    assert ended.code == 2
    assert "'no-such-command' after -- is no command on the PATH" in ended.sentence
    ended = project.run("--", "true")
    assert ended.code == 2
    assert "true exited with code 0 before it called train()" in ended.sentence


# --- interrupted, and out of time ----------------------------------------------------------------


def waiting(project: Project, *arguments: str) -> tuple[subprocess.Popen[str], list[Any]]:
    """Start a script whose forward pass takes for ever; return when it is being judged."""
    project.write(
        "train.py",
        BEGIN + "import time\n"
        "def forward(*args, **kwargs):\n    open('../judged', 'w').close()\n    time.sleep(300)\n"
        "model.forward = forward\n"
        "try: mine.train()\nexcept KeyboardInterrupt: open('AFTER', 'w').close()",
    )
    started = project.start("train.py", "--select", FINITE, "--json", "report.json", *arguments)
    until = time.monotonic() + 120
    while not (project.folder.parent / "judged").exists():
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    return started, psutil.Process(started.pid).children(recursive=True)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_it_all(project: Project, number: int, code: int, said: str) -> None:
    # A shell's background job ignores SIGINT, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started, children = waiting(project)
    finally:
        signal.signal(signal.SIGINT, before)
    assert children
    started.send_signal(number)
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (code, "")
    assert err.splitlines()[-1] == f"trainsanity: {said}; no JSON was written"
    assert not [child for child in children if child.is_running()]
    assert os.listdir(project.temporary) == []
    assert sorted(os.listdir(project.folder)) == ["final.pt", "shop", "train.py"]


@pytest.mark.matrix
@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends children with their parent")
def test_nothing_outlives_a_process_that_is_killed(project: Project) -> None:
    started, children = waiting(project)
    started.kill()
    started.communicate(timeout=60)
    psutil.wait_procs(children, timeout=30)
    assert not [child for child in children if child.is_running()]


@pytest.mark.matrix
def test_a_time_limit(project: Project) -> None:
    started, _ = waiting(project, "--timeout", "3")
    out, err = started.communicate(timeout=120)
    assert started.returncode == 3, err
    assert "took longer than the 3 s that it was given and was stopped" in " ".join(out.split())
    assert not (project.folder / "AFTER").exists()


# --- what is said meanwhile ----------------------------------------------------------------------

SOON = 0.3
"""Seconds within which the first line comes, less than which nobody takes for a wait."""


def test_the_first_line_comes_at_once(project: Project) -> None:
    project.write("train.py", "import time\ntime.sleep(60)")
    took: list[float] = []
    # The machine may be busy with something else.
    while len(took) < 5 and min(took, default=SOON) >= SOON:
        begin = time.monotonic()
        started = project.start("--progress", "train.py")
        assert started.stderr is not None
        line = started.stderr.readline()
        took.append(time.monotonic() - begin)
        then = started.stderr.readline()
        started.terminate()
        started.communicate(timeout=60)
        assert line == "trainsanity: judging train.py in place of training\n"
        assert then == "trainsanity: 0 s: train.py runs, and has not begun to train\n"
    assert min(took) < SOON, took


@pytest.mark.matrix
def test_quick_and_fail_fast(project: Project) -> None:
    project.write("train.py", TRAIN)
    ended = project.run("train.py", "--fail-fast", select="model,loss")
    assert ended.code == 1
    statuses = [row["status"] for row in ended.report["results"]]
    assert statuses.count("fail") == 1
    assert statuses[-1] == "fail"
    assert "not selected" in ended.out
    healthy = TRAIN.replace('model.classifier.weight.data.fill_(float("nan"))', "")
    project.write("train.py", healthy)
    ended = project.run("train.py", "--quick", "--max-cost", "run", select="loss,loop,gradient")
    assert ended.code == 0, ended.out
    skipped = {r["name"]: r["reason"] for r in ended.report["results"] if r["status"] == "skip"}
    assert "--quick takes no step twice" in skipped["loss.logged_is_a_mean"]
    assert "--quick takes no step twice" in skipped["gradient.step_is_the_weighted_sum"]
    names = {row["name"] for row in ended.report["results"]}
    assert not {"loop.overfits_one_batch", "loop.load_is_whole"} & names
    (recording,) = [m for m in ended.report["measurements"] if m["name"] == "recording"]
    assert recording["backwards"] == 2  # of two steps, each of one micro-batch
