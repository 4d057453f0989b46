"""TS258 dataset.eval_pixels_are_alike."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.eval_pixels import Pixels
from trainsanity.types import Finding, Measured

SOME = 0.1
"""Share of values below 0 in one of the two from which they are no overshoot of interpolation."""

FAR = 20.0
"""How many times one range is the other's before it is another unit. Chosen: bytes are 255 times
what is between 0 and 1, and 50 times and more what is normalised."""


SWAPPED, SAME = 6.0, 3.0
"""Standard errors. Means of sixteen pictures of one kind lie six apart in two channels less than
once in a million times, and more than three apart less than once in a hundred."""


@check(
    "TS258",
    "dataset.eval_pixels_are_alike",
    needs=("trainer", "eval_dataset"),
    rules_out="pixels of the evaluation data",
)
def eval_pixels_are_alike(eval_pixels: list[Pixels]) -> Iterator[Measured | Finding]:
    """Pictures of evaluation and of training data are normalised alike.

    What it checks: the values of 16 pictures of each, as the collator returns them.

    Why it matters: `Normalize` in the transform of the training pictures alone makes evaluation ask
    for pictures that the model has never seen: brighter, with half the contrast. Its score stays
    poor whatever is learnt, and the best checkpoint is chosen by it.

    How it is measured: normalised pictures have values on both sides of 0. A failure where a tenth
    of the values of one are below 0 and none of the other's are, or where one range is more than 20
    times the other, as bytes beside fractions are. Where red and blue of the two are far apart
    (six standard errors of sixteen pictures), and red of one is blue of the other in both ways
    (within three), the channels are in another order: OpenCV reads BGR.

    How to fix: the same transform for both, without what is drawn at random::

        held = Compose([Resize(size), ToTensor(), Normalize(mean, std)])

    Known false alarms: evaluation pictures without one pixel darker than the mean.

    References: JeasunLok/ResNet-pytorch#1, avilash/pytorch-siamese-triplet#9.
    """
    train, *evals = eval_pixels
    for one in evals:
        sides = sorted((train.negative, one.negative))
        spans = sorted(x.highest - x.lowest for x in (train, one))
        unsigned = sides[0] == 0 and sides[1] >= SOME
        if unsigned or spans[1] > FAR * spans[0] > 0:
            yield Finding(
                f"pixels lie between {train.lowest:.3g} and {train.highest:.3g} in training, and "
                f"between {one.lowest:.3g} and {one.highest:.3g} in {one.name}",
                observed={"lowest": one.lowest, "highest": one.highest},
                expected={"lowest": train.lowest, "highest": train.highest},
                where=one.name,
                cause="one of the two transforms does not normalise"
                if unsigned
                else "one of the two transforms does not rescale bytes to fractions",
                fix="use the same preprocessing for both; only what is drawn at random is left out",
            )
        if _swapped(train, one):
            yield Finding(
                f"red and blue of {one.name} are blue and red of the training pictures",
                observed=[round(mean, 4) for mean, _ in one.colours],
                expected=[round(mean, 4) for mean, _ in train.colours],
                where=one.name,
                cause="the pictures of one of them are read in the order blue, green, red, as "
                "OpenCV does, and those of the other as red, green, blue",
                fix="cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), or one reader for both",
            )
    told = "; ".join(
        f"{one.name} {one.lowest:.3g} to {one.highest:.3g}, {one.negative:.0%} below 0"
        for one in eval_pixels
    )
    yield Measured(f"pixels of {len(eval_pixels)} data sets: {told}", None)


def _swapped(train: Pixels, held: Pixels) -> bool:
    """Return whether red and blue are far apart, and each is the other's other one."""
    if not train.colours or not held.colours:
        return False
    red, green, blue = range(3)
    far = min(train.apart(one, held, one) for one in (red, blue))
    pairs = ((red, blue), (blue, red), (green, green))
    near = max(train.apart(one, held, other) for one, other in pairs)
    return far > SWAPPED and near < SAME
