"""Drawing m of n examples with given weights, and changing a few weights, both in O(√n).

The n weights stand in a table of about √n rows with their row sums beside it. A draw picks a row by the row sums
and then an entry by the row's own weights, with a fresh uniform number each; an update rewrites entries and adds up
the touched rows anew, so that rounding errors never accumulate.

| meaning                   | code        | shape        | unit            |
|---------------------------|-------------|--------------|-----------------|
| weights                   | table       | (rows, cols) | any, float64    |
| sum of each row           | row_sums    | (rows,)      | as the weights  |
| examples                  | n           |              | rows·cols ≥ n   |

`torch.multinomial` cannot be used here: it refuses more than 2²⁴ categories and costs O(n) for every draw. Two
float64 uniforms give each example of a set of any size its exact share, and an example of weight 0 is never drawn:
torch's uniform numbers are at most 1 − 2⁻⁵³, whose product with a sum is below that sum after rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Categorical:
    """A distribution over n categories, p_i = weight_i / Σ weight, with replacement.

    Args:
        weight: (n,) non-negative, finite, not all zero; any real dtype, kept in float64 on its device.

    Raises:
        ValueError: no weight, a negative or non-finite one, or all of them zero.
    """

    def __init__(self, weight: Tensor) -> None:
        self.n = weight.numel()
        self.cols = max(1, round(self.n**0.5))
        self.set_all(weight)

    def set_all(self, weight: Tensor) -> None:
        """Replace all weights (n,). O(n), and synchronises with the device to check them."""
        if weight.shape != (self.n,) or self.n == 0:
            raise ValueError(f"weights have shape {tuple(weight.shape)}, expected ({max(self.n, 1)},)")
        weight = weight.to(torch.float64)
        low, total = weight.min().item(), weight.sum().item()
        if not (low >= 0 and 0 < total < float("inf")):
            raise ValueError(f"weights must be finite, non-negative and not all zero; smallest {low:g}, sum {total:g}")
        padding = -self.n % self.cols
        self.table = torch.nn.functional.pad(weight, (0, padding)).view(-1, self.cols)
        self.row_sums = self.table.sum(1)

    def set(self, index: Tensor, weight: Tensor) -> None:
        """Replace the weights of the examples `index` (m,) by `weight` (m,), non-negative and finite (not checked).
        O(m√n).

        Where an example stands in `index` more than once, its weights must be equal.
        """
        row = index // self.cols
        self.table.view(-1).index_copy_(0, index, weight.to(torch.float64))
        self.row_sums.index_copy_(0, row, self.table.index_select(0, row).sum(1))

    def sample(self, m: int, generator: torch.Generator) -> Tensor:
        """m independent categories (m,) int64. O(m√n)."""
        u = torch.rand(2, m, 1, dtype=torch.float64, device=self.table.device, generator=generator)
        cumulative = self.row_sums.cumsum(0)
        # The clamps act only where a weight is NaN: an index out of range would leave an accelerator unusable.
        row = torch.searchsorted(cumulative, u[0, :, 0] * cumulative[-1], right=True).clamp_max_(len(cumulative) - 1)
        within = self.table.index_select(0, row).cumsum_(1)
        col = torch.searchsorted(within, u[1] * within[:, -1:], right=True).squeeze(1)
        return col.add_(row, alpha=self.cols).clamp_max_(self.n - 1)

    def mean(self) -> float | Tensor:
        """Σ weight/n, a float on the CPU; elsewhere a () float64 tensor, so that the device need not be waited for."""
        mean = self.row_sums.sum() / self.n
        return mean.item() if mean.device.type == "cpu" else mean

    def value(self, index: Tensor) -> Tensor:
        """The weights of the examples `index` (m,), float64, in the unit they were given in."""
        return self.table.view(-1).index_select(0, index)

    def probability(self, index: Tensor) -> Tensor:
        """p of the examples `index` (m,), float64."""
        return self.value(index) / self.row_sums.sum()

    def weight(self, index: Tensor) -> Tensor:
        """1/(n p) of the examples `index` (m,), float64: the mean of all weights over those of `index`."""
        return (self.row_sums.sum() / self.n) / self.value(index)

    def probabilities(self) -> Tensor:
        """p (n,), float64."""
        return self.table.view(-1)[: self.n] / self.row_sums.sum()

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n, "table": self.table.clone(), "row_sums": self.row_sums.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["n"] != self.n:
            raise ValueError(f"the saved weights are of {state['n']} examples, this sampler has {self.n}")
        self.table = state["table"].to(self.table.device).clone()
        self.row_sums = state["row_sums"].to(self.table.device).clone()
