"""Protection against outliers: the step that an example of large weight and large norm may cause is limited.

What example j adds to the gradient estimate has the length weight_j v_j, and its mean over draws is that of the norms
over the training set, whatever the distribution. RAIS makes all lengths alike where its predictions hold; an example
whose norm is far above what was foreseen sticks out, and its weight is lowered, though never below that of plain SGD,
which is 1. The price is a bias, which is measured.

| paper    | code         | shape | unit                                                              |
|----------|--------------|-------|-------------------------------------------------------------------|
| 1/(n p)  | weight       | (m,)  | 1                                                                 |
| v_j      | norm         | (m,)  | gradient norm, any one unit                                       |
| Σ_i v_i/n| mean_norm    | ()    | unit of v: what the draw's distribution predicts; None if unknown |
|          | length       | (m,)  | weight_j v_j, in units of mean_norm where it is known             |
|          | limit        |       | longest allowed length, in units of the mean length               |

The paper has a rule for outliers that is not known [recalled]; this one is [ours].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rais.gain import RunningMean
from rais.gain.state import Stateful

if TYPE_CHECKING:
    from jaxtyping import Float


class OutlierCap(Stateful):
    """weight_j' = min(weight_j, max(1, limit · mean length/length of weight 1)).  [ours]

    Nothing is limited before there is a mean, nor ever with uniform draws. Since limited lengths enter the mean, a
    burst of outliers raises it by no more than the factor `limit` over 1/α minibatches, while a lasting change is
    followed. The mean starts anew when lengths get another unit, as `mean_norm` becomes known. A minibatch with a norm
    that is not finite enters neither the mean nor the diagnostics.

    Args:
        limit: > 1. In ordinary training with RAIS lengths above 10 times the mean are rare; see PAPER.md.
        alpha: α, rate of the moving average per minibatch.

    Raises:
        ValueError: limit ≤ 1, or α outside (0, 1].

    >>> cap = OutlierCap(2.0)
    >>> cap(torch.tensor([0.5, 4.0]), norm=torch.tensor([2.0, 0.25]), mean_norm=1.0).tolist()  # lengths 1 and 1
    [0.5, 4.0]
    >>> cap(torch.tensor([0.5, 4.0]), norm=torch.tensor([2.0, 1.0]), mean_norm=1.0).tolist()  # lengths 1 and 4
    [0.5, 2.0]
    """

    needs_norms = True
    _settings = ("limit", "alpha")
    _entries = ("is_relative", "lengths", "totals")

    def __init__(self, limit: float, *, alpha: float = 0.01, device: torch.device | str = "cpu") -> None:
        if not limit > 1:
            raise ValueError(f"outliers={limit} must be greater than 1: it is in units of the mean length")
        self.limit, self.alpha = limit, alpha
        self.is_relative = False
        self.lengths = RunningMean(1, alpha, device=device)
        self.totals = torch.zeros(4, dtype=torch.float64, device=device)

    def __call__(
        self,
        weight: Float[Tensor, " m"],
        norm: Float[Tensor, " m"],
        mean_norm: float | Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, " m"]:
        """The limited weights (m,), dtype of `weight`, for the loss of this minibatch alone.

        The gain ratio is that of the limited estimate; samplers learn from the unlimited weights.
        """
        v = norm.to(torch.float64)
        if mean_norm is not None:
            v = v / mean_norm
        if (mean_norm is not None) != self.is_relative:
            self.is_relative = not self.is_relative
            self.lengths = RunningMean(1, self.alpha, device=self.totals.device)
        largest = (self.limit * self.lengths.value / v).clamp_min_(1.0).to(weight.dtype)
        limited = torch.fmin(weight, largest)  # NaN, before there is a mean or at 0/0, limits nothing
        self.lengths.update((limited * v).mean()[None])
        removed = (weight - limited) * v
        acted = (limited < weight).to(torch.float64)
        sums = torch.stack([acted.sum(), removed.sum(), (weight * v).sum(), torch.ones_like(v).sum()])
        self.totals = self.totals + torch.where(torch.isfinite(sums).all(), sums, 0.0)
        return limited

    def diagnostics(self) -> dict[str, float]:
        """What was done since the last call.

        `outlier_share`: the share of the drawn examples that were limited. `outlier_bias`: the length removed over the
        total length; no more than that share of the mean norm is missing from the expected gradient.
        """
        acted, removed, total, drawn = self.totals.tolist()
        self.totals.zero_()
        return {"outlier_share": acted / max(drawn, 1.0), "outlier_bias": removed / total if total else 0.0}
