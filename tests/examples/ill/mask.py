"""The collator attends to all of the padding."""

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

set_seed(0)
LABELS = ["billing", "shipping", "other"]


def tickets(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        length = int(torch.randint(4, 9, (), generator=generator))
        ids = torch.randint(5, 50, (length,), generator=generator).tolist()
        yield {"input_ids": ids, "attention_mask": [1] * length, "label": sum(ids) % 3}


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.ones(len(rows), longest, dtype=torch.long),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


config = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    id2label=dict(enumerate(LABELS)),
    label2id={label: number for number, label in enumerate(LABELS)},
)
trainer = Trainer(
    model=BertForSequenceClassification(config),
    args=TrainingArguments(
        output_dir="runs/tickets",
        num_train_epochs=1,
        learning_rate=1e-3,
        per_device_train_batch_size=8,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
    ),
    train_dataset=Dataset.from_list(list(tickets(64))),
    data_collator=collate,
)
trainer.train()
