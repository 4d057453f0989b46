"""Which tokens of a batch are answers, and what policy and reference say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.measurements.step.passes import Pass
from trainsanity.objectives.preference import of_classes
from trainsanity.objectives.preference_formulas import Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Side:
    """Token ids of whole rows with the tokens that are answers, all ``[B, L]`` on the CPU."""

    ids: Tensor
    attended: Tensor
    counted: Tensor


@dataclass(frozen=True)
class Answers:
    """The answers of a micro-batch.

    Attributes:
        main: the rows that are compared.
        liked: whether each is the better one of its pair, or was liked.
        others: KTO's mismatched rows; None for objectives without.
        has_reference: whether the objective subtracts a reference.
        prompts_too: whether the likelihood that is added counts prompts, as ORPO's does.
    """

    main: Side
    liked: Tensor
    others: Side | None = None
    has_reference: bool = True
    prompts_too: bool = False

    def scores(
        self, policy: Any, seen: Sequence[Pass], inputs: Mapping[str, Any]
    ) -> tuple[Scores | None, Scores | None, Pass | None, str]:
        """Return scores of the answers, of whole rows, and the policy's pass; or a reason."""
        import torch

        ours = [one for one in seen if _same(one.ids, self.main.ids)]
        mine = [one for one in ours if one.module is policy and one.graded]
        if len(mine) != 1:
            return None, None, None, "the policy was not asked once about all answers of the batch"
        main = mine[0]
        theirs = [one for one in ours if one is not main]
        reference = stored = None
        if self.has_reference and theirs:
            reference = theirs[-1].live
        elif self.has_reference:
            stored = _stored(inputs, main.live.device)
            if stored is None:
                return None, None, None, "the reference was not asked about the same tokens"
        gap: Any = None
        if self.others is not None:
            pair = [one for one in seen if _same(one.ids, self.others.ids)]
            if len(pair) == 2:
                gap = tuple(one.live for one in pair)
            elif len(pair) == 1 and "ref_KL_logps" in inputs:
                gap = (pair[0].live, None)
            else:
                return None, None, None, "the rows of the divergence were not asked about"

        def scored(counted: Tensor, others: Tensor | None) -> Scores:
            device = main.live.device
            mask = counted.to(device)
            kept = mask[:, 1:].double()

            def total(values: Any, kept: Tensor) -> Tensor:
                summed: Tensor = (values.double() * kept).sum(1)
                return summed

            divergence = torch.zeros((), dtype=torch.float64, device=device)
            if gap is not None and others is not None:
                beside = others.to(device)[:, 1:].double()
                held = inputs["ref_KL_logps"].to(device) if gap[1] is None else None
                held = total(gap[1], beside) if held is None else held.double()
                divergence = (total(gap[0], beside) - held).mean().detach()
            liked = self.liked.to(device)
            taught = (self.main.attended.to(device) if self.prompts_too else mask)[:, 1:]
            taught = taught[liked].double()
            spoken = (main.live.double()[liked] * taught).sum() / taught.sum().clamp(min=1)
            own = total(main.live, kept)
            if reference is not None:
                other = total(reference, kept).detach()
            else:
                other = torch.zeros_like(own) if stored is None else stored.double()
            counts = (kept if self.prompts_too else mask).sum(1).double()
            return Scores(own, other, counts, liked, divergence, -spoken)

        also = self.others
        scores = scored(self.main.counted, None if also is None else also.counted)
        # Stored log-probabilities are of the answers alone.
        whole = None
        if stored is None and (gap is None or gap[1] is not None):
            whole = scored(self.main.attended, None if also is None else also.attended)
        return scores, whole, main, ""


def answers_of(
    trainer: Any, inputs: Any, rows: Sequence[Mapping[str, Any]] | None
) -> tuple[Answers | None, str]:
    """Return the answers of a batch as TRL's collators lay it out; None and why for others."""
    import torch

    if not isinstance(inputs, Mapping):
        return None, "the batch is no dictionary"
    if of_classes(trainer, ("ORPOTrainer",)):
        return _concatenated(trainer, inputs)
    names = "input_ids", "attention_mask", "completion_mask"
    if not all(torch.is_tensor(inputs.get(name)) for name in names):
        return None, "the batch has no input_ids with a completion_mask"
    if of_classes(trainer, ("KTOTrainer",)):
        main = _side(inputs, "", [(row, "completion_ids") for row in rows or ()])
        liked = torch.as_tensor(inputs["label"]).bool().cpu()
        others = None
        if "KL_input_ids" in inputs:
            others = _side(inputs, "KL_", [(row, "KL_completion_ids") for row in rows or ()])
        return Answers(main, liked, others), ""
    if len(inputs["input_ids"]) % 2:
        return None, "the batch is no pairs"
    sides = [(row, f"{name}_ids") for name in ("chosen", "rejected") for row in rows or ()]
    main = _side(inputs, "", sides)
    half = len(main.ids) // 2
    return Answers(main, torch.arange(len(main.ids)) < half), ""


