"""Uniform sampling without replacement: plain SGD's epochs.

Every example is seen once an epoch in a fresh random order, and all weights are 1. The other samplers use it for
the time in which they know nothing yet, so their first epoch is SGD's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rais.sampling.base import Draw, Sampler, check_observation


class Uniform(Sampler):
    """Draws p_i = 1/n, one random permutation after another; a minibatch may reach into the next permutation.

    So every epoch takes n/m iterations also when m does not divide n, and no example is left out.
    """

    needs_norms = False
    _state = ("order", "position")

    def __init__(self, n: int, m: int, *, generator: torch.Generator) -> None:
        super().__init__(n, m, generator=generator)
        self.ones = torch.ones(m, device=self.device)
        self.order = self._permutation()
        self.position = 0

    def _permutation(self) -> Tensor:
        return torch.randperm(self.n, generator=self.generator, device=self.device)

    def draw(self) -> Draw:
        index = self.order[self.position : self.position + self.m]
        self.position += self.m
        if self.position >= self.n:
            self.order, self.position = self._permutation(), self.position - self.n
            index = torch.cat([index, self.order[: self.position]])
        return Draw(index, self.ones)

    def observe(self, draw: Draw, norm: Tensor) -> None:
        check_observation(draw, norm, self.n)

    def probabilities(self) -> Tensor:
        return torch.full((self.n,), 1.0 / self.n, dtype=torch.float64, device=self.device)
