"""A round: several minibatches drawn from one p, handed out one by one, and the visits that came back meanwhile.

The sampler's work is done for a round at once, since its many small operations would otherwise cost a quarter of a
small model's step. What is drawn ahead keeps the weights of the p that it was drawn from, and stays exact.

| meaning                                              | code      |
|------------------------------------------------------|-----------|
| index, weight, side of the minibatches drawn ahead   | ahead     |
| Σ_i v_i/n of the distribution they were drawn from   | mean_norm |
| index, weight, side, norm of visits not yet taken in | seen      |
| how many visits these are                            | waiting   |
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from rais.sampling.tickets import COLUMNS, stacked

Columns = tuple[Any, ...]  # (k,) tensors; the side is None where the sampler chooses none


class Round:
    """Minibatches of m."""

    def __init__(self, m: int) -> None:
        self.m = m
        self.ahead: list[Columns] = []
        self.mean_norm: float | Tensor | None = None
        self.seen: list[Columns] = []
        self.waiting = 0

    def start(self, drawn: Columns, mean_norm: float | Tensor | None) -> None:
        columns = [repeat(None) if x is None else x.split(self.m) for x in drawn]
        self.ahead, self.mean_norm = list(zip(*columns, strict=False)), mean_norm

    def next(self) -> Columns:
        """The next minibatch; there must be one ahead."""
        return self.ahead.pop(0)

    def drop(self) -> None:
        """Give up the minibatches drawn ahead."""
        self.ahead, self.mean_norm = [], None

    def add(self, *visits: Any) -> None:
        self.seen.append(visits)
        self.waiting += len(visits[0])

    def state(self) -> dict[str, Any]:
        ahead = stacked(self.ahead)
        seen = stacked(self.seen, width=4)
        return {
            **{f"ahead_{name}": x for name, x in zip(COLUMNS, ahead, strict=False)},
            **{f"seen_{name}": x for name, x in zip(COLUMNS, seen, strict=True)},
            "ahead_mean_norm": None if self.mean_norm is None else float(self.mean_norm),
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        mean_norm = state["ahead_mean_norm"]
        if mean_norm is not None and device.type != "cpu":
            mean_norm = torch.tensor(mean_norm, dtype=torch.float64, device=device)
        self.drop()
        if ahead := unpacked(state, "ahead", 3, device):
            self.start(ahead, mean_norm)
        seen = unpacked(state, "seen", 4, device)
        self.seen, self.waiting = ([seen], len(seen[0])) if seen else ([], 0)

    def take(self) -> Columns:
        """All visits that were waiting, as one."""
        taken, self.seen, self.waiting = joined(self.seen), [], 0
        return taken


def joined(visits: list[Columns]) -> Columns:
    """The same columns of several visits, one after another."""
    return tuple(None if each[0] is None else torch.cat(each) for each in zip(*visits, strict=True))


def unpacked(state: dict[str, Any], prefix: str, width: int, device: torch.device) -> Columns:
    """The columns that `state` holds as `prefix`_index and so on; () where there are none."""
    columns = [state[f"{prefix}_{name}"].to(device, copy=True) for name in COLUMNS[:width]]
    return tuple(x if len(x) else None for x in columns) if len(columns[0]) else ()
