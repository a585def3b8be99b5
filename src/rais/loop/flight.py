"""Draws in flight: handed out by the sampler, and not yet stepped with.

A loop, or the workers of a loader, may hold several draws at once. They belong to the state of a run: after a resume
the same draws are handed out again, in the same order, so that nothing is drawn twice and nothing is lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rais.sampling.base import Sampler
from rais.sampling.draw import Draw

MOST = 1024  # draws that are kept; a loop that never steps with its draws would keep all of them


class Flight:
    """The draws in flight, oldest first, and the number of those of a loop that are done."""

    def __init__(self) -> None:
        self.draws: dict[int, Draw] = {}
        self.again: list[Draw] = []
        self.done = 0  # in the `for` loop that a loader is in
        self.is_over = False  # that loop has come to its end

    def next(self, sampler: Sampler) -> Draw:
        """The next whole draw: one that has to be handed out again, or a new one."""
        if self.again:
            return _own(self.again.pop(0))
        draw = sampler.draw()
        assert draw.ticket is not None  # every sampler's draw has one
        self.draws[draw.ticket] = draw
        if len(self.draws) > MOST:
            del self.draws[min(self.draws)]
        return _own(draw)

    def of(self, ticket: int) -> Draw | None:
        """The draw in flight with this ticket; None where it was stepped with already."""
        draw = self.draws.get(ticket)
        return None if draw is None else _own(draw)

    def whole(self, draw: Draw) -> Draw:
        """The draw that `draw` is a part of; itself where it is not in flight."""
        return draw if draw.ticket is None else self.draws.get(draw.ticket, draw)

    def begin_loop(self) -> None:
        """A `for` loop begins, or goes on: all draws in flight come once more, before new ones."""
        if self.is_over:
            self.done, self.is_over = 0, False
        self.again = list(self.draws.values())

    def finish(self, draw: Draw) -> None:
        """The draw was stepped with, or will not be."""
        if draw.ticket in self.draws:
            del self.draws[draw.ticket]
            self.done += 1

    def state_dict(self) -> dict[str, Any]:
        """Flat, of tensors and numbers; a `mean_norm` of None is NaN."""
        done = 0 if self.is_over else self.done
        state: dict[str, Any] = {"done": done, "ticket": torch.tensor(list(self.draws), dtype=torch.int64)}
        if self.draws:
            draws = list(self.draws.values())
            state["index"] = torch.stack([d.index for d in draws])
            state["weight"] = torch.stack([d.weight for d in draws])
            means = [math.nan if d.mean_norm is None else float(d.mean_norm) for d in draws]
            state["mean_norm"] = torch.tensor(means, dtype=torch.float64)
            sides = [d.side for d in draws if d.side is not None]
            if sides:
                state["side"] = torch.stack(sides)
        return state

    @staticmethod
    def check_state(state: Mapping[str, Any], n: int, m: int) -> None:
        """Refuse what is no state of draws of m out of n examples, before anything is overwritten.

        Raises:
            ValueError: entries are missing, or of another size.
        """
        count = len(state["ticket"]) if isinstance(state.get("ticket"), Tensor) else -1
        needed = {"done", "ticket", *(("index", "weight", "mean_norm") if count > 0 else ())}
        if count < 0 or not needed <= set(state):
            raise ValueError(f"draws in flight have the entries {sorted(needed)}, this state has {sorted(state)}")
        if count and (state["index"].shape != (count, m) or int(state["index"].max()) >= n):
            raise ValueError(
                f"the saved draws in flight are {tuple(state['index'].shape)} up to example {int(state['index'].max())}"
                f", this sampler draws m={m} of n={n}: build it with the settings it was saved with"
            )

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.done, self.is_over, self.draws = int(state["done"]), False, {}
        for k, ticket in enumerate(state["ticket"].tolist()):
            number = state["mean_norm"][k].item()
            mean: float | Tensor | None = None if math.isnan(number) else number
            if mean is not None and device.type != "cpu":
                mean = state["mean_norm"][k].to(device)
            index, weight = (state[name][k].to(device).clone() for name in ("index", "weight"))
            side = state["side"][k].to(device).clone() if "side" in state else None
            self.draws[ticket] = Draw(index, weight, side, ticket=ticket, mean_norm=mean)
        self.begin_loop()


def _own(draw: Draw) -> Draw:
    """A copy of the draw: a loop that writes into its tensors changes nothing that is kept."""
    side = None if draw.side is None else draw.side.clone()
    return draw._replace(index=draw.index.clone(), weight=draw.weight.clone(), side=side)
