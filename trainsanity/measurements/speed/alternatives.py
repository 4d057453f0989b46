"""Other settings of a step, each timed beside the run's own on the same micro-batch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.errors import first_line
from trainsanity.isolation.out_of_memory import give_back, out_of_memory
from trainsanity.isolation.random_states import global_random_states
from trainsanity.maths.repetitions import WORTH, ratio_of
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS
from trainsanity.measurements.model.attention import IMPLEMENTATIONS, switched
from trainsanity.measurements.speed import clock as part
from trainsanity.measurements.speed.clock import Clock
from trainsanity.measurements.speed.figures import Alternative, Clocked, MicroPass
from trainsanity.measurements.speed.operations import operations_of
from trainsanity.measurements.speed.shorter import shortened
from trainsanity.measurements.step.checkpointing import checkpointed, checkpointed_in
from trainsanity.pipeline import unwrapped

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROUNDS, LONG_ENOUGH, PATIENCE = 9, 3.0, 20.0
"""Rounds of own, other, own that are timed at the least; seconds that they go on where a pass takes
milliseconds; and seconds after which no further round is begun once there are three.  The median of
nine stays among the others if four rounds are disturbed; the times are chosen."""

FEWEST = 3
"""Rounds without which there is no noise to tell."""


def alternatives_in(pipeline: Pipeline, seen: Clocked, micro: MicroPass) -> None:
    """Fill in the operations of the micro-batch, and what each other setting makes of a step."""
    seen.operations = operations_of(pipeline, lambda: micro.take(micro.inputs))
    _Asked(pipeline, seen, micro).all()


class _Asked:
    """Takes one micro-batch again and again, with one setting and another."""

    def __init__(self, pipeline: Pipeline, seen: Clocked, micro: MicroPass) -> None:
        self.pipeline, self.seen, self.micro = pipeline, seen, micro
        self.clock = Clock(pipeline.trainer.args.device)
        self.rewind = global_random_states()
        # Of the step, what a micro-batch's passes are.
        self.share = seen.share(part.FORWARD, part.BACKWARD)

    def all(self) -> None:
        """Try every setting that this pipeline could have otherwise."""
        self._attention()
        self._tf32()
        self._checkpointing()
        self._padding()
        self._optimizer()

    def _attention(self) -> None:
        model = unwrapped(self.pipeline.model)
        own = getattr(getattr(model, "config", None), "_attn_implementation", None)
        if own is None or not getattr(model, "_supports_attention_backend", False):
            return
        half = self.pipeline.dtype.itemsize == 2
        for name in IMPLEMENTATIONS:
            if name in (own, "eager"):  # which is never the faster one that somebody should take
                continue
            if switched(model, name, half=half):
                switched(model, own, half=half)
                self._passes("attention", name, str(own), _attention(model, name, str(own), half))

    def _tf32(self) -> None:
        import torch

        product = torch.backends.cuda.matmul
        if self.pipeline.device.type != "cuda" or self.pipeline.dtype != torch.float32:
            return
        if torch.cuda.get_device_capability()[0] >= 8 and not product.allow_tf32:
            self._passes("tf32", "on", "off", _tf32, exact=False)

    def _checkpointing(self) -> None:
        model = self.pipeline.model
        if checkpointed(model):
            self._passes("checkpointing", "off", "on", lambda: checkpointed_in(model, []))

    def _padding(self) -> None:
        inputs = self.micro.inputs
        shorter = shortened(inputs) if isinstance(inputs, Mapping) else None
        if shorter is not None:
            now, then = inputs["input_ids"].shape[-1], shorter["input_ids"].shape[-1]
            self._passes("padding", f"{then} positions", f"{now} positions",
                         contextlib.nullcontext, other=shorter)  # fmt: skip

    def _passes(
        self,
        kind: str,
        name: str,
        now: str,
        way: Callable[[], contextlib.AbstractContextManager[Any]],
        *,
        other: Any = None,
        exact: bool = True,
    ) -> None:
        """Compare passes forward and backward.

        Args:
            kind: as in :class:`Alternative`.
            name: as there.
            now: as there.
            way: the other setting, as a context.
            other: the other batch; None for the same.
            exact: whether the loss has to be the same but for the order of sums.
        """
        micro = self.micro
        given = micro.inputs if other is None else other
        losses: dict[bool, float] = {}

        def take(there: bool) -> float:
            self.rewind()
            with way() if there else contextlib.nullcontext():
                begin = self.clock.wait()
                loss = micro.take(given if there else micro.inputs)
                taken = self.clock.wait() - begin
            losses[there] = float(loss)
            return taken

        ratio = self._compare(kind, name, take)
        if ratio is None:
            return
        agrees = self._same(losses[False], losses[True]) if exact else None
        words = f"the loss is {losses[True]:.6g} in place of {losses[False]:.6g}"
        found = Alternative(kind, name, now, ratio.of_step(self.share), agrees, words)
        self.seen.alternatives.append(found)

    def _same(self, one: float, other: float) -> bool:
        import torch

        half = self.pipeline.dtype.itemsize == 2 or (
            getattr(self.pipeline.trainer.accelerator, "mixed_precision", "no") != "no"
        )
        eps = torch.finfo(torch.bfloat16).eps if half else REDUCTIONS
        return abs(one - other) <= MARGIN * eps * max(abs(one), 1.0)

    def _compare(self, kind: str, name: str, take: Callable[[bool], float]) -> Any:
        """Return the ratio; None with a sentence where the other way cannot be taken."""
        times: tuple[list[float], list[float], list[float]] = ([], [], [])
        try:
            take(False), take(True)  # which compile, and fill torch's pool of memory
            begin = time.perf_counter()
            while self._goes_on(len(times[0]), time.perf_counter() - begin):
                for row, there in zip(times, (False, True, False), strict=True):
                    row.append(take(there))
        except Exception as error:
            self._untried(kind, name, error)
            return None
        return ratio_of(*times)

    def _goes_on(self, rounds: int, seconds: float) -> bool:
        if self.seen.processes > 1:  # which have to take as many
            return rounds < ROUNDS
        if rounds < FEWEST:
            return True
        return seconds < LONG_ENOUGH or (rounds < ROUNDS and seconds < PATIENCE)

    def _untried(self, kind: str, name: str, error: Exception) -> None:
        what = f"{kind} {name}"
        if out_of_memory(error) is None:
            said = f"raised {type(error).__name__}: {first_line(error)}"
        else:
            give_back(error)
            said = "does not fit into memory"
        self.seen.untried.append(f"{what} {said}")

    def _optimizer(self) -> None:
        """Compare the optimizer's step with that of its fused kernel, on weights of this run."""
        share = self.seen.share(part.OPTIMIZER)
        own = getattr(self.micro.optimizer, "optimizer", self.micro.optimizer)
        if own is None or not _could_fuse(own) or share <= WORTH:
            return  # all of it could not gain more than that
        fused: Any = None

        def take(there: bool) -> float:
            nonlocal fused
            if there and fused is None:
                groups = [
                    {k: v for k, v in group.items() if k not in ("fused", "foreach")}
                    for group in own.param_groups
                ]
                fused = type(own)(groups, fused=True)
            for group in own.param_groups:
                for parameter in group["params"]:
                    if parameter.requires_grad and parameter.grad is None:
                        parameter.grad = parameter.detach().clone()
            begin = self.clock.wait()
            (fused if there else own).step()
            return self.clock.wait() - begin

        ratio = self._compare("optimizer", "fused", take)
        if ratio is not None:
            now = "foreach" if own.param_groups[0].get("foreach") is not False else "one by one"
            found = Alternative("optimizer", "fused", now, ratio.of_step(share))
            self.seen.alternatives.append(found)


def _could_fuse(optimizer: Any) -> bool:
    import torch

    kinds = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)
    groups = optimizer.param_groups
    return type(optimizer) in kinds and not any(group.get("fused") for group in groups)


def _attention(
    model: Any, name: str, own: str, half: bool
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def way() -> Iterator[None]:
        switched(model, name, half=half)
        try:
            yield
        finally:
            switched(model, own, half=half)

    return way


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
