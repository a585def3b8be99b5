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
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from rais.sampling.base import Draw

MANY = 64  # draws in flight: more than any loader's prefetching needs
MOST = 16 * MANY  # beyond it the oldest are forgotten, as if skipped


@dataclass
class Held:
    """The sampler's copy of one draw: index, weight and, where there is one, side, each (m,)."""

    tensors: tuple[Tensor, ...]
    left: list[bool] | None = None  # None: all of it


class Tickets:
    """Hands out numbers for draws and takes each back once."""

    def __init__(self) -> None:
        self.issued = 0
        self.held: dict[int, Held] = {}
        self.has_warned = False

    def issue(self, *tensors: Tensor) -> int:
        """The ticket of a draw, whose index, weight and side (m,) are kept until it is observed."""
        ticket, self.issued = self.issued, self.issued + 1
        self.held[ticket] = Held(tensors)
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

    def redeem(self, draw: Draw) -> tuple[Tensor, ...]:
        """The kept tensors of `draw`, a whole draw or a part, each of length len(draw.index). A ticket of None is a
        draw made by hand: copies of its own tensors.

        Raises:
            ValueError: a ticket that was never handed out or was redeemed before, or a part that is not of its draw.
        """
        if draw.ticket is None:
            given = (draw.index, draw.weight) if draw.side is None else (draw.index, draw.weight, draw.side)
            return tuple(x.clone() for x in given)
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
        return tuple(x[own] for x in held.tensors)
