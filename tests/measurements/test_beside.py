"""What a Trainer holds beside its model: settings are none."""

from __future__ import annotations

from typing import Any

from fixtures.faults import healthy
from trainsanity.measurements.model.beside import beside
from trainsanity.pipeline import Pipeline


class Settings(dict[str, Any]):
    """As axolotl has them: every name that is not set is there, and None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def test_settings_that_answer_to_any_name_are_no_model() -> None:
    trainer = healthy()
    assert Settings().get_output_embeddings is None
    trainer.cfg = Settings()
    # A language model, so that models of as many tokens are looked for.
    trainer.model.get_output_embeddings = trainer.model.get_input_embeddings
    assert beside(Pipeline.from_trainer(trainer)) == []
