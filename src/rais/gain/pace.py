"""Learning-rate schedules as functions of the effective iterations t̂.

The schedule stays the one tuned for plain SGD; only its argument and the multiplier change: η_t = r_t ·
lr_sched(t̂_t) [seen]. With r = 1, t̂ is the number of iterations and this is plain SGD.

| paper      | code     | unit                                             |
|------------|----------|--------------------------------------------------|
| t̂          | t_hat    | iterations of uniform SGD; float or () tensor    |
| lr_sched   | schedule | learning rate of uniform SGD                     |
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class InverseSqrt:
    """lr_sched(t̂) = scale/√(offset + t̂).  [form and MNIST's 3.4, 100 recalled]"""

    scale: float
    offset: float

    def __call__(self, t_hat: float | Tensor) -> float | Tensor:
        return self.scale / (self.offset + t_hat) ** 0.5


@dataclass(frozen=True)
class Exponential:
    """lr_sched(t̂) = lr · decay^(t̂/epoch), `epoch` being n/m iterations.  [form recalled]"""

    lr: float
    decay: float
    epoch: float

    def __call__(self, t_hat: float | Tensor) -> float | Tensor:
        return self.lr * self.decay ** (t_hat / self.epoch)
