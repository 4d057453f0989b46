"""Two Trainers, an evaluation before training, relative imports, data that lives for a block."""

import json
import os
import tempfile
from pathlib import Path

import settings  # beside this file, as `python distill.py` finds it

from ..models import ROWS, trainer

os.chdir(Path(__file__).parent)
teacher = trainer("out/teacher", ROWS[: settings.ROWS_OF_TEACHER])
with tempfile.TemporaryDirectory(prefix="distill-") as folder:
    data = Path(folder) / "rows.json"
    data.write_text(json.dumps(ROWS))

    class Lazy(list):
        """Reads a row from disk when it is asked for."""

        def __getitem__(self, number):
            return json.loads(data.read_text())[number]

    student = trainer("out/student", Lazy(ROWS))
    print("before training", student.evaluate()["eval_loss"])
    try:
        student.train()
    except Exception as error:
        print("training failed", error)
    student.save_model("out/student")
teacher.train()
