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

from typing import Any

import torch
from torch import Tensor


class Visits:
    """The last `size` visits, each a row (s_j, v_j, weight_j) in float32; `added` counts all visits ever appended."""

    def __init__(self, size: int, q: int, *, device: torch.device | str = "cpu") -> None:
        self.size = size
        self.rows = torch.zeros(size, q + 2, device=device)
        self.added = 0

    def append(self, features: Tensor, norms: Tensor, weights: Tensor) -> None:
        """Add k visits: features (k, q), norms (k,), weights (k,); the oldest make room, also among the k."""
        rows = torch.cat([features, norms[:, None], weights[:, None]], dim=1)
        self.added += len(rows)
        rows = rows[-self.size :]
        start = (self.added - len(rows)) % self.size
        before_wrap = min(len(rows), self.size - start)
        self.rows[start : start + before_wrap] = rows[:before_wrap]
        self.rows[: len(rows) - before_wrap] = rows[before_wrap:]

    def contents(self) -> tuple[Tensor, Tensor, Tensor]:
        """features (k, q), norms (k,), weights (k,) of the k ≤ `size` visits held, in no particular order."""
        held = self.rows[: self.added]
        return held[:, :-2], held[:, -2], held[:, -1]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows.clone(), "added": self.added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["rows"].shape != self.rows.shape:
            raise ValueError(
                f"the saved visits are {tuple(state['rows'].shape)}, this sampler's are {tuple(self.rows.shape)}"
            )
        self.rows, self.added = state["rows"].to(self.rows.device).clone(), state["added"]
