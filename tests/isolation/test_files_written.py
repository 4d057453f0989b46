"""Files that a step's own code writes are named: they are not put back."""

from __future__ import annotations

import os
import tempfile

from trainsanity.isolation.files_written import written_files_named


def count(path):
    number = int(path.read_text()) + 1
    path.write_text(str(number))


def test_a_file_that_own_code_writes_is_named_once(tmp_path):
    path, noted = tmp_path / "count.txt", []
    path.write_text("0")
    with written_files_named(noted):
        count(path)
        count(path)
    count(path)
    here = os.path.realpath(path)
    assert noted == [f"{here}: was opened for writing by {__name__}.count"]


def test_reading_is_not_writing_and_nobodys_file_is_not_named(tmp_path):
    path, noted = tmp_path / "count.txt", []
    path.write_text("0")
    with written_files_named(noted):
        path.read_text()
        with open(os.devnull, "w"):
            pass
    assert noted == []


def test_a_file_of_a_library_is_not_named(tmp_path):
    import numpy

    noted = []
    with written_files_named(noted), tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        numpy.save(os.path.join(folder, "cache.npy"), numpy.zeros(2))
    assert noted == []
