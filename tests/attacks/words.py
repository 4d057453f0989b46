"""Calls that are wrong: one sentence, exit code 2, nothing written."""

from __future__ import annotations

from collections.abc import Sequence

from .green import HEAD, module
from .oracle import attack, command, refused

GOOD = module("return base.trainer()")


def _refused(number: int, *lines: Sequence[str], files: dict[str, str | bytes] | None = None):
    """Every one of the command lines is refused."""

    @attack(number)
    def judged() -> str:
        broken = []
        for line in lines:
            ended = command(*line, files=GOOD if files is None else files)
            if said := refused(ended):
                broken.append(f"{' '.join(line)!r}: {said}")
        return "; ".join(broken)


def _mod(text: str) -> dict[str, str | bytes]:
    return {"mod.py": text}


RUN = ("run", "mod:build")
_refused(92, ("run", "nothing.py"))
_refused(93, ("run", "package.does_not_exist:build"))
_refused(94, RUN, files=_mod(HEAD + "def build(size): return base.trainer()\n"))
_refused(95, RUN, files=_mod(HEAD + "def build(): base.trainer()\n"))
_refused(96, RUN, files=_mod(HEAD + "def build(): return Trainer\n"))
_refused(97, RUN, files=_mod(HEAD + "async def build(): return base.trainer()\n"))
_refused(98, RUN, files=_mod("def build(:\n"))
_refused(99, RUN, files=_mod("raise RuntimeError('one\\ntwo \\x1b[2J three \\u202e')\n"))
_refused(100, ("run", "mod:value"), files=_mod("value = 'x'\n"))
_refused(101, ("run", "mod:"), ("run", ":build"))
_refused(102, (*RUN, "--json", "not/there/report.json"))
_refused(103, (*RUN, "--json", "."))
_refused(104, (*RUN, "--select", "nonsense"))
_refused(105, *[(*RUN, "--timeout", value) for value in ("nan", "-1", "inf")])
_refused(106, (*RUN, "--baseline", "mod.py"))
_refused(107, (*RUN, "--json", "x", "--html", "x"))
_TOML = '[tool.trainsanity]\npipelines = ["mod:build"]\n'
_refused(108, ("run",), files={**GOOD, "pyproject.toml": _TOML + "select = 7\n"})


@attack(109)
def no_toml() -> str:
    broken = []
    for content in (b"[tool.trainsanity\n", b"\xff\xfe\x00[", b'[tool.trainsanity]\npipelines="'):
        said = refused(command("run", files={**GOOD, "pyproject.toml": content}))
        broken += [f"{content!r}: {said}"] if said else []
    return "; ".join(broken)


_EXPECTED = _TOML + '[tool.trainsanity.expected_failures]\n"loss.nonsense" = "why"\n'
_refused(110, ("run",), files={**GOOD, "pyproject.toml": _EXPECTED})
_refused(111, ("explain", "nonsense"), ("explain", ""))
_refused(112, ("show", "mod:build", "--row", "999999"))
