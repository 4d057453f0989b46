"""Fine-tune a small BERT on ticket categories.

python classify.py --epochs 3 --lr 1e-3 --output_dir runs/tickets
"""

import argparse
import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"

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

LABELS = ["billing", "shipping", "other"]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--output_dir", default="runs/tickets")
    parser.add_argument("--scale", type=float, default=1.0, help="of the loss")
    return parser.parse_args()


class ScaledTrainer(Trainer):
    scale = 1.0

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        loss = self.scale * loss
        return (loss, outputs) if return_outputs else loss


def tickets(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        ids = torch.randint(5, 50, (8,), generator=generator).tolist()
        yield {"input_ids": ids, "attention_mask": [1] * 8, "label": sum(ids) % 3}


def main():
    args = parse_args()
    set_seed(0)
    print(f"training for {args.epochs} epochs")
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    trainer = ScaledTrainer(
        model=BertForSequenceClassification(config),
        args=TrainingArguments(
            output_dir=args.output_dir,
            num_train_epochs=args.epochs,
            learning_rate=args.lr,
            per_device_train_batch_size=8,
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(list(tickets(64))),
        data_collator=DefaultDataCollator(),
    )
    trainer.scale = args.scale
    trainer.train()
    trainer.save_model(args.output_dir)
    print("done")


if __name__ == "__main__":
    main()
