"""What the user's own code did to gradients, weights, and what is trainable."""

from __future__ import annotations

from dataclasses import dataclass, field

SAME = 1e-3
"""Part of a step that is taken for none: sums of float32 differences are exact to about 1e-5."""


@dataclass
class StepChange:
    """What moved the weights in one optimizer step, as norms over a sample of each parameter.

    Attributes:
        moved: by the optimizer.
        changed: by the user's own code.
        net: by both together.
    """

    moved: float = 0.0
    changed: float = 0.0
    net: float = 0.0

    @property
    def overridden(self) -> bool:
        """Whether that code undoes the optimizer's step, or changes more than it does."""
        undone = self.moved > 0 and self.net < SAME * self.moved
        return self.changed > 0 and (undone or self.changed > (1 + SAME) * self.moved)


@dataclass
class OwnChanges:
    """What the user's own code did in the recorded steps.

    Attributes:
        names: of the callbacks' classes, and of the Trainer's own methods.
        gradients: by parameter: ``taken away``, ``changed``.
        frozen: parameters that were frozen since training began, and still are after the last step.
        begun: parameters that were written to before the first step.
        steps: how weights moved.
    """

    names: list[str] = field(default_factory=list)
    gradients: dict[str, str] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    steps: list[StepChange] = field(default_factory=list)

    @property
    def who(self) -> str:
        """Whose code it is, in words."""
        return " or ".join(self.names)

    @property
    def taken_away(self) -> list[str]:
        """Parameters whose gradient it set to None."""
        return [name for name, how in self.gradients.items() if how == "taken away"]

    @property
    def writing(self) -> list[StepChange]:
        """The steps in which it wrote to weights."""
        return [step for step in self.steps if step.changed]

    @property
    def overriding(self) -> bool:
        """Whether it undoes or outweighs the optimizer in every recorded step."""
        return bool(self.steps) and all(step.overridden for step in self.steps)
