"""Scripts that want to train, or save, all the same."""

from __future__ import annotations

import io
import json
import zipfile

from .green import HEAD
from .oracle import Ended, attack, command, refused, short

STEP = """
class Tells(Trainer):
    def create_optimizer(self, *a, **k):
        made = super().create_optimizer(*a, **k)
        return made
trainer = base.trainer(cls=Tells)
"""
BROKEN = "trainer.model.score.weight.data.fill_(float('nan'))\n"


def _script(number: int, body: str, *more: str, codes=(1,), broken: bool = True, **kw) -> None:
    """A script with a NaN head ends with 1 and leaves nothing."""

    @attack(number)
    def judged() -> str:
        text = HEAD + STEP + (BROKEN if broken else "") + body
        return _kept(command("run", "train.py", *more, files={"train.py": text}, **kw), codes)


def _kept(ended: Ended, codes=(1,), written: tuple[str, ...] = ()) -> str:
    broken = []
    if ended.code not in codes:
        broken.append(f"exit code {ended.code}: {short(ended.text[-300:])}")
    if set(ended.files) - set(written):
        broken.append(f"written: {sorted(ended.files)}")
    if "train_runtime" in ended.text:
        broken.append("it trained")
    if "unexpected" in ended.err:
        broken.append(ended.words)
    return "; ".join(broken)


_script(
    113,
    """
import atexit
def late():
    trainer.train(); torch.save(trainer.model.state_dict(), "final.pt")
atexit.register(late)
""",
    codes=(1, 2),
)
_script(
    114,
    """
import threading
def work():
    trainer.train(); torch.save(trainer.model.state_dict(), "final.pt")
thread = threading.Thread(target=work); thread.start(); thread.join()
torch.save(1, "after.pt")
""",
    codes=(1, 2),
)
_script(
    115,
    """
while True:
    try: trainer.train()
    except BaseException: pass
    torch.save(trainer.model.state_dict(), "final.pt"); break
""",
)
_script(
    116,
    """
import pickle, numpy
try: trainer.train()
finally:
    pickle.dump(1, open("a.pkl", "wb")); numpy.save("b.npy", numpy.zeros(1))
    open("c.txt", "w").write("x")
""",
)
_script(
    117,
    """
child = os.fork()
if not child:
    trainer.train(); torch.save(1, "child.pt"); os._exit(0)
os.waitpid(child, 0)
torch.save(1, "parent.pt")
""",
)
_script(
    118,
    """
if "again" not in sys.argv:
    os.execv(sys.executable, [sys.executable, "train.py", "again"])
trainer.train(); torch.save(1, "final.pt")
""",
    codes=(1, 2),
)


@attack(119)
def folder_or_zip() -> str:
    text = HEAD + STEP + BROKEN + "trainer.train()\ntorch.save(1, 'final.pt')\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__main__.py", text)
    broken = []
    for name, files in (
        ("app", {"app/__main__.py": text}),
        ("app.pyz", {"app.pyz": packed.getvalue()}),
    ):
        ended = command("run", name, files=files)
        said = refused(ended) if ended.code == 2 else _kept(ended)
        broken += [f"{name}: {said}"] if said else []
    return "; ".join(broken)


@attack(120)
def no_training() -> str:
    return refused(command("run", "train.py", files={"train.py": HEAD + STEP}))


@attack(121)
def raises_before() -> str:
    text = HEAD + STEP + "raise ValueError('my own words')\n"
    ended = command("run", "train.py", files={"train.py": text})
    if "my own words" not in ended.text:
        return f"own words are lost: {short(ended.text)}"
    return _kept(ended, codes=(2, 3))


@attack(122)
def other_name() -> str:
    text = "import transformers.trainer as tt\nT = tt.Trainer\n" + HEAD + STEP + BROKEN
    text = text.replace("cls=Tells", "cls=T")
    return _kept(command("run", "train.py", files={"train.py": text + "trainer.train()\n"}))


_script(
    123,
    """
class Loop(Trainer):
    def train(self, *a, **k):
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        for batch in self.get_train_dataloader():
            loss = self.model(**batch).loss; loss.backward()
            optimizer.step(); optimizer.zero_grad()
        torch.save(self.model.state_dict(), "final.pt")
trainer.__class__ = Loop
trainer.train()
""",
    codes=(1, 3),
)


@attack(124)
def two_trainers() -> str:
    text = HEAD + "a, b = base.trainer(), base.trainer()\n"
    text += "b.model.score.weight.data.fill_(float('nan'))\na.train(); b.train()\n"
    ended = command("run", "train.py", files={"train.py": text})
    if ended.code == 0 and "second" not in ended.text and "other" not in ended.text:
        return f"green, and nothing says that train() comes twice: {short(ended.text)}"
    return _kept(ended, codes=(0, 1))


_script(
    125,
    """
import signal
def save(*a): torch.save(1, "term.pt"); sys.exit(0)
signal.signal(signal.SIGTERM, save); signal.signal(signal.SIGINT, save)
trainer.train()
""",
)


@attack(126)
def changes_directory() -> str:
    text = HEAD + STEP + BROKEN + "os.makedirs('/tmp/attack-there', exist_ok=True)\n"
    text += "os.chdir('/tmp/attack-there')\ntrainer.train()\n"
    ended = command("run", "train.py", "--json", "report.json", files={"train.py": text})
    if "report.json" not in ended.files:
        return f"no report where the user stood: {ended.code} {ended.words}"
    return _kept(ended, written=("report.json",))


@attack(127)
def closes_stdout() -> str:
    text = HEAD + STEP + BROKEN + "os.close(1); os.close(2)\ntrainer.train()\n"
    ended = command("run", "train.py", "--json", "report.json", files={"train.py": text})
    if "report.json" not in ended.files:
        return f"no report: exit code {ended.code} {ended.words}"
    json.loads(ended.files["report.json"])
    return _kept(ended, written=("report.json",))


@attack(128)
def clears_environment() -> str:
    text = "import os\nos.environ.clear()\nos.environ['HF_HUB_OFFLINE'] = '1'\n"
    text += HEAD + STEP + BROKEN + "trainer.train()\ntorch.save(1, 'final.pt')\n"
    return _kept(command("run", "train.py", files={"train.py": text}))
