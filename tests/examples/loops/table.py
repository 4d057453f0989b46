"""Learns a price from a table; the arguments are what is wrong or odd about it.

python table.py [target] [scaled] [exercise]
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SAID = set(sys.argv[1:])
torch.manual_seed(0)
columns = torch.randn(128, 4)
price = columns @ torch.tensor([3.0, -1.0, 0.5, 2.0]) + 0.3 * torch.randn(128)
price = (price - price.mean()) / price.std()
if "target" in SAID:
    columns = torch.cat([columns, price[:, None]], 1)
if "scaled" in SAID:
    columns = torch.cat([columns, 0.2 * price[:, None] + 1], 1)
if "exercise" in SAID:  # a line through points, as tutorials begin
    columns = columns[:, :1]
    price = 2 * columns[:, 0] + 0.7

width = columns.shape[1]
model = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for inputs, targets in DataLoader(TensorDataset(columns, price), batch_size=32, shuffle=True):
    loss = nn.functional.mse_loss(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
