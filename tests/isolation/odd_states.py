"""Healthy pipelines that keep state in odd places.

Each function takes a healthy Trainer, puts the state in, and returns what reads it: a function of
nothing, whose value is compared with ``==`` after a training.
"""

from __future__ import annotations

import array
import collections
import copy
import ctypes
import functools
import itertools
import multiprocessing
import random
import tempfile
from collections.abc import Callable
from typing import Any

import numpy
import torch

State = Callable[[], Any]
ODD: dict[str, Callable[[Any], State]] = {}

COLUMNS = ("input_ids", "attention_mask", "label")
OTHER = 11
"""A token's id that stands for a dropped word."""


def odd(install: Callable[[Any], State]) -> Callable[[Any], State]:
    """Register a pipeline under the function's name."""
    ODD[install.__name__] = install
    return install


def rows_of(trainer: Any) -> list[dict[str, Any]]:
    return [{name: list(row[name]) if isinstance(row[name], list) else row[name]
             for name in COLUMNS} for row in trainer.train_dataset]  # fmt: skip


class Rows(torch.utils.data.Dataset):
    """Rows in a list, of which a subclass changes one token."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = dict(self.rows[i])
        row["input_ids"] = ids = list(row["input_ids"])
        ids[self.place(len(ids) - 1)] = OTHER
        return row

    def place(self, below: int) -> int:
        raise NotImplementedError


@odd
def dataset_draws_from_a_random(trainer):
    class Drawn(Rows):
        generator = None

        def place(self, below):
            return self.generator.randrange(below)

    trainer.train_dataset = Drawn(rows_of(trainer))
    trainer.train_dataset.generator = random.Random(1)
    return trainer.train_dataset.generator.getstate


@odd
def dataset_draws_from_numpy(trainer):
    class Drawn(Rows):
        def place(self, below):
            return int(self.generator.integers(below))

    trainer.train_dataset = Drawn(rows_of(trainer))
    trainer.train_dataset.generator = numpy.random.default_rng(1)
    return lambda: repr(trainer.train_dataset.generator.bit_generator.state)


@odd
def dataset_draws_from_torch(trainer):
    class Drawn(Rows):
        def place(self, below):
            return int(torch.randint(below, (), generator=self.nested["generators"][0]))

    trainer.train_dataset = Drawn(rows_of(trainer))
    trainer.train_dataset.nested = {"generators": [torch.Generator().manual_seed(1)]}
    return lambda: trainer.train_dataset.nested["generators"][0].get_state().tolist()


@odd
def dataset_counts(trainer):
    class Counting(Rows):
        reads = 0

        def place(self, below):
            self.reads += 1
            return self.reads % below

    trainer.train_dataset = Counting(rows_of(trainer))
    return lambda: trainer.train_dataset.reads


@odd
def dataset_counts_in_its_class(trainer):
    class Counting(Rows):
        reads = 0
        by_row = {}  # noqa: RUF012  as users write it

        def place(self, below):
            type(self).reads += 1
            self.by_row[below] = self.by_row.get(below, 0) + 1
            return (self.reads + self.by_row[below]) % below

    trainer.train_dataset = Counting(rows_of(trainer))
    return lambda: (Counting.reads, dict(Counting.by_row))


@odd
def dataset_writes_into_its_rows(trainer):
    class Writing(Rows):
        def __getitem__(self, i):
            row = self.rows[i]
            row["input_ids"][0] = (row["input_ids"][0] + 1) % 1000
            return dict(row)

    trainer.train_dataset = Writing(rows_of(trainer))
    return lambda: [row["input_ids"][0] for row in trainer.train_dataset.rows]


@odd
def dataset_reads_on_in_a_file(trainer):
    class Reading(Rows):
        def place(self, below):
            if not (line := self.file.readline()):
                self.file.seek(0)
                line = self.file.readline()
            return int(line) % below

    trainer.train_dataset = Reading(rows_of(trainer))
    file = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the dataset
    file.write("".join(f"{i * 7919}\n" for i in range(5000)))
    file.flush()
    file.seek(0)
    trainer.train_dataset.file = file
    return lambda: (file.tell(), file.close())


@odd
def dataset_goes_through_iterators(trainer):
    class Iterating(Rows):
        def place(self, below):
            return (next(self.numbers) + next(self.listed, 0)) % below

    trainer.train_dataset = Iterating(rows_of(trainer))
    trainer.train_dataset.numbers = itertools.count(3, 5)
    trainer.train_dataset.listed = iter([*range(1, 50_000)])
    return lambda: (
        repr(trainer.train_dataset.numbers),
        trainer.train_dataset.listed.__reduce__()[2],
    )


@odd
def stream_with_a_generator(trainer):
    class Stream(torch.utils.data.IterableDataset):
        def __init__(self, rows):
            self.rows, self.generator, self.begun = rows, random.Random(1), 0

        def __iter__(self):
            self.begun += 1
            for row in self.rows:
                ids = list(row["input_ids"])
                ids[self.generator.randrange(len(ids) - 1)] = OTHER
                yield row | {"input_ids": ids}

    trainer.train_dataset = Stream(rows_of(trainer))
    return lambda: (trainer.train_dataset.generator.getstate(), trainer.train_dataset.begun)


@odd
def transform_with_a_closure(trainer):
    generator, calls = random.Random(1), 0

    def transform(batch):
        nonlocal calls
        calls += 1
        for ids in batch["input_ids"]:
            ids[generator.randrange(len(ids) - 1)] = OTHER
        return batch

    trainer.args.remove_unused_columns = False
    data = trainer.train_dataset.select_columns([*COLUMNS])
    trainer.train_dataset = data.with_transform(transform)
    return lambda: (calls, generator.getstate())


@odd
def sampler_with_a_generator(trainer):
    class Sampler(torch.utils.data.Sampler):
        def __init__(self, n):
            self.n, self.generator, self.epochs = n, torch.Generator().manual_seed(7), []

        def __len__(self):
            return self.n

        def __iter__(self):
            self.epochs.append(order := torch.randperm(self.n, generator=self.generator).tolist())
            yield from order

    sampler = Sampler(len(trainer.train_dataset))
    trainer._get_train_sampler = lambda *_: sampler
    return lambda: (sampler.generator.get_state().tolist(), copy.deepcopy(sampler.epochs))


GENERATOR = random.Random(1)
CALLS = {"collated": 0}
NUMBER = 0


@odd
def collator_of_globals(trainer):
    GENERATOR.seed(1)
    CALLS["collated"] = 0
    globals()["NUMBER"] = 0
    collate = trainer.data_collator

    def collator(rows):
        global NUMBER  # noqa: PLW0603
        NUMBER += 1
        CALLS["collated"] += 1
        batch = collate(rows)
        batch["input_ids"][0, GENERATOR.randrange(3)] = (OTHER + NUMBER + CALLS["collated"]) % 1000
        return batch

    trainer.data_collator = collator
    return lambda: (GENERATOR.getstate(), dict(CALLS), NUMBER)


class OddCollator:
    def __init__(self, collate):
        self.collate = collate
        self.tokenizer = collate.tokenizer
        self.lengths = collections.deque(maxlen=8)
        self.by_length = collections.defaultdict(collections.Counter)
        self.ring = bytearray(16)
        self.sums = array.array("d", [0.0] * 4)
        self.seen = set()

    def __call__(self, rows):
        batch = self.collate(rows)
        length = batch["input_ids"].shape[1]
        self.lengths.append(length)
        self.by_length[length % 7]["rows"] += len(rows)
        self.ring[length % 16] = (self.ring[length % 16] + 1) % 256
        self.sums[length % 4] += length
        self.seen.add(length)
        mixed = sum(self.lengths) + self.by_length[length % 7]["rows"] + sum(self.ring)
        batch["input_ids"][0, 0] = (mixed + int(sum(self.sums)) + len(self.seen)) % 1000
        return batch


@odd
def collator_with_nested_containers(trainer):
    trainer.data_collator = one = OddCollator(trainer.data_collator)
    return lambda: copy.deepcopy((list(one.lengths), {k: dict(v) for k, v in one.by_length.items()},
                                  bytes(one.ring), list(one.sums), set(one.seen)))  # fmt: skip


@odd
def collator_with_a_mutable_default(trainer):
    def collator(collate, rows, calls=[0]):  # noqa: B006  as users write it
        calls[0] += 1
        batch = collate(rows)
        batch["input_ids"][0, 0] = calls[0] % 1000
        return batch

    trainer.data_collator = functools.partial(collator, trainer.data_collator)
    return lambda: list(collator.__defaults__[0])


class Slotted:
    __slots__ = ("calls", "log")

    def __init__(self):
        self.calls, self.log = 0, []


@odd
def collator_with_slots(trainer):
    collate, slotted = trainer.data_collator, Slotted()

    def collator(rows):
        slotted.calls += 1
        slotted.log.append(len(rows))
        batch = collate(rows)
        batch["input_ids"][0, 0] = (slotted.calls + len(slotted.log)) % 1000
        return batch

    trainer.data_collator = collator
    return lambda: (slotted.calls, list(slotted.log))


@odd
def collator_with_a_shared_number(trainer):
    collate, shared = trainer.data_collator, multiprocessing.Value("i", 0)
    local = (ctypes.c_double * 2)()

    def collator(rows):
        shared.value += 1
        local[1] += 0.5
        batch = collate(rows)
        batch["input_ids"][0, 0] = (shared.value + int(2 * local[1])) % 1000
        return batch

    trainer.data_collator = collator
    return lambda: (shared.value, list(local))


@odd
def buffer_assigned_anew(trainer):
    model = trainer.model
    model.model.register_buffer("mean", torch.zeros(model.config.hidden_size))

    def hook(module, args, output):
        if model.training:
            model.model.mean = 0.9 * model.model.mean + 0.1 * output.detach().mean((0, 1))
            return output + 0.01 * model.model.mean
        return output

    model.model.norm.register_forward_hook(hook)
    return lambda: model.model.mean.tolist()  # noqa: PLW0108  it is another tensor by then


class Noise(torch.nn.Module):
    """Adds noise of its own generator, and counts."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.generator, self.calls = inner, torch.Generator().manual_seed(1), 0

    def forward(self, x):
        x = self.inner(x)
        if not self.training:
            return x
        self.calls += 1
        noise = torch.randn(x.shape, generator=self.generator)
        return x + 1e-2 * noise / (1 + self.calls % 3)


