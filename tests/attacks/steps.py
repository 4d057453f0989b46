"""State that a training step changes: Trainer, model, hooks, optimizer, scheduler, callback."""

from __future__ import annotations

import itertools

import torch
from transformers import Trainer, TrainerCallback

from .base import Rows, digest, model, trainer
from .oracle import Odd, state


@state(38)
def ramp_on_the_instance() -> Odd:
    class Own(Trainer):
        calls = 0

        def compute_loss(self, *args, **more):
            self.calls += 1
            return super().compute_loss(*args, **more)

    made = trainer(cls=Own)
    return Odd(made, lambda: made.calls)


@state(39)
def ramp_on_the_class() -> Odd:
    class Own(Trainer):
        calls = 0

        def compute_loss(self, *args, **more):
            Own.calls += 1
            return super().compute_loss(*args, **more)

    return Odd(trainer(cls=Own), lambda: Own.calls)


@state(40)
def loss_function() -> Odd:
    calls = 0

    def loss(outputs, labels, num_items_in_batch=None):
        nonlocal calls
        calls += 1
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / (
            num_items_in_batch or len(labels)
        )

    return Odd(trainer(compute_loss_func=loss), lambda: calls)


@state(41)
def counting_property() -> Odd:
    class Own(Rows):
        reads = 0

        @property
        def features(self):
            self.reads += 1
            return {"input_ids": None, "label": None}

        def noise(self, i):
            return i + self.reads

    made = Own()
    return Odd(trainer(made), lambda: made.reads)


@state(42)
def growing_list() -> Odd:
    class Noise(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.seen = inner, []

        def forward(self, x):
            if self.training:
                self.seen.append(tuple(x.shape))
            return torch.nn.functional.dropout(
                self.inner(x), 0.1 / (1 + len(self.seen)), self.training
            )

    made = trainer()
    made.model.model.norm = Noise(made.model.model.norm)
    return Odd(made, lambda: len(made.model.model.norm.seen))


@state(43)
def growing_buffer() -> Odd:
    made = trainer()
    norm = made.model.model.norm
    norm.register_buffer("queue", torch.zeros(0, 16))

    def hook(module, args, out):
        if module.training:
            module.queue = torch.cat([module.queue, out.detach()[:, 0]])

    norm.register_forward_hook(hook)
    return Odd(made, lambda: tuple(norm.queue.shape))


@state(44)
def late_buffer() -> Odd:
    made = trainer()

    def hook(module, args, out):
        if "late" not in dict(module.named_buffers()):
            module.register_buffer("late", out.detach().mean())

    made.model.model.norm.register_forward_hook(hook)
    return Odd(made, lambda: sorted(dict(made.model.named_buffers())))


@state(45)
def spectral() -> Odd:
    net = model()
    torch.nn.utils.parametrizations.spectral_norm(net.model.layers[0].mlp.up_proj)
    made = trainer(net=net)
    return Odd(made, lambda: digest(made))


@state(46)
def hook_that_hooks() -> Odd:
    made = trainer()
    norm = made.model.model.norm

    def hook(module, args, out):
        if len(module._forward_hooks) < 5:
            module.register_forward_hook(lambda *rest: None)

    norm.register_forward_hook(hook)
    return Odd(made, lambda: len(norm._forward_hooks))


@state(47)
def gradient_hook() -> Odd:
    calls = 0
    made = trainer()

    def hook(grad):
        nonlocal calls
        calls += 1
        return grad * (1 + 1e-7 * calls)

    made.model.score.weight.register_hook(hook)
    return Odd(made, lambda: calls)


@state(48)
def gradients_before() -> Odd:
    made = trainer()
    for i, p in enumerate(made.model.parameters()):
        p.grad = torch.full_like(p, 0.01 * i)
    return Odd(made, lambda: digest(made))


def _sgd(net, extra):
    """An optimizer whose step is `extra(self, parameters)`."""

    class Own(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            extra(self, [p for g in self.param_groups for p in g["params"] if p.grad is not None])

    return Own(net.parameters(), {"lr": 1e-3, "k": 0})


@state(49)
def own_momentum() -> Odd:
    def step(self, ps):
        lr = self.param_groups[0]["lr"]
        for p, m in zip(ps, self.moments, strict=True):
            m.mul_(0.9).add_(p.grad)
            p.sub_(lr * m)

    net = model()
    optimizer = _sgd(net, step)
    optimizer.moments = [torch.zeros_like(p) for p in net.parameters()]
    made = trainer(net=net, optimizers=(optimizer, None))
    return Odd(made, lambda: sum(m.abs().sum().item() for m in optimizer.moments))


@state(50)
def lookahead() -> Odd:
    def step(self, ps):
        self.k += 1
        for p, slow in zip(ps, self.slow, strict=True):
            p.sub_(self.param_groups[0]["lr"] * p.grad)
            if self.k % 2 == 0:
                slow.add_(0.5 * (p - slow))
                p.copy_(slow)

    net = model()
    optimizer = _sgd(net, step)
    optimizer.slow, optimizer.k = [p.detach().clone() for p in net.parameters()], 0
    made = trainer(net=net, optimizers=(optimizer, None))
    return Odd(made, lambda: (optimizer.k, sum(s.sum().item() for s in optimizer.slow)))


@state(51)
def in_groups() -> Odd:
    def step(self, ps):
        group = self.param_groups[0]
        group["k"] += 1
        for p in ps:
            p.sub_(group["lr"] / group["k"] * p.grad)

    net = model()
    optimizer = _sgd(net, step)
    made = trainer(net=net, optimizers=(optimizer, None))
    return Odd(made, lambda: optimizer.param_groups[0]["k"])


@state(52)
def scheduler() -> Odd:
    class Factor:
        def __init__(self):
            self.calls = itertools.count()
            self.n = 0

        def __call__(self, step):
            self.n += 1
            return 1 / (1 + step)

    net, factor = model(), Factor()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return Odd(trainer(net=net, optimizers=(optimizer, rates)), lambda: factor.n)


@state(53)
def average() -> Odd:
    class Average(TrainerCallback):
        def __init__(self, net):
            self.shadow = [p.detach().clone() for p in net.parameters()]

        def on_step_end(self, args, state, control, model=None, **more):
            for s, p in zip(self.shadow, model.parameters(), strict=True):
                s.lerp_(p.detach(), 0.1)

    net = model()
    made = Average(net)
    return Odd(trainer(net=net, callbacks=[made]), lambda: sum(s.sum().item() for s in made.shadow))
