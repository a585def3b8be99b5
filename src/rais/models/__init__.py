"""Models by name: modules from images to logits, with parameters that depend on the seed alone.

A new architecture is a file of its own and one line in MODELS.
Loss, softmax and regularisation are no part of a model.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from rais import rng
from rais.models.lenet5 import LeNet5
from rais.models.small_cnn import SmallCNN

MODELS: dict[str, Callable[..., nn.Module]] = {"lenet5": LeNet5, "small_cnn": SmallCNN}


def build(name: str, *, channels: int, classes: int, size: int, seed: int) -> nn.Module:
    """Return model `name` on the CPU for images (channels, size, size), initialised from (seed, "init").

    torch's global generator is left as it was. Raises ValueError where the name is unknown, a count is
    below 1, or the model does not take that size.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(sorted(MODELS))}")
    if channels < 1 or classes < 1:
        raise ValueError(f"{name} with channels={channels} and classes={classes}: give at least 1 of each")
    with rng.seeded(seed, "init"):
        return MODELS[name](channels=channels, classes=classes, size=size)