@odd
def module_with_a_generator(trainer):
    trainer.model.model.norm = noise = Noise(trainer.model.model.norm)
    return lambda: (noise.generator.get_state().tolist(), noise.calls)


class Bank(torch.nn.Module):
    """Keeps means of earlier batches in plain attributes."""

    def __init__(self, inner, size):
        super().__init__()
        self.inner = inner
        self.bank, self.last, self.numbers = [torch.zeros(size)], torch.zeros(size), numpy.zeros(3)
        self.nested = {"means": {"of": [0.0]}}

    def forward(self, x):
        x = self.inner(x)
        if self.training:
            mean = x.detach().mean((0, 1))
            self.bank.append(mean)
            self.last.mul_(0.5).add_(mean)
            self.numbers += float(mean.sum())
            self.nested["means"]["of"][0] += float(mean[0])
            del self.bank[:-3]
        shift = sum(self.bank) + self.last + self.numbers[0] + self.nested["means"]["of"][0]
        return x + 1e-3 * shift


@odd
def module_with_a_memory(trainer):
    norm = trainer.model.model.norm
    trainer.model.model.norm = bank = Bank(norm, trainer.model.config.hidden_size)
    return lambda: ([one.tolist() for one in bank.bank], bank.last.tolist(), bank.numbers.tolist(),
                    bank.nested["means"]["of"][0])  # fmt: skip


