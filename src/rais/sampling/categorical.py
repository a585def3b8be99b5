"""Drawing m of n examples with given weights, and changing a few weights, without touching the others.

The n weights are the leaves of a tree: sums of 64 weights, and sums of 64 such sums. A draw picks one of the top sums,
then one below it, then a weight, with a fresh uniform number each; an update adds up the touched sums anew, so that
rounding errors never accumulate.

| meaning                   | code        | shape        | unit                      |
|---------------------------|-------------|--------------|---------------------------|
| weights                   | table       | (n + pad,)   | any, float32; 0 in the pad|
| sums of 64 weights        | blocks      | (64 tops,)   | as the weights, float64   |
| sums of 64 blocks         | tops        | (tops,)      | as the weights, float64   |

`torch.multinomial` cannot be used here: it refuses more than 2²⁴ categories and costs O(n) for every draw. Three
float64 uniforms give each example of a set of any size its exact share, and an example of weight 0 is never drawn:
torch's uniform numbers are at most 1 − 2⁻⁵³, whose product with a sum is below that sum after rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rais import compiled
from rais.sampling import loops

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64

BRANCH = loops.BRANCH
TOP = BRANCH * BRANCH


class Categorical:
    """A distribution over n categories, p_i = weight_i / Σ weight, with replacement. All weights are 0 at first.

    4.2 bytes an example. `is_independent`: whether a draw says nothing of the next, so that one may be dropped for a
    better one. `owed` (k,): draws that have to be made up for; none of independent ones.
    """

    is_independent = True

    def __init__(self, n: int, *, device: torch.device | str = "cpu") -> None:
        self.n = n
        tops = -(-n // TOP)
        self.table = torch.zeros(tops * TOP, dtype=torch.float32, device=device)
        self.blocks = torch.zeros(tops * BRANCH, dtype=torch.float64, device=device)
        self.tops = torch.zeros(tops, dtype=torch.float64, device=device)
        self.owed = torch.empty(0, dtype=torch.int64, device=device)

    def tables(self) -> dict[str, Tensor]:
        """All that draws depend on, by name."""
        return {"table": self.table, "blocks": self.blocks, "tops": self.tops}

    def adopt(self, tables: dict[str, Tensor]) -> None:
        """Work with these `tables` from now on."""
        for name in self.tables():
            setattr(self, name, tables[name])

    def extend(self, smaller: Any, weight: Tensor) -> None:
        """Take over the weights of `smaller`, of this class, for the first examples; all others have `weight` (1,)."""
        self.set_from(0, torch.cat([smaller.table[: smaller.n], weight.expand(self.n - smaller.n)]))

    def set_all(self, weight: Float[Tensor, " n"]) -> None:
        """Replace all weights (n,). O(n), and synchronises with the device to check them.

        Raises:
            ValueError: another number of weights, a negative or non-finite one, or all of them zero.
        """
        if weight.shape != (self.n,):
            raise ValueError(f"weights have shape {tuple(weight.shape)}, expected ({self.n},)")
        low = weight.min().item()
        self.set_from(0, weight)
        total = self.tops.sum().item()
        if not (low >= 0 and 0 < total < float("inf")):
            raise ValueError(f"weights must be finite, non-negative and not all zero; smallest {low:g}, sum {total:g}")

    def set_from(self, start: int, weight: Tensor) -> None:
        """Replace the weights of the examples from `start` on, a multiple of 4096, by `weight` (k,), non-negative and
        finite (not checked). O(k)."""
        end = start + len(weight)
        self.table[start:end] = weight
        top = slice(start // TOP, -(-end // TOP))
        blocks = self.table[top.start * TOP : top.stop * TOP].view(-1, BRANCH).sum(1, dtype=torch.float64)
        self.blocks[top.start * BRANCH : top.stop * BRANCH] = blocks
        self.tops[top] = blocks.view(-1, BRANCH).sum(1)

    def set(self, index: Int64[Tensor, " k"], weight: Float[Tensor, " k"]) -> None:
        """Replace the weights of the examples `index` (k,) by `weight` (k,), non-negative and finite (not checked) and
        the same for an example that is there more than once. O(k)."""
        weight = weight.to(self.table.dtype)
        if compiled.serves(self.table.device):
            loops.set_weights(*map(compiled.array, (self.table, self.blocks, self.tops, index, weight)))
            return
        self.table.index_copy_(0, index, weight)
        block = index // BRANCH
        sums = self.table.view(-1, BRANCH).index_select(0, block).sum(1, dtype=torch.float64)
        self.blocks.index_copy_(0, block, sums)
        top = index // TOP
        self.tops.index_copy_(0, top, self.blocks.view(-1, BRANCH).index_select(0, top).sum(1))

    def sample(self, m: int, generator: torch.Generator) -> Int64[Tensor, " m"]:
        """m independent categories (m,) int64. O(m + n/4096)."""
        u = torch.rand(3, m, 1, dtype=torch.float64, device=self.table.device, generator=generator)
        if compiled.serves(self.table.device):
            tables = map(compiled.array, (u[:, :, 0], self.tops, self.blocks, self.table))
            return torch.from_numpy(loops.sample(self.n, *tables))
        cumulative = self.tops.cumsum(0)
        # The clamps act only where a weight is NaN: an index out of range would leave an accelerator unusable.
        chosen = torch.searchsorted(cumulative, u[0, :, 0] * cumulative[-1], right=True).clamp_max_(len(cumulative) - 1)
        for level, x in enumerate((self.blocks, self.table), start=1):
            within = x.view(-1, BRANCH).index_select(0, chosen).cumsum(1, dtype=torch.float64)
            child = torch.searchsorted(within, u[level] * within[:, -1:], right=True).squeeze(1)
            chosen = child.clamp_max_(BRANCH - 1).add_(chosen, alpha=BRANCH)
        return chosen.clamp_max_(self.n - 1)

    def dropped(self, index: Tensor) -> None:
        """The examples `index` were drawn in vain: of no consequence for independent draws."""

    def value(self, index: Tensor) -> Tensor:
        """The weights of the examples `index` (k,), float64, in the unit they were given in."""
        return self.table.index_select(0, index).to(torch.float64)

    def mean(self) -> float | Tensor:
        """Σ weight/n, a float on the CPU; elsewhere a () float64 tensor, so that the device need not be waited for."""
        mean = self.tops.sum() / self.n
        return mean.item() if mean.device.type == "cpu" else mean

    def weight(self, index: Int64[Tensor, " k"]) -> Float64[Tensor, " k"]:
        """1/(n p) of the examples `index` (k,), float64: the mean of all weights over those of `index`."""
        return (self.tops.sum() / self.n) / self.value(index)

    def probabilities(self) -> Tensor:
        """p (n,), float64."""
        return self.table[: self.n].to(torch.float64) / self.tops.sum()
