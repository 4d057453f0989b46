"""Logs that are odd: a sentence or a verdict, and never a traceback."""

from __future__ import annotations

import json

from .oracle import CONTROL, Ended, attack, command, short

LINES = [
    {"loss": round(5.6 - 0.01 * i, 4), "grad_norm": 2.0, "learning_rate": 1e-5, "step": i + 1}
    for i in range(40)
]


def _lines(lines: list[object]) -> str:
    return "\n".join(json.dumps(line) for line in lines)


def _told(ended: Ended, codes: tuple[int, ...] = (0, 1, 2, 3)) -> str:
    if "Traceback" in ended.text or "unexpected" in ended.err:
        return f"traceback: {ended.words}"
    if CONTROL.search(ended.text):
        return f"control character: {ended.text[:300]!a}"
    if ended.files:
        return f"written: {sorted(ended.files)}"
    return "" if ended.code in codes else f"exit code {ended.code}: {short(ended.text)}"


def _all(*told: str) -> str:
    return "; ".join(said for said in told if said)


def _log(content: str | bytes, codes: tuple[int, ...] = (0, 1, 2, 3)) -> str:
    return _told(command("diagnose", "x.log", files={"x.log": content}), codes)


@attack(129)
def empty() -> str:
    return _all(
        _log("", (2, 3)),
        _log(b"\0" * 1000, (2, 3)),
        _told(command("diagnose", "d", shell='mkdir d; "$@"; e=$?; rmdir d; exit $e'), (2, 3)),
    )


@attack(130)
def infinite_words() -> str:
    lines = [*LINES, {"loss": "inf", "step": 1e308}, {"loss": "Infinity", "step": 41}]
    return _all(_log(_lines(lines), (0, 1, 3)), _log("{'loss': 'inf', 'step': 1e308}\n" * 3))


@attack(131)
def duplicated() -> str:
    text = '{"loss": 1.0, "loss": 2.0, "step": 5, "step": 1}\n'
    return _all(_log(text * 5), _log(_lines(LINES[::-1])), _log(_lines(LINES + LINES)))


@attack(132)
def utf16() -> str:
    ended = command("diagnose", "x.log", files={"x.log": _lines(LINES).encode("utf-16")})
    read = command("diagnose", "x.log", files={"x.log": _lines(LINES)})
    if ended.code in (read.code, 2):
        return _told(ended)
    return f"exit code {ended.code}, not {read.code}: {short(ended.text)}"


@attack(133)
def one_long_line() -> str:
    return _all(
        _log(json.dumps(LINES * 200)),
        _log("{'loss': 1.0, " * 70_000),
        _log("a" * 1_000_000),
        _log("{" * 1_000_000),
        _log("| 1.0 " * 160_000),
    )


@attack(134)
def not_objects() -> str:
    odd = [[1, 2], 7, None, "x", {"loss": [1]}, {"loss": {"a": 1}}, {"loss": True}, {"loss": None}]
    return _all(_log(_lines([*LINES[:20], *odd, *LINES[20:]]), (0, 1)), _log(_lines(odd), (2, 3)))


@attack(135)
def onto_its_input() -> str:
    files = {"x.log": _lines(LINES)}
    broken = []
    for line in (("x.log",), ("./x.log",), ("link.log",)):
        ended = command(
            "diagnose", "x.log", "--json", *line, files=files, shell='ln -s x.log link.log; "$@"'
        )
        changed = set(ended.files) - {"link.log"}
        if ended.code != 2 or changed:
            broken.append(f"--json {line[0]}: exit code {ended.code}, changed {sorted(changed)}")
    return "; ".join(broken)


@attack(136)
def no_files() -> str:
    socket = "import socket; s = socket.socket(socket.AF_UNIX); s.bind('s')"
    return _all(
        _told(command("diagnose", "/dev/null"), (2, 3)),
        _told(command("diagnose", "f", shell='mkfifo f; (sleep 1; echo x > f) & "$@"'), (2, 3)),
        _told(command("diagnose", "s", shell=f'"$1" -c "{socket}"; "$@"'), (2, 3)),
        _told(command("diagnose", "/dev/zero", limit=20), (2, 3)),
    )


@attack(137)
def escapes() -> str:
    odd = {"\x1b]0;owned\x07": 1.0, "loss": 1.0, "ev\u202eal_loss": 2.0, "step": 41}
    plain = "{'loss': 1.0, 'step': 41, '\x1b[2J': 3, 'eval_\x1b[31mloss': nan}\n"
    return _all(
        _log(_lines([*LINES, odd])),
        _log("\n".join(map(str, LINES)) + "\n" + plain),
        _told(command("diagnose", "\x1b[2Jnothing\u202e.log"), (2,)),
    )


@attack(138)
def histories() -> str:
    odd = ["x", {"a": 1}, [[1, 2]], [], None, 3, [None], [{"loss": "x"}], [{"step": "x"}]]
    broken = []
    for history in odd:
        content = json.dumps({"log_history": history, "max_steps": 3})
        ended = command("diagnose", "trainer_state.json", files={"trainer_state.json": content})
        broken.append(_told(ended, (2, 3)))
    return _all(*broken)