def _side(
    inputs: Mapping[str, Any], prefix: str, rows: list[tuple[Mapping[str, Any], str]]
) -> Side:
    """Return rows with their answers: as the dataset has them, or else as the batch's mask does."""
    ids, attended, counted = (
        inputs[f"{prefix}{name}"].detach().cpu()
        for name in ("input_ids", "attention_mask", "completion_mask")
    )
    attended = attended.bool()
    return Side(ids, attended, _from_rows(ids, attended, rows, counted.bool()))


def _from_rows(
    ids: Tensor, attended: Tensor, rows: list[tuple[Mapping[str, Any], str]], counted: Tensor
) -> Tensor:
    """Return where the answers' tokens are, also of rows that were cut at either end."""
    import torch

    if len(rows) != len(ids):
        return counted
    found = torch.zeros_like(attended)
    for k, (row, name) in enumerate(rows):
        prompt, answer = row.get("prompt_ids"), row.get(name)
        if prompt is None or answer is None:
            return counted
        whole, real = [*prompt, *answer], ids[k][attended[k]].tolist()
        if real == whole[: len(real)]:
            start = len(prompt)
        elif real == whole[len(whole) - len(real) :]:
            start = max(0, len(prompt) - (len(whole) - len(real)))
        else:
            return counted
        found[k, attended[k].nonzero()[start:, 0]] = True
    return found


def _concatenated(trainer: Any, inputs: Mapping[str, Any]) -> tuple[Answers | None, str]:
    """Return the answers of a batch that keeps chosen and rejected rows apart."""
    import torch
    from torch.nn.functional import pad

    sides = []
    for name in ("chosen", "rejected"):
        parts = [inputs.get(f"{name}_{part}") for part in ("input_ids", "attention_mask", "labels")]
        if not all(torch.is_tensor(part) and part.dim() == 2 for part in parts):
            return None, "the batch has no rows of chosen and rejected answers"
        sides.append([part.detach().cpu() for part in parts if part is not None])
    if getattr(trainer, "is_encoder_decoder", False):
        return None, "an encoder-decoder's answers are not asked about"
    width = max(ids.shape[1] for ids, _, _ in sides)
    fills = getattr(trainer, "padding_value", None) or 0, 0, -100
    ids, attended, labels = (
        torch.cat([pad(side[k], (0, width - side[k].shape[1]), value=fills[k]) for side in sides])
        for k in range(3)
    )
    attended = attended.bool()
    counted = (labels != -100) & attended
    prompts, masks = inputs.get("prompt_input_ids"), inputs.get("prompt_attention_mask")
    if torch.is_tensor(prompts) and torch.is_tensor(masks):
        for k in range(len(ids)):
            row = k % len(prompts)
            prompt = prompts[row][masks[row].bool()].tolist()
            places = attended[k].nonzero()[:, 0]
            if ids[k][places][: len(prompt)].tolist() == prompt:
                counted[k] = False
                counted[k, places[len(prompt) :]] = True
    half = len(ids) // 2
    side = Side(ids, attended, counted)
    return Answers(side, torch.arange(len(ids)) < half, None, False, True), ""


def _stored(inputs: Mapping[str, Any], device: Any) -> Tensor | None:
    """Return the reference's log-probabilities that a batch brings along."""
    import torch

    if torch.is_tensor(inputs.get("ref_logps")):
        brought: Tensor = inputs["ref_logps"].to(device)
        return brought
    parts = [inputs.get(f"ref_{side}_logps") for side in ("chosen", "rejected")]
    if all(torch.is_tensor(part) for part in parts):
        return torch.cat([part for part in parts if part is not None]).to(device)
    return None


def _same(ids: Tensor, others: Tensor) -> bool:
    return ids.shape == others.shape and bool((ids == others).all())
