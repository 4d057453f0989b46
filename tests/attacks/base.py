"""A healthy Trainer that is judged in seconds, and what was seen of one before and after."""

from __future__ import annotations

import hashlib
import tempfile
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, Trainer, TrainingArguments

ROWS = 96


def rows(n: int = ROWS) -> list[dict[str, Any]]:
    """Rows of 5 to 8 ids, whose label can be read from the first."""
    g = torch.Generator().manual_seed(0)
    made = []
    for i in range(n):
        length = 5 + i % 4
        ids = torch.randint(3, 60, (length,), generator=g).tolist()
        ids[0] = 3 + i % 3
        made.append({"input_ids": ids, "label": i % 3})
    return made


def noisy(row: dict[str, Any], noise: int) -> dict[str, Any]:
    """The row with one id set by the noise; its first, which has the label, stays."""
    ids = list(row["input_ids"])
    ids[2] = 3 + noise % 57
    return {**row, "input_ids": ids}


def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad to the longest; mask what was padded."""
    width = max(len(item["input_ids"]) for item in items)
    ids = torch.zeros(len(items), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, item in enumerate(items):
        ids[i, : len(item["input_ids"])] = torch.tensor(item["input_ids"])
        mask[i, : len(item["input_ids"])] = 1
    labels = torch.tensor([int(item["label"]) for item in items])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Rows(torch.utils.data.Dataset):
    """Rows in memory; ``noise`` says what is put into one."""

    def __init__(self, n: int = ROWS) -> None:
        self.rows = rows(n)

    def __len__(self) -> int:
        return len(self.rows)

    def noise(self, i: int) -> int:
        return i

    def __getitem__(self, i: int) -> dict[str, Any]:
        return noisy(self.rows[i], int(self.noise(i)))


def model() -> Any:
    """A Llama with two layers of width 16 and a vocabulary of 64."""
    torch.manual_seed(0)
    made: Any = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            num_labels=3,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            use_cache=False,
        )
    )
    # Its loss is a mean, which transformers 5 divides by the rows only if it is told so.
    made.accepts_loss_kwargs = False
    return made


def trainer(
    dataset: Any = None,
    collator: Any = collate,
    cls: type[Trainer] = Trainer,
    net: Any = None,
    arguments: dict[str, Any] | None = None,
    **more: Any,
) -> Trainer:
    """The healthy Trainer, with parts of it exchanged."""
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="attack-"),
        **{
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "max_steps": 3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
            **(arguments or {}),
        },
    )
    return cls(
        model=net if net is not None else model(),
        args=args,
        train_dataset=Rows() if dataset is None else dataset,
        data_collator=collator,
        **more,
    )


def digest(trainer: Trainer) -> str:
    """Of all parameters, buffers and gradients, by name."""
    h = hashlib.sha256()
    net: Any = trainer.model
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        for part in (tensor, tensor.grad if isinstance(tensor, torch.nn.Parameter) else None):
            h.update(name.encode())
            if part is not None:
                h.update(str((part.dtype, part.shape)).encode())
                h.update(part.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()[:16]


def trained(trainer: Trainer) -> dict[str, Any]:
    """Train as the user would; return the weights and what was logged."""
    trainer.train()
    losses = [(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e]
    return {"weights": digest(trainer), "log": losses}
