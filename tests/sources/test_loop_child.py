"""`trainsanity run` of loops of bare torch that resist: judged in place, nothing written after."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BEGIN = """
import atexit, copy, os, sys, threading
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
rows = torch.utils.data.TensorDataset(torch.randn(96, 8), torch.arange(96) % 3)
loader = torch.utils.data.DataLoader(rows, batch_size=8)

def save(*_):
    torch.save(model.state_dict(), "final.pt")

def train(model=model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=12)
    for number, (x, y) in enumerate(loader):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
        open(f"step {number}", "w").close()
    save()
"""
"""The first step is the script's: of the second there is no file."""

RESISTING = {
    "everything": """
        class Holder:
            def __del__(self):
                save()

        def work():
            while True:
                try:
                    train(copy.deepcopy(model))
                except:
                    save()
                finally:
                    save()

        atexit.register(save)
        sys.exit = os._exit = save
        holder = Holder()
        threads = [threading.Thread(target=work) for _ in range(2)]
        for one in threads: one.start()
        for one in threads: one.join()
        save()
        """,
    "asyncio": """
        import asyncio

        async def main():
            try:
                await asyncio.gather(asyncio.to_thread(train), asyncio.sleep(0))
            finally:
                save()

        asyncio.run(main())
        """,
    "in __del__": """
        class Session:
            def __del__(self):
                try:
                    train()
                finally:
                    save()

        session = Session()
        del session
        save()
        """,
    "at exit": "atexit.register(train)",
    "in a pool of processes": """
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(1) as pool:
            pool.submit(train).result()
        save()
        """,
    "after a backward pass of another thread": """
        train_later = threading.Thread(target=train)
        for x, y in loader:
            model(x).sum().backward()
        model.zero_grad()
        train_later.start()
        train_later.join()
        save()
        """,
}

GLOO = """
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

def work(rank):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29661", NAMES)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    train(DistributedDataParallel(model))

if __name__ == "__main__":
    try:
        torch.multiprocessing.spawn(work, nprocs=2)
    finally:
        save()
"""


def ended(folder: Path, text: str) -> tuple[int, str, str, set[str]]:
    """Return exit code, output and errors of a run, and the files that are there afterwards."""
    (folder / "train.py").write_text(BEGIN + textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "trainsanity", "run", "train.py", "--select", "TS611,TS802"],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    return ran.returncode, ran.stdout, ran.stderr, {path.name for path in folder.iterdir()}


def assert_judged(folder: Path, text: str) -> None:
    code, out, err, files = ended(folder, text)
    assert code == 1, out + err
    assert "TS611 gradient.starts_from_zero  fails" in out  # there is no optimizer.zero_grad()
    assert "\n  schedule  ✓ 1\n" in out
    assert files == {"train.py", "step 0"}


def test_a_loop_in_threads_that_resists_in_every_way(tmp_path: Path) -> None:
    assert_judged(tmp_path, RESISTING["everything"])


@pytest.mark.matrix
@pytest.mark.parametrize("how", sorted({*RESISTING} - {"everything"}))
def test_a_loop_that_resists(tmp_path: Path, how: str) -> None:
    assert_judged(tmp_path, RESISTING[how])


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("", "starts 2 processes itself and gives them no RANK and WORLD_SIZE"),
        ('RANK=str(rank), WORLD_SIZE="2"', "this training loop runs in 2 processes: run it in one"),
    ],
    ids=["nameless", "named"],
)
def test_two_gloo_ranks_of_a_loop_are_refused(tmp_path: Path, names: str, said: str) -> None:
    code, out, err, files = ended(tmp_path, GLOO.replace("NAMES", names))
    assert (code, out) == (2, "")
    assert said in err
    assert files == {"train.py", "step 0"}


BY_HAND = """
from trainsanity.sources.loop_capture import BY_HAND

for number in range(2 * BY_HAND):
    x, y = next(iter(loader))
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    for p in model.parameters():
        p.data -= 0.1 * p.grad
save()
"""


@pytest.mark.matrix
def test_steps_without_an_optimizer_are_refused(tmp_path: Path) -> None:
    code, out, err, files = ended(tmp_path, BY_HAND)
    assert (code, out) == (2, "")
    assert "has no torch.optim.Optimizer: give it one" in err
    assert files == {"train.py"}
