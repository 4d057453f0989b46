"""Losses of sentence-transformers: embeddings of pairs, and scores of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainsanity.objectives.outputs import Call, Mistake, OfOutputs, Terms, entropies
from trainsanity.objectives.registry import objective
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

CONTRASTIVE = "contrastive"
SIMILARITY = "similarity"
RERANKING = "reranking"

PACKAGE = "sentence_transformers"

EMBEDDING = "sentence_embedding"


def loss_of(trainer: Any) -> Any:
    """Return the loss module of a Trainer of sentence-transformers; None for another Trainer.

    A Trainer that has several, each for a dataset of its own, gives none.
    """
    of_package = any(cls.__module__.partition(".")[0] == PACKAGE for cls in type(trainer).__mro__)
    loss = getattr(trainer, "loss", None) if of_package else None
    return None if isinstance(loss, dict) else loss


def of_kind(trainer: Any, name: str) -> bool:
    """Return whether the Trainer's loss is the package's of that name, or a subclass of it."""
    return any(
        cls.__name__ == name and cls.__module__.partition(".")[0] == PACKAGE
        for cls in type(loss_of(trainer)).__mro__
    )


@objective
@dataclass(frozen=True)
class Contrastive(OfOutputs):
    """Each text is to find its own positive among those of the batch (InfoNCE).

    Cross entropy of ``scale * cos(anchor, candidate)`` over all candidates of the batch, hard
    negatives included.
    """

    name: ClassVar[str] = CONTRASTIVE
    item_word: ClassVar[str] = "anchors"
    additive: ClassVar[bool] = False
    by_trainer: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = (EMBEDDING,)

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether sentence-transformers' loss of in-batch negatives is trained."""
        return of_kind(pipeline.trainer, "MultipleNegativesRankingLoss")

    def settings(self, trainer: Any) -> Mapping[str, Any]:
        """Return the scale, and which similarity is taken.

        Raises:
            Skip: other directions, hardness or similarity are asked for.
        """
        loss = loss_of(trainer)
        for name, plain in (
            ("directions", ("query_to_doc",)),
            ("partition_mode", "joint"),
            ("hardness_mode", None),
            ("gather_across_devices", False),
        ):
            if getattr(loss, name, plain) != plain:
                raise Skip(f"{name}={getattr(loss, name)} changes the formula")
        similarity = getattr(getattr(loss, "similarity_fct", None), "__name__", "")
        if similarity not in ("cos_sim", "pytorch_cos_sim", "dot_score"):
            raise Skip(f"no formula for the similarity {similarity or 'of its own'}")
        return {"scale": float(loss.scale), "unit": similarity != "dot_score"}

    def terms(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Terms:
        """Return the anchors."""
        del inputs
        return Terms.mean(_found(*_sides(calls), **settings))

    def mistakes(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Mistake]:
        """Yield wrong formulas of in-batch negatives."""
        del inputs
        anchors, candidates = _sides(calls)
        scale, unit = settings["scale"], settings["unit"]
        if scale != 1:
            yield (
                "the similarities are not multiplied by the scale",
                f"scores * {scale:g}: between -1 and 1 the loss can hardly fall",
                lambda: _found(anchors, candidates, scale=1.0, unit=unit).mean(),
            )
            yield (
                "the similarities are divided by the scale, as if it were a temperature",
                f"scores * {scale:g}",
                lambda: _found(anchors, candidates, scale=1 / scale, unit=unit).mean(),
            )
        yield (
            "embeddings are not normalised: the dot product stands for the cosine"
            if unit
            else "embeddings are normalised, where the dot product is asked for",
            "similarity_fct=util.cos_sim" if unit else "similarity_fct=util.dot_score",
            lambda: _found(anchors, candidates, scale=scale, unit=not unit).mean(),
        )
        yield (
            "the loss is summed over anchors and not averaged",
            'reduction="mean"',
            lambda: _found(anchors, candidates, scale=scale, unit=unit).sum(),
        )
        if len(candidates) == len(anchors):
            yield (
                "softmax runs over the anchors and not over the candidates",
                "scores[i, j] is anchor i with candidate j, and the softmax runs along j",
                lambda: _found(candidates, anchors, scale=scale, unit=unit).mean(),
            )
        else:
            yield (
                "hard negatives are left out",
                "candidates are the positives and the negatives of all rows",
                lambda: _found(anchors, candidates[: len(anchors)], scale=scale, unit=unit).mean(),
            )


@objective
@dataclass(frozen=True)
class Similarity(OfOutputs):
    """The squared error between the cosine of a pair and its label."""

    name: ClassVar[str] = SIMILARITY
    item_word: ClassVar[str] = "pairs"
    of_rows: ClassVar[bool] = True
    by_trainer: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = (EMBEDDING,)

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether sentence-transformers' loss of cosines and labels is trained."""
        return of_kind(pipeline.trainer, "CosineSimilarityLoss")

    def settings(self, trainer: Any) -> Mapping[str, Any]:
        """Return nothing.

        Raises:
            Skip: cosines are transformed, or compared by another function.
        """
        import torch

        loss = loss_of(trainer)
        squared = getattr(loss, "loss_fct", None)
        if type(squared) is not torch.nn.MSELoss or squared.reduction != "mean":
            raise Skip(f"loss_fct={type(squared).__name__} changes the formula")
        if not isinstance(getattr(loss, "cos_score_transformation", None), torch.nn.Identity):
            raise Skip("cos_score_transformation changes the formula")
        return {}

    def terms(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Terms:
        """Return the pairs."""
        del settings
        first, second, labels = _labelled(calls, inputs)
        return Terms.mean((_cosines(first, second) - labels).square())

    def mistakes(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Mistake]:
        """Yield wrong formulas of a pair's similarity."""
        del settings
        first, second, labels = _labelled(calls, inputs)
        cosines = _cosines(first, second)
        yield (
            "the dot product stands for the cosine",
            "torch.cosine_similarity(first, second)",
            lambda: ((first * second).sum(-1) - labels).square().mean(),
        )
        yield (
            "targets are broadcast: every cosine is compared with every label",
            "labels.view(-1)",
            lambda: (cosines[:, None] - labels[None, :]).square().mean(),
        )
        yield (
            "the loss is summed over pairs and not averaged",
            'reduction="mean"',
            lambda: (cosines - labels).square().sum(),
        )
        yield (
            "a label is taken for a distance: 1 - cosine is compared with it",
            "compare the cosine with the label",
            lambda: (1 - cosines - labels).square().mean(),
        )


@objective
@dataclass(frozen=True)
class Reranking(OfOutputs):
    """Whether a text answers a query: binary cross entropy of one number for each pair."""

    name: ClassVar[str] = RERANKING
    item_word: ClassVar[str] = "pairs"
    of_rows: ClassVar[bool] = True
    by_trainer: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("scores",)

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether sentence-transformers' loss of a reranker's scores is trained."""
        return of_kind(pipeline.trainer, "BinaryCrossEntropyLoss")

    def settings(self, trainer: Any) -> Mapping[str, Any]:
        """Return what a pair that answers weighs.

        Raises:
            Skip: scores go through a function of the user's own first.
        """
        import torch

        loss = loss_of(trainer)
        if not isinstance(getattr(loss, "activation_fn", None), torch.nn.Identity):
            raise Skip("activation_fn changes the formula")
        return {"weight": getattr(loss, "pos_weight", None)}

    def terms(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Terms:
        """Return the pairs."""
        scores, labels = _scored(calls, inputs)
        return Terms.mean(_binary(scores, labels, settings["weight"]))

    def mistakes(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Mistake]:
        """Yield wrong formulas of a reranker's scores."""
        scores, labels = _scored(calls, inputs)
        weight = settings["weight"]
        yield (
            "the sigmoid is taken twice",
            "give binary_cross_entropy_with_logits the raw score",
            lambda: _binary(scores.sigmoid(), labels, weight).mean(),
        )
        yield (
            "the score itself is compared with the label",
            "binary_cross_entropy_with_logits(scores, labels)",
            lambda: (scores - labels).square().mean(),
        )
        yield (
            "labels are exchanged: pairs that answer count as those that do not",
            "1 for a pair that answers",
            lambda: _binary(scores, 1 - labels, weight).mean(),
        )
        yield (
            "the loss is summed over pairs and not averaged",
            'reduction="mean"',
            lambda: _binary(scores, labels, weight).sum(),
        )


def _sides(calls: Sequence[Call]) -> tuple[Tensor, Tensor]:
    """Return embeddings of the anchors, and of all candidates: positives, then negatives."""
    import torch

    if not calls:
        raise Skip("the loss made no pass that shows its embeddings")
    # The package embeds the anchors by themselves, and the other columns one by one or at once.
    rows = torch.cat([call.outputs[EMBEDDING] for call in calls])
    size = len(calls[0].outputs[EMBEDDING])
    if rows.dim() != 2 or len(rows) == size or len(rows) % size:
        raise Skip("the passes are not one for the anchors, and others for as many candidates")
    return rows[:size], rows[size:]


def _found(anchors: Tensor, candidates: Tensor, *, scale: float, unit: bool) -> Tensor:
    """Return the cross entropy of each anchor over the candidates; its own lies at its index."""
    import torch

    if unit:
        anchors, candidates = (
            torch.nn.functional.normalize(one, dim=-1) for one in (anchors, candidates)
        )
    scores = scale * anchors @ candidates.T
    return entropies(scores, torch.arange(len(scores), device=scores.device))


def _labelled(calls: Sequence[Call], inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    first, second = _sides(calls)
    if len(first) != len(second):
        raise Skip("a row has more than two texts")
    return first, second, _labels(inputs, first)


def _scored(calls: Sequence[Call], inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    if len(calls) != 1:
        raise Skip(f"the loss made {len(calls)} passes, and the formula is of one")
    scores = calls[0].outputs["scores"].reshape(-1)
    return scores, _labels(inputs, scores)


def _labels(inputs: Mapping[str, Any], like: Tensor) -> Tensor:
    import torch

    found = [inputs[name] for name in ("label", "labels", "score", "scores") if name in inputs]
    if len(found) != 1 or not torch.is_tensor(found[0]) or found[0].numel() != len(like):
        raise Skip("the batch has no label for each pair")
    return found[0].reshape(-1).to(like)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.cosine_similarity(first, second)


def _binary(scores: Tensor, labels: Tensor, weight: Any) -> Tensor:
    import torch

    return torch.nn.functional.binary_cross_entropy_with_logits(
        scores,
        labels,
        reduction="none",
        pos_weight=None if weight is None else weight.to(scores),
    )
