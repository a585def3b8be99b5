"""A feature of the coming visit that the sampler chooses itself: the size of the crop offset.

An augmented example is a pair (example, augmentation), and a large offset makes it harder. Drawing the example by one
rule and the offset by another wastes that knowledge, and keeping a drawn offset until its example comes up would favour
offsets that are rarely drawn. So both are drawn together from the robust distribution over pairs: first the example by
its mean over offsets, then the size given the example. The weights stay exact.

| paper | code     | shape  | unit                                                                      |
|-------|----------|--------|---------------------------------------------------------------------------|
| i     | index    | (m,)   | examples                                                                  |
| a     | side     | (m,)   | int64, index of a size                                                    |
| π_a   | shares   | (K,)   | probability of each size under plain augmentation, Σ π = 1                |
| s_a   | sizes    | (K,)   | the feature's values, ≥ 0                                                 |
| v_i   | marginal | (m,)   | robust norm of the example, mean over sizes: v_i = Σ_a π_a v_ia           |
| β     | slope    | ()     | robust norm per unit of the feature, so that v_ia = v_i + β(s_a − Σ π s)  |

    p_ia = π_a v_ia / Σ_j v_j,   weight_ia = π_a/(n p_ia) = (1/(n p_i)) v_i/v_ia
    [joint draw ours; its weights derived, docs/derivations.md: joint draw]
"""

from __future__ import annotations

import torch
from torch import Tensor


class NoSide:
    """No feature is chosen: what `Side.none()` returns. Its methods do nothing, so that no sampler needs a branch."""

    mean = None

    def plain(self, m: int, generator: torch.Generator) -> None:
        return None

    def draw(self, marginal: Tensor, slope: Tensor, generator: torch.Generator) -> tuple[None, float]:
        return None, 1.0

    def write_into(self, features: Tensor, side: Tensor | None) -> None:
        pass


class Side:
    """The sizes (K,) and their shares (K,) under plain augmentation.

    Raises:
        ValueError: shapes that differ, a negative or non-finite size, or shares that are no distribution.
    """

    def __init__(self, sizes: Tensor, shares: Tensor) -> None:
        if sizes.dim() != 1 or sizes.shape != shares.shape or not len(sizes):
            raise ValueError(f"sizes have shape {tuple(sizes.shape)}, shares {tuple(shares.shape)}: both must be (K,)")
        self.sizes, self.shares = sizes.to(torch.float64), shares.to(torch.float64)
        if not (torch.isfinite(self.sizes).all() and (self.sizes >= 0).all()):
            raise ValueError(f"sizes {self.sizes.tolist()} must be finite and not negative")
        if not ((self.shares >= 0).all() and abs(self.shares.sum().item() - 1) < 1e-9):
            raise ValueError(f"shares {self.shares.tolist()} must be probabilities that sum to 1")
        self.mean = (self.sizes @ self.shares).to(torch.float32).item()  # as it is among the features

    @staticmethod
    def none() -> NoSide:
        return NoSide()

    def plain(self, m: int, generator: torch.Generator) -> Tensor:
        """m sizes as plain augmentation draws them, (m,) int64."""
        return self._pick(self.shares.expand(m, -1), generator)

    def draw(self, marginal: Tensor, slope: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For examples of robust norms `marginal` (m,): a size each (m,) int64, and v_i/v_ia (m,) float64, to multiply
        their weights with."""
        ratio = (1 + slope * (self.sizes - self.mean) / marginal[:, None]).clamp_min_(1e-12)  # (m, K): v_ia/v_i
        share = self.shares * ratio
        side = self._pick(share, generator)
        return side, share.sum(1) / ratio.gather(1, side[:, None]).squeeze(1)

    def write_into(self, features: Tensor, side: Tensor | None) -> None:
        """Put the size of each visit into the last column of its `features` (k, q).

        Raises:
            ValueError: `side` is None: the draw was made by hand and does not say.
        """
        if side is None:
            raise ValueError("this sampler draws sizes, the observed draw has none: give Draw(index, weight, side)")
        features[:, -1] = self.sizes.to(features.dtype)[side]

    def _pick(self, share: Tensor, generator: torch.Generator) -> Tensor:
        """A column for every row of `share` (m, K), in proportion to its entries."""
        cumulative = share.cumsum(1)
        u = torch.rand(len(share), 1, dtype=torch.float64, device=share.device, generator=generator)
        chosen = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True).squeeze(1)
        return chosen.clamp_max_(share.shape[1] - 1)
