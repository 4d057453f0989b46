"""The first optimizer step's loss, recomputed from the very logits that the model made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainsanity.live.ranks import summed
from trainsanity.maths.factors import BETWEEN, Factor, Left, explained, kept
from trainsanity.maths.tolerances import LOG_DECIMALS, MARGIN, STANDARD_ERRORS, within
from trainsanity.maths.uninformed import uninformed
from trainsanity.objectives.base import SINGLE_LABEL, Objective
from trainsanity.types import Finding, Measured, Skip


@dataclass
class FirstStep:
    """Reads the micro-batches of one optimizer step through a forward hook.

    Only sequence classification heads are read: the logits of a language model, in float64, could
    take the memory that the run needs.

    Attributes:
        task: of the run.
        skipped: why a micro-batch could not be recomputed; empty if all could.
    """

    task: Objective
    skipped: str = ""
    _losses: list[Any] = field(default_factory=list)
    _own: list[Any] = field(default_factory=list)
    """What the model itself returns as the loss of each micro-batch."""
    _logits: list[Any] = field(default_factory=list)
    _targets: list[Any] = field(default_factory=list)
    _eps: float = 0.0
    _handle: Any = None
    _totals: list[float] | None = None

    def watch(self, model: Any) -> None:
        """Read every training forward of the model from now on."""
        if not self.task.known:
            self.skipped = f"no reference loss for {type(model).__name__}"
        self._handle = model.register_forward_hook(self._see, with_kwargs=True)

    def close(self, device: Any) -> None:
        """Stop reading, and sum over the processes."""
        if self._handle is None:
            return
        self._handle.remove()
        self._handle = None
        losses = [float(each.sum()) for each in self._losses]
        sizes = [len(each) for each in self._losses]
        means = [total / size for total, size in zip(losses, sizes, strict=True) if size]
        mine = [math.fsum(losses), sum(sizes), math.fsum(means), len(means), bool(self.skipped),
                math.fsum(map(float, self._own)), len(self._own)]  # fmt: skip
        self._totals = summed([float(value) for value in mine], device)
        self._losses.clear()
        self._own.clear()

    def _see(self, model: Any, args: Any, inputs: Mapping[str, Any], output: Any) -> None:
        import torch

        if self.skipped or not model.training:
            return
        logits, labels = getattr(output, "logits", None), inputs.get("labels")
        if not (torch.is_tensor(logits) and torch.is_tensor(labels)):
            self.skipped = "the model was not called with labels, or returned no logits"
        elif logits.dim() != 2:
            self.skipped = "only logits of one row per example are recomputed while a run runs"
        else:
            with torch.no_grad():
                targets = self.task.targets(labels).detach()
                values = self.task.items(logits.detach(), labels)
                self._losses.append(self.task.losses(values, targets))
                loss = getattr(output, "loss", None)
                if torch.is_tensor(loss) and loss.numel() == 1:
                    self._own.append(loss.detach())
                if self.task.name == SINGLE_LABEL:
                    self._logits.append(values.double().cpu())
                    self._targets.append(targets.cpu())
            self._eps = float(torch.finfo(logits.dtype).eps)

    def scale(self, logged: float | None, facts: Mapping[str, Any]) -> Iterator[Measured | Finding]:
        """Compare the logged loss with the mean over the examples of the step.

        Class weights and auxiliary losses make no plain mean, and must not stop a run: only a
        factor that is a known quantity of the run is a finding.
        """
        total, count, means, batches, own, owns = self._seen()
        if logged is None:
            raise Skip("step 1 was not logged")
        expected, by_batch = total / count, means / batches
        allowed = MARGIN * self._eps * abs(expected) + LOG_DECIMALS + abs(expected - by_batch)
        factor = Factor.of(logged, expected, allowed)
        words = f"the mean over the {count:.0f} examples of the step is {expected:.4f}"
        if not abs(logged - expected) <= allowed:
            left = Left(factor.names(facts))
            # Where each micro-batch's loss is right, the factor is between them.
            if owns == batches and within(abs(own / owns - by_batch), allowed):
                words = f"the model's own losses are {own / owns:.4f} on average"
                left = kept(left.names, BETWEEN, words)
            names = left.names
            if names:
                yield Finding(
                    f"the Trainer logs a loss of {logged:.4f}; {words}: {factor.value:.2f} x",
                    observed=logged,
                    expected=expected,
                    factor=factor.value,
                    where="the first step",
                    candidates=tuple(names),
                    tested=left.tested,
                    cause=explained(factor.value, names),
                    fix="model.accepts_loss_kwargs = False before the Trainer is built, for a "
                    "model whose loss ignores num_items_in_batch",
                )
        yield Measured(
            f"the first logged loss is {logged:.4f}; {words}: {factor.value:.4f} x",
            logged,
            expected,
        )

    def uninformed(self) -> Iterator[Measured | Finding]:
        """Compare the loss with that of the same logits if they say nothing about the labels.

        With the shares p of the labels in this very step, sum_c p_c z_c - z_y has the mean 0 over
        all ways to hand these labels to these rows; its variance is that of each row's logits
        under p.
        """
        import torch

        self._seen()
        if not self._logits:
            raise Skip(f"defined for single-label classification, not for {self.task.name}")
        z, y = torch.cat(self._logits), torch.cat(self._targets)
        shares = torch.bincount(y, minlength=z.shape[1]).double() / len(y)
        random = uninformed(z, y, shares)
        loss = random.loss + random.gap
        log = f"{random.loss:.3f} +- {random.error:.3f}, "
        log += f"log {z.shape[1]} = {math.log(z.shape[1]):.3f}"
        if random.gap > STANDARD_ERRORS * random.error + LOG_DECIMALS:
            yield Finding(
                f"the first loss is {loss:.3f}; logits that say nothing about the labels would "
                f"give {log}",
                observed=loss,
                expected=random.loss,
                factor=loss / random.loss,
                where="the first step",
                cause="the head's outputs belong to other labels than the dataset's",
                fix="compare model.config.label2id with the dataset's names, or draw a new head",
            )
        yield Measured(f"first loss {loss:.3f}, uninformed {log}", loss, random.loss)

    def _seen(self) -> tuple[float, float, float, float, float, float]:
        if self._totals is None:
            raise Skip(self.skipped or "the first step is not over")
        total, count, means, batches, skipped, own, owns = self._totals
        if skipped or not count:
            raise Skip(self.skipped or "no micro-batch of the first step could be recomputed")
        return total, count, means, batches, own, owns
