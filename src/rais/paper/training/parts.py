"""What a run is made of, handed from the builder to the loop and to what watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rais import gain, sampling
from rais.loop.outliers import OutlierCap
from rais.paper import data
from rais.sampling.oracle import Measure


@dataclass
class Parts:
    """What the loop works with, all on `device`."""

    data: data.Dataset
    test_while_training: data.Split
    model: nn.Module
    sampler: sampling.Sampler
    gain: gain.GainRatio
    schedule: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    measure: Measure
    augment: Callable[[Tensor, Tensor | None], Tensor]
    outliers: OutlierCap | None
    device: torch.device
