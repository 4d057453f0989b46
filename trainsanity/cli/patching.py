"""``--patch``: the file for the proved repairs, and the sentence that tells what is in it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from trainsanity.cli.output import OutputFile
from trainsanity.report.words import clean


class PatchFile:
    """Where the diff goes.

    Args:
        name: of the file.

    Attributes:
        folder: that the diff's names begin at: the current one, before any code changes it.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._file = OutputFile("--patch", name)
        self.folder = os.getcwd()

    def write(self, patches: Sequence[Mapping[str, Any]]) -> str:
        """Write the diffs of all pipelines; return what was done, in a sentence.

        A file is changed for one pipeline only: the diff of a second one would not apply.
        """
        texts: list[str] = []
        told: list[str] = []
        taken: set[str] = set()
        for patch in patches:
            if taken & set(patch["files"]):
                told.append("another pipeline's repairs are of a file that is patched already")
            else:
                taken |= set(patch["files"])
                texts += [patch["text"]] if patch["text"] else []
                told.append(patch["sentence"])
        said = clean("; ".join(dict.fromkeys(told)) or "nothing was judged")
        if not texts:
            return f"patch: nothing was written: {said}\n"
        self._file.write("".join(texts))
        name = clean(shlex.quote(self._name))
        return f"patch: {said}, in {name}; git apply {name} applies it\n"
