"""A project that knows nothing of trainsanity: BERT from a config, rows that are made up."""

import argparse

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

LABELS = 3


class Rows(Dataset):
    def __init__(self, count):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(5, 100, (count, 12), generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, at):
        ids = self.ids[at]
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": int(ids[0]) % LABELS,
        }


def trainer(rows, accumulation):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=LABELS,
    )

    arguments = TrainingArguments(
        output_dir="out",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-3,
        report_to=[],
        use_cpu=True,
    )
    model = BertForSequenceClassification(config)
    return Trainer(model=model, args=arguments, train_dataset=Rows(rows))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=64)
    # With 2 and more current transformers has a loss that is as many times too high (#47688).
    parser.add_argument("--accumulation", type=int, default=1)
    options = parser.parse_args()
    trainer(options.rows, options.accumulation).train()


if __name__ == "__main__":
    main()
