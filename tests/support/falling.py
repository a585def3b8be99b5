"""Loss curves whose logarithm is a straight line, so that they cross a level where arithmetic puts it."""

from __future__ import annotations

import math

GRID = list(range(0, 10_001, 1000))


def falling(rate: float, start: float = 1.0) -> dict[str, list[float]]:
    """log loss = log start − rate · examples / 1 000 at GRID."""
    loss = [start * math.exp(-rate * used / 1000) for used in GRID]
    return {"train_loss": loss, "test_error": [x / 10 for x in loss]}
