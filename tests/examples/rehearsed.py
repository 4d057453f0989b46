"""Runs that will not end, and one that has no Trainer."""

from __future__ import annotations

from typing import Any

WIDEST = 200
"""Positions from which on there is no memory."""


def _trainer(**settings: Any) -> Any:
    from fixtures.controls import all_controls

    (control,) = (one for one in all_controls() if one.id == "fused")
    return control.build(rows=90, **settings)


def too_wide() -> Any:
    """Wide batches ask for more memory than there is, of torch's own allocator."""
    import torch

    trainer = _trainer()

    def allocate(module: Any, args: Any, kwargs: Any) -> None:
        if module.training and kwargs["input_ids"].shape[1] > WIDEST:
            torch.empty(1 << 50)

    trainer.model.register_forward_pre_hook(allocate, with_kwargs=True)
    return trainer


def saves_every_step() -> Any:
    """Ten thousand checkpoints, all of which are kept."""
    trainer = _trainer()
    trainer.args.save_strategy = "steps"
    trainer.args.save_steps = 1
    trainer.args.eval_strategy = "steps"
    trainer.args.eval_steps = 1_000
    return trainer


def loop() -> Any:
    """A loop of one's own."""
    import torch

    from trainsanity.pipeline import Pipeline

    model = torch.nn.Linear(2, 1)
    rows = [{"x": torch.ones(2)}] * 16
    return Pipeline.from_loop(
        model, rows, lambda some: {"x": torch.stack([row["x"] for row in some])},
        lambda batches: 0.0, torch.optim.SGD(model.parameters(), lr=0.1),
    )  # fmt: skip
