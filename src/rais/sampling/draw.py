"""A minibatch as a sampler hands it out: which examples, and the weights that keep the gradient unbiased.

What the rest of a draw is for, its ticket, its mean norm and the place of a part in the whole, is said at `Draw`.

| paper   | code        | shape | unit                                              |
|---------|-------------|-------|---------------------------------------------------|
| i ∈ M   | draw.index  | (m,)  | int64, positions in the training set              |
| 1/(n p) | draw.weight | (m,)  | float32, mean 1 over the distribution p           |
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Draw(NamedTuple):
    """A minibatch: `index` (m,) int64 and `weight` (m,) float32 = 1/(n p_index), both tensors of this draw alone.

    (1/m) Σ_j weight_j ∇f_{index_j} is an unbiased estimate of the mean gradient over the training set.

    - `side` (m,) int64: the size of the augmentation that goes with each example, where the sampler chooses it
    - `ticket`: which draw of its sampler this is; None for a draw made by hand
    - `mean_norm`: Σ_i v_i/n of the distribution it was drawn from, the unit in which its norms are near 1; None while
      draws are uniform because nothing is known yet. A float; on an accelerator a () float64 tensor
    - `first`, `of`: where this part begins in its whole draw, and the size of that; `of` is None for a whole draw

    >>> import torch
    >>> draw = Draw(torch.tensor([4, 2, 7]), torch.ones(3))
    >>> draw.part(0, 2).index.tolist(), draw.part(1, 2).index.tolist()
    ([4, 2], [7])
    """

    index: Tensor  # type: ignore[assignment]  # it hides tuple.index
    weight: Tensor
    side: Tensor | None = None
    ticket: int | None = None
    mean_norm: float | Tensor | None = None
    first: int = 0
    of: int | None = None

    def part(self, i: int, k: int) -> Draw:
        """The i-th of k contiguous parts, of sizes that differ by one at most, the longer ones first: a micro-batch.

        Raises:
            ValueError: i is not in 0 … k−1, or there are fewer than k examples.
        """
        size = len(self.index)
        if not 0 <= i < k <= size:
            raise ValueError(f"part({i}, {k}) of a draw of {size} examples: needs 0 ≤ i < k ≤ {size}")
        short, longer = divmod(size, k)
        begin = i * short + min(i, longer)
        own = slice(begin, begin + short + (i < longer))
        return self._replace(
            index=self.index[own],
            weight=self.weight[own],
            side=None if self.side is None else self.side[own],
            first=self.first + begin,
            of=size if self.of is None else self.of,
        )
