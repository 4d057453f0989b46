"""Two processes, of which one meets a NaN at step 5: a run that `SanityCallback` has to stop.

`torchrun --nproc-per-node=2 two_ranks.py FOLDER`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import trainsanity
from fixtures.pipelines import tiny_qwen3


def main() -> None:
    folder = Path(sys.argv[1])
    trainer = tiny_qwen3.repaired(
        rows=120, gradient_accumulation_steps=2, max_steps=8, warmup_steps=2
    )
    trainer.args.disable_tqdm = True
    rank = trainer.args.process_index
    compute_loss = trainer.compute_loss

    def breaking(*args, **kwargs):
        loss = compute_loss(*args, **kwargs)
        return loss * math.nan if rank == 1 and trainer.state.global_step == 4 else loss

    trainer.compute_loss = breaking
    trainer.add_callback(trainsanity.SanityCallback("stop", folder / "sanity.json"))
    trainer.train()
    finite = all(bool(p.isfinite().all()) for p in trainer.model.parameters())
    said = {"step": trainer.state.global_step, "finite": finite}
    (folder / f"rank{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
