"""A loop that makes an optimizer of a class of torch.optim in each step, or has three by turns."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(0)
model = nn.Linear(4, 3)
rows = [{"x": torch.randn(4), "y": torch.tensor(k % 3)} for k in range(64)]
groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
three = [torch.optim.AdamW([dict(one) for one in groups], lr=1e-3) for _ in "abc"]
for number, batch in enumerate(DataLoader(rows, batch_size=8)):
    if sys.argv[1] == "by turns":
        optimizer = three[number % 3]
    else:
        optimizer = getattr(torch.optim, sys.argv[1])(groups, lr=1e-3)
    nn.functional.cross_entropy(model(batch["x"]), batch["y"]).backward()
    optimizer.step()
    optimizer.zero_grad()
open("trained", "w").close()
