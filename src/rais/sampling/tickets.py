"""Draws that were handed out and not yet observed, by their tickets.

A loop may hold several draws at once, observe them in any order and in parts, and write into their tensors: what is
learned comes from the copies kept here. A ticket is good for one observation or one skip of each of its examples.

| meaning                                    | code       |
|--------------------------------------------|------------|
| draws handed out so far; the next ticket   | issued     |
| copies of the draws not yet observed       | held       |
| of one such draw, the examples still due   | left       |
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rais.sampling.draw import Draw

COLUMNS = ("index", "weight", "side", "norm")  # of draws and visits, and their types in a state
DTYPES = (torch.int64, torch.float32, torch.int64, torch.float32)
MANY = 64  # draws in flight: more than any loader's prefetching needs
MOST = 16 * MANY  # beyond it the oldest are forgotten, as if skipped


@dataclass
class Held:
    """The sampler's copy of one draw: index, weight and side, each (m,), the last None where there is none."""

    tensors: tuple[Tensor, Tensor, Tensor | None]
    left: list[bool] | None = None  # None: all of it


class Tickets:
    """Hands out numbers for draws and takes each back once."""

    def __init__(self) -> None:
        self.issued = 0
        self.held: dict[int, Held] = {}
        self.has_warned = False

    def issue(self, index: Tensor, weight: Tensor, side: Tensor | None) -> int:
        """The ticket of a draw, whose index, weight and side (m,) are kept until it is observed."""
        ticket, self.issued = self.issued, self.issued + 1
        self.held[ticket] = Held((index, weight, side))
        if len(self.held) > MANY and not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"{len(self.held)} draws were handed out and neither observed nor skipped: pass each Draw, or its "
                "parts from draw.part(i, k), to observe() or skip(), else the sampler learns nothing from them",
                stacklevel=4,
            )
        if len(self.held) > MOST:
            del self.held[min(self.held)]
        return ticket

    def redeem(self, draw: Draw) -> tuple[Tensor, Tensor, Tensor | None]:
        """The kept tensors of `draw`, a whole draw or a part, each of length len(draw.index). A ticket of None is a
        draw made by hand: copies of its own tensors.

        Raises:
            ValueError: a ticket that was never handed out or was redeemed before, or a part that is not of its draw.
        """
        if draw.ticket is None:
            return draw.index.clone(), draw.weight.clone(), None if draw.side is None else draw.side.clone()
        held = self.held.get(draw.ticket)
        if held is None:
            was = "was observed or skipped already" if 0 <= draw.ticket < self.issued else "was never handed out"
            raise ValueError(
                f"draw {draw.ticket} {was} by this sampler, which handed out {self.issued}: observe each draw once"
            )
        size, begin, count = len(held.tensors[0]), draw.first, len(draw.index)
        if (count if draw.of is None else draw.of) != size or not 0 <= begin <= begin + count <= size:
            raise ValueError(
                f"draw {draw.ticket} has {size} examples, this part claims {begin} … {begin + count - 1} of "
                f"{count if draw.of is None else draw.of}: make parts with draw.part(i, k)"
            )
        if held.left is None and count == size:
            del self.held[draw.ticket]
            return held.tensors
        own = slice(begin, begin + count)
        left = held.left or [True] * size
        if not all(left[own]):
            raise ValueError(
                f"examples {begin} … {begin + count - 1} of draw {draw.ticket} were observed or skipped already"
            )
        left[own] = [False] * count
        held.left = left
        if not any(left):
            del self.held[draw.ticket]
        index, weight, side = held.tensors
        return index[own], weight[own], None if side is None else side[own]

    def state(self) -> dict[str, Any]:
        """`issued`, and the held draws one after another, each `held_size` long."""
        held = self.held.values()
        index, weight, side = stacked([one.tensors for one in held])
        left = [flag for one in held for flag in one.left or [True] * len(one.tensors[0])]
        return {
            "issued": self.issued,
            "held_ticket": list(self.held),
            "held_size": [len(one.tensors[0]) for one in held],
            "held_left": left,
            "held_index": index,
            "held_weight": weight,
            "held_side": side,
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        self.issued = state["issued"]
        columns = [state[f"held_{name}"].to(device) for name in ("index", "weight", "side")]
        self.held, begin = {}, 0
        for ticket, size in zip(state["held_ticket"], state["held_size"], strict=True):
            own = slice(begin, begin + size)
            index, weight, side = (x[own].clone() for x in columns)
            left = state["held_left"][own]
            tensors = index, weight, side if len(side) else None
            self.held[ticket] = Held(tensors, None if all(left) else list(left))
            begin += size


def stacked(visits: Sequence[tuple[Any, ...]], width: int = 3) -> tuple[Tensor, ...]:
    """The columns of several draws, one after another; empty where there are none."""
    return tuple(
        torch.cat([v[k] for v in visits]) if visits and visits[0][k] is not None else torch.empty(0, dtype=dtype)
        for k, dtype in enumerate(DTYPES[:width])
    )