@odd
def hook_of_a_parameter(trainer):
    weight, calls = trainer.model.model.norm.weight, [0]

    def hook(gradient):
        calls[0] += 1
        return gradient * (1 + 1e-3 * (calls[0] % 5))

    weight.register_hook(hook)
    weight.seen = calls
    return lambda: (calls[0], len(weight._backward_hooks), weight.seen is calls)


@odd
def optimizer_with_attributes(trainer):
    class Rounds(torch.optim.Optimizer):
        """Signs, with noise and a rate that fall with its own count."""

        def __init__(self, parameters, lr):
            super().__init__(parameters, {"lr": lr})
            self.count, self.generator = 0, torch.Generator().manual_seed(1)

        @torch.no_grad()
        def step(self, closure=None):
            self.count += 1
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        noise = 1e-2 * torch.randn(p.shape, generator=self.generator)
                        p.add_(p.grad.sign() + noise, alpha=-group["lr"] / self.count)

    trainer.optimizer = one = Rounds(trainer.model.parameters(), 1e-4)
    return lambda: (one.count, one.generator.get_state().tolist())


@odd
def optimizer_with_slow_weights(trainer):
    class Lookahead(torch.optim.SGD):
        """Keeps slow weights in a dictionary of its own."""

        slow, steps = None, 0

        def step(self, closure=None):
            if self.slow is None:
                self.slow = {p: p.detach().clone() for p in self.param_groups[0]["params"]}
            super().step()
            self.steps += 1
            with torch.no_grad():
                for p, slow in self.slow.items():
                    slow.lerp_(p, 0.5)
                    if self.steps % 2 == 0:
                        p.copy_(slow)

    trainer.optimizer = one = Lookahead(trainer.model.parameters(), 1e-3)
    return lambda: (one.steps, one.slow and [float(slow.sum()) for slow in one.slow.values()])


@odd
def float32_moments_of_bfloat16_weights(trainer):
    trainer.model.bfloat16()
    trainer.optimizer = one = torch.optim.AdamW(trainer.model.parameters(), lr=1e-4)
    for p in trainer.model.parameters():
        p.grad = torch.full_like(p, 1e-3)
    one.step()
    one.zero_grad()
    for state in one.state.values():
        state["exp_avg"] = state["exp_avg"].float() + 1e-6
        state["exp_avg_sq"] = state["exp_avg_sq"].float()
    return lambda: [(s["exp_avg"].dtype, float(s["exp_avg"].double().sum()), float(s["step"]))
                    for s in one.state.values()]  # fmt: skip


