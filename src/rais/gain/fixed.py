"""Ratios that no minibatch changes: 1, those of a recorded run, and the oracle's exact one.

They speak the protocol of ratio.py, and need neither norms nor the graph. With them the two changes that the method
makes to SGD, the draws and the learning rate, can be taken apart.

| paper | code   | shape | unit |
|-------|--------|-------|------|
| r     | ratio  | ()    | 1    |
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rais.gain.moments import Minibatch, exact_moments
from rais.gain.state import Stateful
from rais.sampling.draw import Draw
from rais.sampling.oracle import Oracle


class Given(Stateful):
    """A ratio that is given, not estimated."""

    needs_graph = False
    needs_norms = False

    def takes_parts(self, draw: Draw) -> bool:
        return False

    def diagnostics(self) -> dict[str, float]:
        return {}


class Off(Given):
    """r = 1 at every iteration: the sampler's draws with plain SGD's learning rate.

    >>> Off().update(batch=None).item()
    1.0
    """

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.one = torch.ones((), dtype=torch.float64, device=device)

    def update(self, batch: Minibatch | None) -> Tensor:
        return self.one.clone()


class Replay(Given):
    """The multipliers of a recorded run, whatever is drawn now.

    Args:
        ends: iterations at which the segments of the record end, increasing.
        ratios: the mean multiplier of each segment, Δt̂/Δt between two evaluations of the recorded run, so that t̂
            at the end of every segment is the recorded one. The last one holds on past the end.

    Raises:
        ValueError: no segments, or lengths that differ.

    >>> replay = Replay(ends=[1, 3], ratios=[1.0, 2.0])
    >>> [replay.update(batch=None).item() for _ in range(3)]
    [1.0, 2.0, 2.0]
    """

    _settings = ("ends", "multipliers")
    _entries = ("iteration", "segment")

    def __init__(self, ends: Sequence[int], ratios: Sequence[float], *, device: torch.device | str = "cpu") -> None:
        if not ends or len(ends) != len(ratios):
            raise ValueError(
                f"a replay needs segments of a recorded run: got {len(ends)} ends and {len(ratios)} ratios"
            )
        self.ends, self.multipliers = list(ends), list(ratios)
        self.ratios = torch.tensor(ratios, dtype=torch.float64, device=device)
        self.iteration = 0
        self.segment = 0

    def update(self, batch: Minibatch | None) -> Tensor:
        while self.iteration >= self.ends[self.segment] and self.segment < len(self.ends) - 1:
            self.segment += 1
        self.iteration += 1
        return self.ratios[self.segment].clone()


class Exact(Given):
    """The oracle's r from the exact moments that its draw was made with, no averaging.
    [derived, docs/derivations.md: gain ratio]

    >>> norms, full_gradient_sq = torch.tensor([1.0, 3.0]), torch.tensor(0.0)
    >>> oracle = Oracle(2, 1, measure=lambda: (norms, full_gradient_sq), generator=torch.Generator().manual_seed(0))
    >>> draw = oracle.draw()
    >>> Exact(oracle).update(batch=None).item()  # mean of the squares over the square of the mean
    1.25
    """

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle

    def update(self, batch: Minibatch | None) -> Tensor:
        norms, full_gradient_sq = self.oracle.norms, self.oracle.full_gradient_sq
        if norms is None or full_gradient_sq is None:
            raise RuntimeError("the oracle's ratio is that of its last draw, and there was none: draw first")
        v = norms.to(torch.float64)
        return exact_moments(v, v.mean() / v, full_gradient_sq.to(torch.float64), self.oracle.m)["gain_ratio"]
