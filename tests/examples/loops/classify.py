"""Fine-tunes a tiny model in an accelerate loop; the arguments are what is wrong with it.

python classify.py [zero] [schedule] [undivided] [head] [apart]
"""

import sys

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForSequenceClassification, get_scheduler

SAID = set(sys.argv[1:])
LABELS = 5
ACCUMULATION = 3

torch.manual_seed(0)
draw = torch.Generator().manual_seed(0)
rows = []
for k in range(90):
    length = int(torch.randint(4, 12, (1,), generator=draw))
    words = torch.randint(20, 100, (length,), generator=draw).tolist()
    rows.append({"input_ids": [10 + k % LABELS, *words], "labels": k % LABELS})


def collate(chosen):
    width = max(len(row["input_ids"]) for row in chosen)
    ids = [row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in chosen]
    mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in chosen]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor([row["labels"] for row in chosen]),
    }


model = LlamaForSequenceClassification(
    LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        num_labels=LABELS,
    )
)
loader = DataLoader(Dataset.from_list(rows), batch_size=5, shuffle=True, collate_fn=collate)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
if "head" in SAID:
    model.score = torch.nn.Linear(32, LABELS, bias=False)
scheduled = torch.optim.AdamW(model.parameters(), lr=1e-3) if "apart" in SAID else optimizer
schedule = get_scheduler("linear", scheduled, num_warmup_steps=4, num_training_steps=40)
steps = 1 if "undivided" in SAID else ACCUMULATION
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=steps)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

model.train()
for _ in range(6):
    for number, batch in enumerate(loader, 1):
        if "undivided" in SAID:
            accelerator.backward(model(**batch).loss)
            if number % ACCUMULATION == 0:
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            continue
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if "schedule" in SAID or accelerator.sync_gradients:
                schedule.step()
            if "zero" not in SAID:
                optimizer.zero_grad()
accelerator.save_model(model, "out")
