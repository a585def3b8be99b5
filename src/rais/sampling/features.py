"""The feature vector s_i of each example: what its past gradient norms say about its next one.

Moving averages over windows of several lengths predict the norm, their variances and standard deviations the error
of that prediction, and the constant carries what they cannot explain. A visit changes the features of the visited
example alone.

| paper | code   | shape   | unit                                                            |
|-------|--------|---------|-----------------------------------------------------------------|
| s_i   | values | (n, q)  | float32; norm (mean, std), norm² (var), 1 (constant); all ≥ 0   |
|       | past   | (n, 16) | float32; the example's last norms, newest first, 0 beyond count |
|       | count  | (n,)    | int64; visits so far, at most 16                                |

The features are [recalled]; a window longer than an example's past uses what there is [ours].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

WINDOWS = (1, 2, 4, 8, 16)
SPREAD_WINDOWS = (4, 8, 16)
NAMES = (
    *(f"mean_{w}" for w in WINDOWS),
    *(f"var_{w}" for w in SPREAD_WINDOWS),
    *(f"std_{w}" for w in SPREAD_WINDOWS),
    "constant",
)


class Features:
    """s_i for n examples, q = 12: means over the last 1, 2, 4, 8, 16 norms, variance and standard deviation over 4,
    8, 16, and 1.

    Args:
        n: number of examples.
        names: the features to use, a non-empty subset of `NAMES`; all by default.
        side: the mean of a further feature that each visit chooses anew (side.py), its last column; None for none.

    Raises:
        ValueError: an unknown name, a repeated one, or none.
    """

    def __init__(
        self, n: int, *, device: torch.device | str = "cpu", names: tuple[str, ...] = NAMES, side: float | None = None
    ) -> None:
        unknown = [name for name in names if name not in NAMES]
        if unknown or not names or len(set(names)) != len(names):
            raise ValueError(f"features {list(names)}: expected distinct names out of {list(NAMES)}")
        self.names = tuple(names)
        fixed = [1.0] if side is None else [1.0, side]
        columns = [*map(NAMES.index, names), *range(len(NAMES), len(NAMES) - 1 + len(fixed))]
        self.columns = torch.tensor(columns, device=device)
        self.past = torch.zeros(n, WINDOWS[-1], device=device)
        self.count = torch.zeros(n, dtype=torch.int64, device=device)
        self.values = torch.zeros(n, len(self.columns), device=device)
        if "constant" in self.names:  # also of an example that was never visited, so that it stays possible
            self.values[:, self.names.index("constant")] = 1.0
        if side is not None:
            self.values[:, -1] = side
        self._age = torch.arange(WINDOWS[-1], device=device)
        in_window = torch.arange(WINDOWS[-1])[:, None] < torch.tensor(WINDOWS)
        self._in_window = in_window.to(device, torch.float64)
        self._lengths = torch.tensor(WINDOWS, dtype=torch.float64, device=device)
        self._fixed = torch.tensor([fixed], dtype=torch.float64, device=device)

    def update(self, index: Tensor, norm: Tensor) -> Tensor:
        """Add a visit of each example of `index` (m,) with its `norm` (m,); returns their new features (m, q).

        Where an example stands in `index` more than once, its norms must be equal; it counts as one visit. O(m·q).
        """
        older = self.past.index_select(0, index)[:, :-1]
        past = torch.cat([norm.to(self.past.dtype)[:, None], older], dim=1)
        count = self.count.index_select(0, index).add_(1).clamp_max_(WINDOWS[-1])
        self.past.index_copy_(0, index, past)
        self.count.index_copy_(0, index, count)
        values = self._from_past(past.to(torch.float64), count).to(self.values.dtype)
        self.values.index_copy_(0, index, values)
        return values

    def _from_past(self, past: Tensor, count: Tensor) -> Tensor:
        length = torch.minimum(count[:, None], self._lengths)
        mean = (past @ self._in_window).div_(length)
        # Centred on the newest norm, so that nearly equal norms lose no digits; 0 where there was no visit yet.
        centred = (past - past[:, :1]) * (self._age < count[:, None])
        offset = (centred @ self._in_window).div_(length)
        square = ((centred * centred) @ self._in_window).div_(length)
        variance = (square - offset * offset)[:, -len(SPREAD_WINDOWS) :].clamp_min_(0)
        every = torch.cat([mean, variance, variance.sqrt(), self._fixed.expand(len(past), -1)], dim=1)
        return every if len(self.names) == len(NAMES) else every.index_select(1, self.columns)

    def state_dict(self) -> dict[str, Any]:
        tables = {name: getattr(self, name).clone() for name in ("past", "count", "values")}
        return {"names": list(self.names), **tables}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["values"].shape != self.values.shape:
            raise ValueError(
                f"the saved features are {tuple(state['values'].shape)}, this sampler's are {tuple(self.values.shape)}"
            )
        if state["names"] != list(self.names):
            raise ValueError(f"the saved features are {state['names']}, this sampler's are {list(self.names)}")
        for name in ("past", "count", "values"):
            setattr(self, name, state[name].to(self.values.device).clone())
