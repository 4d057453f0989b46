"""Classifies series by a recurrent model; the arguments are what is wrong or odd about it.

python series.py [time_first] [mixed]
"""

import sys

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

SAID = set(sys.argv[1:])
torch.manual_seed(0)
targets = torch.arange(64) % 3
series = torch.randn(64, 12, 5) + targets[:, None, None]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.LSTM(5, 16, batch_first=not SAID)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs):
        states, _ = self.layers(inputs)
        return self.head(states[-1] if "time_first" in SAID else states[:, -1])


model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for inputs, labels in DataLoader(TensorDataset(series, targets), batch_size=8, shuffle=True):
    given = inputs.transpose(0, 1) if "time_first" in SAID else inputs
    loss = F.cross_entropy(model(given), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
