"""Protection against outliers: the step that an example of large weight and large norm may cause is limited.

What example j adds to the gradient estimate has the length weight_j v_j, and its mean over draws is that of the norms
over the training set, whatever the distribution. RAIS makes all lengths alike where its predictions hold; an example
whose norm is far above what was foreseen stands out, and its weight is lowered, though never below that of plain SGD,
which is 1. The price is a bias, which is measured.

| paper    | code         | shape | unit                                              |
|----------|--------------|-------|---------------------------------------------------|
| 1/(n p)  | weight       | (m,)  | 1                                                 |
| v_j      | norm         | (m,)  | gradient norm, any one unit                       |
|          | limit        |       | longest allowed length, in units of the mean      |
|          | mean         | ()    | moving average of the (limited) lengths           |

The paper has a rule for outliers that is not known [recalled]; this one is [ours].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rais.gain import RunningMean


class OutlierCap:
    """weight_j' = min(weight_j, max(1, limit · mean/v_j)).  [ours]

    Nothing is limited in the first minibatch, before there is a mean, nor ever with uniform draws. Since limited
    lengths enter the mean, a burst of outliers raises it by no more than the factor `limit` over 1/α minibatches,
    while a lasting change is followed.

    Args:
        limit: > 1. In ordinary training with RAIS lengths above 10 times the mean are rare; see PAPER.md.
        alpha: α, rate of the moving average per minibatch.

    Raises:
        ValueError: limit ≤ 1, or α outside (0, 1].
    """

    needs_norms = True

    def __init__(self, limit: float, *, alpha: float = 0.003, device: torch.device | str = "cpu") -> None:
        if not limit > 1:
            raise ValueError(f"outliers={limit} must be greater than 1: it is in units of the mean length")
        self.limit = limit
        self.lengths = RunningMean(1, alpha, device=device)
        self.totals = torch.zeros(4, dtype=torch.float64, device=device)

    def __call__(self, weight: Tensor, norm: Tensor) -> Tensor:
        """The limited weights (m,), dtype of `weight`, for the loss of this minibatch alone.

        The gain ratio is that of the limited estimate; samplers learn from the unlimited weights.
        """
        v = norm.to(torch.float64)
        limited = weight
        if self.lengths.updates:
            largest = (self.limit * self.lengths.value / v).clamp_min_(1.0).to(weight.dtype)
            limited = torch.fmin(weight, largest)  # where 0/0 leaves no largest weight, fmin keeps the given one
        self.lengths.update((limited * v).mean()[None])
        removed = (weight - limited) * v
        acted = (limited < weight).to(torch.float64)
        self.totals += torch.stack([acted.sum(), removed.sum(), (weight * v).sum(), torch.ones_like(v).sum()])
        return limited

    def diagnostics(self) -> dict[str, float]:
        """What was done since the last call.

        `outlier_share`: the share of the drawn examples that were limited. `outlier_bias`: the length removed over the
        total length; no more than that share of the mean norm is missing from the expected gradient.
        """
        acted, removed, total, drawn = self.totals.tolist()
        self.totals.zero_()
        return {"outlier_share": acted / max(drawn, 1.0), "outlier_bias": removed / total if total else 0.0}

    def state_dict(self) -> dict[str, Any]:
        return {"lengths": self.lengths.state_dict(), "totals": self.totals.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lengths.load_state_dict(state["lengths"])
        self.totals = state["totals"].to(self.totals.device).clone()


class NoCap:
    """Leaves all weights as they are."""

    needs_norms = False

    def __call__(self, weight: Tensor, norm: Tensor | None) -> Tensor:
        return weight

    def diagnostics(self) -> dict[str, float]:
        return {}
