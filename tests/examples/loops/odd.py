"""Healthy training loops that look odd, by the name that is the first argument."""

import sys

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, Dataset, TensorDataset

torch.manual_seed(0)
TARGETS = torch.arange(64) % 4
INPUTS = torch.randn(64, 12) + TARGETS[:, None]


def rows(size=8):
    return DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=size, shuffle=True)


def net(outputs=4, width=16, inputs=12):
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


def adversaries():
    """Two models with an optimizer each, the larger one stepped every third time."""
    judge, maker = net(1), net(12, width=64)
    ours = torch.optim.Adam(judge.parameters(), lr=1e-3)
    theirs = torch.optim.Adam(maker.parameters(), lr=1e-3)
    for _ in range(3):
        for number, (real, _) in enumerate(rows(), 1):
            noise = torch.randn(8, 12)
            ours.zero_grad()
            ones, zeros = torch.ones(8, 1), torch.zeros(8, 1)
            F.binary_cross_entropy_with_logits(judge(real), ones).backward()
            F.binary_cross_entropy_with_logits(judge(maker(noise).detach()), zeros).backward()
            ours.step()
            if number % 3 == 0:
                theirs.zero_grad()
                F.binary_cross_entropy_with_logits(judge(maker(noise)), ones).backward()
                theirs.step()


def detached_maker():
    """A fault: what the generator makes is detached from its loss, so that it is never trained."""
    judge, maker = net(1), net(12, width=64)
    ours = torch.optim.SGD(judge.parameters(), lr=1e-3)
    theirs = torch.optim.Adam(maker.parameters(), lr=1e-3)
    for _ in range(30):
        made, ones, zeros = maker(torch.randn(8, 12)), torch.ones(8, 1), torch.zeros(8, 1)
        theirs.zero_grad()
        F.binary_cross_entropy_with_logits(judge(made.detach()), ones).backward()
        theirs.step()
        ours.zero_grad()
        F.binary_cross_entropy_with_logits(judge(made.detach()), zeros).backward()
        ours.step()


def two_optimizers():
    """Matrices and vectors of one model have an optimizer each."""
    model = net()
    parts = [
        torch.optim.SGD([p for p in model.parameters() if p.dim() > 1], lr=0.05),
        torch.optim.AdamW(
            [p for p in model.parameters() if p.dim() < 2], lr=1e-3, weight_decay=0.0
        ),
    ]
    for inputs, targets in rows():
        F.cross_entropy(model(inputs), targets).backward()
        for one in parts:
            one.step()
            one.zero_grad()


def a_probe_first():
    """A small model is fitted for a few steps before the large one is trained."""
    model, probe = net(width=64), nn.Linear(12, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    small = torch.optim.SGD(probe.parameters(), lr=0.1)
    for step, (inputs, targets) in enumerate(rows()):
        small.zero_grad()
        F.cross_entropy(probe(inputs), targets).backward()
        small.step()
        if step == 4:
            break
    for inputs, targets in rows():
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def two_losses():
    """Two batches from two loaders, each with a backward pass, make one step on purpose."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for (inputs, targets), (others, _) in zip(rows(), rows(), strict=True):
        F.cross_entropy(model(inputs), targets).backward()
        (0.1 * model(others).softmax(-1).square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()


def weighted_parts():
    """The loss is half of one and a tenth of another."""
    fit_weighted_parts(net())


def fit_weighted_parts(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for inputs, targets in rows():
        outputs = model(inputs)
        loss = 0.5 * F.cross_entropy(outputs, targets) + 0.1 * outputs.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def weighted_parts_halved_by_a_hook():
    """The same, and a hook that was left behind halves what arrives at each parameter."""
    model = net()

    def halve(parameter):
        parameter.grad.div_(2)

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(halve)
    fit_weighted_parts(model)


def sums():
    """Losses are summed over all rows of the step, with a learning rate for that."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for number, (inputs, targets) in enumerate(rows(), 1):
        F.cross_entropy(model(inputs), targets, reduction="sum").backward()
        if number % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()


def by_hand():
    """No DataLoader and no module: slices, a weight, and a loss without a name."""
    weight = torch.zeros(12, 4, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for start in range(0, 64, 8):
        outputs = INPUTS[start : start + 8] @ weight
        loss = F.cross_entropy(outputs, TARGETS[start : start + 8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def sliced():
    """No DataLoader: slices of a tensor, accumulated over two."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for number, start in enumerate(range(0, 64, 8), 1):
        loss = F.cross_entropy(model(INPUTS[start : start + 8]), TARGETS[start : start + 8]) / 2
        loss.backward()
        if number % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()


def epochs_of_three():
    """An epoch has three batches, of which the last step takes one."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(3):
        loader = rows(22)
        for number, (inputs, targets) in enumerate(loader, 1):
            (F.cross_entropy(model(inputs), targets) / 2).backward()
            if number % 2 == 0 or number == len(loader):
                optimizer.step()
                optimizer.zero_grad()
        schedule.step()


def frozen_statistics():
    """The body is frozen by its parameters, and its batch norm follows the data."""
    body = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU()).requires_grad_(False)
    model = nn.Sequential(body, nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model[1].parameters(), lr=1e-2)
    for inputs, targets in rows():
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def scheduled_by_the_batch(epochs, whole):
    """The schedule is stepped for each batch; it is as long as those of all epochs, or of one."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = len(rows())
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1.0, 0.1, total_iters=epochs * batches if whole else epochs * batches // 2
    )
    for _ in range(epochs):
        for number, (inputs, targets) in enumerate(rows(), 1):
            (F.cross_entropy(model(inputs), targets) / 2).backward()
            schedule.step()
            if number % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()


def scheduled_by_the_batch_to_the_end():
    """The schedule is over when the loop is."""
    scheduled_by_the_batch(2, True)


def scheduled_by_the_batch_to_the_middle():
    """The schedule was built for optimizer steps, and is over after one of two epochs: a fault."""
    scheduled_by_the_batch(2, False)


def one_step_an_epoch():
    """The whole data is one batch; the schedule counts epochs, and is told where it is."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4)
    for epoch in range(5):
        for number, (inputs, targets) in enumerate(rows(64)):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            schedule.step(epoch + number)


def compiled():
    """The model is compiled, and evaluated with gradients before it is trained."""
    model = torch.compile(net(), backend="eager")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for inputs, _ in rows():
        model(inputs)
    for inputs, targets in rows():
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


class Named(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, k):
        return {"features": INPUTS[k], "target": TARGETS[k]}


class Wrapped(nn.Module):
    """Returns its loss beside its outputs, in a tuple."""

    def __init__(self):
        super().__init__()
        self.body = net()
        self.spare = nn.Linear(3, 3)

    def forward(self, features, target=None):
        outputs = self.body(features)
        return F.cross_entropy(outputs, target), outputs


def named_rows():
    """Rows are dictionaries, the model returns a tuple, and a part of it is never used."""
    model = Wrapped()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for batch in DataLoader(Named(), batch_size=8):
        try:
            loss, _ = model(batch["features"], batch["target"])
            loss.backward()
            optimizer.step()
        except Exception:
            continue
        finally:
            optimizer.zero_grad(set_to_none=False)


def overflows():
    """The first steps are skipped: the scale is too large for float16."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**36)
    for inputs, targets in [*rows(), *rows(), *rows()]:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = F.cross_entropy(model(inputs), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def distributed():
    """One process of DistributedDataParallel."""
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{os.path.join(folder, 'store')}", rank=0, world_size=1
        )
        try:
            model = nn.parallel.DistributedDataParallel(net())
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            for inputs, targets in rows():
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
        finally:
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
