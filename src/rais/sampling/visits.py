"""The last |D| visits: what (PT) learns from.

A sliding window, kept as a ring: written after every round of minibatches, read at every solve, of which there are ten
while the window moves by its own length.

| paper    | code     | shape    | unit                                      |
|----------|----------|----------|-------------------------------------------|
| s_j      | features | (|D|, q) | of the drawn example, before the visit    |
| v_j      | norms    | (|D|,)   | norm then measured                        |
| weight_j | weights  | (|D|,)   | 1/(n p_j)  [recalled]                     |
"""

from __future__ import annotations

import torch
from torch import Tensor


class Visits:
    """The last `size` visits; `added` counts all visits ever appended.

    Each is a column (s_j, v_j, weight_j) of `ring` (q + 2, size) float32, so that (PT) goes through whole rows.
    """

    def __init__(self, size: int, q: int, *, device: torch.device | str = "cpu") -> None:
        self.size = size
        self.ring = torch.zeros(q + 2, size, dtype=torch.float32, device=device)
        self.added = 0

    def append(self, features: Tensor, norms: Tensor, weights: Tensor) -> None:
        """Add k visits: features (k, q), norms (k,), weights (k,); the oldest make room, also among the k."""
        new = torch.cat([features.T, norms[None], weights[None]])[:, -self.size :]
        self.added += len(norms)
        k = new.shape[1]
        start = (self.added - k) % self.size
        before_wrap = min(k, self.size - start)
        self.ring[:, start : start + before_wrap] = new[:, :before_wrap]
        self.ring[:, : k - before_wrap] = new[:, before_wrap:]

    def contents(self) -> tuple[Tensor, Tensor, Tensor]:
        """features (k, q), norms (k,), weights (k,) of the k ≤ `size` visits held, in no particular order."""
        held = self.ring[:, : self.added]
        return held[:-2].T, held[-2], held[-1]
