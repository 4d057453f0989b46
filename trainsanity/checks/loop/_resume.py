"""Shared by checks of the loop stage."""

from __future__ import annotations

LOST = {
    "weights": (
        "the weights are not those that were saved",
        "the checkpoint does not hold all of them, or something writes to them when it is loaded",
        "compare the names in the checkpoint's safetensors files with model.state_dict()",
    ),
    "trainable": (
        "other parameters are trainable than before the cut",
        "what is frozen is decided while the run goes on, and not when the model is built",
        "freeze and unfreeze where the model is built, so that a fresh process does it, too",
    ),
    "settings": (
        "attributes of modules are others than before the cut",
        "a number that changes in training is a plain attribute, which no checkpoint holds",
        "register it as a buffer, or compute it from the step",
    ),
    "optimizer": (
        "the optimizer does not remember what it had seen",
        "its state was not saved or not loaded: the moments start again at zero",
        "save_only_model=False, and leave optimizer.pt where the Trainer puts it",
    ),
    "learning rate": (
        "the learning rate is another",
        "the optimizer's groups were not restored, or are built with other rates",
        "build the optimizer alike in every process, or leave it to the Trainer",
    ),
    "scheduler": (
        "the schedule stands at another step",
        "the scheduler's state was not saved or not loaded: it starts again with its warm-up",
        "give the scheduler a state_dict and a load_state_dict, or leave it to the Trainer",
    ),
    "random numbers": (
        "the random numbers are others than in the run that was not cut",
        "their states were not saved or not loaded, so dropout and sampling go another way",
        "leave rng_state.pth beside the checkpoint, and seed nothing when the run is resumed",
    ),
}
"""What the next step depends on besides its rows: what is wrong, why, and what to change."""
