"""The parts of a minibatch: whether they make it up, and the whole that they make.

A part is what one backward pass works off: a micro-batch, or a rank's share. The sampler and the gain ratio see the
whole minibatch only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from rais.gain import Minibatch
from rais.loop.flight import Flight
from rais.loop.ranks import Ranks
from rais.sampling.draw import Draw


class Part(NamedTuple):
    """What was worked off in one backward pass; each tensor is (len(draw.index),)."""

    draw: Draw
    weight: Tensor  # with the outlier cap
    norm: Tensor | None
    weighted: Tensor  # weight_j f_j
    inputs: Any
    targets: Any

    def share(self, ranks: int) -> Tensor:
        """The part's share of the minibatch's mean loss; times the ranks, over which gradients are averaged."""
        if ranks == 1 and is_whole(self.draw):
            return self.weighted.mean()
        return self.weighted.sum() * (ranks / whole_size(self.draw))

    def pieces(self) -> list[tuple[int, Tensor]]:
        """What φ compares, examples and the sum of their losses: the halves of a whole minibatch, else this part."""
        m = len(self.weighted)
        if not is_whole(self.draw):
            return [(m, self.weighted.sum())]
        return [(m // 2, self.weighted[: m // 2].sum()), (m - m // 2, self.weighted[m // 2 :].sum())]


def check_losses(draw: Draw, losses: Tensor) -> None:
    """Refuse losses (m,) that are not one for each example of `draw`.

    Raises:
        ValueError: it names the cure.
    """
    if losses.shape != draw.index.shape:
        cure = "compute them with reduction='none'"
        if losses.dim() == 1:
            cure = "pass the draw, or the part of it, that the model's inputs were taken from"
        raise ValueError(
            f"losses have shape {tuple(losses.shape)}, the draw has {len(draw.index)} examples: one loss for each is "
            f"needed; {cure}"
        )


def is_whole(draw: Draw) -> bool:
    return len(draw.index) == whole_size(draw)


def whole_size(draw: Draw) -> int:
    """m, also of a part of the minibatch."""
    return len(draw.index) if draw.of is None else draw.of


def span(draw: Draw) -> tuple[int | None, int, int]:
    """Which examples these are: the draw's ticket, where the part begins, and its length."""
    return draw.ticket, draw.first, len(draw.index)


def in_order(parts: list[Part], pending: int, ranks: Ranks) -> list[Part]:
    """The parts by their position, if together they are what this rank has to work off.

    Raises:
        RuntimeError: there are none, `pending` of them wait for their backward, some belong to other draws, or one is
            missing or there twice.
    """
    if len(parts) == 1 and not pending and ranks.count == 1 and parts[0].draw.of is None:
        return parts
    if pending:
        raise RuntimeError(
            f"step() came too early, {pending} losses of engine.loss() wait for their backward: call .backward() on "
            "what engine.loss() returned, or engine.skip(draw)"
        )
    if not parts:
        raise RuntimeError(
            "step() came too early, there was no backward: call engine.backward(draw, losses, out) first"
        )
    parts = sorted(parts, key=lambda part: part.draw.first)
    tickets = {part.draw.ticket for part in parts}
    if len(tickets) > 1:
        raise RuntimeError(
            f"the parts belong to the draws {sorted(tickets, key=str)}, and one step is one draw: make m the whole "
            "minibatch and accumulate over draw.part(i, k), or call step() or skip(draw) after each draw"
        )
    at, end = begin, _ = ranks.own_range(whole_size(parts[0].draw))
    for part in parts:
        if part.draw.first != at:
            break
        at += len(part.draw.index)
    if at != end:
        spans = ", ".join(f"{p.draw.first} … {p.draw.first + len(p.draw.index) - 1}" for p in parts)
        raise RuntimeError(
            f"the parts {spans} do not make up the examples {begin} … {end - 1} of the draw: call backward once for "
            "each part, and step() after the last"
        )
    return parts


def check_factors(factors: Sequence[float | Tensor], scaler: Any) -> None:
    """Refuse losses that were multiplied by something other than the loss scale. Waits for the device.

    Raises:
        RuntimeError: it names the factor.
    """
    expected = 1.0 if scaler is None else scaler.get_scale()
    for factor in map(float, factors):
        if not math.isclose(factor, expected, rel_tol=1e-3):
            raise RuntimeError(
                f"a loss was multiplied by {factor:g} before its backward, step() expects {expected:g}: pass the same "
                "scaler to backward and step; a framework that divides by its accumulated batches must accumulate 1"
            )


def join(parts: Sequence[Part], flight: Flight, ranks: Ranks) -> tuple[Draw, Minibatch]:
    """The whole draw as the sampler made it, and the minibatch with the weights that were applied."""
    first = parts[0]
    draw, weight, norm, weighted = first.draw, first.weight, first.norm, first.weighted
    if len(parts) > 1:
        weight = torch.cat([part.weight for part in parts])
        weighted = torch.cat([part.weighted for part in parts])
        norms = [part.norm for part in parts if part.norm is not None]
        norm = torch.cat(norms) if norms else None
        index = torch.cat([part.draw.index for part in parts])
        draw = draw._replace(index=index, weight=weight, side=None, first=0, of=None)
    if ranks.count > 1:
        m = whole_size(first.draw)
        if norm is None:
            norm = torch.zeros_like(weight)
        norm, weight = ranks.share(m, first.draw.first, norm, weight)
    draw = flight.whole(draw)
    given = cast(Tensor, norm)  # None where nobody needs norms
    return draw, Minibatch(draw._replace(weight=weight), given, weighted, first.inputs, first.targets)