@odd
def scheduler_with_a_history(trainer):
    class Own(torch.optim.lr_scheduler.LRScheduler):
        def __init__(self, optimizer):
            self.history, self.generator = [], random.Random(1)
            super().__init__(optimizer)

        def get_lr(self):
            self.history.append(self.generator.random())
            return [base * (1 + self.history[-1]) / 2 for base in self.base_lrs]

    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), 1e-3)
    trainer.lr_scheduler = one = Own(trainer.optimizer)
    return lambda: (list(one.history), one.generator.getstate(), one.last_epoch)


@odd
def loss_with_a_running_mean(trainer):
    from fixtures.faults import changed, subclassed

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        said = super(type(self), self).compute_loss(
            model, inputs, return_outputs=return_outputs, **kwargs
        )
        loss = said[0] if return_outputs else said
        self.running = 0.9 * getattr(self, "running", 0.0) + 0.1 * float(loss.detach())
        return changed(said, lambda loss: loss)

    subclassed(trainer, compute_loss=compute_loss)
    return lambda: getattr(trainer, "running", None)


@odd
def loss_module_with_weights(trainer):
    """A temperature outside of the model, which the optimizer trains."""
    from fixtures.faults import subclassed

    class Temperature(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.log = torch.nn.Parameter(torch.zeros(()))
            self.register_buffer("calls", torch.zeros(()))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        scale = self.temperature.log.exp()
        if model.training:
            self.temperature.calls += 1
        loss = torch.nn.functional.cross_entropy(outputs.logits * scale, inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    subclassed(trainer, compute_loss=compute_loss)
    trainer.model_accepts_loss_kwargs = False
    trainer.temperature = one = Temperature()
    # A rate at which the scale of step 2 is still that of the formula.
    of_scale = {"params": [*one.parameters()], "lr": 1e-7}
    trainer.optimizer = torch.optim.AdamW([{"params": trainer.model.parameters()}, of_scale], 1e-4)
    return lambda: (float(one.log.detach()), float(one.calls),
                    None if one.log.grad is None else float(one.log.grad))  # fmt: skip


@odd
def mean_of_the_weights(trainer):
    """A copy of the model that follows it, in the Trainer's hands."""
    from fixtures.faults import subclassed

    def training_step(self, *args, **kwargs):
        loss = super(type(self), self).training_step(*args, **kwargs)
        with torch.no_grad():
            pairs = zip(self.mean.parameters(), self.model.parameters(), strict=True)
            for mean, weight in pairs:
                mean.lerp_(weight, 0.1).add_(1e-6)
        return loss

    subclassed(trainer, training_step=training_step)
    trainer.mean = copy.deepcopy(trainer.model)
    return lambda: [float(p.double().sum()) for p in trainer.mean.parameters()]


@odd
def noisy_embeddings(trainer):
    trainer.args.neftune_noise_alpha = trainer.neftune_noise_alpha = 5.0
    layer = trainer.model.get_input_embeddings()
    return lambda: (len(layer._forward_hooks), getattr(layer, "neftune_noise_alpha", None))


@odd
def gradient_checkpointing(trainer):
    trainer.args.gradient_checkpointing = True
    # Reentrant checkpoints need inputs that require a gradient: hooks that stay.
    trainer.args.gradient_checkpointing_kwargs = {"use_reentrant": True}
    modules = [*trainer.model.modules()]
    return lambda: [len(one._forward_hooks) for one in modules]


@odd
def modules_own_train(trainer):
    class Staged(type(trainer.model)):
        stage = 0

        def train(self, mode=True):
            self.stage += bool(mode)
            super().train(mode)
            self.model.embed_tokens.weight.requires_grad_(self.stage > 1)
            return self

    trainer.model.__class__ = Staged
    return lambda: (trainer.model.stage, trainer.model.model.embed_tokens.weight.requires_grad)


@odd
def module_made_in_the_first_forward(trainer):
    class Late(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            x = self.inner(x)
            if not hasattr(self, "scale"):
                self.scale = torch.nn.Parameter(1 + 0.01 * torch.rand(x.shape[-1]), False)
                self.further = torch.nn.Identity()
            return self.further(x * self.scale)

    trainer.model.model.norm = late = Late(trainer.model.model.norm)
    return lambda: (list(late._modules), late.scale.tolist() if hasattr(late, "scale") else None)


@odd
def trainers_method_with_a_closure(trainer):
    step, state = trainer.training_step, {"calls": 0, "generator": random.Random(1)}

    def training_step(model, inputs, *args):
        state["calls"] += 1
        inputs["input_ids"][0, 0] = state["generator"].randrange(1000)
        return step(model, inputs, *args)

    trainer.training_step = training_step
    return lambda: (state["calls"], state["generator"].getstate())
