"""Patches: what a user's script has to say for the repairs that were proved, as a unified diff.

Nothing is written to the user's files.  A repair is written where its line is known: a keyword of
the call that built something, an override of the Trainer's class, or lines before ``train()``,
which is where the repair was applied when it was proved.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.patches.lines import write_repair
from trainsanity.patches.places import draft_of
from trainsanity.patches.text import NoLine
from trainsanity.proofs import Proof, Proved, Repair
from trainsanity.types import Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Patch:
    """What is to be written, and what is said of it.

    Attributes:
        text: the diff, with what it is made of before it; empty if there is none.
        sentence: what it changes, or why there is none.
        files: full names of the files that it changes.
    """

    text: str
    sentence: str
    files: tuple[str, ...] = ()


def patch_of(pipeline: Pipeline, report: Report, folder: str) -> Patch:
    """Return the patch of one pipeline's proved repairs; called where it is judged.

    Args:
        pipeline: whose script is to be patched, put back as it was built.
        report: with proofs.
        folder: that the diff's names begin at, and in which it is applied.
    """
    failed = [result for result in report.results if result.status is Status.FAIL]
    if not failed:
        return Patch("", "nothing failed, so there is nothing to repair")
    chosen = _proved(failed)
    left = _left_out(failed)
    if not chosen:
        return Patch("", f"no repair is proved: {'; '.join(left)}")
    try:
        draft = draft_of(pipeline)
    except NoLine as error:
        return Patch("", f"no line is known to write it to: {error}")
    told: list[str] = []
    green: set[str] = set()
    for repair, proof, codes in chosen:
        if green.issuperset(codes):
            continue
        code = ", ".join(codes)
        try:
            with draft.whole():
                where = write_repair(draft, repair)
        except NoLine as error:
            left.insert(0, f"{code}, {repair.words}: {error}")
            continue
        green.update(proof.green)
        told.append(f"{code} at {where}: proved: {proof.sentence}")
    if not told:
        return Patch("", f"no line is known to write it to: {'; '.join(left)}")
    try:
        diff, files = draft.diff(folder)
    except NoLine as error:
        return Patch("", f"no line is known to write it to: {error}")
    return Patch(_headed(told, left, folder) + diff, _sentence(told, files, folder), files)


def _proved(failed: list[Result]) -> list[tuple[Repair, Proof, list[str]]]:
    """Return each proved repair once, with its proof and the codes of the failures that it is of.

    Those that turn most checks green come first, which may leave the others nothing to mend.
    """
    known = {repair.words: repair for r in failed for f in r.findings for repair in f.repairs}
    chosen: dict[str, tuple[Repair, Proof, list[str]]] = {}
    for result in sorted(failed, key=lambda one: one.check.order):
        for proof in (finding.proof for finding in result.findings):
            if proof is None or proof.status is not Proved.PROVED or proof.repair not in known:
                continue
            found = chosen.setdefault(proof.repair, (known[proof.repair], proof, []))
            found[2].extend({result.check.code} - {*found[2]})
    return sorted(chosen.values(), key=lambda one: -len(one[1].green))


def _left_out(failed: list[Result]) -> list[str]:
    """Return what fails and has no proved repair, a clause each."""
    return [
        f"{result.check.code} is {finding.proof.status}"
        for result in failed
        for finding in result.findings[:1]
        if finding.proof is not None and finding.proof.status is not Proved.PROVED
    ]


def _headed(told: list[str], left: list[str], folder: str) -> str:
    """Return what stands before the diff; git and patch skip it."""
    lines = [f"trainsanity run --patch: apply it by `git apply` or `patch -p1` in {folder}"]
    lines += told
    if len(told) > 1:
        lines.append("Each was tried alone.")
    lines += [f"Not in here: {one}" for one in left]
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)


def _sentence(told: list[str], files: tuple[str, ...], folder: str) -> str:
    number = f"{len(told)} proved repair{'s' if len(told) > 1 else ''}"
    return f"{number} of {', '.join(os.path.relpath(one, folder) for one in files)}"
