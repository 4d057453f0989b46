"""The warm-up is longer than the run."""

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DefaultDataCollator,
    Trainer,
    TrainingArguments,
    set_seed,
)

set_seed(0)
LABELS = ["billing", "shipping", "other"]


def tickets(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        ids = torch.randint(5, 50, (8,), generator=generator).tolist()
        yield {"input_ids": ids, "attention_mask": [1] * 8, "label": sum(ids) % 3}


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
        warmup_steps=500,
        per_device_train_batch_size=8,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
    ),
    train_dataset=Dataset.from_list(list(tickets(64))),
    data_collator=DefaultDataCollator(),
)
trainer.train()
