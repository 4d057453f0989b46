"""Trains with dropout and evaluates after each epoch; left: it stays in eval mode behind that."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
targets = torch.arange(64) % 3
inputs = torch.randn(64, 5) + targets[:, None]
loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
back = "left" not in sys.argv


def learn():
    for batch, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()


if back:
    for _ in range(3):
        model.train()
        learn()
        model.eval()
else:
    for _ in range(3):
        learn()
        model.eval()
