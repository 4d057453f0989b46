"""Pipelines of one weight; built.txt tells which were built."""

import pathlib

import torch

from trainsanity import Pipeline, PipelineSpec


def build(weight):
    with pathlib.Path("built.txt").open("a") as file:
        file.write(f"{weight}\n")
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, weight)
    return Pipeline(model)


def healthy():
    return build(1)


def loud():
    return build(12)


def broken():
    pathlib.Path("built.txt").write_text("broken" + (pathlib.Path("built.txt").exists() * "!"))
    raise OSError("the weights are not here")


HEALTHY = PipelineSpec("healthy", healthy)
LOUD = PipelineSpec("loud", loud)
