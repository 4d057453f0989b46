"""Trains a language model that returns logits and loss, on slices of a text; no DataLoader.

python language.py [unmasked] [unshifted] [undivided]: the arguments are what is wrong with it.
"""

import sys

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

SAID = set(sys.argv[1:])
WORDS, LENGTH, ACCUMULATION = 40, 16, 4

torch.manual_seed(0)
text = torch.randint(0, WORDS, (2000,), generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self, size=16):
        super().__init__()
        self.words = nn.Embedding(WORDS, size)
        self.places = nn.Embedding(LENGTH, size)
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True)
        self.head = nn.Linear(size, WORDS)

    def forward(self, ids, targets=None):
        states = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        mask = None if "unmasked" in SAID else later
        seen, _ = self.attention(states, states, states, attn_mask=mask, need_weights=False)
        logits = self.head(states + seen)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.view(-1, WORDS), targets.view(-1))


def batch():
    starts = torch.randint(len(text) - LENGTH - 1, (8,)).tolist()
    shift = 0 if "unshifted" in SAID else 1
    rows = [text[start : start + LENGTH] for start in starts]
    targets = [text[start + shift : start + shift + LENGTH] for start in starts]
    return torch.stack(rows), torch.stack(targets)


model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
for _ in range(3):
    for _ in range(ACCUMULATION):
        _, loss = model(*batch())
        (loss if "undivided" in SAID else loss / ACCUMULATION).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
