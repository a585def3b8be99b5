"""Models by name: modules from images to logits, with parameters that depend on the seed alone.

A new architecture is a file and one line in MODELS; its keyword arguments beside channels, classes
and size are its options. Loss, softmax and regularisation are no part of a model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rais import rng
from rais.batch_norm import Weighted, WeightedBatchNorm2d
from rais.paper.models.dropout import seed_dropout
from rais.paper.models.lenet5 import LeNet5
from rais.paper.models.preact_resnet import PreActResNet
from rais.paper.models.small_cnn import SmallCNN
from rais.paper.models.z2cnn import Z2CNN

__all__ = ["MODELS", "Weighted", "WeightedBatchNorm2d", "build", "on_paper"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": LeNet5,
    "preact_resnet": PreActResNet,
    "small_cnn": SmallCNN,
    "z2cnn": Z2CNN,
}

SIZES = ("channels", "classes", "size")  # given by the data; all other keywords of a model are options


def build(name: str, *, channels: int, classes: int, size: int, seed: int, **options: Any) -> nn.Module:
    """Return model `name` on the CPU for images (channels, size, size), initialised from (seed, "init").

    `options` go to the model; its dropout layers draw from (seed, "dropout/…"). torch's global generator is left
    as it was. Raises ValueError where the name or an option is unknown, a count is below 1, or the model does not
    take that size or that value of an option.
    """
    _check(name, channels, classes, options)
    with rng.seeded(seed, "init"):
        model = MODELS[name](channels=channels, classes=classes, size=size, **options)
    seed_dropout(model, seed)
    return model


def on_paper(name: str, *, channels: int, classes: int, size: int, **options: Any) -> nn.Module:
    """Return the modules of that model without any numbers, within milliseconds. Raises ValueError as `build` does."""
    _check(name, channels, classes, options)
    with torch.device("meta"):
        return MODELS[name](channels=channels, classes=classes, size=size, **options)


def _check(name: str, channels: int, classes: int, options: dict[str, Any]) -> None:
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(sorted(MODELS))}")
    if channels < 1 or classes < 1:
        raise ValueError(f"{name} with channels={channels} and classes={classes}: give at least 1 of each")
    known = [option for option in inspect.signature(MODELS[name]).parameters if option not in SIZES]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}: choose from {', '.join(known) or 'none at all'}")
