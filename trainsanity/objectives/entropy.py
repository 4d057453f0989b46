"""Cross entropy over items that are labelled with a class, and not with -100.

Of a loss with another ``ignore_index`` it is that: no class has a negative number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainsanity.objectives.base import Objective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """``logsumexp(z) - z_y``, smoothed to ``(1 - e) CE + e mean_c(-log p_c)``."""

    known: ClassVar[bool] = True

    def fits(self, logits: Tensor, labels: Tensor) -> bool:
        """Return whether labels are whole numbers, one for each vector of logits."""
        return not labels.is_floating_point() and labels.numel() == logits.shape[:-1].numel()

    def items(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return the rows of ``values`` whose labels are not ignored, ``[M, ...]``."""
        kept: Tensor = values[labels >= 0]
        return kept

    def targets(self, labels: Tensor) -> Tensor:
        """Return the labels that are not ignored, ``[M]``."""
        return labels[labels >= 0]

    def item_losses(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the cross entropy of each item, ``[M]`` in the dtype of ``z``."""
        # From the largest: of a logit of 20 the rounding is larger than what is left of 1 - p.
        z = z - z.detach().amax(-1, keepdim=True)
        normalizer = z.logsumexp(-1)
        entropy: Tensor = normalizer - z.gather(-1, y[:, None])[:, 0]
        if not self.label_smoothing:  # a language model's mean over its vocabulary is slow
            return entropy
        uniform = normalizer - z.mean(-1)
        return (1 - self.label_smoothing) * entropy + self.label_smoothing * uniform

    def library_losses(self, z: Tensor, y: Tensor) -> Tensor:
        """Return what ``cross_entropy`` makes of them.

        It adds up a row's exponentials in one chain of float32, where the small ones are rounded
        beside the largest: all probabilities of the row are off by one factor, the same at every
        scale of the loss. Of SmolLM2's 49,152 tokens that is fifty times the rounding of
        :meth:`item_losses`.
        """
        import torch

        return torch.nn.functional.cross_entropy(
            z, y, reduction="none", label_smoothing=self.label_smoothing
        )

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return ``softmax(z) - onehot(y)``, smoothed: minus ``(1 - e) onehot + e / C``."""
        size = logits.shape[-1]
        r = logits.double().softmax(-1)
        r[range(len(targets)), targets] -= 1 - self.label_smoothing
        return r - self.label_smoothing / size
