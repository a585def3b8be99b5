"""The pace of a run: its effective iterations t̂, and the learning rate that goes with them.

The schedule stays the one tuned for plain SGD; only its argument and the multiplier change: η_t = r_t ·
lr_sched(t̂_t), and t̂ grows by r_t [seen]. With r = 1, t̂ is the number of iterations and this is plain SGD.

| paper      | code          | unit                                             |
|------------|---------------|--------------------------------------------------|
| t̂          | t_hat         | iterations of uniform SGD; float or () tensor    |
| r          | ratio         | 1                                                |
| lr_sched   | schedule      | learning rate of uniform SGD                     |
| η          | learning_rate | learning rate of this step                       |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rais.gain.state import Stateful


@dataclass(frozen=True)
class InverseSqrt:
    """lr_sched(t̂) = scale/√(offset + t̂).  [form and MNIST's 3.4, 100 recalled]

    >>> InverseSqrt(scale=3.0, offset=100)(44.0)
    0.25
    """

    scale: float
    offset: float

    def __call__(self, t_hat: float | Tensor) -> float | Tensor:
        return self.scale / (self.offset + t_hat) ** 0.5


@dataclass(frozen=True)
class Exponential:
    """lr_sched(t̂) = lr · decay^(t̂/epoch), `epoch` being n/m iterations.  [form recalled]

    >>> Exponential(lr=0.08, decay=0.5, epoch=10)(20.0)
    0.02
    """

    lr: float
    decay: float
    epoch: float

    def __call__(self, t_hat: float | Tensor) -> float | Tensor:
        return self.lr * self.decay ** (t_hat / self.epoch)


class Pace(Stateful):
    """t̂, () float64 on the device, and the learning rate of the step at hand. Never waits for the device.

    >>> pace = Pace(Exponential(lr=0.08, decay=0.5, epoch=10))
    >>> ratio = torch.tensor(2.0, dtype=torch.float64)
    >>> for _ in range(10):
    ...     learning_rate = pace.learning_rate(ratio)
    ...     pace.advance(ratio)
    >>> pace.t_hat.item(), pace.learning_rate(ratio).item()
    (20.0, 0.04)
    """

    _entries = ("t_hat",)

    def __init__(
        self, schedule: Callable[[float | Tensor], float | Tensor], *, device: torch.device | str = "cpu"
    ) -> None:
        self.schedule = schedule
        self.t_hat = torch.zeros((), dtype=torch.float64, device=device)

    def learning_rate(self, ratio: Tensor) -> Tensor:
        """η = r · lr_sched(t̂), () float64."""
        return ratio * self.schedule(self.t_hat)

    def advance(self, ratio: Tensor) -> None:
        """t̂ grows by r. A new tensor: who holds the old t̂ keeps it."""
        self.t_hat = self.t_hat + ratio
