"""Trains a small image model in bare torch; the arguments are what is wrong with it.

python images.py [amp] [closure] [zero] [schedule] [undivided] [head] [eval]
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SAID = set(sys.argv[1:])
ACCUMULATION = 1 if "closure" in SAID else 2

torch.manual_seed(0)
targets = torch.arange(64) % 4
pictures = torch.randn(64, 1, 8, 8) + 0.3 * targets[:, None, None, None]
loader = DataLoader(TensorDataset(pictures, targets), batch_size=4, shuffle=True)

model = nn.Sequential(
    nn.Conv2d(1, 8, 3),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.Flatten(),
    nn.Dropout(0.1),
    nn.Linear(288, 9),
)
if "head" not in SAID:
    model[5] = nn.Linear(288, 4)
if "closure" in SAID:
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
else:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
if "head" in SAID:
    model[5] = nn.Linear(288, 4)
if "eval" in SAID:
    model.eval()
    with torch.no_grad():
        accuracy = (model(pictures).argmax(-1) == targets).float().mean()
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=10)
scaler = torch.amp.GradScaler("cpu", enabled="amp" in SAID)
criterion = nn.CrossEntropyLoss()


def loss_of(inputs, labels):
    with torch.autocast("cpu", torch.bfloat16, enabled="amp" in SAID):
        loss = criterion(model(inputs), labels)
    return loss if "undivided" in SAID else loss / ACCUMULATION


for _ in range(2):
    for number, (inputs, labels) in enumerate(loader, 1):
        if "closure" in SAID:

            def closure():
                if "zero" not in SAID:
                    optimizer.zero_grad()
                loss = loss_of(inputs, labels)  # noqa: B023
                loss.backward()
                return loss

            optimizer.step(closure)
            schedule.step()
            if "schedule" in SAID:
                schedule.step()
            continue
        scaler.scale(loss_of(inputs, labels)).backward()
        if number % ACCUMULATION == 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            if "zero" not in SAID:
                optimizer.zero_grad()
        if number % ACCUMULATION == 0 or "schedule" in SAID:
            schedule.step()

torch.save(model.state_dict(), "model.pt")
